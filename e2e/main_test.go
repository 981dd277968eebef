package e2e

import (
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
	folder   string   // for files of all kinds; others may enter it
	daemon   string   // cthelperd
	servers  string   // where scripts/install put the servers
	root     string   // what FTP servers serve: down (a file), many (a folder), up (a folder that anybody may write to)
	content  []byte   // of the file down
	listing  []string // names of the files in many, sorted
	captures string   // the project's own
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
		fmt.Println("short: no end-to-end tests")
		os.Exit(m.Run())
	}
	code, err := prepareAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func prepareAndRun(m *testing.M) (code int, err error) {
	if os.Geteuid() != 0 {
		return 0, fmt.Errorf("needs root: network namespaces (left out under -short)")
	}
	// Namespaces are anonymous and processes short: more at once than processors.
	if err := flag.Set("test.parallel", "4"); err != nil {
		return 0, err
	}
	if shared.folder, err = os.MkdirTemp("", "cthelperd-e2e"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(shared.folder)
	if err := os.Chmod(shared.folder, 0o755); err != nil {
		return 0, err
	}
	shared.daemon = filepath.Join(shared.folder, "cthelperd")
	if out, err := exec.Command("go", "build", "-o", shared.daemon, "../cmd/cthelperd").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the daemon: %v\n%s", err, out)
	}
	if shared.servers, err = filepath.Abs("../.cache/servers"); err != nil {
		return 0, err
	}
	if _, err := os.Stat(shared.servers); err != nil {
		return 0, fmt.Errorf("%w: run scripts/install", err)
	}
	return 0, runWith(m, &code)
}

// runWith makes what servers serve and runs the tests.
func runWith(m *testing.M, code *int) error {
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
	*code = m.Run()
	return nil
}
