package e2e

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

const sipControl = "meta l4proto { tcp, udp } th dport 5060"

// newExchange is a site whose firewall lets in SIP; client and server count the media that reach them.
func newExchange(t *testing.T, n nat) *site {
	t.Helper()
	s := newSiteWith(t, n, sipControl, nil)
	countMedia(s.client)
	countMedia(s.server)
	return s
}

// countMedia counts what comes to media ports, and to how many of them, but for STUN (whose first two bits are 0).
func countMedia(ns *netnstest.NS) {
	ns.Run("nft", `table inet media {
	counter heard { }
	set ports { type inet_service; flags dynamic; size 65535; }
	chain input {
		type filter hook input priority 0
		udp dport 20000-39999 @th,64,2 != 0 counter name heard add @ports { udp dport }
	}
}`)
}

// heard is how many packets of media have come to ns, and to how many ports.
func heard(t *testing.T, ns *netnstest.NS) (packets, ports int) {
	t.Helper()
	m := regexp.MustCompile(`packets (\d+)`).FindStringSubmatch(ns.Run("nft", "list", "counter", "inet", "media", "heard"))
	if m == nil {
		t.Fatal("no counter")
	}
	packets, _ = strconv.Atoi(m[1])
	_, elements, _ := strings.Cut(ns.Run("nft", "list", "set", "inet", "media", "ports"), "elements = {")
	elements, _, _ = strings.Cut(elements, "}")
	if elements = strings.TrimSpace(elements); elements != "" {
		ports = strings.Count(elements, ",") + 1
	}
	return packets, ports
}

var transports = []helpers.Transport{helpers.UDP, helpers.TCP}

// expectations counts those in the firewall's kernel. Without a family conntrack lists those of IPv4.
func (s *site) expectations() (n int) {
	for _, f := range families {
		n += strings.Count(s.firewall.Run("conntrack", "-L", "expect", "-f", string(f)), "mask-src=")
	}
	return n
}

// TestCalls: sipp calls sipp, over UDP and TCP, IPv4 and IPv6, behind each NAT: without the daemon no packet of the media
// passes, with it each does, and nothing is open when the call is over.
func TestCalls(t *testing.T) {
	t.Parallel()
	type row struct {
		nat       nat
		family    family
		transport helpers.Transport
	}
	var rows []row
	var names [][]string
	for _, n := range nats {
		for _, f := range families {
			for _, tr := range transports {
				rows = append(rows, row{n, f, tr})
				names = append(names, []string{string(n), string(f), tr.String()})
			}
		}
	}
	chosen := make([]int, 0, len(rows))
	for i := range rows {
		chosen = append(chosen, i)
	}
	if *onlyPairs {
		chosen = pairwise(names)
	}
	for _, i := range chosen {
		r := rows[i]
		t.Run(strings.Join(names[i], "/"), func(t *testing.T) {
			t.Parallel()
			s := newExchange(t, r.nat)
			caller, called := s.scenario("caller", caller()...), s.scenario("called", called()...)
			s.answer(s.server, s.serverAddr(r.family), r.transport, called, "-m", "2")
			call := func() {
				t.Helper()
				if err := s.call(s.client, r.family.client(), s.host(r.family), r.transport, caller, "-m", "1"); err != nil {
					t.Fatal(err)
				}
			}
			call()
			if near, _ := heard(t, s.client); near > 0 || s.counter("rejected") < playedPackets {
				t.Fatalf("without the daemon %d packets of media passed, %d were refused", near, s.counter("rejected"))
			}
			if far, _ := heard(t, s.server); far > 0 {
				t.Fatalf("without the daemon %d packets of media passed", far)
			}
			d := s.daemon()
			call()
			far, _ := heard(t, s.server)
			near, _ := heard(t, s.client)
			if far != playedPackets || near != playedPackets {
				t.Errorf("%d packets of media came to the called side, %d back; want %d", far, near, playedPackets)
			}
			until(t, "nothing is open any more", func() bool { return s.expectations() == 0 })
			d.stop()
		})
	}
}

// TestCallsRig: where the firewall lets everything pass the calls work without the daemon: what the other tests see is the
// daemon's doing.
func TestCallsRig(t *testing.T) {
	t.Parallel()
	s := newExchange(t, routed)
	s.firewall.Run("nft", "insert", "rule", "inet", "filter", "forward", "accept")
	s.answer(s.server, ipv4.server(), helpers.UDP, s.scenario("called", called()...), "-m", "1")
	if err := s.call(s.client, ipv4.client(), s.host(ipv4), helpers.UDP, s.scenario("caller", caller()...), "-m", "1"); err != nil {
		t.Fatal(err)
	}
	far, _ := heard(t, s.server)
	if near, _ := heard(t, s.client); far != playedPackets || near != playedPackets {
		t.Errorf("%d packets of media came to the called side, %d back; want %d", far, near, playedPackets)
	}
}
