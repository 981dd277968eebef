package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// strict drops what conntrack calls invalid, numbers outside of the window first of all.
func (s *site) strict() {
	s.t.Helper()
	s.firewall.Run("nft", `add counter inet filter invalid
insert rule inet filter forward ct state invalid counter name invalid drop`)
	s.firewall.Sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0")
	s.firewall.Sysctl("net.netfilter.nf_conntrack_tcp_loose", "0") // what it has no entry for is invalid, not new
}

// eprtCommand is EPRT for a listener of either family.
func eprtCommand(a netip.AddrPort) string {
	protocol := 1 // RFC 2428 section 2
	if a.Addr().Is6() {
		protocol = 2
	}
	return fmt.Sprintf("EPRT |%d|%s|%d|", protocol, a.Addr(), a.Port())
}

// active fetches the file by PORT, or by EPRT.
func (d *dialogue) active(eprt bool) error {
	d.t.Helper()
	l := d.listen(0)
	defer l.Close()
	command := eprtCommand(endPoint(l))
	if !eprt {
		command = strings.TrimSpace(portCommand(endPoint(l)))
	}
	d.ask(200, command)
	return d.fetch(l)
}

// passive fetches it by PASV, or by EPSV, which has no address to rewrite.
func (d *dialogue) passive(epsv bool) error {
	d.t.Helper()
	if !epsv {
		return d.fetchPassive()
	}
	text := d.ask(229, "EPSV")
	_, port, _ := strings.Cut(text, "|||")
	port, _, _ = strings.Cut(port, "|")
	var c net.Conn
	var err error
	d.ns.Do(func() { c, err = net.DialTimeout("tcp", net.JoinHostPort(d.peer.String(), port), 2*patience) })
	if err != nil {
		return err
	}
	d.write("RETR down\r\n")
	return d.receive(c)
}

// lengths are the changes of length in a daemon's log, by direction: longer and shorter.
func lengths(d *process) (n map[string][2]int) {
	n = map[string][2]int{}
	for line := range strings.Lines(d.out.String()) {
		if !strings.Contains(line, "msg=edit ") {
			continue
		}
		field := func(name string) string {
			_, v, _ := strings.Cut(line, " "+name+"=")
			v, _, _ = strings.Cut(strings.TrimSpace(v), " ")
			return strings.Trim(v, `"`)
		}
		count, more := n[field("dir")], len(field("new"))-len(field("old"))
		if more > 0 {
			count[0]++
		} else if more < 0 {
			count[1]++
		}
		n[field("dir")] = count
	}
	return n
}

// longClient is an address of the client's that is longer than what the server sees.
var longClient = netip.MustParseAddr("fd01::1234:5678:9abc:def0")

// older is a site with a control connection that begins without a daemon; transfers fail.
func older(t *testing.T, n nat, from netip.Addr) (s *site, c *dialogue, again func() *dialogue) {
	t.Helper()
	s = newSite(t, n)
	s.strict()
	if from == longClient {
		s.client.Run("ip", "addr", "add", from.String()+"/64", "dev", "c", "nodad")
		s.firewall.Run("ip", "neigh", "replace", from.String(), "lladdr", "02:00:00:00:01:02", "dev", "inside", "nud", "permanent")
	}
	s.serve(serverKinds[0], 21, false)
	again = func() *dialogue { return s.login(t, from, 21) }
	c = again()
	before := s.counter("rejected")
	if err := c.passiveFails(); err == nil || s.counter("rejected") == before {
		t.Fatalf("without the daemon: %v, and the rules refused %d packets", err, s.counter("rejected")-before)
	}
	return s, c, again
}

// passiveFails announces a port of the server's and connects to it in vain.
func (d *dialogue) passiveFails() error {
	d.t.Helper()
	_, port, _ := strings.Cut(d.ask(229, "EPSV"), "|||")
	port, _, _ = strings.Cut(port, "|")
	var c net.Conn
	var err error
	d.ns.Do(func() { c, err = net.DialTimeout("tcp", net.JoinHostPort(d.peer.String(), port), patience) })
	if err == nil {
		c.Close()
	}
	return err
}

// TestOlder: control connections that began without the daemon are taken over: the first announcement may change the
// length, in both directions, and so may the next ones; when the daemon is killed they go on; the next daemon takes
// them over, adjusted as they are. The rules are strict.
func TestOlder(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		nat    nat
		from   netip.Addr
		active bool
		want   map[string][2]int // changes of length at least
	}{
		{"masquerade/ipv4/longer", masquerade, ipv4.client(), true, map[string][2]int{"orig": {6, 0}}},
		{"masquerade/ipv6/longer", masquerade, ipv6.client(), true, map[string][2]int{"orig": {6, 0}}},
		{"masquerade/ipv6/shorter", masquerade, longClient, true, map[string][2]int{"orig": {0, 6}}},
		{"dnat/ipv4/shorter", dnat, ipv4.client(), false, map[string][2]int{"reply": {0, 6}}},
		{"both/ipv4", bothWays, ipv4.client(), true, map[string][2]int{"orig": {6, 0}, "reply": {0, 6}}},
		{"both/ipv6/shorter", bothWays, longClient, true, map[string][2]int{"orig": {0, 6}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s, c, again := older(t, row.nat, row.from)
			second := again()
			transfer := func(c *dialogue, i int) {
				t.Helper()
				if row.active {
					if err := c.active(row.from.Is6() || i%2 == 1); err != nil {
						t.Fatalf("active, %d: %v", i, err)
					}
				}
				if err := c.passive(row.from.Is6()); err != nil {
					t.Fatalf("passive, %d: %v", i, err)
				}
			}
			d := s.daemon()
			for _, c := range []*dialogue{c, second} {
				for i := range 3 {
					transfer(c, i)
				}
				c.ask(200, "NOOP")
			}
			d.until(fmt.Sprint("logged changes of length ", row.want), func() bool { return atLeast(lengths(d), row.want) })
			d.kill()
			c.ask(200, "NOOP")
			c.ask(221, "QUIT")
			second.ask(200, "NOOP")
			d = s.daemon()
			for i := range 2 {
				transfer(second, i)
			}
			second.ask(221, "QUIT")
			d.stop()
			if n := s.counter("invalid"); n != 0 {
				t.Errorf("%d packets were invalid", n)
			}
		})
	}
}

