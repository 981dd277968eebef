package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// nat is what the firewall does with addresses.
type nat string

const (
	routed     nat = "routed"
	masquerade nat = "masquerade" // the server sees the firewall's address
	dnat       nat = "dnat"       // the client speaks to the firewall's address
	bothWays   nat = "both"       // masquerade and dnat
)

var nats = []nat{routed, masquerade, dnat}

// family of addresses.
type family string

const (
	ipv4 family = "ipv4"
	ipv6 family = "ipv6"
)

var families = []family{ipv4, ipv6}

func addrOf(f family, v4, v6 string) netip.Addr {
	if f == ipv4 {
		return netip.MustParseAddr(v4)
	}
	return netip.MustParseAddr(v6)
}

// Addresses of different lengths: what is announced gets longer under masquerade, shorter under destination NAT.
func (f family) client() netip.Addr  { return addrOf(f, "10.1.0.2", "fd01::2") }
func (f family) inside() netip.Addr  { return addrOf(f, "10.1.0.1", "fd01::1") }
func (f family) outside() netip.Addr { return addrOf(f, "192.168.200.101", "fd02::a:b:1") }
func (f family) server() netip.Addr  { return addrOf(f, "192.168.200.102", "fd02::a:b:2") }

// site is a client, a firewall and a server.
type site struct {
	t                        *testing.T
	nat                      nat
	folder                   string // for files of its processes
	client, firewall, server *netnstest.NS
}

// The only accept rules are the control port and what is established or related. What else there is of TCP and UDP is
// counted and refused, so that a failure is seen at once. Neighbours are set, not asked: ICMPv6 needs no rule.
const filterRules = `table inet filter {
	counter related { }
	counter rejected { }
	chain refuse {
		meta l4proto { tcp, udp } counter name rejected
		meta l4proto tcp reject with tcp reset
		meta l4proto udp reject
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state related counter name related
		ct state established,related accept
		%s accept
		jump refuse
	}
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		jump refuse
	}
}
`

var natRules = map[nat]string{
	routed: "",
	masquerade: `table inet nat {
	chain postrouting {
		type nat hook postrouting priority srcnat;
		oifname "outside" masquerade
	}
}
`,
	dnat: `table inet nat {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		iifname "inside" ip daddr 10.1.0.1 %[1]s dnat ip to 192.168.200.102
		iifname "inside" ip6 daddr fd01::1 %[1]s dnat ip6 to fd02::a:b:2
	}
}
`,
}

func (n nat) rules(control string) string {
	switch n {
	case bothWays:
		return masquerade.rules(control) + dnat.rules(control)
	case dnat:
		return fmt.Sprintf(natRules[n], control)
	}
	return natRules[n]
}

// newSite makes one whose firewall lets in connections to FTP's port.
func newSite(t *testing.T, n nat) *site { return newSiteWith(t, n, "tcp dport 21", nil) }

// newSiteWith makes one whose firewall lets in what control matches, in nftables' words. Packets between client and
// firewall go over a wire if there is one.
func newSiteWith(t *testing.T, n nat, control string, w *wire) *site {
	t.Helper()
	return newSiteOver(t, n, control, w, nil)
}

// newSiteOver has wires between client and firewall, and between firewall and server, where they are not nil.
func newSiteOver(t *testing.T, n nat, control string, w, beyond *wire) *site {
	t.Helper()
	if testing.Short() {
		t.Skip("end to end: not with -short")
	}
	s := &site{t: t, nat: n, client: netnstest.New(t), firewall: netnstest.New(t), server: netnstest.New(t)}
	s.folder = t.TempDir()
	if err := os.Chmod(filepath.Dir(s.folder), 0o755); err != nil { // servers change their user
		t.Fatal(err)
	}
	both := func(f func(family) netip.Addr) []string {
		return []string{f(ipv4).String() + "/24", f(ipv6).String() + "/64"}
	}
	if w != nil {
		w.join(t, s.client, "c", both(family.client), s.firewall, "inside", both(family.inside))
	} else {
		netnstest.Veth(s.client, "c", both(family.client), s.firewall, "inside", both(family.inside))
		neighbours(s.client, "c", "02:00:00:00:01:02", family.client, s.firewall, "inside", "02:00:00:00:01:01", family.inside)
	}
	if beyond != nil {
		beyond.join(t, s.firewall, "outside", both(family.outside), s.server, "s", both(family.server))
	} else {
		netnstest.Veth(s.firewall, "outside", both(family.outside), s.server, "s", both(family.server))
		neighbours(s.firewall, "outside", "02:00:00:00:02:01", family.outside, s.server, "s", "02:00:00:00:02:02", family.server)
	}
	for _, f := range families {
		s.client.Route(f.inside().String())
		// Also under masquerade: then a packet to an inside address is refused by the firewall's rules, and counted.
		s.server.Route(f.outside().String())
	}
	s.firewall.Sysctl("net.ipv4.ip_forward", "1")
	s.firewall.Sysctl("net.ipv6.conf.all.forwarding", "1")
	s.firewall.Run("nft", fmt.Sprintf(filterRules, control)+n.rules(control))
	return s
}

