package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
	h323wire "github.com/cthelperd/cthelperd/helpers/h323/wire"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// The ports of the parties. None but RAS's is open in the firewall.
const (
	rasPort      = 1719
	callPort     = 1730 // of the called endpoint: not the standard one, so that the admission must open it
	endpointPort = 1740 // of the registered endpoint
)

// style is how a call gets its channels.
type style string

const (
	slow      style = "slow"
	fastStart style = "fast"
	tunnelled style = "tunnelled"
)

var styles = []style{slow, fastStart, tunnelled}

// party is an endpoint or a gatekeeper: its sockets are in ns.
type party struct {
	t    testing.TB
	ns   *netnstest.NS
	addr netip.Addr
}

// in runs f in the party's namespace. An error ends the test.
func (p *party) in(f func() error) {
	p.t.Helper()
	var err error
	p.ns.Do(func() { err = f() })
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *party) at(port int) string {
	return netip.AddrPortFrom(p.addr, uint16(port)).String()
}

// datagrams opens a UDP socket.
func (p *party) datagrams(port int) (c *net.UDPConn) {
	p.t.Helper()
	p.in(func() error {
		a, err := net.ListenPacket("udp", p.at(port))
		if err == nil {
			c = a.(*net.UDPConn)
			p.t.Cleanup(func() { c.Close() })
		}
		return err
	})
	return c
}

// rtp opens sockets for RTP and RTCP.
func (p *party) rtp(even int) (pair [2]*net.UDPConn) {
	p.t.Helper()
	return [2]*net.UDPConn{p.datagrams(even), p.datagrams(even + 1)}
}

func (p *party) listen(port int) (l *net.TCPListener) {
	p.t.Helper()
	p.in(func() error {
		a, err := net.Listen("tcp", p.at(port))
		if err == nil {
			l = a.(*net.TCPListener)
			p.t.Cleanup(func() { l.Close() })
		}
		return err
	})
	return l
}

// link is one TCP connection between two parties.
type link struct {
	t    testing.TB
	ends [2]net.Conn // who called, who was called
}

// connect has p connect to where l listens; to is what p was told of it.
func (p *party) connect(to netip.AddrPort, l *net.TCPListener) (*link, error) {
	p.t.Helper()
	k := &link{t: p.t}
	var err error
	p.ns.Do(func() { k.ends[0], err = net.DialTimeout("tcp", to.String(), 3*time.Second) })
	if err != nil {
		return nil, fmt.Errorf("connect to %v: %w", to, err)
	}
	p.t.Cleanup(func() { k.ends[0].Close() })
	l.SetDeadline(time.Now().Add(patience))
	if k.ends[1], err = l.Accept(); err != nil {
		return nil, err
	}
	p.t.Cleanup(func() { k.ends[1].Close() })
	return k, nil
}

// say sends a frame, its header apart as some makers do, and gives the payload as it arrives.
func (k *link) say(from int, payload []byte) []byte {
	k.t.Helper()
	frame := h323test.TPKT(payload)
	for _, part := range [][]byte{frame[:4], frame[4:]} {
		if _, err := k.ends[from].Write(part); err != nil {
			k.t.Fatal(err)
		}
	}
	to := k.ends[1-from]
	to.SetReadDeadline(time.Now().Add(patience))
	got, have := make([]byte, len(frame)), 0
	for have < len(got) {
		n, err := to.Read(got[have:])
		if err != nil {
			k.t.Fatalf("after %d bytes of %d: %v", have, len(got), err)
		}
		have += n
	}
	return got[4:]
}

// signal sends a message of call signalling and reads it on the other side.
func (k *link) signal(from int, kind byte, called bool, body string, v, pdu h323test.V) *h323wire.Message {
	k.t.Helper()
	if pdu == nil {
		pdu = h323test.V{}
	}
	pdu["h323-message-body"] = h323test.V{body: v}
	if body == "empty" {
		pdu["h323-message-body"] = h323test.V{body: nil}
	}
	m := &h323wire.Message{}
	if err := h323wire.ReadSignalling(k.say(from, h323test.Signalling(kind, 7, called, h323test.V{"h323-uu-pdu": pdu})), m); err != nil {
		k.t.Fatalf("%s: %v", body, err)
	}
	return m
}

