package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
)

const stunPort = 3478

// iceAccounts is what phones know of ICE (RFC 8445), as parameters of their accounts.
var iceAccounts = map[string]string{
	"plain": "",
	"ice":   ";medianat=ice",
	"stun":  fmt.Sprintf(";medianat=ice;stunserver=stun:%s:%d", ipv4.server(), stunPort),
}

// stun tells who asks the server by which address and port he is seen (RFC 8489: Binding, XOR-MAPPED-ADDRESS of IPv4).
func (s *site) stun() {
	s.t.Helper()
	s.firewall.Run("nft", "insert", "rule", "inet", "filter", "forward", "udp", "dport", fmt.Sprint(stunPort), "accept")
	c := open(s.t, s.server, stunPort)
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if n < 20 || b[0] != 0 || b[1] != 1 {
				continue
			}
			seen := from.(*net.UDPAddr).AddrPort()
			answer := append([]byte{1, 1, 0, 12}, b[4:20]...)
			answer = append(answer, 0, 0x20, 0, 8, 0, 1, byte(seen.Port()>>8)^b[4], byte(seen.Port())^b[5])
			for i, v := range seen.Addr().Unmap().AsSlice() {
				answer = append(answer, v^b[4+i])
			}
			_, _ = c.WriteTo(answer, from) // who does not hear it asks again
		}
	}()
}

// TestCandidates: with the option, host candidates of both sides are open too, at other ports than the lines say, and
// what a relay has is not.
func TestCandidates(t *testing.T) {
	for _, with := range []bool{false, true} {
		for _, n := range []nat{routed, masquerade} {
			if *onlyPairs && n == routed {
				continue
			}
			t.Run(fmt.Sprintf("%s/%t", n, with), func(t *testing.T) {
				t.Parallel()
				s := newExchange(t, n)
				phone := ipv4.client()
				if n == masquerade {
					phone = ipv4.outside()
				}
				line, host, relay := uint16(0), uint16(10), uint16(20)
				var toNear, toFar []netip.AddrPort
				for _, more := range []uint16{line, host, relay} {
					toNear = append(toNear, netip.AddrPortFrom(phone, 20000+more))
					toFar = append(toFar, netip.AddrPortFrom(ipv4.server(), 30000+more))
				}
				near, far := listen(t, s.client, 20000, 20010, 20020), listen(t, s.server, 30000, 30010, 30020)
				speak(t, s.server, 39000, toNear...)
				speak(t, s.client, 29000, toFar...)
				d := s.daemon("--config", s.config(fmt.Sprintf("helpers: {sip: {ice: %t}}\n", with)))
				media := func(port int) string {
					return audio(port, fmt.Sprintf("a=candidate:1 1 UDP 2130706431 [local_ip] %d typ host\n"+
						"a=candidate:2 1 UDP 16777215 [local_ip] %d typ relay raddr [local_ip] rport %d\n", port+10, port+20, port))
				}
				caller := s.scenario("caller", request("INVITE", 1, description(1, media(20000))), await(200),
					request("ACK", 1, nothing), pause(400*time.Millisecond), request("BYE", 2, nothing), await(200))
				called := s.scenario("called", awaitRequest("INVITE"), response("200 OK", description(1, media(30000))),
					awaitRequest("ACK"), awaitRequest("BYE"), response("200 OK", nothing))
				s.answer(s.server, ipv4.server(), helpers.UDP, called, "-m", "1", "-mp", "38000")
				err := s.call(s.client, ipv4.client(), ipv4.server(), helpers.UDP, caller, "-m", "1", "-mp", "28000")
				if err != nil {
					t.Fatal(err)
				}
				for name, m := range map[string]struct {
					heard *hearing
					base  uint16
				}{"caller": {near, 20000}, "called": {far, 30000}} {
					for more, want := range map[uint16]bool{line: true, host: with, relay: false} {
						if came := !m.heard.at(m.base + more).IsZero(); came != want {
							t.Errorf("%s: something came to port %d: %t", name, m.base+more, came)
						}
					}
				}
				until(t, "nothing is open any more", func() bool { return s.expectations() == 0 })
				d.stop()
			})
		}
	}
}
