package cli_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/cthelperd/cthelperd/cli"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

var pairwise = flag.Bool("pairwise", false, "of long lists of command lines only every tenth: for slow machines")

// some are all, or with -pairwise every tenth from the first.
func some[T any](all []T) (chosen []T) {
	step := 1
	if *pairwise {
		step = 10
	}
	for i := 0; i < len(all); i += step {
		chosen = append(chosen, all[i])
	}
	return chosen
}

// asCommand makes this test program cthelper.
const asCommand = "CTHELPER_TEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		os.Exit(cli.Main(ftp.Protocol()))
	}
	code := m.Run()
	os.RemoveAll(etc())
	os.Exit(code)
}

// etc is a copy of what programs need of /etc, with names for labels, to be mounted over it.
var etc = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "etc")
	if err == nil {
		err = os.Chmod(dir, 0o755) // who has no rights reads it too
	}
	if err == nil {
		err = exec.Command("sh", "-c", "cp -a /etc/passwd /etc/group /etc/protocols /etc/ld.so.* /etc/alternatives /etc/nsswitch.conf "+dir+
			"; mkdir -p "+dir+"/xtables").Run()
	}
	if err == nil {
		err = os.WriteFile(dir+"/xtables/connlabel.conf", []byte("1 one\n5 five\n127 last\n"), 0o644)
	}
	if err != nil {
		panic(err)
	}
	return dir
})

// shell runs a script in the namespace, with cthelper on its path. /etc has names for labels.
func shell(t *testing.T, ns *netnstest.NS, script string) (code int, stdout, stderr string) {
	t.Helper()
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, bin+"/cthelper"); err != nil {
		t.Fatal(err)
	}
	// The emulated machine's /dev has no stdin, which conntrack(8) opens.
	prologue := "mount --bind " + etc() + " /etc || exit 98\n[ -e /dev/stdin ] || ln -s /proc/self/fd/0 /dev/stdin\n"
	var out, errs bytes.Buffer
	cmd := exec.Command("unshare", "-m", "sh", "-c", prologue+script)
	cmd.Env = append(os.Environ(), asCommand+"=1", "PATH="+bin+":"+os.Getenv("PATH"), "T="+t.TempDir())
	cmd.Stdout, cmd.Stderr = &out, &errs
	ns.Do(func() { err = cmd.Run() })
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// must is shell for scripts that have to succeed.
func must(t *testing.T, ns *netnstest.NS, script string) string {
	t.Helper()
	code, stdout, stderr := shell(t, ns, script)
	if code != 0 {
		t.Fatalf("%s\nexit %d\n%s%s", script, code, stdout, stderr)
	}
	return stdout
}

// lines splits an output.
func lines(s string) []string { return strings.Split(strings.TrimSuffix(s, "\n"), "\n") }
