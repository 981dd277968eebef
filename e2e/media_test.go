package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// hearing are the ports of one host at which media come in; first is when each heard something.
type hearing struct {
	mu    sync.Mutex
	first map[uint16]time.Time
}

func listen(t *testing.T, ns *netnstest.NS, ports ...uint16) *hearing {
	t.Helper()
	m := &hearing{first: map[uint16]time.Time{}}
	for _, port := range ports {
		c := open(t, ns, port)
		go func() {
			b := make([]byte, 2048)
			for {
				if _, _, err := c.ReadFrom(b); err != nil {
					return
				}
				m.mu.Lock()
				if m.first[port].IsZero() {
					m.first[port] = time.Now()
				}
				m.mu.Unlock()
			}
		}()
	}
	return m
}

// at is when a port heard something first; zero: it has not.
func (m *hearing) at(port uint16) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.first[port]
}

func open(t *testing.T, ns *netnstest.NS, port uint16) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	var err error
	ns.Do(func() { c, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// speak sends a packet each 20 ms from a port of ns to each end point, until the test ends.
func speak(t *testing.T, ns *netnstest.NS, from uint16, to ...netip.AddrPort) {
	t.Helper()
	c := open(t, ns, from)
	var ended atomic.Bool
	t.Cleanup(func() { ended.Store(true) })
	go func() {
		for !ended.Load() {
			for _, a := range to {
				_, _ = c.WriteTo([]byte("media"), net.UDPAddrFromAddrPort(a)) // what is refused comes back as an error
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
}

// audio is a media line at a port, t38 one of a fax (RFC 3362, ITU-T T.38 annex D).
func audio(port int, more ...string) string {
	return fmt.Sprintf("m=audio %d RTP/AVP 0\na=rtpmap:0 PCMU/8000\n%s", port, strings.Join(more, ""))
}

func t38(port int) string { return fmt.Sprintf("m=image %d udptl t38\na=T38FaxVersion:0\n", port) }

// TestHoldAndFax: a call is put on hold, resumed at other ports, and becomes a fax. Media pass at each stage from the
// moment on in which they are announced, in both directions; nothing passes without the daemon, or after the call.
func TestHoldAndFax(t *testing.T) {
	const stage = 400 * time.Millisecond
	for _, with := range []bool{false, true} {
		for _, n := range []nat{routed, masquerade} {
			if *onlyPairs && (n == routed) == with {
				continue
			}
			t.Run(fmt.Sprintf("%s/daemon %v", n, with), func(t *testing.T) {
				t.Parallel()
				s := newExchange(t, n)
				phone := ipv4.client()
				if n == masquerade {
					phone = ipv4.outside()
				}
				near := listen(t, s.client, 20000, 20010, 20020, 20030)
				far := listen(t, s.server, 30000, 30010, 30020, 30030)
				var toNear, toFar []netip.AddrPort
				for i := range uint16(4) {
					toNear = append(toNear, netip.AddrPortFrom(phone, 20000+10*i))
					toFar = append(toFar, netip.AddrPortFrom(ipv4.server(), 30000+10*i))
				}
				speak(t, s.server, 39000, toNear...)
				speak(t, s.client, 29000, toFar...)
				ack := func(n int) string { return request("ACK", n, nothing) }
				caller := s.scenario("caller", pause(stage),
					request("INVITE", 1, description(1, audio(20000))), await(200), ack(1), pause(stage),
					request("INVITE", 2, description(2, audio(20000, "a=sendonly\n"))), await(200), ack(2), pause(stage),
					request("INVITE", 3, description(3, audio(20010))), await(200), ack(3), pause(stage),
					request("INVITE", 4, description(4, t38(20020))), await(200), ack(4), pause(stage),
					request("BYE", 5, nothing), await(200))
				answer := func(version int, media string) string {
					return awaitRequest("INVITE") + response("200 OK", description(version, media)) + awaitRequest("ACK")
				}
				called := s.scenario("called", answer(1, audio(30000)), answer(2, audio(30000, "a=recvonly\n")), answer(3, audio(30010)),
					answer(4, t38(30020)), awaitRequest("BYE"), response("200 OK", nothing))
				s.answer(s.server, ipv4.server(), helpers.UDP, called, "-m", "1", "-mp", "38000") // sipp binds it
				var d *process
				if with {
					d = s.daemon()
				}
				if err := s.call(s.client, ipv4.client(), ipv4.server(), helpers.UDP, caller, "-m", "1", "-mp", "28000"); err != nil {
					t.Fatal(err)
				}
				for name, m := range map[string]struct {
					heard *hearing
					base  uint16
				}{"caller": {near, 20000}, "called": {far, 30000}} {
					last := time.Time{}
					for i := range uint16(4) {
						port := m.base + 10*i
						switch at := m.heard.at(port); {
						case at.IsZero() == (with && i < 3):
							t.Errorf("%s: media came to port %d: %v", name, port, !at.IsZero())
						case with && i < 3 && at.Before(last.Add(stage/2)):
							t.Errorf("%s: media came to port %d before it was announced", name, port)
						default:
							last = at
						}
					}
				}
				if with {
					until(t, "nothing is open any more", func() bool { return s.expectations() == 0 })
					d.stop()
				}
			})
		}
	}
}
