package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/nfnl"
	"github.com/cthelperd/cthelperd/internal/rules"
)

// newTenants makes two clients and two servers with the same addresses, on one firewall that keeps each pair in a zone and
// a routing table of its own.
func newTenants(t *testing.T, masquerades bool) [2]*site {
	t.Helper()
	if testing.Short() {
		t.Skip("end to end: not with -short")
	}
	firewall := netnstest.New(t)
	var tenants [2]*site
	nft := fmt.Sprintf(filterRules, "tcp dport 21") + "table inet zones {\n\tchain prerouting {\n\t\ttype filter hook prerouting priority raw;\n"
	both := func(f func(family) netip.Addr) []string {
		return []string{f(ipv4).String() + "/24", f(ipv6).String() + "/64"}
	}
	for i := range tenants {
		s := &site{t: t, nat: routed, client: netnstest.New(t), firewall: firewall, server: netnstest.New(t), folder: t.TempDir()}
		if masquerades {
			s.nat = masquerade
		}
		if err := os.Chmod(filepath.Dir(s.folder), 0o755); err != nil { // servers change their user
			t.Fatal(err)
		}
		inside, outside := fmt.Sprintf("inside%d", i+1), fmt.Sprintf("outside%d", i+1)
		netnstest.Veth(s.client, "c", both(family.client), firewall, inside, both(family.inside))
		neighbours(s.client, "c", "02:00:00:00:01:02", family.client, firewall, inside, "02:00:00:00:01:01", family.inside)
		netnstest.Veth(firewall, outside, both(family.outside), s.server, "s", both(family.server))
		neighbours(firewall, outside, "02:00:00:00:02:01", family.outside, s.server, "s", "02:00:00:00:02:02", family.server)
		table := fmt.Sprint(101 + i)
		for _, f := range families {
			s.client.Route(f.inside().String())
			s.server.Route(f.outside().String())
			version := map[family]string{ipv4: "-4", ipv6: "-6"}[f]
			for _, dev := range []string{inside, outside} {
				firewall.Run("ip", version, "rule", "add", "iif", dev, "lookup", table)
			}
			firewall.Run("ip", version, "route", "add", f.client().String(), "dev", inside, "table", table)
			firewall.Run("ip", version, "route", "add", f.server().String(), "dev", outside, "table", table)
		}
		nft += fmt.Sprintf("\t\tiifname { %s, %s } ct zone set %d\n", inside, outside, i+1)
		tenants[i] = s
	}
	firewall.Sysctl("net.ipv4.ip_forward", "1")
	firewall.Sysctl("net.ipv6.conf.all.forwarding", "1")
	nft += "\t}\n}\n"
	if masquerades {
		nft += "table inet nat { chain postrouting { type nat hook postrouting priority srcnat; oifname { outside1, outside2 } masquerade; }; }\n"
	}
	firewall.Run("nft", nft)
	return tenants
}