func atLeast(got, want map[string][2]int) bool {
	for dir, n := range want {
		if got[dir][0] < n[0] || got[dir][1] < n[1] {
			return false
		}
	}
	return true
}

// TestOlderKept: without a new entry a connection that began before the daemon keeps its length, and what would change
// it is refused.
func TestOlderKept(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			s, c, again := older(t, masquerade, f.client())
			d := s.daemon("--config", s.config("older: keep\n"))
			l := c.listen(0)
			c.write(eprtCommand(endPoint(l)) + "\r\n")
			c.expect(500) // an address that is not the one the server sees
			d.says("reason=no-adjust", 1)
			if err := c.passive(true); err != nil { // nothing to rewrite
				t.Errorf("EPSV: %v", err)
			}
			if err := again().active(true); err != nil {
				t.Errorf("EPRT of a newer connection: %v", err)
			}
			d.stop()
		})
	}
}

// TestKilled: connections whose lengths have changed go on when the daemon is killed, and new ones begin.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, bothWays)
			s.strict()
			s.serve(serverKinds[0], 21, false)
			d := s.daemon()
			c := s.login(t, f.client(), 21)
			for i := range 2 {
				if err := c.active(f == ipv6); err != nil {
					t.Fatalf("active, %d: %v", i, err)
				}
				if err := c.passive(f == ipv6); err != nil {
					t.Fatalf("passive, %d: %v", i, err)
				}
			}
			if n := lengths(d)["orig"]; n[0] < 2 {
				t.Errorf("changes of length %v: nothing is tested", n)
			}
			d.kill()
			c.ask(200, "NOOP")
			fresh := s.login(t, f.client(), 21)
			fresh.ask(200, "NOOP")
			if err := fresh.passiveFails(); err == nil {
				t.Error("without the daemon a transfer works")
			}
			c.ask(221, "QUIT")
			fresh.ask(221, "QUIT")
			if n := s.counter("invalid"); n != 0 {
				t.Errorf("%d packets were invalid", n)
			}
		})
	}
}

// kill ends a process without a chance to do anything.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%s does not end", p.name)
	}
}

// TestOlderBusy: connections that are taken over while both sides speak without a pause lose nothing. The rules are lax:
// of a packet without an entry conntrack would make one, and the firewall refuses what it gets itself by a reset.
func TestOlderBusy(t *testing.T) {
	t.Parallel()
	s := newSite(t, masquerade)
	s.serve(serverKinds[0], 21, false)
	var all []*dialogue
	for range 16 {
		all = append(all, s.login(t, ipv4.client(), 21))
	}
	stop, wrong := make(chan struct{}), make(chan error, len(all))
	for _, c := range all {
		go func() { wrong <- c.chatter(stop) }()
	}
	time.Sleep(50 * time.Millisecond)
	d := s.daemon()
	time.Sleep(300 * time.Millisecond) // what was lost is repeated in this time
	close(stop)
	for range all {
		if err := <-wrong; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		return
	}
	for i, c := range all {
		if err := c.active(i%2 == 0); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		c.ask(221, "QUIT")
	}
	d.says(fmt.Sprintf("connections=%d", len(all)), 1)
	d.stop()
}

// chatter sends commands, some at once, and reads the answers.
func (d *dialogue) chatter(stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		const commands = 4
		if _, err := d.conn.Write([]byte(strings.Repeat("NOOP\r\n", commands))); err != nil {
			return err
		}
		for range commands {
			if _, _, err := d.text.ReadResponse(200); err != nil {
				return err
			}
		}
	}
}

// TestOlderReload: connections that are older than the daemon's knowledge of their port are taken over by the reload that
// brings it, and those that it reads already are left alone.
func TestOlderReload(t *testing.T) {
	t.Parallel()
	const port = 2121
	s := newSiteWith(t, masquerade, fmt.Sprintf("tcp dport { 21, %d }", port), nil)
	s.strict()
	s.serve(serverKinds[0], port, false)
	c := s.login(t, ipv4.client(), port)
	file := s.config("helpers: {ftp: {ports: [21]}}\n")
	d := s.daemon("--config", file)
	s.config(fmt.Sprintf("helpers: {ftp: {ports: [21, %d]}}\n", port))
	reload := func(n int) {
		t.Helper()
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		d.says("msg=reloaded", n)
	}
	reload(1)
	for i := range 2 {
		if err := c.active(i == 0); err != nil {
			t.Fatalf("transfer %d: %v", i, err)
		}
	}
	reload(2)
	if err := c.active(true); err != nil {
		t.Fatalf("after another reload: %v", err)
	}
	d.stop() // all is written then
	if got := lengths(d); !atLeast(got, map[string][2]int{"orig": {3, 0}}) {
		t.Errorf("changes of length %v, want 3", got)
	}
	if n := strings.Count(d.out.String(), "connections=1"); n != 1 {
		t.Errorf("the connection got %d new entries, want 1", n)
	}
	if n := s.counter("invalid"); n != 0 {
		t.Errorf("%d packets were invalid", n)
	}
}
