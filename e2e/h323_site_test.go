package e2e

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
	h323wire "github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// reached tells whether the gatekeeper reaches a registered endpoint.
func reached(keeper *party, registered netip.AddrPort, own *party) bool {
	l := own.listen(endpointPort)
	defer l.Close()
	k, err := keeper.connect(registered, l)
	if err == nil {
		k.ends[0].Close()
		k.ends[1].Close()
	}
	return err == nil
}

// TestH323Registration: an endpoint can be called while it is registered: from its confirmation until it is withdrawn by
// either side, a renewal fails, or its time is over.
func TestH323Registration(t *testing.T) {
	t.Parallel()
	s := newSiteWith(t, masquerade, rasControl, nil)
	endpoint, keeper := &party{t, s.client, ipv4.client()}, &party{t, s.server, ipv4.server()}
	ras := keeper.datagrams(rasPort)
	register := func(seconds int, want bool) (*gate, netip.AddrPort) {
		t.Helper()
		g, at, _ := endpoint.register(keeper.addr, ras, seconds)
		if got := reached(keeper, at, endpoint); got != want {
			t.Fatalf("registered: it can be called %t, want %t", got, want)
		}
		return g, at
	}
	register(60, false) // without the daemon
	d := s.daemon()

	g, at := register(60, true)
	renew := h323test.V{"registrationRequest": h323test.V{
		"requestSeqNum": 6, "keepAlive": true, "timeToLive": 600, "rasAddress": []any{}, "callSignalAddress": []any{},
	}}
	g.asks(renew)
	g.answers(h323test.V{"registrationConfirm": h323test.V{"requestSeqNum": 6, "callSignalAddress": []any{}, "timeToLive": 600}})
	left := regexp.MustCompile(`(?m)^(\d+) proto=6 .*dport=` + strconv.Itoa(int(at.Port())) + ` `)
	m := left.FindStringSubmatch(s.firewall.Run("conntrack", "-L", "expect"))
	if m == nil || len(m[1]) < 3 {
		t.Errorf("renewed for 600 s: in the kernel %q", m)
	}
	if !reached(keeper, at, endpoint) {
		t.Error("renewed: it cannot be called")
	}

	over := func(how string) {
		t.Helper()
		if reached(keeper, at, endpoint) {
			t.Errorf("%s: it can be called", how)
		}
	}
	g.asks(renew)
	g.answers(h323test.V{"registrationReject": h323test.V{"requestSeqNum": 6}})
	over("a renewal is rejected")

	g, at = register(60, true)
	s.firewall.Run("conntrack", "-D", "-p", "udp", "--orig-port-dst", strconv.Itoa(rasPort)) // by now it may be forgotten
	g.answers(h323test.V{"unregistrationRequest": h323test.V{"requestSeqNum": 9}})
	g.asks(h323test.V{"unregistrationConfirm": h323test.V{"requestSeqNum": 9}})
	over("the gatekeeper has unregistered it")

	_, at = register(1, true)
	until(t, "nothing is open any more", func() bool { return s.expectations() == 0 })
	over("its time is over")
	d.ended()
}

// third is a further host outside.
var third = netip.MustParseAddr("192.168.200.103")

