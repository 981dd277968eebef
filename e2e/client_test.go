package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// mode is how a data connection is announced.
type mode string

const (
	modePORT mode = "PORT"
	modeEPRT mode = "EPRT"
	modePASV mode = "PASV"
	modeEPSV mode = "EPSV"
)

var modes = []mode{modePORT, modeEPRT, modePASV, modeEPSV}

func (m mode) active() bool { return m == modePORT || m == modeEPRT }

// job is a session of a client: store up, fetch down, list many.
type job struct {
	folder string // where up is and the rest goes
	to     netip.AddrPort
	family family
	mode   mode
	name   string // of the stored file
}

// clientKind is an FTP client.
type clientKind struct {
	name string
	do   func(s *site, j job) (string, error)
}

var clientKinds = []clientKind{{"curl", curl}, {"lftp", lftp}, {"tnftp", tnftp}}

// transferTime is for the slowest of all: proftpd writes a listing name by name, and on a busy machine each may wait for an
// acknowledgement.
const transferTime = 2 * time.Minute

func curl(s *site, j job) (string, error) {
	common := []string{"-sS", "--max-time", "100", "-u", user + ":" + password, "--no-ftp-skip-pasv-ip"}
	switch j.mode {
	case modePORT:
		common = append(common, "-P", "-", "--disable-eprt")
	case modeEPRT:
		common = append(common, "-P", "-")
	case modePASV:
		common = append(common, "--disable-epsv")
	}
	url := "ftp://" + j.to.String() + "/"
	var args []string
	for i, transfer := range [][]string{
		{"-T", "up", url + "up/" + j.name},
		{"-o", "down", url + "down"},
		{"-l", "-o", "list", url + "many/"},
	} {
		if i > 0 {
			args = append(args, "--next")
		}
		args = append(append(args, common...), transfer...)
	}
	return run(s.client, transferTime, j.folder, nil, "curl", args...)
}

func lftp(s *site, j job) (string, error) {
	script := fmt.Sprintf(`set cmd:fail-exit yes
set net:max-retries 1
set net:timeout 20
set ftp:ssl-allow no
set ftp:fix-pasv-address no
set ftp:passive-mode %t
set ftp:prefer-epsv %t
set cmd:interactive no
debug 3
open -u %s,%s ftp://%s
put up -o up/%s
get down
cd many
nlist > list
`, !j.mode.active(), j.mode == modeEPSV, user, password, j.to, j.name)
	return run(s.client, transferTime, j.folder, strings.NewReader(script), "lftp", "--norc")
}

func tnftp(s *site, j job) (string, error) {
	active, extended := "off", "off"
	if !j.mode.active() {
		active = "on"
	}
	if j.mode == modeEPSV || j.mode == modeEPRT {
		extended = "on"
	}
	// The words on and off are taken by passive and epsv4, which are on to begin with.
	// The progress meter's timer, once a second, breaks off an ASCII listing that is being read ("Interrupted system call").
	script := fmt.Sprintf(`progress off
passive %s
epsv4 %s
open %s %d
user %s %s
binary
put up up/%s
get down
cd many
nlist . list
bye
`, active, extended, j.to.Addr(), j.to.Port(), user, password, j.name)
	return run(s.client, transferTime, j.folder, strings.NewReader(script), "tnftp", "-n", "-i", "-v")
}

// transfer lets a client store, fetch and list, and compares each with what it should be.
func (s *site) transfer(c clientKind, f family, m mode, port uint16) error {
	s.t.Helper()
	folder, err := os.MkdirTemp(s.folder, "client")
	if err != nil {
		s.t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	s.write(filepath.Join(folder, "up"), string(shared.content))
	j := job{folder: folder, to: netip.AddrPortFrom(s.host(f), port), family: f, mode: m, name: filepath.Base(filepath.Dir(s.folder)) + filepath.Base(folder)}
	stored := filepath.Join(shared.root, "up", j.name)
	defer os.Remove(stored)
	out, err := c.do(s, j)
	if err != nil {
		return err
	}
	// The server may close the file after it has said that all is there.
	up := sameFile(stored)
	for deadline := time.Now().Add(patience); up != nil && time.Now().Before(deadline); up = sameFile(stored) {
		time.Sleep(10 * time.Millisecond)
	}
	err = errors.Join(up, sameFile(filepath.Join(folder, "down")), list(filepath.Join(folder, "list")))
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// sameFile compares a file with the one that servers serve.
func sameFile(path string) error {
	got, err := os.ReadFile(path)
	if err == nil && !bytes.Equal(got, shared.content) {
		err = fmt.Errorf("%s: %d bytes, not the original's %d", path, len(got), len(shared.content))
	}
	return err
}

// list compares a listing with the files there are.
func list(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("listed: %w", err)
	}
	got := strings.Split(strings.TrimSuffix(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n"), "\n")
	// tnftp says "NLST .", to which pure-ftpd's names begin with "./"; it also names the folder and its parent.
	for i := range got {
		got[i] = strings.TrimPrefix(got[i], "./")
	}
	got = slices.DeleteFunc(got, func(name string) bool { return name == "." || name == ".." })
	slices.Sort(got)
	if !slices.Equal(got, shared.listing) {
		return fmt.Errorf("listed: %d bytes, %d names, not the %d there are", len(b), len(got), len(shared.listing))
	}
	return nil
}