// address is what a message says of a field; the nth of them.
func address(t testing.TB, m *h323wire.Message, f h323wire.Field, nth int) netip.AddrPort {
	t.Helper()
	for _, a := range m.Addresses {
		if a.Field == f {
			if nth == 0 {
				return a.Addr
			}
			nth--
		}
	}
	t.Fatalf("no %v in %v", f, m.Addresses)
	return netip.AddrPort{}
}

// gate is a RAS association.
type gate struct {
	endpoint, keeper *net.UDPConn
	to               net.Addr // the gatekeeper, as the endpoint knows it
	from             net.Addr // the endpoint, as the gatekeeper sees it
	t                testing.TB
}

func (g *gate) exchange(c *net.UDPConn, to net.Addr, at *net.UDPConn, v h323test.V) (*h323wire.Message, net.Addr) {
	g.t.Helper()
	if _, err := c.WriteTo(h323test.RAS(v), to); err != nil {
		g.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	at.SetReadDeadline(time.Now().Add(patience))
	n, from, err := at.ReadFrom(buf)
	if err != nil {
		g.t.Fatalf("%v: %v", v, err)
	}
	m := &h323wire.Message{}
	if err := h323wire.ReadRAS(buf[:n], m); err != nil {
		g.t.Fatal(err)
	}
	return m, from
}

func (g *gate) asks(v h323test.V) (m *h323wire.Message) {
	g.t.Helper()
	m, g.from = g.exchange(g.endpoint, g.to, g.keeper, v)
	return m
}

func (g *gate) answers(v h323test.V) *h323wire.Message {
	g.t.Helper()
	m, _ := g.exchange(g.keeper, g.from, g.endpoint, v)
	return m
}

func end(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// register makes the client known to the gatekeeper. It gives where the gatekeeper would call it.
func (s *site) register(t testing.TB, f family, client, server *party) (*gate, netip.AddrPort) {
	t.Helper()
	g := &gate{t: t, endpoint: client.datagrams(0), keeper: server.datagrams(rasPort)}
	g.to = net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.host(f), rasPort))
	g.asks(h323test.V{"gatekeeperRequest": h323test.V{"requestSeqNum": 1, "rasAddress": end(g.endpoint)}})
	g.answers(h323test.V{"gatekeeperConfirm": h323test.V{"requestSeqNum": 1, "rasAddress": end(g.keeper)}})
	m := g.asks(h323test.V{"registrationRequest": h323test.V{
		"requestSeqNum": 2, "rasAddress": []any{end(g.endpoint)}, "timeToLive": 60,
		"callSignalAddress": []any{netip.AddrPortFrom(client.addr, endpointPort)},
	}})
	registered := address(t, m, h323wire.CallSignalAddress, 0)
	if got := address(t, m, h323wire.RASAddress, 0); got.String() != g.from.String() {
		t.Errorf("the gatekeeper is told that RAS is at %v, and sees %v", got, g.from)
	}
	g.answers(h323test.V{"registrationConfirm": h323test.V{"requestSeqNum": 2, "callSignalAddress": []any{}, "timeToLive": 60}})
	return g, registered
}

// admit has the gatekeeper tell the client where to call.
func (g *gate) admit(called netip.AddrPort) netip.AddrPort {
	g.t.Helper()
	g.asks(h323test.V{"admissionRequest": h323test.V{"requestSeqNum": 3, "callReferenceValue": 7}})
	m := g.answers(h323test.V{"admissionConfirm": h323test.V{"requestSeqNum": 3, "destCallSignalAddress": called}})
	return address(g.t, m, h323wire.DestCallSignalAddress, 0)
}

