package daemon_test

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// bed is a client, a firewall that lets in control connections and what is established or related, and a server.
type bed struct {
	t                        *testing.T
	client, firewall, server *netnstest.NS
	ftp                      *ftpServer
}

const (
	clientAddr = "10.1.0.2"
	serverAddr = "10.2.0.2"
	control    = serverAddr + ":21"
)

// newBed masquerades what leaves to the server if asked to: then announced addresses get longer.
func newBed(t *testing.T, masquerade bool) *bed {
	t.Helper()
	return newBedAt(t, masquerade, "10.2.0.101")
}

// newBedAt has a firewall with the address outside.
func newBedAt(t *testing.T, masquerade bool, outside string) *bed {
	t.Helper()
	b := &bed{t: t, client: netnstest.New(t), firewall: netnstest.New(t), server: netnstest.New(t)}
	netnstest.Veth(b.client, "c", []string{clientAddr + "/24"}, b.firewall, "inside", []string{"10.1.0.1/24"})
	netnstest.Veth(b.firewall, "outside", []string{outside + "/24"}, b.server, "s", []string{serverAddr + "/24"})
	// Nobody has to ask for neighbours: a datagram that waits for the answer is not sent again.
	at := func(a string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(a)} }
	netnstest.Neighbours(b.client, "c", "02:00:00:00:01:02", at(clientAddr), b.firewall, "inside", "02:00:00:00:01:01", at("10.1.0.1"))
	netnstest.Neighbours(b.firewall, "outside", "02:00:00:00:02:01", at(outside), b.server, "s", "02:00:00:00:02:02", at(serverAddr))
	b.client.Route("10.1.0.1")
	if !masquerade {
		b.server.Route(outside)
	}
	b.firewall.Sysctl("net.ipv4.ip_forward", "1")
	rules := `table inet filter {
	chain forward {
		type filter hook forward priority 0; policy drop
		ct state established,related accept
		tcp dport { 21, 2121 } ct state new accept
		tcp flags & (fin | syn | rst | ack) == syn counter reject with tcp reset
	}
}`
	if masquerade {
		rules += "\ntable ip nat { chain postrouting { type nat hook postrouting priority 100; oif \"outside\" masquerade; }; }"
	}
	b.firewall.Run("nft", rules)
	b.ftp = newFTPServer(t, b.server, control)
	return b
}

// connect opens a control connection.
func (b *bed) connect() *ftpClient {
	b.t.Helper()
	return newFTPClient(b.t, b.client, control)
}

// process is a cthelperd.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  logBuffer
	done chan struct{}
}

// logBuffer is what a process wrote, for several readers.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// command starts cthelperd in the firewall.
func (b *bed) command(args ...string) *process {
	b.t.Helper()
	p := &process{t: b.t}
	p.start(b, &p.log, "1", args...)
	return p
}

// start lets a cthelperd write to out; mode is the value of asDaemon.
func (p *process) start(b *bed, out io.Writer, mode string, args ...string) {
	p.t.Helper()
	p.cmd, p.done = exec.Command("/proc/self/exe", args...), make(chan struct{})
	p.cmd.Env = append(os.Environ(), asDaemon+"="+mode)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	var err error
	b.firewall.Do(func() { err = p.cmd.Start() })
	if err != nil {
		b.t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	b.t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if b.t.Failed() {
			b.t.Logf("cthelperd %s (process %d) wrote:\n%s", strings.Join(args, " "), p.cmd.Process.Pid, p.log.String())
		}
	})
}

// run starts a daemon and waits until it works.
func (b *bed) run(args ...string) *process {
	b.t.Helper()
	p := b.command(append([]string{"run"}, args...)...)
	p.says("msg=ready", 1)
	return p
}

