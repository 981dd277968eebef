package sip

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
)

// A translator knows end points, and with port 0 addresses, of one side by what the other sees.
type translator map[string]string

func (n translator) At(int) (netip.AddrPort, bool) { return netip.AddrPort{}, false }

func (n translator) Translate(a netip.AddrPort) (netip.AddrPort, bool) {
	if to, ok := n[a.String()]; ok {
		return netip.MustParseAddrPort(to), true
	}
	to, ok := n[a.Addr().String()]
	if !ok {
		return a, false
	}
	return netip.AddrPortFrom(netip.MustParseAddr(to), a.Port()), true
}

// The client 10.0.0.1 is seen as 203.0.113.1; its port 5060 as 61000.
var (
	server   = netip.MustParseAddrPort("198.51.100.9:5060")
	snatFlow = helpers.Flow{
		Transport: helpers.UDP,
		Orig:      helpers.Tuple{Src: netip.MustParseAddrPort("10.0.0.1:5060"), Dst: server},
		Reply:     helpers.Tuple{Src: server, Dst: netip.MustParseAddrPort("203.0.113.1:61000")},
	}
	outward = translator{
		"10.0.0.1": "203.0.113.1", "10.0.0.1:5060": "203.0.113.1:61000",
		"10.0.0.1:4000": "203.0.113.1:4002", "10.0.0.1:4001": "203.0.113.1:4003",
		"10.0.0.1:4002": "203.0.113.1:4004", "10.0.0.1:6000": "203.0.113.1:6006", "10.0.0.1:6002": "203.0.113.1:6008",
	}
	inward = translator{
		"203.0.113.1": "10.0.0.1", "203.0.113.1:61000": "10.0.0.1:5060", "203.0.113.1:4002": "10.0.0.1:4000",
		"203.0.113.1:4711": "10.0.0.2:4000", // a neighbour
	}
)

// rewritten gives what becomes of a message; lines of text end with CRLF on the wire.
func rewritten(t *testing.T, text string, dir helpers.Dir, fromTo bool, reader names) string {
	t.Helper()
	data := []byte(strings.ReplaceAll(text, "\n", "\r\n"))
	var m message
	if err := m.parse(data, 0); err != nil {
		t.Fatal(err)
	}
	nat := outward
	if dir == helpers.Reply {
		nat = inward
	}
	flow := snatFlow
	e := editor{
		message: &m, seg: &helpers.Segment{Flow: &flow, Dir: dir, Data: data}, nat: nat,
		fromTo: fromTo, sender: &names{}, reader: reader,
	}
	var b []byte
	at := 0
	for _, c := range e.rewrite() {
		if c.Off < at || c.Len == 0 {
			t.Fatalf("edit of %d bytes at %d, the one before ends at %d", c.Len, c.Off, at)
		}
		b = append(append(b, data[at:c.Off]...), c.New...)
		at = c.Off + c.Len
	}
	return strings.ReplaceAll(string(append(b, data[at:]...)), "\r\n", "\n")
}