// TestH323Connection: two calls on one connection end apart from each other; a call is forwarded to another host, or led to
// it by a gatekeeper that routes the signalling alone, only if policy allows that host.
func TestH323Connection(t *testing.T) {
	t.Parallel()
	s := newSiteWith(t, masquerade, "tcp dport 1720", nil)
	s.server.Run("ip", "addr", "add", third.String()+"/24", "dev", "s")
	caller, callee, other := &party{t, s.client, ipv4.client()}, &party{t, s.server, ipv4.server()}, &party{t, s.server, third}
	l, there := callee.listen(1720), other.listen(callPort)
	dial := func() *link {
		t.Helper()
		k, err := caller.connect(netip.AddrPortFrom(callee.addr, 1720), l)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	base := 20000
	phones := func(to *party) [2]*phone {
		base += 20
		return [2]*phone{caller.phone(base), to.phone(base + 5000)}
	}
	two := func(want int) {
		t.Helper()
		k := dial()
		calls := [2]*call{{t, k, phones(callee), 7}, {t, k, phones(callee), 8}}
		var all [2][]media
		for _, c := range calls {
			c.signal(0, setup, "setup", h323test.V{"multipleCalls": true}, h323test.V{"h245Tunnelling": true})
		}
		for i, c := range calls {
			c.signal(1, connect, "connect", h323test.V{"multipleCalls": true}, h323test.V{"h245Tunnelling": true})
			all[i] = c.channels(c.tunnel)
		}
		calls[0].release()
		for i, most := range [2]int{0, want} {
			arrived := 0
			for _, m := range all[i] {
				arrived += m.pass(t, brief+time.Duration(min(most, 1))*patience)
			}
			if arrived != most {
				t.Errorf("call %d of two: %d datagrams arrived, want %d", i, arrived, most)
			}
		}
		calls[1].release()
	}
	two(0) // without the daemon
	for _, allowed := range []bool{false, true} {
		policy := "policy: {}\n"
		if allowed {
			policy = "policy: {foreign: [" + third.String() + "/32]}\n"
		}
		d := s.daemon("--config", s.config(policy))
		if !allowed {
			two(mediaPerCall)
		}
		c := &call{t, dial(), phones(other), 7}
		c.signal(0, setup, "setup", h323test.V{}, nil)
		m := c.signal(1, facility, "facility", h323test.V{
			"alternativeAddress": netip.AddrPortFrom(third, callPort), "reason": h323test.V{"callForwarded": nil},
		}, nil)
		c.release()
		k, err := caller.connect(address(t, m, h323wire.AlternativeAddress, 0), there)
		if got := err == nil; got != allowed {
			t.Errorf("forwarded, allowed %t: connected %t, error %v", allowed, got, err)
		}
		if err == nil {
			c.line = k
			if arrived, err := c.arrives(styles[1], patience); err != nil || arrived != mediaPerCall {
				t.Errorf("forwarded: %d of %d datagrams arrived, error %v", arrived, mediaPerCall, err)
			}
		}
		onward, err := callee.connect(netip.AddrPortFrom(third, callPort), there)
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range styles[1:3] {
			c = &call{t, relay{dial(), onward}, phones(other), 7}
			within := brief
			if allowed {
				within = patience
			}
			if arrived, err := c.arrives(st, within); err != nil || (arrived == mediaPerCall) != allowed {
				t.Errorf("%s through another, allowed %t: %d datagrams arrived, error %v", st.name, allowed, arrived, err)
			}
		}
		d.ended() // all is written then
		if refused := strings.Contains(d.out.String(), "reason=foreign-address"); refused == allowed {
			t.Errorf("allowed %t, and refused %t", allowed, refused)
		}
	}
}

// TestH323Published is TestPublished for H.323: an endpoint inside is called by the firewall's outside address.
func TestH323Published(t *testing.T) {
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
			s := newSiteWith(t, routed, "tcp dport 1720", nil)
			callee, caller := s.dmz(t), &party{t, s.server, ipv4.server()}
			if row.inside {
				caller = &party{t, s.client, ipv4.client()}
			}
			s.firewall.Run("nft", `table inet published { chain prerouting {
	type nat hook prerouting priority dstnat;
	ip daddr 192.168.200.101 tcp dport 1720 dnat ip to 10.3.0.2
}; }
`+row.rules)
			l, base := callee.listen(1720), 20000
			calls := func(want int, within time.Duration) {
				t.Helper()
				for _, st := range someStyles() {
					k, err := caller.connect(netip.AddrPortFrom(ipv4.outside(), 1720), l)
					if err != nil {
						t.Fatal(err)
					}
					base += 20
					c := &call{t, k, [2]*phone{caller.phone(base), callee.phone(base + 5000)}, 7}
					arrived, err := c.arrives(st, within)
					if arrived != want || err != nil && want > 0 {
						t.Errorf("%s: %d datagrams arrived, want %d, error %v", st.name, arrived, want, err)
					}
				}
			}
			calls(0, brief) // without the daemon
			d := s.daemon("--config", s.config("policy: {limits: {rate: 1000}}\n"))
			calls(mediaPerCall, patience)
			until(t, "nothing is open any more", func() bool { return s.expectations() == 0 })
			d.ended()
		})
	}
}