// says waits until the log holds text n times.
func (p *process) says(text string, n int) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for strings.Count(p.log.String(), text) < n {
		select {
		case <-p.done:
			if strings.Count(p.log.String(), text) < n {
				p.t.Fatalf("cthelperd ended (%v) before it said %q", p.cmd.ProcessState, text)
			}
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("cthelperd does not say %q %d times", text, n)
		}
	}
}

// ends waits for the end and checks the exit code.
func (p *process) ends(code int) string {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatal("cthelperd does not end")
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("exit code %d, want %d", got, code)
	}
	return p.log.String()
}

// stop ends a daemon in good order.
func (p *process) stop() string {
	p.t.Helper()
	p.signal(unix.SIGTERM)
	return p.ends(0)
}

// kill ends it without a chance to do anything.
func (p *process) kill() {
	p.t.Helper()
	p.signal(unix.SIGKILL)
	p.ends(-1)
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// pause stops it, and waits until each of its threads has stopped: the signal alone says nothing about when.
func (p *process) pause() {
	p.t.Helper()
	p.signal(unix.SIGSTOP)
	stopped := func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		if err != nil {
			p.t.Fatal(err)
		}
		return !slices.ContainsFunc(threads, func(path string) bool {
			text, err := os.ReadFile(path)
			_, state, _ := strings.Cut(string(text), ") ") // proc_pid_stat(5): the name may have any byte
			return err == nil && !strings.HasPrefix(state, "T")
		})
	}
	for deadline := time.Now().Add(patience); !stopped(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatal("cthelperd does not stop")
		}
	}
}

// left is what cthelperd has in the firewall's kernel: its table, shadow masters (port 0), expectations, its queue.
type left struct {
	Table, Queue          bool
	Shadows, Expectations int
}

func (b *bed) left() left {
	b.t.Helper()
	l := left{
		Table: strings.Contains(b.firewall.Run("nft", "list", "tables"), "inet cthelperd\n"),
		Queue: strings.TrimSpace(b.firewall.Run("cat", "/proc/thread-self/net/netfilter/nfnetlink_queue")) != "",
	}
	for line := range strings.Lines(b.firewall.Run("conntrack", "-L")) {
		if strings.Contains(line, "dport=0 ") {
			l.Shadows++
		}
	}
	l.Expectations = strings.Count(b.firewall.Run("conntrack", "-L", "expect"), "mask-src=")
	return l
}

// state is what the firewall's kernel knows, for who looks into a failure.
func (b *bed) state() string {
	b.t.Helper()
	return b.firewall.Run("sh", "-c", "conntrack -L -o extended; conntrack -L expect; cat /proc/thread-self/net/netfilter/nfnetlink_queue; "+
		"conntrack -S; nft list ruleset 2>&1")
}

// config writes a configuration file.
func (b *bed) config(format string, args ...any) string {
	b.t.Helper()
	path := b.t.TempDir() + "/cthelperd.yaml"
	writeFile(b.t, path, fmt.Sprintf(format, args...))
	return path
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// as runs a command as another user.
func (b *bed) as(uid uint32, args ...string) (string, error) {
	b.t.Helper()
	// The test's binary lies in a folder that others may not enter.
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		b.t.Fatal(err)
	}
	folder, err := os.MkdirTemp("", "cthelperd")
	if err != nil {
		b.t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	binary := folder + "/cthelperd"
	if err := os.WriteFile(binary, self, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Chmod(folder, 0o755); err != nil {
		b.t.Fatal(err)
	}
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), asDaemon+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var out []byte
	b.firewall.Do(func() { out, err = cmd.CombinedOutput() })
	return string(out), err
}

// install puts printed rules in place: an nft script, or the shell's iptables commands, which cannot queue behind NAT.
func (b *bed) install(rules string) {
	b.t.Helper()
	path := b.t.TempDir() + "/rules"
	writeFile(b.t, path, rules)
	if strings.Contains(rules, "iptables") {
		b.firewall.Run("sh", "-e", path)
		return
	}
	b.firewall.Run("nft", "-f", path)
}
