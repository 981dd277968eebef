package daemon_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func (b *bed) wants(name string, want left) {
	b.t.Helper()
	if diff := cmp.Diff(want, b.left()); diff != "" {
		b.t.Errorf("%s, left in the kernel (-want +got):\n%s", name, diff)
	}
}

func (b *bed) works(name string, transfer func() error) {
	b.t.Helper()
	if err := transfer(); err != nil {
		b.t.Fatalf("%s: %v", name, err)
	}
}

func (b *bed) fails(name string, transfer func() error) {
	b.t.Helper()
	if err := transfer(); err == nil {
		b.t.Fatalf("%s works, the rules let too much pass", name)
	}
}

// both is each lifecycle with and without NAT: under NAT sequence numbers must stay right too.
func both(t *testing.T, f func(t *testing.T, b *bed)) {
	t.Parallel()
	for _, masquerade := range []bool{false, true} {
		name := "routed"
		if masquerade {
			name = "masquerade"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, newBed(t, masquerade))
		})
	}
}

func TestStartStop(t *testing.T) {
	both(t, func(t *testing.T, b *bed) {
		b.fails("a transfer without the daemon", b.connect().passive)
		for range 2 {
			d := b.run()
			c := b.connect()
			b.works("passive", c.passive)
			b.works("active", c.active)
			b.works("passive again", c.passive)
			d.says("msg=related", 3)
			log := d.stop()
			for _, want := range []string{"msg=expect", "msg=counters", "note=EPSV", "note=PORT", " announced=3 related=3 "} {
				if !strings.Contains(log, want) {
					t.Errorf("the log does not say %q", want)
				}
			}
			b.wants("after the end", left{})
			b.works("the control connection goes on", func() error { c.say("NOOP"); c.expect("200"); return nil })
			b.fails("a transfer after the end", c.passive)
		}
	})
}

// What begins while the daemon starts is older than it, or seen: none is refused for having been missed.
func TestBeginsDuringStart(t *testing.T) {
	b := newBed(t, false)
	d := b.command("run", "--config", b.config(loadPolicy))
	var all []*ftpClient
	for !strings.Contains(d.log.String(), "msg=ready") {
		all = append(all, b.connect())
	}
	if len(all) < 2 {
		t.Fatalf("%d connections began during the start", len(all))
	}
	for i, c := range all {
		b.works(fmt.Sprintf("passive on connection %d of %d", i, len(all)), c.passive)
	}
	d.stop()
}

func TestTwice(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	d := b.run()
	out := b.command("run").ends(1)
	if want := fmt.Sprintf("another cthelperd (process %d) runs in this network namespace", d.cmd.Process.Pid); !strings.Contains(out, want) {
		t.Errorf("the second says %q, want %q", out, want)
	}
	if out := b.command("cleanup").ends(1); !strings.Contains(out, fmt.Sprintf("(process %d)", d.cmd.Process.Pid)) {
		t.Errorf("cleanup beside a daemon says %q", out)
	}
	b.works("a transfer by the first", b.connect().passive)
	// Another network namespace is another matter.
	other := newBed(t, false)
	e := other.run()
	other.works("a transfer by the daemon of another namespace", other.connect().passive)
	e.stop()
	b.works("a transfer by the first, when the other has ended", b.connect().passive)
	d.stop()
}

func TestQueueTaken(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	d := b.command("run")
	d.says("msg=ready", 1)
	// Without its lock file a second daemon gets as far as the queue.
	locks, err := filepath.Glob("/run/cthelperd/*.lock")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range locks {
		if pid, _ := os.ReadFile(l); strings.TrimSpace(string(pid)) == fmt.Sprint(d.cmd.Process.Pid) {
			os.Remove(l)
		}
	}
	out := b.command("run").ends(1)
	for _, want := range []string{"queue 2021 is served by another socket", "queue: {number: N}"} {
		if !strings.Contains(out, want) {
			t.Errorf("the second says %q, want %q", out, want)
		}
	}
	b.works("a transfer by the first", b.connect().passive)
}

