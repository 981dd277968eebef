package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
	h323wire "github.com/cthelperd/cthelperd/helpers/h323/wire"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

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
		var a net.Listener
		var err error
		// A program that another test is starting holds what was listening here for a moment longer.
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			a, err = net.Listen("tcp", p.at(port))
			if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
				break
			}
		}
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
	p.ns.Do(func() { k.ends[0], err = net.DialTimeout("tcp", to.String(), patience) })
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

// line carries call signalling: a link, or two with a gatekeeper between them.
type line interface {
	say(from int, payload []byte) []byte
}

// relay is a gatekeeper that passes on what it is told: by who calls it, and by whom it calls.
type relay struct{ caller, called *link }

func (r relay) say(from int, payload []byte) []byte {
	r.caller.t.Helper()
	if from == 0 {
		return r.called.say(0, r.caller.say(0, payload))
	}
	return r.caller.say(1, r.called.say(1, payload))
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

// register makes an endpoint known to the gatekeeper that has a RAS socket; host is what it calls the gatekeeper. It gives
// where the gatekeeper would call it, and the gatekeeper's own call signalling.
func (p *party) register(host netip.Addr, keeper *net.UDPConn, seconds int) (g *gate, registered, signalling netip.AddrPort) {
	t := p.t
	t.Helper()
	g = &gate{t: t, endpoint: p.datagrams(0), keeper: keeper}
	g.to = net.UDPAddrFromAddrPort(netip.AddrPortFrom(host, rasPort))
	g.asks(h323test.V{"gatekeeperRequest": h323test.V{"requestSeqNum": 1, "rasAddress": end(g.endpoint)}})
	g.answers(h323test.V{"gatekeeperConfirm": h323test.V{"requestSeqNum": 1, "rasAddress": end(g.keeper)}})
	m := g.asks(h323test.V{"registrationRequest": h323test.V{
		"requestSeqNum": 2, "rasAddress": []any{end(g.endpoint)}, "timeToLive": seconds,
		"keepAlive":         false, // as real ones say: the kernel's helper does not read one that ends with timeToLive
		"callSignalAddress": []any{netip.AddrPortFrom(p.addr, endpointPort)},
	}})
	registered = address(t, m, h323wire.CallSignalAddress, 0)
	m = g.answers(h323test.V{"registrationConfirm": h323test.V{
		"requestSeqNum": 2, "callSignalAddress": []any{netip.AddrPortFrom(end(keeper).Addr(), callPort)}, "timeToLive": seconds,
	}})
	return g, registered, address(t, m, h323wire.CallSignalAddress, 0)
}

// admit has the gatekeeper tell the client where to call.
func (g *gate) admit(called netip.AddrPort) netip.AddrPort {
	g.t.Helper()
	g.asks(h323test.V{"admissionRequest": h323test.V{"requestSeqNum": 3, "callReferenceValue": 7}})
	m := g.answers(h323test.V{"admissionConfirm": h323test.V{"requestSeqNum": 3, "destCallSignalAddress": called}})
	return address(g.t, m, h323wire.DestCallSignalAddress, 0)
}

// disengage says that the call is over.
func (g *gate) disengage() {
	g.t.Helper()
	g.asks(h323test.V{"disengageRequest": h323test.V{"requestSeqNum": 4, "callReferenceValue": 7}})
	g.answers(h323test.V{"disengageConfirm": h323test.V{"requestSeqNum": 4}})
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
