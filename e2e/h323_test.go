package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// Debian 12 has no program that speaks H.323 (yate, ekiga, gnugk, openh323, opal and asterisk's ooh323 are not in it any
// more), so both ends are the tests' own.

// The ports of the parties. None but RAS's is open in the firewall.
const (
	rasPort      = 1719
	callPort     = 1730 // of the called endpoint: not the standard one, so that the admission must open it
	endpointPort = 1740 // of the registered endpoint
)

const rasControl = "udp dport 1719"

// keeperInside is the rule that publishes a gatekeeper of the inside.
const keeperInside = `table inet published { chain prerouting {
	type nat hook prerouting priority dstnat;
	iifname "outside" ip daddr 192.168.200.101 ` + rasControl + ` dnat ip to 10.1.0.2
}; }`

// TestH323: an endpoint calls and is called by a gatekeeper with the firewall between them; nothing but RAS is open.
func TestH323(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		nat    nat
		inside bool // the gatekeeper is
	}{{routed, false}, {masquerade, false}, {dnat, false}, {routed, true}, {masquerade, true}} {
		if *onlyPairs && row.inside && row.nat == routed {
			continue
		}
		name := string(row.nat)
		if row.inside {
			name += ", gatekeeper inside"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSiteWith(t, row.nat, rasControl, nil)
			if row.inside && row.nat != routed {
				s.firewall.Run("nft", keeperInside)
			}
			d := s.daemon("--config", s.config("policy: {limits: {rate: 1000}}\n"))
			for _, f := range families {
				if f == ipv6 && row.nat != routed {
					continue
				}
				t.Run(string(f), func(t *testing.T) {
					endpoint, keeper, host := &party{t, s.client, f.client()}, &party{t, s.server, s.serverAddr(f)}, s.host(f)
					if row.inside {
						endpoint, keeper, host = keeper, endpoint, f.client()
						if row.nat != routed {
							host = f.outside()
						}
					}
					all := someStyles()
					if row.nat == masquerade && !row.inside {
						all = styles
					}
					h323Calls(t, endpoint, keeper, host, all)
				})
			}
			d.ended()
		})
	}
}

