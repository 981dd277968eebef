package daemon_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// phone is a toy of a signalling protocol, over UDP and TCP, that does what SIP does to the engine: lines
//
//	register A   A, the sender's, is reserved for calls
//	ok A         the other side's A is open for calls of the sender's host, for an hour
//	media A      and the port behind it are open for media of the other side's host
//	bye          ends media
type phone struct{ sites []phoneSite }

type phoneSite struct{ expect, off, end int }

func phoneProtocol() helpers.Protocol {
	return helpers.Protocol{Name: "phone", Helpers: func(any) (all []helpers.Helper, _ error) {
		for _, t := range []helpers.Transport{helpers.UDP, helpers.TCP} {
			all = append(all, helpers.Helper{
				Name: "phone", Transport: t, Ports: []uint16{5060}, PerPair: true, Announced: true,
				Classes: []helpers.Class{{Name: "media", Timeout: time.Minute}, {Name: "call", Max: 4, Timeout: time.Minute}},
				New:     func() helpers.Session { return &phone{} },
			})
		}
		return all, nil
	}}
}

func (p *phone) Close(helpers.FlowID, *helpers.Result) {}

func (p *phone) Inspect(seg *helpers.Segment, out *helpers.Result) error {
	p.sites = p.sites[:0]
	for off := 0; ; {
		n := bytes.IndexByte(seg.Data[off:], '\n')
		if n < 0 {
			out.Consumed, out.Hold = off, len(seg.Data)-off
			return nil
		}
		word, address, _ := strings.Cut(string(seg.Data[off:off+n]), " ")
		to, err := netip.ParseAddrPort(address)
		x := helpers.Expectation{
			Transport: helpers.UDP, Owner: seg.Dir, To: to, From: netip.AddrPortFrom(seg.Flow.Peer(seg.Dir).Addr(), 0), Note: word,
		}
		call := x
		call.Class, call.Permanent, call.Helper, call.Timeout, call.Group.ID = 1, true, "phone", time.Hour, 2
		call.Transport = seg.Flow.Transport
		p.sites = append(p.sites, phoneSite{len(out.Expect), off + len(word) + 1, off + n})
		switch {
		case word == "bye":
			out.Cancel = append(out.Cancel, helpers.Group{ID: 1})
		case err != nil:
		case word == "register":
			call.Reserve = true
			out.Expect = append(out.Expect, call)
		case word == "ok":
			call.Owner = seg.Dir.Other()
			call.From = netip.AddrPortFrom(seg.Flow.Peer(call.Owner).Addr(), 0)
			out.Expect = append(out.Expect, call)
		case word == "media":
			x.Paired, x.Group.ID = true, 1
			second := x
			second.To = netip.AddrPortFrom(to.Addr(), to.Port()+1)
			out.Expect = append(out.Expect, x, second)
		}
		off += n + 1
	}
}

func (p *phone) Rewrite(seg *helpers.Segment, nat helpers.NAT, edits []helpers.Edit) []helpers.Edit {
	for _, at := range p.sites {
		if at.off > at.end {
			continue
		}
		if a, ok := nat.At(at.expect); ok && a.String() != string(seg.Data[at.off:at.end]) {
			edits = append(edits, helpers.Edit{Off: at.off, Len: at.end - at.off, New: []byte(a.String())})
		}
	}
	return edits
}

// telephone is a UDP port.
type telephone struct {
	t    *testing.T
	bed  *bed
	name string
	conn *net.UDPConn
}

func (b *bed) telephone(ns *netnstest.NS, name string, port int) *telephone {
	b.t.Helper()
	var c *net.UDPConn
	var err error
	ns.Do(func() { c, err = net.ListenUDP("udp4", &net.UDPAddr{Port: port}) })
	if err != nil {
		b.t.Fatalf("%s: %v", name, err)
	}
	b.t.Cleanup(func() { c.Close() })
	return &telephone{b.t, b, name, c}
}

func (p *telephone) says(to, text string) {
	p.t.Helper()
	if _, err := p.conn.WriteToUDPAddrPort([]byte(text+"\n"), netip.MustParseAddrPort(to)); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// hears gives who says it.
func (p *telephone) hears(want string) string {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 1500)
	n, from, err := p.conn.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:n]) != want+"\n" {
		p.t.Fatalf("%s hears %q, %v; want %q\n%s", p.name, b[:n], err, want, p.bed.state())
	}
	return from.String()
}

func (p *telephone) hearsNothing() {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	b := make([]byte, 1500)
	if n, _, err := p.conn.ReadFromUDPAddrPort(b); err == nil {
		p.t.Fatalf("%s hears %q", p.name, b[:n])
	}
}

// calls opens the signalling port of a bed.
func (b *bed) letCallsPass() {
	b.firewall.Run("nft", "insert", "rule", "inet", "filter", "forward", "iifname", "inside",
		"meta", "l4proto", "{ tcp, udp }", "th", "dport", "5060", "ct", "state", "new", "accept")
}