// phone is a party of a call with sockets for two channels each way.
type phone struct {
	*party
	out, in [2][2]*net.UDPConn // by channel: RTP and RTCP
}

func (p *party) phone(base int) *phone {
	q := &phone{party: p}
	for i := range 2 {
		q.out[i], q.in[i] = p.rtp(base+4*i), p.rtp(base+4*i+2)
	}
	return q
}

// media is what one channel needs: who sends, and where the sender was told to send it.
type media struct {
	from, to  [2]*net.UDPConn
	rtp, rtcp netip.AddrPort // of the receiver
	back      netip.AddrPort // RTCP of the sender
}

// pass sends RTP, and RTCP both ways, and tells how many of the three have arrived.
func (m *media) pass(t testing.TB, within time.Duration) (arrived int) {
	t.Helper()
	for i, x := range []struct {
		from, to *net.UDPConn
		at       netip.AddrPort
	}{{m.from[0], m.to[0], m.rtp}, {m.from[1], m.to[1], m.rtcp}, {m.to[1], m.from[1], m.back}} {
		text := fmt.Sprintf("media %d to %v", i, x.at)
		if _, err := x.from.WriteToUDPAddrPort([]byte(text), x.at); err != nil {
			t.Logf("%s: %v", text, err)
			continue
		}
		buf := make([]byte, 100)
		x.to.SetReadDeadline(time.Now().Add(within))
		if n, _, err := x.to.ReadFrom(buf); err != nil {
			t.Logf("%s: %v", text, err)
		} else if string(buf[:n]) == text {
			arrived++
		}
	}
	return arrived
}

func unicast(c *net.UDPConn) h323test.V {
	a := end(c)
	return h323test.V{"unicastAddress": a}
}

func parameters(session int, rtp, rtcp *net.UDPConn) h323test.V {
	v := h323test.V{"sessionID": session, "mediaControlChannel": unicast(rtcp)}
	if rtp != nil {
		v["mediaChannel"] = unicast(rtp)
	}
	return h323test.V{"multiplexParameters": h323test.V{"h2250LogicalChannelParameters": v}}
}

// openChannels opens two channels each way with H.245; say sends a message from a side (0: who called) to the other.
func openChannels(t testing.TB, phones [2]*phone, say func(from int, v h323test.V) *h323wire.Message) (all []media) {
	t.Helper()
	for from, p := range phones {
		q := phones[1-from]
		for i := range 2 {
			m := say(from, h323test.V{"request": h323test.V{"openLogicalChannel": h323test.V{
				"forwardLogicalChannelNumber":     i + 1,
				"forwardLogicalChannelParameters": parameters(i+1, nil, p.out[i][1]),
			}}})
			c := media{from: p.out[i], to: q.in[i], back: address(t, m, h323wire.MediaControlChannel, 0)}
			m = say(1-from, h323test.V{"response": h323test.V{"openLogicalChannelAck": h323test.V{
				"forwardLogicalChannelNumber": i + 1,
				"forwardMultiplexAckParameters": h323test.V{"h2250LogicalChannelAckParameters": h323test.V{
					"sessionID": i + 1, "mediaChannel": unicast(q.in[i][0]), "mediaControlChannel": unicast(q.in[i][1]),
				}},
			}}})
			c.rtp, c.rtcp = address(t, m, h323wire.MediaChannel, 0), address(t, m, h323wire.MediaControlChannel, 0)
			all = append(all, c)
		}
	}
	return all
}

func closeChannels(say func(from int, v h323test.V) *h323wire.Message) {
	for from := range 2 {
		for i := range 2 {
			say(from, h323test.V{"request": h323test.V{"closeLogicalChannel": h323test.V{"forwardLogicalChannelNumber": i + 1}}})
			say(1-from, h323test.V{"response": h323test.V{"closeLogicalChannelAck": h323test.V{"forwardLogicalChannelNumber": i + 1}}})
		}
	}
	for from := range 2 {
		say(from, h323test.V{"command": h323test.V{"endSessionCommand": h323test.V{"disconnect": nil}}})
	}
}