// Not in parallel: a program that is being written cannot be run while another test forks.
func TestNotPermitted(t *testing.T) {
	b := newBed(t, false)
	p := b.command("version")
	p.ends(0)
	for _, args := range [][]string{{"run"}, {"cleanup"}, {"doctor"}} {
		out, err := b.as(65534, args...)
		if err == nil || !strings.Contains(out, "not permitted") || !strings.Contains(out, "CAP_NET_ADMIN") {
			t.Errorf("%v as nobody: %v, %q", args, err, out)
		}
	}
}

func TestKill(t *testing.T) {
	both(t, func(t *testing.T, b *bed) {
		d := b.run()
		c := b.connect()
		b.works("active", c.active)
		pending := c.epsv()
		d.kill()
		b.works("the control connection goes on without a daemon", func() error { c.say("NOOP"); c.expect("200"); return nil })
		b.works("what was announced before", func() error { return c.read(pending) })
		b.fails("a new announcement without a daemon", c.passive)
		b.works("a new control connection without a daemon", func() error { b.connect(); return nil })

		d = b.run()
		b.works("passive on the old connection", c.passive)
		b.works("active on the old connection", c.active)
		b.works("passive on a new connection", b.connect().passive)
		d.stop()
		b.wants("after the end", left{})
	})
}

// What a killed daemon opened may be announced again, to the next one.
func TestKillAnnouncedAgain(t *testing.T) {
	both(t, func(t *testing.T, b *bed) {
		d := b.run()
		c := b.connect()
		l := c.port()
		defer l.Close()
		d.kill()
		d = b.run()
		c.announce(l)
		b.works("active, announced before and after", func() error { return c.accept(l) })
		if log := d.stop(); strings.Contains(log, "msg=refuse") || strings.Count(log, "msg=expect") != 1 {
			t.Errorf("the second announcement was not taken:\n%s", log)
		}
		b.wants("after the end", left{})
	})
}

// Fail-closed: no daemon, no control connection; and one that waited goes on with the next daemon.
func TestFailClosed(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	file := b.config("fail: closed\n")
	d := b.run("--config", file)
	c := b.connect()
	b.works("passive", c.passive)
	d.kill()
	c.say("NOOP")
	c.conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if line, err := c.in.ReadString('\n'); err == nil {
		t.Errorf("without a daemon the server says %q", line)
	}
	d = b.run("--config", file)
	c.expect("200")
	b.works("passive with the next daemon", c.passive)
	d.stop()
	b.works("a control connection after the end in good order", func() error { b.connect(); return nil })
	b.wants("after the end", left{})
}

// TestFailClosedStart: a start that fails, wherever, lets nothing pass that the last daemon's rules keep. Too few open
// files make it fail a little later each time.
func TestFailClosedStart(t *testing.T) {
	t.Parallel()
	b := newBed(t, true)
	file := b.config("fail: closed\n")
	d := b.run("--config", file)
	c := b.connect()
	b.works("passive", c.passive)
	d.kill()
	c.say("NOOP")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	failed, told := 0, 0
	for files := 4; ; files++ {
		cmd := exec.Command("sh", "-c", fmt.Sprintf(`ulimit -n %d; exec timeout 2 "$0" "$@"`, files), program, "run", "--config", file)
		cmd.Env = append(os.Environ(), asDaemon+"=1")
		var out []byte
		b.firewall.Do(func() { out, err = cmd.CombinedOutput() })
		if strings.Contains(string(out), "msg=ready") {
			break
		}
		if err == nil {
			t.Fatalf("with %d files the daemon ends in good order:\n%s", files, out)
		}
		failed++
		if strings.Contains(string(out), "fail: closed: ") {
			told++
		}
		if l := b.left(); !l.Table {
			t.Fatalf("with %d files the start fails and the table is gone:\n%s", files, out)
		}
		c.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if line, err := c.in.ReadString('\n'); err == nil {
			t.Fatalf("with %d files the start fails and the server says %q", files, line)
		}
		if files == 100 {
			t.Fatalf("with %d files the start fails:\n%s", files, out)
		}
	}
	if failed == 0 || told == 0 {
		t.Errorf("%d starts failed, %d after the queues were open: nothing is tested", failed, told)
	}
	b.wants("after the end", left{})
}

