package e2e

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// shared is what all tests read: made once, removed at the end.
var shared struct {
	folder  string   // for files of all kinds; others may enter it
	daemon  string   // cthelperd
	foreign string   // the same with another module's helper for TFTP
	servers string   // where scripts/install put the servers
	root    string   // what FTP servers serve: down (a file), many (a folder), up (a folder that anybody may write to)
	content []byte   // of the file down
	listing []string // names of the files in many, sorted
}

const (
	fileSize  = 1<<20 + 4711
	manyFiles = 5000
	nameSize  = 215 // with line ends the listing has more than 1 MiB
)

// TestMain builds the daemon and makes the files.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		os.Exit(m.Run())
	}
	err := prepare()
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, "e2e:", err)
	}
	os.RemoveAll(shared.folder)
	os.Exit(code)
}

func prepare() (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root: network namespaces (left out under -short)")
	}
	// Transfers wait more than they work: more at once than processors.
	if err := flag.Set("test.parallel", "6"); err != nil {
		return err
	}
	if shared.folder, err = os.MkdirTemp("", "cthelperd-e2e"); err != nil {
		return err
	}
	if err := os.Chmod(shared.folder, 0o755); err != nil {
		return err
	}
	if err := build(); err != nil {
		return err
	}
	if shared.servers, err = filepath.Abs("../.cache/servers"); err != nil {
		return err
	}
	if _, err := os.Stat(shared.servers); err != nil {
		return fmt.Errorf("%w: run scripts/install", err)
	}
	return makeFiles()
}

// build builds the programs, if they are not there.
func build() error {
	folder := *programs
	if folder == "" {
		folder = shared.folder
		for name, module := range map[string]string{"cthelperd": "..", "outoftree": "../testdata/outoftree"} {
			cmd := exec.Command("go", "build", "-o", filepath.Join(folder, name), "./cmd/cthelperd")
			cmd.Dir = module
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("build %s: %v\n%s", name, err, out)
			}
		}
	}
	shared.daemon, shared.foreign = filepath.Join(folder, "cthelperd"), filepath.Join(folder, "outoftree")
	return nil
}

// makeFiles makes what servers serve.
func makeFiles() error {
	shared.root = filepath.Join(shared.folder, "root")
	for _, d := range []string{"", "many", "up"} {
		if err := os.Mkdir(filepath.Join(shared.root, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(shared.root, "up"), 0o777); err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte{})
	shared.content = make([]byte, fileSize)
	random.Read(shared.content)
	if err := os.WriteFile(filepath.Join(shared.root, "down"), shared.content, 0o644); err != nil {
		return err
	}
	for i := range manyFiles {
		name := fmt.Sprintf("%08d-", i)
		name += strings.Repeat("x", nameSize-len(name))
		if err := os.WriteFile(filepath.Join(shared.root, "many", name), nil, 0o644); err != nil {
			return err
		}
		shared.listing = append(shared.listing, name)
	}
	slices.Sort(shared.listing)
	return nil
}
