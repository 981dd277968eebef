package e2e

import (
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// TestPublished: a server inside is called by the firewall's outside address, from outside and from inside; from there with
// source NAT too, as it is needed where both are in one network.
func TestPublished(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		inside bool
		rules  string
	}{
		{"from outside", false, ""},
		{"from inside", true, ""},
		{"from inside, with source NAT", true, `table inet hairpin { chain postrouting {
	type nat hook postrouting priority srcnat;
	oifname "dmz" ip saddr 10.1.0.0/24 masquerade
}; }`},
	} {
		if *onlyPairs && row.rules == "" {
			continue
		}
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newExchange(t, routed)
			pbx := netnstest.New(t)
			netnstest.Veth(s.firewall, "dmz", []string{"10.3.0.1/24"}, pbx, "p", []string{"10.3.0.2/24"})
			pbx.Route("10.3.0.1")
			countMedia(pbx)
			s.firewall.Run("nft", `table inet published { chain prerouting {
	type nat hook prerouting priority dstnat;
	ip daddr 192.168.200.101 `+sipControl+` dnat ip to 10.3.0.2
}; }
`+row.rules)
			ns, own := s.server, ipv4.server()
			if row.inside {
				ns, own = s.client, ipv4.client()
			}
			caller, called := s.scenario("caller", caller()...), s.scenario("called", called()...)
			s.answer(pbx, addrOf(ipv4, "10.3.0.2", ""), helpers.UDP, called, "-m", "2")
			call := func() (far, near int) {
				t.Helper()
				if err := s.call(ns, own, ipv4.outside(), helpers.UDP, caller, "-m", "1"); err != nil {
					t.Fatal(err)
				}
				far, _ = heard(t, pbx)
				near, _ = heard(t, ns)
				return far, near
			}
			if far, near := call(); far+near > 0 {
				t.Fatalf("without the daemon %d packets of media passed, %d back", far, near)
			}
			d := s.daemon()
			if far, near := call(); far != playedPackets || near != playedPackets {
				t.Errorf("%d packets of media came to the called side, %d back; want %d", far, near, playedPackets)
			}
			until(t, "nothing is open any more", func() bool { return s.expectations() == 0 })
			d.stop()
		})
	}
}