// h323Calls registers an endpoint and makes calls in both directions. host is the gatekeeper, as the endpoint knows it.
func h323Calls(t *testing.T, endpoint, keeper *party, host netip.Addr, all []style) {
	callee, own := keeper.listen(callPort), endpoint.listen(endpointPort)
	g, registered, _ := endpoint.register(host, keeper.datagrams(rasPort), 60)
	base := 20000
	for _, st := range all {
		for _, incoming := range []bool{false, true} {
			name := fmt.Sprintf("%s, incoming %t", st.name, incoming)
			phones := [2]*phone{endpoint.phone(base), keeper.phone(base + 5000)}
			base += 20
			var k *link
			var err error
			if incoming {
				slices.Reverse(phones[:])
				k, err = keeper.connect(registered, own)
			} else {
				k, err = endpoint.connect(g.admit(netip.AddrPortFrom(keeper.addr, callPort)), callee)
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			c := &call{t, k, phones, 7}
			if arrived, err := c.arrives(st, patience); err != nil || arrived != mediaPerCall {
				t.Errorf("%s: %d of %d datagrams arrived, error %v", name, arrived, mediaPerCall, err)
			}
			if !incoming {
				g.disengage()
			}
		}
	}
	g.asks(h323test.V{"unregistrationRequest": h323test.V{
		"requestSeqNum": 5, "callSignalAddress": []any{netip.AddrPortFrom(endpoint.addr, endpointPort)}}})
	g.answers(h323test.V{"unregistrationConfirm": h323test.V{"requestSeqNum": 5}})
	if _, err := keeper.connect(registered, own); err == nil {
		t.Error("an endpoint that is not registered any more can be called")
	}
}

// TestH323WithoutDaemon is the negative control: though RAS and all of TCP are open, no media pass.
func TestH323WithoutDaemon(t *testing.T) {
	t.Parallel()
	for _, n := range nats {
		t.Run(string(n), func(t *testing.T) {
			t.Parallel()
			s := newSiteWith(t, n, "th dport 1024-20000", nil)
			client, server := &party{t, s.client, ipv4.client()}, &party{t, s.server, s.serverAddr(ipv4)}
			callee := server.listen(callPort)
			for i, st := range someStyles() {
				phones := [2]*phone{client.phone(21000 + 40*i), server.phone(22000 + 40*i)}
				k, err := client.connect(netip.AddrPortFrom(s.host(ipv4), callPort), callee)
				if err != nil {
					t.Fatal(err)
				}
				before := s.counter("rejected")
				c := &call{t, k, phones, 7}
				arrived, err := c.arrives(st, brief)
				if arrived > 0 || s.counter("related") > 0 {
					t.Errorf("%s: %d datagrams arrived, %d packets were related, error %v", st.name, arrived, s.counter("related"), err)
				}
				if s.counter("rejected") == before {
					t.Errorf("%s: the rules have refused nothing", st.name)
				}
			}
		})
	}
}

// dmz is another network inside.
func (s *site) dmz(t *testing.T) *party {
	ns := netnstest.New(t)
	netnstest.Veth(s.firewall, "dmz", []string{"10.3.0.1/24"}, ns, "d", []string{"10.3.0.2/24"})
	ns.Route("10.3.0.1")
	return &party{t, ns, netip.MustParseAddr("10.3.0.2")}
}

// TestH323Neighbours: both parties are inside, in two networks that know each other by what the gatekeeper outside says of
// them; it routes the calls, or does not.
func TestH323Neighbours(t *testing.T) {
	t.Parallel()
	for _, n := range []nat{masquerade, routed} {
		if *onlyPairs && n == routed {
			continue
		}
		t.Run(string(n), func(t *testing.T) {
			t.Parallel()
			s := newSiteWith(t, n, rasControl, nil)
			a, b, keeper := &party{t, s.client, ipv4.client()}, s.dmz(t), &party{t, s.server, ipv4.server()}
			if n == routed {
				s.server.Run("ip", "route", "add", "10.3.0.0/24", "via", ipv4.outside().String())
			}
			ras, switchboard := keeper.datagrams(rasPort), keeper.listen(callPort)
			la, lb := a.listen(endpointPort), b.listen(endpointPort)
			base := 20000
			calls := func(d *process) {
				t.Helper()
				ga, atA, signalling := a.register(keeper.addr, ras, 60)
				gb, atB, _ := b.register(keeper.addr, ras, 60)
				for i, st := range someStyles() {
					for _, throughKeeper := range []bool{false, true} {
						name := fmt.Sprintf("%s, through the gatekeeper %t", st.name, throughKeeper)
						from, to, g, at, l := a, b, ga, atB, lb
						if i%2 == 1 {
							from, to, g, at, l = b, a, gb, atA, la
						}
						c := &call{t, nil, [2]*phone{from.phone(base), to.phone(base + 5000)}, 7}
						base += 20
						var err error
						if throughKeeper {
							var r relay
							if r.caller, err = from.connect(signalling, switchboard); err == nil {
								r.called, err = keeper.connect(at, l)
							}
							c.line = r
						} else {
							c.line, err = from.connect(g.admit(at), l)
						}
						if d == nil {
							if err == nil {
								t.Errorf("%s: without the daemon the called side is reached", name)
							}
							continue
						}
						if err != nil {
							t.Fatalf("%s: %v", name, err)
						}
						refused := strings.Count(d.out.String(), "msg=refuse")
						if arrived, err := c.arrives(st, patience); err != nil || arrived != mediaPerCall {
							t.Errorf("%s: %d of %d datagrams arrived, error %v", name, arrived, mediaPerCall, err)
						}
						if n := strings.Count(d.out.String(), "msg=refuse"); n != refused {
							t.Errorf("%s: %d announcements were refused", name, n-refused)
						}
						if !throughKeeper {
							g.disengage()
						}
					}
				}
			}
			calls(nil)
			d := s.daemon("--config", s.config("policy: {limits: {rate: 1000}}\n"))
			calls(d)
			d.ended()
		})
	}
}