// neighbours makes the ends of a link know each other's link-layer addresses.
func neighbours(a *netnstest.NS, aDev, aMAC string, aAddr func(family) netip.Addr,
	b *netnstest.NS, bDev, bMAC string, bAddr func(family) netip.Addr) {
	both := func(f func(family) netip.Addr) []netip.Addr { return []netip.Addr{f(ipv4), f(ipv6)} }
	netnstest.Neighbours(a, aDev, aMAC, both(aAddr), b, bDev, bMAC, both(bAddr))
}

// host is what the client calls the server.
func (s *site) host(f family) netip.Addr {
	if s.nat == dnat || s.nat == bothWays {
		return f.inside()
	}
	return s.serverAddr(f)
}

// serverAddr is the server's own address.
func (s *site) serverAddr(f family) netip.Addr {
	if s.server == s.firewall {
		return f.inside()
	}
	return f.server()
}

// counter reads one of the rule set's counters.
func (s *site) counter(name string) int {
	s.t.Helper()
	return s.counterIn("filter", name)
}

// counterIn reads a counter of another table.
func (s *site) counterIn(table, name string) int {
	s.t.Helper()
	out := s.firewall.Run("nft", "list", "counter", "inet", table, name)
	m := regexp.MustCompile(`packets (\d+)`).FindStringSubmatch(out)
	if m == nil {
		s.t.Fatalf("no counter in %q", out)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// output is what a process wrote, for several readers.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// process is one that runs until stopped.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	out  output
	done chan struct{}
}

// start runs a program in a namespace.
func start(t testing.TB, ns *netnstest.NS, program string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: filepath.Base(program), cmd: exec.Command(program, args...)}
	p.start(ns)
	return p
}

// startFamily runs a program whose children end with it: all are in a process namespace, whose first process is a shell
// (vsftpd does not expect the orphans that a first process gets).
func startFamily(t testing.TB, ns *netnstest.NS, program string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: filepath.Base(program)}
	p.cmd = exec.Command("/bin/sh", append([]string{"-c", `"$0" "$@" & wait $!`, program}, args...)...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	p.start(ns)
	return p
}

func (p *process) start(ns *netnstest.NS) {
	p.t.Helper()
	p.done = make(chan struct{})
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	var err error
	ns.Do(func() { err = p.cmd.Start() })
	if err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	p.t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if p.t.Failed() {
			p.t.Logf("%s wrote:\n%s", p.name, p.out.String())
		}
	})
}

// patience bounds every wait for what must come.
const patience = 30 * time.Second

// until waits for a condition that the process brings about.
func (p *process) until(what string, holds func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-p.done:
			p.t.Fatalf("%s ended (%v) before it %s", p.name, p.cmd.ProcessState, what)
		default:
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: not within %v: it %s", p.name, patience, what)
		}
	}
}

// says waits until the process has written text n times.
func (p *process) says(text string, n int) {
	p.t.Helper()
	p.until(fmt.Sprintf("says %q %d times", text, n), func() bool { return strings.Count(p.out.String(), text) >= n })
}

// stop ends the process in good order.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%s does not end", p.name)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Fatalf("%s: exit code %d", p.name, code)
	}
}

// daemon starts cthelperd in the firewall and waits until it works.
func (s *site) daemon(args ...string) *process {
	s.t.Helper()
	return s.daemonOf(shared.daemon, args...)
}

func (s *site) daemonOf(program string, args ...string) *process {
	s.t.Helper()
	d := start(s.t, s.firewall, program, append([]string{"run"}, args...)...)
	d.says("msg=ready", 1)
	return d
}

// config writes a configuration file for the daemon.
func (s *site) config(text string) string {
	s.t.Helper()
	path := filepath.Join(s.folder, "cthelperd.yaml")
	s.write(path, text)
	return path
}

func (s *site) write(path, text string) {
	s.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// until waits for a condition.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// run runs a program in a namespace to its end, within the time given.
func run(ns *netnstest.NS, within time.Duration, folder string, stdin io.Reader, program string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = folder, stdin, &out, &out
	cmd.Env = append(os.Environ(), "HOME="+folder, "LC_ALL=C")
	var err error
	ns.Do(func() { err = cmd.Start() })
	if err != nil {
		return "", err
	}
	alarm := time.AfterFunc(within, func() { cmd.Process.Kill() })
	err = cmd.Wait()
	alarm.Stop()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", program, err, out.String())
	}
	return out.String(), err
}