func TestCleanup(t *testing.T) {
	t.Parallel()
	b := newBed(t, true)
	d := b.run()
	c := b.connect()
	c.epsv()
	d.kill()
	if l := b.left(); !l.Table || l.Shadows == 0 || l.Expectations == 0 {
		t.Fatalf("a killed daemon left %+v, want a table, a shadow and an expectation", l)
	}
	b.command("cleanup").ends(0)
	b.wants("after cleanup", left{})
	if out := b.command("cleanup").ends(0); out == "" {
		t.Error("cleanup of nothing says nothing")
	}
	inode := strings.TrimSpace(b.firewall.Run("stat", "-L", "-c", "%i", "/proc/thread-self/ns/net"))
	if _, err := os.Stat("/run/cthelperd/" + inode + ".lock"); !os.IsNotExist(err) {
		t.Errorf("the lock of the namespace %s: %v, want it gone", inode, err)
	}
}

func TestReload(t *testing.T) {
	both(t, func(t *testing.T, b *bed) {
		file := b.config("log: {level: debug}\n")
		d := b.run("--config", file)
		c := b.connect()
		b.works("active", c.active)
		pending := c.epsv()

		writeFile(t, file, "log: {level: debug}\nhelpers: {ftp: {ports: [2121, 21]}}\n")
		d.signal(unix.SIGHUP)
		d.says("msg=reloaded", 1)
		b.works("what was announced before the reload", func() error { return c.read(pending) })
		b.works("active after the reload", c.active)
		b.works("passive after the reload", c.passive)
		newFTPServer(t, b.server, serverAddr+":2121")
		b.works("passive at the new port", newFTPClient(t, b.client, serverAddr+":2121").passive)

		writeFile(t, file, "helpers:\n  fpt: {}\n")
		d.signal(unix.SIGHUP)
		d.says("the old one goes on", 1)
		d.says(file+":2:3: unknown key", 1)
		b.works("passive after a reload that failed", c.passive)

		writeFile(t, file, "queue: {number: 3}\n")
		d.signal(unix.SIGHUP)
		d.says("the old one goes on", 2)
		b.works("active after another reload that failed", c.active)

		writeFile(t, file, "helpers: {ftp: {ports: 2121}}\n")
		d.signal(unix.SIGHUP)
		d.says("msg=reloaded", 2)
		b.fails("passive at a port that is no more read", b.connect().passive)
		d.stop()
		b.wants("after the end", left{})
	})
}

func TestStateOverRestart(t *testing.T) {
	both(t, func(t *testing.T, b *bed) {
		state := filepath.Join(t.TempDir(), "state")
		file := b.config("state: %s\n", state)
		d := b.run("--config", file)
		c := b.connect()
		b.works("active", c.active)
		used := c.epsv()
		d.stop()
		l := b.left()
		if l.Table || l.Queue || l.Shadows == 0 || l.Expectations != 1 {
			t.Errorf("after the end with a state file %+v is left, want a shadow and the expectation", l)
		}
		if info, err := os.Stat(state); err != nil || info.Mode() != 0o600 {
			t.Fatalf("state file: %v, %v", info, err)
		}
		b.works("what was announced, between two daemons", func() error { return c.read(used) })

		d = b.run("--config", file)
		d.says("took over from an earlier run", 1)
		d.says("msg=related", 1) // what was used between the two
		if _, err := os.Stat(state); !os.IsNotExist(err) {
			t.Errorf("the state file that was read: %v, want it gone", err)
		}
		b.works("passive after the restart", c.passive)
		b.works("active after the restart", c.active)

		pending := c.epsv()
		d.stop()
		d = b.run("--config", file)
		b.works("what was announced, after the restart", func() error { return c.read(pending) })
		d.says("msg=related", 1)
		d.stop()

		// A state that cannot be used is said, and ignored.
		writeFile(t, state, "garbage")
		d = b.run("--config", file)
		d.says("the state file is not used", 1)
		b.works("passive after a damaged state", c.passive)
		b.works("active after a damaged state", c.active)
		d.kill()
		b.command("cleanup").ends(0)
		b.wants("after cleanup", left{})
	})
}