// call is a whole call on k. open is called while its channels are open.
func call(t testing.TB, st style, phones [2]*phone, k *link, open func([]media)) error {
	t.Helper()
	const setup, connect, facility, release = 0x05, 0x07, 0x62, 0x5a
	caller, called := phones[0], phones[1]
	switch st {
	case fastStart:
		var offer, accept []any
		for i := range 2 {
			offer = append(offer,
				h323test.OLC(h323test.V{"forwardLogicalChannelNumber": 10 + i,
					"forwardLogicalChannelParameters": parameters(i+1, nil, caller.out[i][1])}),
				h323test.OLC(h323test.V{"forwardLogicalChannelNumber": 20 + i,
					"forwardLogicalChannelParameters": h323test.V{"dataType": h323test.V{"nullData": nil}},
					"reverseLogicalChannelParameters": parameters(i+1, caller.in[i][0], caller.in[i][1])}))
			accept = append(accept,
				h323test.OLC(h323test.V{"forwardLogicalChannelNumber": 10 + i,
					"forwardLogicalChannelParameters": parameters(i+1, called.in[i][0], called.in[i][1])}),
				h323test.OLC(h323test.V{"forwardLogicalChannelNumber": 20 + i,
					"forwardLogicalChannelParameters": h323test.V{"dataType": h323test.V{"nullData": nil}},
					"reverseLogicalChannelParameters": parameters(i+1, nil, called.out[i][1])}))
		}
		m := k.signal(0, setup, false, "setup", h323test.V{"fastStart": offer}, nil)
		a := k.signal(1, connect, true, "connect", h323test.V{"fastStart": accept}, nil)
		var all []media
		for i := range 2 {
			all = append(all,
				media{from: caller.out[i], to: called.in[i], back: address(t, m, h323wire.MediaControlChannel, 2*i),
					rtp: address(t, a, h323wire.MediaChannel, i), rtcp: address(t, a, h323wire.MediaControlChannel, 2*i)},
				media{from: called.out[i], to: caller.in[i], back: address(t, a, h323wire.MediaControlChannel, 2*i+1),
					rtp: address(t, m, h323wire.MediaChannel, i), rtcp: address(t, m, h323wire.MediaControlChannel, 2*i+1)})
		}
		open(all)
	case tunnelled:
		k.signal(0, setup, false, "setup", h323test.V{}, h323test.V{"h245Tunnelling": true})
		k.signal(1, connect, true, "connect", h323test.V{}, h323test.V{"h245Tunnelling": true})
		say := func(from int, v h323test.V) *h323wire.Message {
			return k.signal(from, facility, from == 1, "empty", nil, h323test.V{"h245Tunnelling": true, "h245Control": []any{h323test.Control(v)}})
		}
		open(openChannels(t, phones, say))
		closeChannels(say)
	case slow:
		k.signal(0, setup, false, "setup", h323test.V{}, nil)
		l := called.listen(0)
		own := l.Addr().(*net.TCPAddr).AddrPort()
		m := k.signal(1, connect, true, "connect", h323test.V{"h245Address": own}, nil)
		h, err := caller.connect(address(t, m, h323wire.H245Address, 0), l)
		if err != nil {
			return err
		}
		say := func(from int, v h323test.V) *h323wire.Message {
			m := &h323wire.Message{}
			if err := h323wire.ReadControl(h.say(from, h323test.Control(v)), m); err != nil {
				t.Fatal(err)
			}
			return m
		}
		open(openChannels(t, phones, say))
		closeChannels(say)
		h.ends[0].Close()
	}
	k.signal(0, release, false, "releaseComplete", h323test.V{}, nil)
	return nil
}