const (
	outgoing = `INVITE sip:bob@198.51.100.9 SIP/2.0
Via: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1;rport, SIP/2.0/UDP 10.0.0.1:5062;branch=z9hG4bK0
Max-Forwards: 70
From: <sip:alice@10.0.0.1>;tag=1
To: <sip:bob@198.51.100.9>
Call-ID: 1@10.0.0.1
CSeq: 1 INVITE
Contact: "10.0.0.1" <sip:10.0.0.1@10.0.0.1:5060;x=10.0.0.1>;q=1
Record-Route: <sip:10.0.0.1:5060;lr>, <sip:10.0.0.77:5060;lr>, <sip:alice.example.net;maddr=10.0.0.1>
Refer-To: <sip:carol@10.0.0.1>
Subject: 10.0.0.1
Content-Type: application/sdp
Content-Length: SIZE

v=0
o=alice 1 1 IN IP4 10.0.0.1
s=10.0.0.1
c=IN IP4 10.0.0.1
t=0 0
m=audio 4000 RTP/AVP 0
a=rtcp:4001 IN IP4 10.0.0.1
a=candidate:1 1 UDP 1 10.0.0.1 4000 typ host
a=candidate:2 1 UDP 2 203.0.113.1 4002 typ srflx raddr 10.0.0.1 rport 4000
m=video 0 RTP/AVP 31
m=image 4600 udptl t38
c=IN IP4 192.0.2.200
`
	incoming = `SIP/2.0 200 OK
Via: SIP/2.0/UDP 203.0.113.1:61000;branch=z9hG4bK1;received=203.0.113.1;rport=61000
Via: SIP/2.0/UDP 203.0.113.1:5062;received=203.0.113.1
From: <sip:alice@203.0.113.1>;tag=1
To: <sip:bob@198.51.100.9>;tag=2
Call-ID: 1@10.0.0.1
CSeq: 1 REGISTER
Contact: <sip:alice@203.0.113.1:61000>;expires=3600, <sip:alice@203.0.113.1:4711>
Content-Length: 0

`
)

const (
	rest    = "Max-Forwards: 70\nf: <sip:a@a>;tag=1\nt: <sip:b@b>;tag=2\ni: 1\n"
	twoNATs = "SIP/2.0 200 OK\nVia: SIP/2.0/UDP 203.0.113.1:61000;branch=z9hG4bK1;received=198.51.100.200;rport=50000\n" +
		rest + "CSeq: 2 OPTIONS\n\n"
	odd = "OPTIONS sip:b@b SIP/2.0\nVia: SIP/2.0/UDP 10.0.0.1;maddr=10.0.0.1;rport=5060;branch=z9hG4bK1\n" +
		"Record-Route: <sip:x.example;lr;received=10.0.0.1>\n" + rest + "CSeq: 2 OPTIONS\n\n"
	portless = "SIP/2.0 200 OK\nVia: SIP/2.0/UDP 203.0.113.1;maddr=203.0.113.1;branch=z9hG4bK1;received=203.0.113.1\n" +
		rest + "CSeq: 2 OPTIONS\n\n"
	viaNeighbour = "SIP/2.0 200 OK\nVia: SIP/2.0/UDP 203.0.113.1:4711;branch=z9hG4bK1\n" + rest + "CSeq: 2 OPTIONS\n\n"
	toContact    = "BYE sip:a@203.0.113.1:4711 SIP/2.0\n" + rest + "CSeq: 2 BYE\n\n"
)