// A log that nobody reads blocks neither packets nor the end.
func TestLogNobodyReads(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	d := &process{t: t}
	d.start(b, w, "unread", "run", "--config", b.config("log: {level: debug}\n")) // no line is left out
	for deadline := time.Now().Add(patience); !b.left().Table; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no rules")
		}
	}
	c := b.connect()
	const refused, size = 5000, 64 << 10 // lines, of more than 100 bytes each; the pipe's size
	for range refused / 100 {
		c.say("%s", strings.TrimSuffix(strings.Repeat("PORT 10,1,0,2,0,5\r\n", 100), "\r\n"))
		for range 100 {
			c.expect("200")
		}
	}
	b.works("passive", c.passive)
	d.stop()
	w.Close()
	got, err := io.ReadAll(r)
	if err != nil || len(got) < size-1024 {
		t.Fatalf("the pipe held %d bytes (%v), it was never full", len(got), err)
	}
	if n := strings.Count(string(got), "reason=low-port"); n == 0 || n >= refused {
		t.Errorf("%d lines of %d refusals, want some", n, refused)
	}
}

// A client that is refused all the time does not fill the log: it says how many lines it left out, counters count all.
func TestLogFlood(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	d := b.run()
	c := b.connect()
	const refused = 2000
	for range refused / 100 {
		c.say("%s", strings.TrimSuffix(strings.Repeat("PORT 10,1,0,2,0,5\r\n", 100), "\r\n"))
		for range 100 {
			c.expect("200")
		}
	}
	b.works("passive", c.passive)
	d.says("msg=expect", 1)
	d.counts("refused.low-port", refused)
	d.says("were left out", 1)
	if n := strings.Count(d.log.String(), "reason=low-port"); n == 0 || n > refused/2 {
		t.Errorf("%d lines of %d refusals", n, refused)
	}
	d.stop()
}

func TestNotify(t *testing.T) {
	b := newBed(t, false)
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	told := func(want string) {
		t.Helper()
		buf := make([]byte, 200)
		socket.SetReadDeadline(time.Now().Add(patience))
		n, err := socket.Read(buf)
		if err != nil || !strings.HasPrefix(string(buf[:n]), want) {
			t.Errorf("the service manager was told %q (%v), want %s", buf[:n], err, want)
		}
	}
	d := b.command("run")
	told("READY=1")
	d.signal(unix.SIGHUP)
	told("RELOADING=1\nMONOTONIC_USEC=")
	told("READY=1")
	d.signal(unix.SIGUSR1)
	d.says("msg=counters", 1)
	d.signal(unix.SIGTERM)
	told("STOPPING=1")
	d.ends(0)
}

func TestRulesOfTheAdministrator(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	file := b.config("rules: none\n")
	d := b.run("--config", file)
	c := b.connect()
	b.fails("without rules that queue", c.passive)
	b.install(b.command("rules", "--config", file).ends(0))
	c = b.connect() // one whose beginning is seen
	b.works("passive", c.passive)
	b.works("active", c.active)
	d.stop()
	b.wants("after the end", left{})
}

func TestUsage(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	bad := b.config("policy: {lat: refuse}\n")
	good := b.config("policy: {late: refuse}\n")
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"help", []string{"--help"}, 0, "cthelperd run --config"},
		{"help of a command", []string{"run", "--help"}, 0, "SIGUSR1 logs the counters"},
		{"nothing", nil, 2, "Usage: cthelperd"},
		{"unknown command", []string{"rum"}, 2, `did you mean "run"`},
		{"unknown flag", []string{"run", "--port", "1"}, 2, "unknown flag --port"},
		{"check", []string{"check"}, 0, "the built-in configuration is fine: ftp (tcp 21),"},
		{"check a good file", []string{"check", "--config", good}, 0, "is fine: ftp (tcp 21),"},
		{"check a bad file", []string{"check", "--config", bad}, 1, bad + `:1:10: unknown key "lat" in policy: did you mean late?`},
		{"check a missing file", []string{"check", "--config", "/nowhere"}, 1, "/nowhere: no such file"},
		{"run with a bad file", []string{"run", "--config", bad}, 1, "unknown key"},
		{"rules", []string{"rules"}, 0, "queue"},
		{"doctor", []string{"doctor"}, 0, "nf_conntrack_expect_max"},
		{"version", []string{"version"}, 0, "cthelperd "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if out := b.command(tt.args...).ends(tt.code); !strings.Contains(strings.ToLower(out), strings.ToLower(tt.want)) {
				t.Errorf("it says %q, want %q", out, tt.want)
			}
		})
	}
	b.wants("after all of them", left{})
}
