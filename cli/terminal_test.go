package cli_test

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

var topFlows = flag.Int("topflows", 3000, "how many connections TestTop shows")

// terminal is a real one, by tmux, in a namespace.
type terminal struct {
	t      *testing.T
	socket string
}

func newTerminal(t *testing.T, ns *netnstest.NS, command string) *terminal {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t, t.TempDir() + "/tmux"}
	cmd := exec.Command("tmux", "-S", term.socket, "-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "30",
		"cthelper() { "+asCommand+"=1 "+self+" \"$@\"; }; "+command+"; echo exit $?; sleep 60")
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "SHELL=/bin/bash", "TERM=xterm-256color")
	var out []byte
	ns.Do(func() { out, err = cmd.CombinedOutput() })
	if err != nil {
		t.Fatalf("tmux: %v\n%s", err, out)
	}
	t.Cleanup(func() { exec.Command("tmux", "-S", term.socket, "kill-server").Run() })
	return term
}

func (term *terminal) tmux(args ...string) string {
	out, err := exec.Command("tmux", append([]string{"-S", term.socket}, args...)...).Output()
	if err != nil {
		term.t.Fatalf("tmux %q: %v", args, err)
	}
	return string(out)
}

func (term *terminal) keys(keys ...string) { term.tmux(append([]string{"send-keys"}, keys...)...) }

// shows waits until the part is on the screen, and says how long it took.
func (term *terminal) shows(parts ...string) time.Duration {
	term.t.Helper()
	begin := time.Now()
	for time.Since(begin) < 30*time.Second {
		text := term.tmux("capture-pane", "-p")
		all := true
		for _, p := range parts {
			all = all && strings.Contains(text, p)
		}
		if all {
			return time.Since(begin)
		}
		time.Sleep(5 * time.Millisecond)
	}
	term.t.Fatalf("no %q on the screen:\n%s", parts, term.tmux("capture-pane", "-p"))
	return 0
}

// TestTop drives the live view in a real terminal. What it took is logged; more connections: -topflows 200000.
func TestTop(t *testing.T) {
	ns := netnstest.New(t)
	ns.Run("conntrack", "-C") // loads the modules
	ns.Sysctl("net.netfilter.nf_conntrack_acct", "1")
	file := t.TempDir() + "/table"
	var b strings.Builder
	for i := range *topFlows {
		fmt.Fprintf(&b, "-A -t %d -u SEEN_REPLY,ASSURED -s 10.%d.%d.%d -d 198.51.100.9 -p tcp --sport %d --dport %d --state ESTABLISHED\n",
			5000+i%1000, i>>16, i>>8&255, i&255, 1024+i%60000, []int{22, 80, 443}[i%3])
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, ns, "cthelper restore "+file)
	term := newTerminal(t, ns, "cthelper top --interval 500ms")
	first := term.shows("connections", "PROTO", "10.", ":22")
	whole := first + term.shows(fmt.Sprintf("tcp %s", thousands(*topFlows)), "q leave")
	term.shows("0/s")
	key := func(what string, keys string, parts ...string) {
		t.Helper()
		term.keys(keys)
		t.Logf("%s: %v", what, term.shows(parts...))
	}
	t.Logf("%d connections: first picture %v, whole table %v after the terminal", *topFlows, first, whole)
	key("sort", "s", "sorted by bytes")
	key("reverse", "r", "sorted upward by bytes")
	key("sort back", "S", "sorted by rate")
	key("help", "h", "any key goes back")
	key("back", "q", "sorted by rate", "PROTO")
	term.keys("f")
	term.shows("filter:")
	term.keys("-l", `orig.dport == 22 && orig.src.in("10.0.0.0/30") && foo`)
	key("wrong filter", "Enter", "unknown: foo")
	term.keys("BSpace", "BSpace", "BSpace", "BSpace", "BSpace", "BSpace", "BSpace")
	key("filter", "Enter", "10.0.0.0:1024", "10.0.0.3:1027", " 2 connections")
	key("choose", "Down", "PROTO")
	key("kill", "k", "Kill tcp 10.0.0.", "[y/N]")
	key("yes", "y", "killed tcp 10.0.0.")
	term.shows(" 1 connections")
	announced(t, ns)
	term.keys("f", "C-u")
	key("no filter", "Enter", "related 2", "the first 500 are shown")
	key("tree", "t", "\ntcp     ESTABLISHED 172.16.0.1:4000 ", "\n  tcp   ESTABLISHED 172.16.0.1:5000 ", "\n    udp             172.16.0.1:6000 ")
	term.keys("End")
	key("kill in the tree", "k", "Kill udp 172.16.0.1:6000>192.0.2.1:30000? [y/N]")
	key("yes", "y", "killed udp 172.16.0.1:6000", "related 1")
	key("leave", "q", "exit 0")
	if got := strings.TrimSpace(must(t, ns, "cthelper count")); got != fmt.Sprint(*topFlows+1) {
		t.Errorf("%s connections are left", got)
	}
}

