package e2e

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// move gives dev's addresses, and who is known there, to another device of the namespace.
func move(ns *netnstest.NS, dev, other string, addr func(family) netip.Addr, neighbour func(family) netip.Addr, mac string) {
	ns.Run("ip", "addr", "flush", "dev", dev, "scope", "global")
	for _, f := range families {
		ns.Run("ip", "addr", "add", fmt.Sprintf("%s/%d", addr(f), map[family]int{ipv4: 24, ipv6: 64}[f]), "dev", other, "nodad")
		ns.Run("ip", "neigh", "replace", neighbour(f).String(), "lladdr", mac, "dev", other, "nud", "permanent")
	}
}

// eachMode transfers once in each family and mode, before the daemon runs to see the rules refuse it.
func (s *site) eachMode(t *testing.T) {
	t.Helper()
	s.serve(serverKinds[0], 21, false)
	s.refuses(t, ipv4, modePASV)
	s.refuses(t, ipv6, modeEPSV)
	d := s.daemon()
	for _, f := range families {
		for _, m := range modes {
			if speaks(f, m) {
				t.Run(fmt.Sprintf("%s/%s", f, m), func(t *testing.T) { s.works(t, d, clientKinds[0], f, m, 21) })
			}
		}
	}
	d.ended()
}

// TestVLAN: on either side the firewall has its addresses on 802.1q devices.
func TestVLAN(t *testing.T) {
	t.Parallel()
	s := newSite(t, masquerade)
	vlan := func(ns *netnstest.NS, dev, name, id string) {
		t.Helper()
		var out []byte
		var err error
		ns.Do(func() {
			out, err = exec.Command("ip", "link", "add", "link", dev, "name", name, "type", "vlan", "id", id).CombinedOutput()
		})
		if err != nil {
			if strings.Contains(string(out), "Unknown device type") || strings.Contains(string(out), "not supported") {
				t.Skipf("this kernel has no 802.1q devices (CONFIG_VLAN_8021Q): %s", out)
			}
			t.Fatalf("%v: %s", err, out)
		}
		ns.Run("ip", "link", "set", name, "up")
	}
	vlan(s.client, "c", "c.7", "7")
	vlan(s.firewall, "inside", "inside.7", "7")
	vlan(s.firewall, "outside", "outside.9", "9")
	vlan(s.server, "s", "s.9", "9")
	move(s.client, "c", "c.7", family.client, family.inside, "02:00:00:00:01:01")
	move(s.firewall, "inside", "inside.7", family.inside, family.client, "02:00:00:00:01:02")
	move(s.firewall, "outside", "outside.9", family.outside, family.server, "02:00:00:00:02:02")
	move(s.server, "s", "s.9", family.server, family.outside, "02:00:00:00:02:01")
	for _, f := range families {
		version := map[family]string{ipv4: "-4", ipv6: "-6"}[f]
		s.client.Run("ip", version, "route", "replace", "default", "via", f.inside().String(), "dev", "c.7")
		s.server.Run("ip", version, "route", "replace", "default", "via", f.outside().String(), "dev", "s.9")
	}
	s.firewall.Run("nft", "add rule inet nat postrouting oifname outside.9 masquerade")
	s.eachMode(t)
}

// TestBridgePort: the firewall's inner address is that of a bridge, whose packets are filtered as bridged ones, too.
func TestBridgePort(t *testing.T) {
	for _, filtered := range []string{"0", "1"} {
		t.Run("bridge-nf-call-"+filtered, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, masquerade)
			s.firewall.Run("ip", "link", "add", "name", "bridge0", "address", "02:00:00:00:01:01", "type", "bridge")
			bridged(s, filtered)
			s.firewall.Run("ip", "link", "set", "bridge0", "up")
			s.firewall.Run("ip", "link", "set", "inside", "master", "bridge0")
			move(s.firewall, "inside", "bridge0", family.inside, family.client, "02:00:00:00:01:02")
			s.eachMode(t)
		})
	}
}

// bridged has bridged packets pass the hooks of IP, or not.
func bridged(s *site, filtered string) {
	s.t.Helper()
	exec.Command("modprobe", "br_netfilter").Run() // it may be built in
	s.firewall.Sysctl("net.bridge.bridge-nf-call-iptables", filtered)
	s.firewall.Sysctl("net.bridge.bridge-nf-call-ip6tables", filtered)
}

// TestBridge: the firewall has no address between client and server, it filters what it bridges (br_netfilter).
func TestBridge(t *testing.T) {
	t.Parallel()
	s := newSite(t, routed)
	s.firewall.Run("ip", "link", "add", "name", "bridge0", "type", "bridge")
	bridged(s, "1")
	s.firewall.Run("ip", "link", "set", "bridge0", "up")
	for _, dev := range []string{"inside", "outside"} {
		s.firewall.Run("ip", "addr", "flush", "dev", dev, "scope", "global")
		s.firewall.Run("ip", "link", "set", dev, "master", "bridge0")
	}
	for _, f := range families {
		s.client.Run("ip", "route", "add", f.server().String(), "dev", "c")
		s.server.Run("ip", "route", "add", f.client().String(), "dev", "s")
		s.client.Run("ip", "neigh", "replace", f.server().String(), "lladdr", "02:00:00:00:02:02", "dev", "c", "nud", "permanent")
		s.server.Run("ip", "neigh", "replace", f.client().String(), "lladdr", "02:00:00:00:01:02", "dev", "s", "nud", "permanent")
	}
	// The firewall has no address to send a reset from: what is refused is dropped, and waited for.
	s.serve(serverKinds[0], 21, false)
	c := s.login(t, ipv4.client(), 21)
	l := c.listen(40001)
	c.ask(200, strings.TrimSpace(portCommand(endPoint(l))))
	if reaches(s.server, endPoint(l)) {
		t.Fatal("without the daemon the announced port is open")
	}
	l.Close()
	d := s.daemon()
	for _, f := range families {
		for _, m := range modes {
			if speaks(f, m) {
				t.Run(fmt.Sprintf("%s/%s", f, m), func(t *testing.T) { s.works(t, d, clientKinds[0], f, m, 21) })
			}
		}
	}
	if s.counter("related") == 0 {
		t.Error("no bridged packet was related")
	}
	d.ended()
}