func TestRewrite(t *testing.T) {
	sized := func(text string) string {
		_, body, _ := strings.Cut(text, "\n\n")
		n := len(body) + strings.Count(body, "\n")
		return strings.Replace(text, "SIZE", strconv.Itoa(n), 1)
	}
	changed := func(text string, pairs ...string) string {
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(text, pairs[i]) {
				t.Fatalf("no %q in the message", pairs[i])
			}
			text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
		}
		return sized(text)
	}
	for _, tt := range []struct {
		name, text string
		dir        helpers.Dir
		fromTo     bool
		reader     names
		want       string
	}{
		{"request from inside", sized(outgoing), helpers.Original, false, names{}, changed(outgoing,
			"UDP 10.0.0.1;", "UDP 203.0.113.1:61000;",
			"10.0.0.1@10.0.0.1:5060;", "10.0.0.1@203.0.113.1:61000;",
			"<sip:10.0.0.1:5060;lr>", "<sip:203.0.113.1:61000;lr>",
			"maddr=10.0.0.1", "maddr=203.0.113.1",
			"IN IP4 10.0.0.1", "IN IP4 203.0.113.1",
			"m=audio 4000", "m=audio 4002", "a=rtcp:4001", "a=rtcp:4003",
			"10.0.0.1 4000 typ host", "203.0.113.1 4002 typ host", "raddr 10.0.0.1 rport 4000", "raddr 203.0.113.1 rport 4002")},
		{"From and To too", sized(outgoing), helpers.Original, true, names{}, "?alice@203.0.113.1>;tag=1"},
		{"response from outside", incoming, helpers.Reply, false, names{}, changed(incoming,
			"UDP 203.0.113.1:61000;branch=z9hG4bK1;received=203.0.113.1;rport=61000",
			"UDP 10.0.0.1:5060;branch=z9hG4bK1;received=10.0.0.1;rport=5060",
			"alice@203.0.113.1:61000", "alice@10.0.0.1:5060", "alice@203.0.113.1:4711", "alice@10.0.0.2:4000")},
		{"response to one that knows its outside", incoming, helpers.Reply, false, names{via: outside, contact: outside},
			incoming},
		// RFC 3581, section 4: received and rport are whence the server saw the request come, here from another NAT.
		{"response through two NATs", twoNATs, helpers.Reply, false, names{}, changed(twoNATs,
			"UDP 203.0.113.1:61000;", "UDP 10.0.0.1:5060;")},
		// A client puts no value into rport (RFC 3581, section 3); maddr and received are hosts alone (RFC 3261, section
		// 25.1).
		{"odd parameters of a request", odd, helpers.Original, false, names{}, changed(odd,
			"maddr=10.0.0.1", "maddr=203.0.113.1", "UDP 10.0.0.1;", "UDP 203.0.113.1:61000;",
			"received=10.0.0.1", "received=203.0.113.1")},
		{"response without the port of the flow", portless, helpers.Reply, false, names{}, changed(portless,
			"UDP 203.0.113.1;", "UDP 10.0.0.1;", "received=203.0.113.1", "received=10.0.0.1",
			"maddr=203.0.113.1", "maddr=10.0.0.1")},
		// RFC 3261, section 18.2.2: the answer goes to where the request came from, whoever has that port outside.
		{"response to a port that a neighbour has", viaNeighbour, helpers.Reply, false, names{}, changed(viaNeighbour,
			"203.0.113.1:4711", "10.0.0.1:4711")},
		// RFC 3261, section 12.2.1.1: a request in a dialog has the Contact as it was written.
		{"request to a Contact whose port a neighbour has", toContact, helpers.Reply, false, names{port: 5070, at: 4711},
			changed(toContact, "203.0.113.1:4711", "10.0.0.1:5070")},
		{"request to the port of the flow", strings.ReplaceAll(toContact, "4711", "61000"), helpers.Reply, false,
			names{port: 5070, at: 4711}, strings.ReplaceAll(toContact, "203.0.113.1:4711", "10.0.0.1:5060")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := rewritten(t, tt.text, tt.dir, tt.fromTo, tt.reader)
			if part, ok := strings.CutPrefix(tt.want, "?"); ok {
				if !strings.Contains(got, part) {
					t.Errorf("no %q in\n%s", part, got)
				}
			} else if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// What becomes of single bodies and addresses of the client's.
func TestRewritePieces(t *testing.T) {
	const head = "UPDATE sip:bob@b SIP/2.0\nf: <sip:a@a>;tag=1\nt: <sip:b@b>;tag=2\ni: 1\nCSeq: 2 UPDATE\n"
	body := func(contentType, text string) string {
		n := len(text) + strings.Count(text, "\n")
		return head + "c: " + contentType + "\nl: " + strconv.Itoa(n) + "\n\n" + text
	}
	sdp := func(text string) string { return body("application/sdp", text) }
	contact := func(host string) string { return head + "m: <sip:a@" + host + ">\n\n" }
	const part = `--x
Content-Type: application/sdp

v=0
c=IN IP4 HOST
m=audio PORT RTP/AVP 0
--x
Content-Type: text/plain

10.0.0.1
--x--
`
	filled := func(host, port string) string {
		return body("multipart/mixed;boundary=x", strings.NewReplacer("HOST", host, "PORT", port).Replace(part))
	}
	const relay = "a=candidate:1 1 UDP 1 192.0.2.9 4000 typ relay raddr 10.0.0.1 rport 4000\n"
	for _, tt := range []struct{ name, text, want string }{
		{"part of a body", filled("10.0.0.1", "4000"), filled("203.0.113.1", "4002")},
		{"several ports", sdp("c=IN IP4 10.0.0.1\nm=audio 4000/2 RTP/AVP 0\n"),
			sdp("c=IN IP4 203.0.113.1\nm=audio 4002/2 RTP/AVP 0\n")},
		{"several ports that are apart outside", sdp("c=IN IP4 10.0.0.1\nm=audio 4001/02 RTP/AVP 0\n"),
			sdp("c=IN IP4 203.0.113.1\nm=audio 4003 RTP/AVP 0\n")},
		{"some of them", sdp("c=IN IP4 10.0.0.1\nm=audio 6000/4 RTP/AVP 0\n"),
			sdp("c=IN IP4 203.0.113.1\nm=audio 6006/2 RTP/AVP 0\n")},
		{"time to live", sdp("c=IN IP4 10.0.0.1/127\nm=audio 4000 RTP/AVP 0\n"),
			sdp("c=IN IP4 203.0.113.1/127\nm=audio 4002 RTP/AVP 0\n")},
		{"on hold, of old", sdp("o=- 1 1 IN IP4 10.0.0.1\nc=IN IP4 0.0.0.0\nm=audio 4000 RTP/AVP 0\n"),
			sdp("o=- 1 1 IN IP4 203.0.113.1\nc=IN IP4 0.0.0.0\nm=audio 4000 RTP/AVP 0\n")},
		{"candidates alone", sdp("c=IN IP4 0.0.0.0\nm=audio 9 RTP/AVP 0\n" + relay),
			sdp("c=IN IP4 0.0.0.0\nm=audio 9 RTP/AVP 0\n" +
				strings.Replace(relay, "10.0.0.1 rport 4000", "203.0.113.1 rport 4002", 1))},
		{"candidates of who knows his outside", sdp("c=IN IP4 203.0.113.1\nm=audio 4000 RTP/AVP 0\n" + relay),
			sdp("c=IN IP4 203.0.113.1\nm=audio 4000 RTP/AVP 0\n" + relay)},
		{"port of RTCP alone", sdp("c=IN IP4 10.0.0.1\nm=audio 4000 RTP/AVP 0\na=rtcp:4001\n"),
			sdp("c=IN IP4 203.0.113.1\nm=audio 4002 RTP/AVP 0\na=rtcp:4003\n")},
		{"an address of another family", sdp("c=IN IP6 2001:db8::1\nm=audio 4000 RTP/AVP 0\n"),
			sdp("c=IN IP6 2001:db8::1\nm=audio 4000 RTP/AVP 0\n")},
		{"an IPv6 address that stands for it", sdp("c=IN IP6 ::ffff:10.0.0.1\nm=audio 4000 RTP/AVP 0\n"),
			sdp("c=IN IP6 ::ffff:203.0.113.1\nm=audio 4002 RTP/AVP 0\n")},
		{"MSRP's path", sdp("c=IN IP4 10.0.0.1\nm=message 4000 TCP/MSRP *\na=path:msrp://10.0.0.1:4000/x;tcp\n"),
			sdp("c=IN IP4 203.0.113.1\nm=message 4002 TCP/MSRP *\na=path:msrp://10.0.0.1:4000/x;tcp\n")},
		{"a port that is not written", contact("10.0.0.1"), contact("203.0.113.1:61000")},
		{"the same in brackets", contact("[::ffff:10.0.0.1]"), contact("[::ffff:203.0.113.1]:61000")},
		{"a port that stays", contact("10.0.0.1:5070;x=10.0.0.1"), contact("203.0.113.1:5070;x=10.0.0.1")},
		{"a name", contact("phone.example:5060"), contact("phone.example:5060")},
		{"somebody else", contact("10.0.0.7:5060"), contact("10.0.0.7:5060")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := rewritten(t, tt.text, helpers.Original, false, names{}); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// asked counts what a NAT is asked for.
type asked struct {
	times   int
	changes bool
}

func (n *asked) At(int) (netip.AddrPort, bool) {
	n.times++
	return netip.AddrPort{}, false
}

func (n *asked) Translate(a netip.AddrPort) (netip.AddrPort, bool) {
	n.times++
	return netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), a.Port()), n.changes
}

// However a description is made, the NAT is asked a few times for each of its addresses: it has to look them up.
func TestRewriteIsLinear(t *testing.T) {
	repeat := strings.Repeat
	const many = 160
	for name, body := range map[string]string{
		"origins":    repeat("o=a 1 1 IN IP4 10.0.0.2\n", many) + "c=IN IP4 10.0.0.2\n" + repeat("m=a 4000 x\n", many),
		"lines":      repeat("c=IN IP4 10.0.0.2\n", many) + repeat("m=a 4000 x\n", many),
		"streams":    repeat("m=a 4000 x\nc=IN IP4 10.0.0.2\n", many),
		"candidates": "c=IN IP4 10.0.0.2\nm=a 4000 x\n" + repeat("a=candidate:1 1 UDP 1 10.0.0.2 4000 typ host\n", many),
		"counts":     "c=IN IP4 10.0.0.1\n" + repeat("m=a 4000/65535 x\n", many),
		"own":        "o=a 1 1 IN IP4 10.0.0.1\n" + repeat("c=IN IP4 10.0.0.1\n", many) + repeat("m=a 4000 x\n", many),
	} {
		data := withBody("INVITE sip:b@b SIP/2.0\nf: <sip:a@a>\nt: <sip:b@b>\ni: a\nCSeq: 1 INVITE\nc: application/sdp\n", body)
		var m message
		if err := m.parse(data, 0); err != nil {
			t.Fatal(name, err)
		}
		nat := &asked{changes: name == "counts"}
		e := editor{message: &m, seg: &helpers.Segment{Flow: &snatFlow, Data: data}, nat: nat, sender: &names{}}
		e.rewrite()
		if most := 4 * len(m.places); nat.times > most || nat.times == 0 {
			t.Errorf("%s: asked %d times for %d addresses", name, nat.times, len(m.places))
		}
	}
}

// TestLearn: what a host calls itself is heard of its own requests' topmost Via, and of its own Contact and Record-Route.
func TestLearn(t *testing.T) {
	const rest = "From: <sip:a@x>;tag=1\nTo: <sip:b@x>\nCall-ID: 1\nContent-Length: 0\n"
	const in, out = "SIP/2.0/UDP 10.0.0.1", "SIP/2.0/UDP 203.0.113.1"
	tests := []struct {
		name, text string
		want       names
	}{
		{"inside", "INVITE sip:b@x SIP/2.0\nVia: " + in + "\nCSeq: 1 INVITE\nContact: <sip:a@10.0.0.1>\n", names{via: inside, contact: inside}},
		{"outside, through a proxy inside", "INVITE sip:b@x SIP/2.0\nVia: " + out + "\nVia: " + in + "\nCSeq: 1 INVITE\nContact: <sip:a@203.0.113.1>\n",
			names{via: outside, contact: outside}},
		{"a response's Via is the reader's", "SIP/2.0 200 OK\nVia: " + in + "\nCSeq: 1 INVITE\nContact: <sip:b@203.0.113.1>\n", names{contact: outside}},
		{"a registrar's Contact is the reader's", "SIP/2.0 200 OK\nVia: " + out + "\nCSeq: 1 REGISTER\nContact: <sip:a@10.0.0.1>\n", names{}},
		{"a response's Record-Route is anybody's", "SIP/2.0 200 OK\nVia: " + out + "\nCSeq: 1 INVITE\nRecord-Route: <sip:10.0.0.1;lr>\n", names{}},
		{"a proxy's own Record-Route", "INVITE sip:b@x SIP/2.0\nVia: " + out + "\nCSeq: 1 INVITE\nRecord-Route: <sip:10.0.0.1;lr>\n",
			names{via: outside, contact: inside}},
	}
	for _, tt := range tests {
		var m message
		data := []byte(strings.ReplaceAll(tt.text+rest+"\n", "\n", "\r\n"))
		if err := m.parse(data, 0); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		flow, got := snatFlow, names{}
		e := editor{message: &m, seg: &helpers.Segment{Flow: &flow, Dir: helpers.Original, Data: data}, sender: &got}
		if e.learn(); got != tt.want {
			t.Errorf("%s: heard %+v, want %+v", tt.name, got, tt.want)
		}
	}
	for n, want := range map[names]bool{
		{via: outside}: true, {contact: outside, via: inside}: true, {contact: inside, via: outside}: false, {}: false,
	} {
		if got := n.outsideContact(); got != want {
			t.Errorf("%+v is called by its address outside: %v, want %v", n, got, want)
		}
	}
}

// What is meant where no port is written.
func TestEndPoint(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.1")
	for want, p := range map[uint16]place{
		5060: {addr: netip.AddrPortFrom(a, 0)}, 5061: {addr: netip.AddrPortFrom(a, 0), secure: true},
		4000: {addr: netip.AddrPortFrom(a, 4000), secure: true},
	} {
		if got := p.endPoint(); got != netip.AddrPortFrom(a, want) {
			t.Errorf("%+v is %v, want port %d", p, got, want)
		}
	}
}

// With from-to a name that its owner has chosen from outside stays.
func TestNameOfOutside(t *testing.T) {
	if got := rewritten(t, incoming, helpers.Reply, true, names{contact: outside}); !strings.Contains(got, "From: <sip:alice@203.0.113.1>") {
		t.Errorf("left: %s", got)
	}
}

// The port by which a host is called is that of its own Contact: not of a route, nor of what it says of others.
func TestLearnPort(t *testing.T) {
	const head = "Call-ID: 1\nFrom: <sip:a@x>;tag=1\nTo: <sip:b@x>\nContent-Length: 0\n"
	for _, tt := range []struct {
		name, text string
		dir        helpers.Dir
		port, at   uint16
	}{
		{"own Contact", "INVITE sip:b@x SIP/2.0\nCSeq: 1 INVITE\nContact: <sip:a@10.0.0.1:4000>\nRecord-Route: <sip:10.0.0.1:5062;lr>\n",
			helpers.Original, 4000, 4002},
		// RFC 3261, section 10.3: a registrar lists what others have registered.
		{"a registrar's answer", "SIP/2.0 200 OK\nCSeq: 1 REGISTER\nContact: <sip:a@203.0.113.1:61000>;expires=60\n", helpers.Reply, 0, 0},
	} {
		data := []byte(strings.ReplaceAll(tt.text+head+"\n", "\n", "\r\n"))
		var m message
		if err := m.parse(data, 0); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		nat := outward
		if tt.dir == helpers.Reply {
			nat = inward
		}
		flow, got := snatFlow, names{}
		e := editor{message: &m, seg: &helpers.Segment{Flow: &flow, Dir: tt.dir, Data: data}, nat: nat, sender: &got}
		if e.rewrite(); got.port != tt.port || got.at != tt.at {
			t.Errorf("%s: heard port %d, seen at %d, want %d, %d", tt.name, got.port, got.at, tt.port, tt.at)
		}
	}
}