// TestUDP: signalling over UDP through a masquerade is read and rewritten from its first datagram on; media pass that were
// announced, and those only; a call that comes in to what was registered is read in its turn, also when the flow that
// registered is gone.
func TestUDP(t *testing.T) {
	const outside = "10.2.0.101"
	t.Parallel()
	b := newBedAt(t, true, outside)
	b.letCallsPass()
	d := b.run()
	client := b.telephone(b.client, "the client", 5070)
	server := b.telephone(b.server, "the server", 5060)
	audio, control := b.telephone(b.client, "the client's audio", 4000), b.telephone(b.client, "the client's control", 4001)
	media := b.telephone(b.server, "the server's media", 6000)

	client.says(serverAddr+":5060", "media "+clientAddr+":4000")
	from := server.hears("media " + outside + ":4000")
	media.says(outside+":4001", "control")
	control.hears("control")
	media.says(outside+":4000", "hello")
	audio.says(audio.hears("hello"), "hello yourself")
	media.hears("hello yourself")
	media.says(outside+":4002", "what nobody announced")
	client.says(serverAddr+":5060", "bye")
	server.hears("bye")
	server.says(from, "fine")
	client.hears("fine")

	client.says(serverAddr+":5060", "register "+clientAddr+":5070")
	server.hears("register " + outside + ":5070")
	server.says(from, "ok "+outside+":5070")
	client.hears("ok " + clientAddr + ":5070")
	b.firewall.Run("conntrack", "-D", "-p", "udp", "--orig-port-dst", "5060") // as if it had been silent for long
	exchange := b.telephone(b.server, "the exchange", 5061)
	for i := range 2 { // it stays open
		port := 6002 + 2*i
		called := fmt.Sprintf("%s:%d", serverAddr, port)
		media := b.telephone(b.server, "media of a call", port)
		exchange.says(outside+":5070", "media "+called)
		from = client.hears("media " + called)
		client.says(from, "media "+clientAddr+":4000")
		exchange.hears("media " + outside + ":4000")
		audio.says(called, "hello")
		media.says(media.hears("hello"), "hello yourself")
		audio.hears("hello yourself")
		client.says(from, "bye")
		exchange.hears("bye")
		b.firewall.Run("conntrack", "-D", "-p", "udp", "--orig-port-dst", "5070")
	}
	audio.says(serverAddr+":6099", "what nobody announced")
	b.telephone(b.server, "a port that nobody announced", 6099).hearsNothing()
	control.hearsNothing()
	d.stop()
	if l := b.left(); l != (left{}) {
		t.Errorf("left %+v", l)
	}
}

// TestUDPWithoutDaemon: without it nothing of this passes.
func TestUDPWithoutDaemon(t *testing.T) {
	t.Parallel()
	b := newBed(t, true)
	b.letCallsPass()
	client := b.telephone(b.client, "the client", 4000)
	client.says(serverAddr+":5060", "media "+clientAddr+":4000")
	b.telephone(b.server, "the server", 5060)
	b.telephone(b.server, "the server's media", 6000).says("10.2.0.101:4000", "hello")
	client.hearsNothing()
}

// TestCallOverTCP: a call that comes in by TCP to what was registered is read, and may change its length.
func TestCallOverTCP(t *testing.T) {
	const outside = "10.2.0.101"
	t.Parallel()
	b := newBedAt(t, true, outside)
	b.letCallsPass()
	d := b.run()
	listen := func(ns *netnstest.NS, at string) net.Listener {
		var l net.Listener
		var err error
		ns.Do(func() { l, err = net.Listen("tcp4", at) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	connect := func(ns *netnstest.NS, l net.Listener, to string) (near, far net.Conn) {
		t.Helper()
		var err error
		ns.Do(func() { near, err = net.DialTimeout("tcp4", to, patience) })
		if err == nil {
			far, err = l.Accept()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { near.Close(); far.Close() })
		return near, far
	}
	say := func(from, to net.Conn, text, want string) {
		t.Helper()
		from.Write([]byte(text + "\n"))
		to.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, len(want)+1)
		if _, err := io.ReadFull(to, buf); err != nil || string(buf) != want+"\n" {
			t.Fatalf("of %q %q arrives, %v; want %q", text, buf, err, want)
		}
	}
	phone, exchange := listen(b.client, ":5070"), listen(b.server, ":5060")
	client, server := connect(b.client, exchange, serverAddr+":5060")
	say(client, server, "register "+clientAddr+":5070", "register "+outside+":5070")
	say(server, client, "ok "+outside+":5070", "ok "+clientAddr+":5070")
	client.Close() // the registration stays
	server.Close()
	caller, called := connect(b.server, phone, outside+":5070")
	for range 2 {
		say(called, caller, "media "+clientAddr+":4000", "media "+outside+":4000")
		say(caller, called, "fine", "fine")
	}
	audio := b.telephone(b.client, "the client's audio", 4000)
	b.telephone(b.server, "the server's media", 6000).says(outside+":4000", "hello")
	audio.hears("hello")
	d.stop()
}