// mediaPerCall is how many datagrams a call sends: RTP, and RTCP both ways, on two channels each way.
const mediaPerCall = 4 * 3

// TestH323: endpoint, gatekeeper and called endpoint with the firewall between them; nothing but RAS is open.
func TestH323(t *testing.T) {
	for _, n := range nats {
		t.Run(string(n), func(t *testing.T) {
			t.Parallel()
			s := newSiteWith(t, n, "udp dport 1719", nil)
			d := s.daemon("--config", s.config("policy: {limits: {rate: 1000}}\n"))
			for _, f := range families {
				if f == ipv6 && n != routed {
					continue
				}
				t.Run(string(f), func(t *testing.T) {
					client, server := &party{t, s.client, f.client()}, &party{t, s.server, s.serverAddr(f)}
					callee, own := server.listen(callPort), client.listen(endpointPort)
					g, registered := s.register(t, f, client, server)
					base := 20000
					for _, st := range styles {
						for _, incoming := range []bool{false, true} {
							name := fmt.Sprintf("%s, incoming %t", st, incoming)
							phones := [2]*phone{client.phone(base), server.phone(base + 100)}
							base += 20
							var k *link
							var err error
							if incoming {
								slices.Reverse(phones[:])
								k, err = server.connect(registered, own)
							} else {
								k, err = client.connect(g.admit(netip.AddrPortFrom(server.addr, callPort)), callee)
							}
							if err != nil {
								t.Fatalf("%s: %v", name, err)
							}
							arrived := 0
							err = call(t, st, phones, k, func(all []media) {
								for _, m := range all {
									arrived += m.pass(t, 3*time.Second)
								}
							})
							if err != nil || arrived != mediaPerCall {
								t.Errorf("%s: %d of %d datagrams arrived, error %v", name, arrived, mediaPerCall, err)
							}
							if !incoming {
								g.asks(h323test.V{"disengageRequest": h323test.V{"requestSeqNum": 4, "callReferenceValue": 7}})
								g.answers(h323test.V{"disengageConfirm": h323test.V{"requestSeqNum": 4}})
							}
						}
					}
					g.asks(h323test.V{"unregistrationRequest": h323test.V{
						"requestSeqNum": 5, "callSignalAddress": []any{netip.AddrPortFrom(client.addr, endpointPort)}}})
					g.answers(h323test.V{"unregistrationConfirm": h323test.V{"requestSeqNum": 5}})
					if _, err := server.connect(registered, own); err == nil {
						t.Error("an endpoint that is not registered any more can be called")
					}
				})
			}
			d.ended()
		})
	}
}

// TestH323WithoutDaemon is the negative control: though RAS and all of TCP are open, no media pass.
func TestH323WithoutDaemon(t *testing.T) {
	for _, n := range nats {
		t.Run(string(n), func(t *testing.T) {
			t.Parallel()
			s := newSiteWith(t, n, "th dport 1024-20000", nil)
			client, server := &party{t, s.client, ipv4.client()}, &party{t, s.server, s.serverAddr(ipv4)}
			callee := server.listen(callPort)
			for i, st := range []style{fastStart, tunnelled} {
				phones := [2]*phone{client.phone(21000 + 40*i), server.phone(22000 + 40*i)}
				k, err := client.connect(netip.AddrPortFrom(s.host(ipv4), callPort), callee)
				if err != nil {
					t.Fatal(err)
				}
				arrived, before := 0, s.counter("rejected")
				err = call(t, st, phones, k, func(all []media) {
					for _, m := range all[:2] {
						arrived += m.pass(t, 20*time.Millisecond)
					}
				})
				if err != nil || arrived > 0 || s.counter("related") > 0 {
					t.Errorf("%s: %d datagrams arrived, %d packets were related, error %v", st, arrived, s.counter("related"), err)
				}
				if s.counter("rejected") == before {
					t.Errorf("%s: the rules have refused nothing", st)
				}
			}
		})
	}
}