// announced makes a connection, one that it has announced, and one that this has announced.
func announced(t *testing.T, ns *netnstest.NS) {
	t.Helper()
	var master flows.Flow
	var failed error
	ns.Do(func() {
		var table *flows.Table
		if table, failed = flows.Open(); failed != nil {
			return
		}
		defer table.Close()
		for _, f := range []flows.Flow{
			{Transport: helpers.TCP, State: 3, Orig: tuple("172.16.0.1:4000", "192.0.2.1:1720")},
			{Transport: helpers.TCP, State: 3, Orig: tuple("172.16.0.1:5000", "192.0.2.1:40000")},
			{Transport: helpers.UDP, Orig: tuple("172.16.0.1:6000", "192.0.2.1:30000")},
		} {
			f.Timeout, f.Master, f.MasterTransport = 900, master.Orig, master.Transport
			failed = errors.Join(failed, table.Create(&f))
			master = f
		}
	})
	if failed != nil {
		t.Fatal(failed)
	}
}

func tuple(src, dst string) helpers.Tuple {
	return helpers.Tuple{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)}
}

func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

// TestTopSignals: who ends or stops the view finds the terminal as it was.
func TestTopSignals(t *testing.T) {
	ns := netnstest.New(t)
	for said, end := range map[string]func(*terminal){
		"exit 0": func(term *terminal) {
			pane := strings.TrimSpace(term.tmux("display-message", "-p", "#{pane_pid}"))
			if out, err := exec.Command("pkill", "-TERM", "-P", pane).CombinedOutput(); err != nil {
				t.Errorf("pkill: %v %s", err, out)
			}
		},
		"exit 148": func(term *terminal) { term.keys("C-z") },
	} {
		term := newTerminal(t, ns, "set -m; cthelper top")
		term.shows("connections of")
		end(term)
		term.shows(said)
		if text := term.tmux("capture-pane", "-p"); strings.Contains(text, "connections") {
			t.Errorf("%s: the picture is left:\n%s", said, text)
		}
	}
}

// TestAsks: on a terminal many connections are asked about, and the table fits.
func TestAsks(t *testing.T) {
	ns := netnstest.New(t)
	var b strings.Builder
	for i := range 15 {
		fmt.Fprintf(&b, "-A -t 900 -s fd00::%x:1:2:3:4 -d 2001:db8:1111:2222:3333:4444:5555:6666 -p udp --sport %d --dport 53 -m 77\n", i+1, 1024+i)
	}
	file := t.TempDir() + "/table"
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, ns, "cthelper restore "+file)
	for _, x := range []struct{ command, answer, said string }{
		{"cthelper delete -p udp", "n", "nothing was touched"},
		{"cthelper update -p udp -m 3", "", "nothing was touched"},
		{"cthelper flush", "no", "nothing was touched"},
		{"cthelper delete --sport 1024", "", "deleted 1 connection"}, // too few to be asked about
		{"cthelper update -p udp -m 3 --yes", "", "updated 14 connections"},
		{"cthelper delete -p udp", "y", "14 connections"},
	} {
		term := newTerminal(t, ns, x.command)
		if x.answer != "" || strings.Contains(x.said, "nothing") {
			term.shows("connections? [y/N]")
			term.keys(x.answer, "Enter")
		}
		term.shows(x.said, "exit")
	}
	must(t, ns, "cthelper restore "+file)
	term := newTerminal(t, ns, "cthelper list")
	term.shows("exit 0")
	for _, line := range lines(term.tmux("capture-pane", "-p", "-J")) {
		if len(line) > 120 {
			t.Errorf("longer than the terminal is wide: %s", line)
		}
	}
}