// shadows counts the shadow masters of a zone. What hangs on them is in the same one, which the kernel's list of
// expectations does not show.
func (s *site) shadows(zone uint16) int {
	s.t.Helper()
	n := 0
	var err error
	s.firewall.Do(func() {
		var c *nfnl.Conn
		if c, err = nfnl.Dial(); err != nil {
			return
		}
		err = errors.Join(c.Connections(unix.AF_INET, func(e *nfnl.Connection) {
			if e.Zone == zone && e.Orig.DstPort == 0 {
				n++
			}
		}), c.Close())
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// reaches says whether a namespace can connect to an address; what the rules drop or refuse it cannot.
func reaches(ns *netnstest.NS, to netip.AddrPort) (ok bool) {
	ns.Do(func() {
		c, err := net.DialTimeout("tcp", to.String(), 5*time.Second)
		if ok = err == nil; ok {
			c.Close()
		}
	})
	return ok
}

// TestZones: two tenants with the same addresses announce the same end points at the same time. Each gets its own opened,
// and none the other's.
func TestZones(t *testing.T) {
	t.Parallel()
	for _, n := range []nat{routed, masquerade} {
		t.Run(string(n), func(t *testing.T) {
			t.Parallel()
			const port = 40001
			tenants := newTenants(t, n == masquerade)
			for _, s := range tenants {
				s.serve(serverKinds[0], 21, n == masquerade)
			}
			one, two := tenants[0], tenants[1]
			// What a tenant's server connects to if his client announced the port.
			at := netip.AddrPortFrom(ipv4.client(), port)
			if n == masquerade {
				at = netip.AddrPortFrom(ipv4.outside(), port)
			}
			announce := func(s *site) (*dialogue, net.Listener) {
				c := s.login(t, ipv4.client(), 21)
				l := c.listen(port)
				c.ask(200, strings.TrimSpace(portCommand(endPoint(l))))
				return c, l
			}
			_, l := announce(one)
			if reaches(one.server, at) {
				t.Fatal("without the daemon the announced port is open")
			}
			l.Close()

			d := one.daemon()
			c1, l1 := announce(one)
			if got := one.shadows(1); got != 1 {
				t.Errorf("%d shadows in zone 1, want 1", got)
			}
			if reaches(two.server, at) {
				t.Error("what the first tenant announced is open for the second")
			}
			c2, l2 := announce(two)
			if got := [2]int{one.shadows(1), one.shadows(2)}; got != [2]int{1, 1} {
				t.Errorf("%v shadows in the zones, want one in each", got)
			}
			if err := c2.fetch(l2); err != nil {
				t.Errorf("the second tenant, active: %v", err)
			}
			if err := c1.fetch(l1); err != nil {
				t.Errorf("the first tenant, active: %v", err)
			}
			for i, c := range []*dialogue{c1, c2, c1, c2} {
				if err := c.fetchPassive(); err != nil {
					t.Errorf("passive, %d: %v", i, err)
				}
			}
			d.says("msg=related", 6)
			d.stop()
			if out := one.firewall.Run("conntrack", "-L", "expect"); strings.Contains(out, "mask-src=") {
				t.Errorf("expectations are left:\n%s", out)
			}
			for line := range strings.Lines(one.firewall.Run("conntrack", "-L")) {
				if strings.Contains(line, "dport=0 ") {
					t.Errorf("a shadow is left: %s", line)
				}
			}
		})
	}
}

// TestZonesOlder: control connections of two zones that are older than the daemon.
func TestZonesOlder(t *testing.T) {
	t.Parallel()
	tenants := newTenants(t, false)
	var clients [2]*dialogue
	for i, s := range tenants {
		s.serve(serverKinds[0], 21, false)
		clients[i] = s.login(t, ipv4.client(), 21)
	}
	d := tenants[0].daemon()
	for i, c := range clients {
		if err := c.fetchPassive(); err != nil {
			t.Errorf("tenant %d: %v", i+1, err)
		}
	}
	d.stop()
}

// TestZonesAlike: the control connections have the same ports too. Where the kernel tells a packet's connection both work;
// else neither is read, and nothing is opened in a zone that did not ask for it.
func TestZonesAlike(t *testing.T) {
	t.Parallel()
	features, err := rules.Probe()
	if err != nil {
		t.Fatal(err)
	}
	tenants := newTenants(t, false)
	for _, s := range tenants {
		s.serve(serverKinds[0], 21, false)
	}
	d := tenants[0].daemon()
	const control, data = 50000, 40001
	var clients [2]*dialogue
	for i, s := range tenants {
		clients[i] = s.loginFrom(t, netip.AddrPortFrom(ipv4.client(), control), 21)
	}
	l := clients[1].listen(data)
	clients[1].ask(200, strings.TrimSpace(portCommand(endPoint(l))))
	if n := tenants[0].shadows(1); n != 0 {
		t.Error("the second tenant's announcement opened something in the first one's zone")
	}
	if features.Conntrack {
		if err := clients[1].fetch(l); err != nil {
			t.Errorf("the second tenant: %v", err)
		}
		if err := clients[0].fetchPassive(); err != nil {
			t.Errorf("the first tenant: %v", err)
		}
	} else {
		d.says("several zones have one", 1)
		if n := tenants[0].shadows(2); n != 0 {
			t.Errorf("%d shadows, though the zone cannot be known", n)
		}
		// What has other ports is read.
		again := tenants[1].login(t, ipv4.client(), 21)
		if err := again.fetchPassive(); err != nil {
			t.Errorf("a connection of its own: %v", err)
		}
	}
	d.stop()
}

// TestMarks: announced connections have the control connection's mark, also if it was set after an earlier announcement;
// and a packet keeps its own mark through the queue, changed or not.
func TestMarks(t *testing.T) {
	t.Parallel()
	s := newSite(t, masquerade)
	s.serve(serverKinds[0], 21, true)
	s.firewall.Run("nft", `table inet marks {
	counter first { }
	counter second { }
	counter kept { }
	counter lost { }
	chain prerouting {
		type filter hook prerouting priority mangle;
		tcp dport 21 meta mark set 0x77
	}
	chain forward {
		type filter hook forward priority filter + 1;
		tcp dport 21 ct state new ct mark set 0x11
		ct state related ct mark 0x11 counter name first
		ct state related ct mark 0x22 counter name second
	}
	chain postrouting {
		type filter hook postrouting priority 310;
		tcp dport 21 meta mark 0x77 counter name kept
		tcp dport 21 meta mark != 0x77 counter name lost
	}
}`)
	count := func(name string) int { return s.counterIn("marks", name) }
	c := s.login(t, ipv4.client(), 21)
	l := c.listen(40001)
	c.ask(200, strings.TrimSpace(portCommand(endPoint(l))))
	if reaches(s.server, netip.AddrPortFrom(ipv4.outside(), 40001)) {
		t.Fatal("without the daemon the announced port is open")
	}
	d := s.daemon()
	c = s.login(t, ipv4.client(), 21)
	for range 2 {
		if err := c.fetchPassive(); err != nil {
			t.Fatal(err)
		}
	}
	if count("first") != 2 || count("second") != 0 {
		t.Errorf("%d related connections with the first mark, %d with the second, want 2 and 0", count("first"), count("second"))
	}
	s.firewall.Run("nft", "insert rule inet marks forward tcp dport 21 ct mark set 0x22")
	l.Close()
	l = c.listen(40002)
	c.ask(200, strings.TrimSpace(portCommand(endPoint(l)))) // an edit
	if err := c.fetch(l); err != nil {
		t.Fatal(err)
	}
	if err := c.fetchPassive(); err != nil {
		t.Fatal(err)
	}
	if count("first") != 2 || count("second") != 2 {
		t.Errorf("%d related connections with the first mark, %d with the second, want 2 of each", count("first"), count("second"))
	}
	d.says("msg=edit", 1)
	if count("kept") == 0 || count("lost") != 0 {
		t.Errorf("%d packets kept their mark, %d lost it", count("kept"), count("lost"))
	}
	d.stop()
}
