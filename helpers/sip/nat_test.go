package sip_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/sip"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// The model: dialogs between the two sides of a NAT. A message is written once, as a list of texts and of end points.
// What leaves the engine must be the message as the other side would write it: the same texts, and the end points as
// that side sees them.

// A side is that of a connection's client (0) or server (1).

// point is an end point of one side.
type point struct {
	side       int
	real, seen netip.AddrPort // to its own side, to the other one; port 0: not known yet
}

// at is what a side knows the point by.
func (p *point) at(side int) netip.AddrPort {
	if side == p.side {
		return p.real
	}
	return p.seen
}

// form is how a piece of a message is written.
type form int

const (
	literal form = iota
	whole        // 192.0.2.1:5060, [2001:db8::1]:5060
	host         // 192.0.2.1, [2001:db8::1]
	bare         // 192.0.2.1, 2001:db8::1
	port
	length // of the body
)

type piece struct {
	form  form
	text  string
	point *point
}

func (p piece) write(b []byte, side, body int) []byte {
	switch p.form {
	case literal:
		return append(b, p.text...)
	case length:
		return strconv.AppendInt(b, int64(body), 10)
	}
	a := p.point.at(side)
	switch p.form {
	case whole:
		return a.AppendTo(b)
	case bare:
		return a.Addr().AppendTo(b)
	case port:
		return strconv.AppendUint(b, uint64(a.Port()), 10)
	}
	if a.Addr().Is4() {
		return a.Addr().AppendTo(b)
	}
	return append(a.Addr().AppendTo(append(b, '[')), ']')
}

// read compares b with the piece as side has to see it, and gives what is behind it. A port that is seen for the first
// time is kept.
func (p piece) read(b []byte, side, body int) ([]byte, error) {
	if p.point != nil && side != p.point.side && p.point.seen.Port() == 0 && (p.form == whole || p.form == port) {
		digits := b
		if p.form == whole {
			address := piece{form: host, point: p.point}.write(nil, side, 0)
			rest, ok := bytes.CutPrefix(b, append(address, ':'))
			if !ok {
				return nil, fmt.Errorf("%.60q does not begin with %q", b, address)
			}
			digits = rest
		}
		n := 0
		for n < len(digits) && digits[n] >= '0' && digits[n] <= '9' {
			n++
		}
		v, err := strconv.ParseUint(string(digits[:n]), 10, 16)
		if err != nil || v == 0 {
			return nil, fmt.Errorf("no port in %.60q", b)
		}
		p.point.seen = netip.AddrPortFrom(p.point.seen.Addr(), uint16(v))
		return digits[n:], nil
	}
	want := p.write(nil, side, body)
	rest, ok := bytes.CutPrefix(b, want)
	if !ok {
		return nil, fmt.Errorf("%.60q does not begin with %q", b, want)
	}
	return rest, nil
}

// message is a SIP message that a side sends.
type message struct {
	from       int
	held       bool
	head, body []piece
}

func pieces(parts []any) (list []piece) {
	for _, x := range append(parts, "\r\n") {
		switch x := x.(type) {
		case piece:
			list = append(list, x)
		default:
			list = append(list, piece{text: fmt.Sprint(x)})
		}
	}
	return list
}

func (m *message) line(parts ...any) { m.head = append(m.head, pieces(parts)...) }
func (m *message) sdp(parts ...any)  { m.body = append(m.body, pieces(parts)...) }

// write is the message as a side has it.
func (m *message) write(side int) []byte {
	var head, body []byte
	for _, p := range m.body {
		body = p.write(body, side, 0)
	}
	for _, p := range m.head {
		head = p.write(head, side, len(body))
	}
	return append(append(head, "\r\n"...), body...)
}

// read checks what a side got.
func (m *message) read(b []byte, side int) (err error) {
	_, body, _ := bytes.Cut(b, []byte("\r\n\r\n"))
	rest := b
	for _, list := range [][]piece{m.head, {{text: "\r\n"}}, m.body} {
		for _, p := range list {
			if rest, err = p.read(rest, side, len(body)); err != nil {
				return err
			}
		}
	}
	if len(rest) > 0 {
		return fmt.Errorf("%q is too much", rest)
	}
	return nil
}

// firewall is an engine with its table, between the two sides.
type firewall struct {
	t       testing.TB
	e       *engine.Engine
	now     time.Time
	ids     uint64
	open    map[uint64][]byte // packets without a verdict
	out     map[uint64][]byte // payloads that have left
	placed  map[expect.ID]*expect.Request
	refused []string
}

func newFirewall(t testing.TB, options any) *firewall {
	w := &firewall{
		t: t, now: time.Unix(1e9, 0), open: map[uint64][]byte{}, out: map[uint64][]byte{},
		placed: map[expect.ID]*expect.Request{},
	}
	list, err := sip.Protocol().Helpers(options)
	if err != nil {
		t.Fatal(err)
	}
	w.e, err = engine.New(engine.Config{
		Helpers: list,
		Limits:  engine.Limits{PerPeer: 1 << 20, Total: 1 << 20, Rate: 1 << 20},
		Record: func(ev *engine.Event) {
			if ev.Kind == engine.EventRefuse || ev.Kind == engine.EventError {
				w.refused = append(w.refused, fmt.Sprintf("%s %v %s %s", ev.Kind, ev.To, ev.Reason, ev.Text))
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Do implements engine.Table.
func (w *firewall) Do(requests []engine.Request, answers []error) {
	for i, r := range requests {
		answers[i] = nil
		switch {
		case r.Place != nil:
			for _, p := range w.placed {
				if p.At == r.Place.At && p.Transport == r.Place.Transport && overlapping(p.From, r.Place.From) {
					answers[i] = expect.ErrTaken
				}
			}
			if answers[i] == nil {
				q := *r.Place
				w.placed[q.ID] = &q
			}
		case r.Remove != 0:
			delete(w.placed, r.Remove)
		case r.Forget != 0:
			for id, p := range w.placed {
				if p.Master.Session == r.Forget {
					delete(w.placed, id)
				}
			}
		}
	}
}

func overlapping(a, b netip.AddrPort) bool {
	open := func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }
	return (open(a.Addr()) || open(b.Addr()) || a.Addr() == b.Addr()) &&
		(a.Port() == 0 || b.Port() == 0 || a.Port() == b.Port())
}

// leads tells whether a connection to at would reach to.
func (w *firewall) leads(t helpers.Transport, at, to netip.AddrPort) bool {
	for _, p := range w.placed {
		if p.Transport == t && p.At == at && p.To == to {
			return true
		}
	}
	return false
}

// connection is one through the firewall. TCP's numbers are those that each side counts.
type connection struct {
	firewall *firewall
	conn     engine.Conn
	sent     [2]uint32 // by a side, as it counts
	got      [2]uint32 // by a side, as it counts what came
}

const firstNumber = 1000

func (w *firewall) connect(c engine.Conn) *connection {
	first := [2]uint32{firstNumber, firstNumber}
	k := &connection{firewall: w, conn: c, sent: first, got: first}
	if c.Transport == helpers.TCP {
		const syn, ack = 2, 16
		k.segment(0, syn, nil)
		k.sent[0]++
		k.got[1]++
		k.segment(1, syn|ack, nil)
		k.sent[1]++
		k.got[0]++
		k.segment(0, ack, nil)
	}
	return k
}

// say sends data and returns what arrives.
func (k *connection) say(side int, data []byte) []byte {
	if k.conn.Transport == helpers.UDP {
		l4 := make([]byte, 8, 8+len(data))
		binary.BigEndian.PutUint16(l4[4:], uint16(8+len(data)))
		l4[6] = 1 // it has a checksum
		return k.packet(side, append(l4, data...), packet.Change{Payload: data})
	}
	const (
		ack  = 16
		size = 300 // what it grows by has room in any packet, so nothing is left to a retransmission
	)
	first := k.firewall.ids + 1
	for part := range slices.Chunk(data, size) {
		k.segment(side, ack, part)
		k.sent[side] += uint32(len(part))
	}
	var got []byte
	for id := first; id <= k.firewall.ids; id++ {
		left, ok := k.firewall.out[id]
		if !ok {
			k.firewall.t.Fatalf("packet %d of a whole message is held", id)
		}
		got = append(got, left...)
	}
	k.got[1-side] += uint32(len(got))
	return got
}

func (k *connection) segment(side int, flags byte, data []byte) []byte {
	l4 := make([]byte, 20, 20+len(data))
	l4[12], l4[13] = 5<<4, flags
	return k.packet(side, append(l4, data...), packet.Change{Payload: data, Seq: k.sent[side], Ack: k.got[side]})
}

// packet sends one packet, as it is behind NAT, and returns the payload of what leaves.
func (k *connection) packet(side int, l4 []byte, c packet.Change) []byte {
	w, tuple := k.firewall, k.conn.Reply.Turned()
	if side == 1 {
		tuple = k.conn.Orig.Turned()
	}
	ip := make([]byte, 20)
	if src, dst := tuple.Src.Addr(), tuple.Dst.Addr(); src.Is4() {
		ip[0], ip[8], ip[9] = 0x45, 64, byte(k.conn.Transport)
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(l4)))
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
	} else {
		ip = make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, byte(k.conn.Transport), 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
		copy(ip[8:], src.AsSlice())
		copy(ip[24:], dst.AsSlice())
	}
	binary.BigEndian.PutUint16(l4, tuple.Src.Port())
	binary.BigEndian.PutUint16(l4[2:], tuple.Dst.Port())
	var v packet.View
	if err := v.Decode(append(ip, l4...)); err != nil {
		w.t.Fatal(err)
	}
	data, _ := v.Append(nil, c)
	w.now = w.now.Add(time.Millisecond)
	w.ids++
	conn := k.conn
	step := w.e.Handle(engine.Packet{ID: w.ids, Time: w.now, Data: data, Conn: &conn})
	w.open[w.ids] = data
	engine.Drive(w.e, step, w, func(verdict engine.Verdict) {
		left, ok := w.open[verdict.ID]
		if !ok || verdict.Drop {
			w.t.Fatalf("verdict %+v", verdict)
		}
		delete(w.open, verdict.ID)
		if verdict.Data != nil {
			left = verdict.Data
		}
		if err := v.Decode(left); err != nil || !v.Valid() {
			w.t.Fatalf("packet %d left damaged: %v", verdict.ID, err)
		}
		w.out[verdict.ID] = bytes.Clone(v.Payload())
	})
	return w.out[w.ids]
}

// site is the addresses of a connection.
type site struct {
	name       string
	ipv6       bool
	snat, dnat bool
	port       bool // the client's port changes, too
}

// conn draws a connection: the n-th host behind the same addresses.
func (s site) conn(transport helpers.Transport, n int) engine.Conn {
	client, outside := "10.0.0.1", "203.0.113.1"
	server, public := "192.168.7.9", "198.51.100.9"
	if s.ipv6 {
		client, outside = "fd00::10", "2001:db8:0:aaaa:bbbb::1"
		server, public = "fd77:1:2:3::9", "2001:db8:9::9"
	}
	at := func(a string, p int) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(a), uint16(p)) }
	clientPort := 5060
	if transport == helpers.TCP {
		clientPort = 40000 + n
	}
	own := at(client, clientPort)
	for range n {
		own = netip.AddrPortFrom(own.Addr().Next(), own.Port())
	}
	seen, real, dst := own, at(public, 5060), at(public, 5060)
	if s.snat {
		seen = at(outside, clientPort)
		if s.port {
			seen = at(outside, 61000+n)
		}
	}
	if s.dnat {
		real = at(server, 5060)
	}
	return engine.Conn{
		Transport: transport, Adjustable: true,
		Orig: helpers.Tuple{Src: own, Dst: dst}, Reply: helpers.Tuple{Src: real, Dst: seen},
	}
}

// agent is a user agent of a dialog.
type agent struct {
	side, call   int
	user         string
	flow         *point // its end of the connection
	aware        bool   // it knows its outside address (STUN, an outbound proxy) and writes that
	via, contact piece
	address      netip.Addr // its own, even if it does not write it
	streams      []*stream
	points       []*point // all but flow
	version      int
}

// stream is a media stream as its receiver describes it.
type stream struct {
	kind, proto string
	rtp, rtcp   *point // rtcp nil: it is not said, the next port
	mux, ice    bool
	foreign     string // it has a name, or an address that nobody translates
	off         bool
}

// dialog is a call, or a registration, in a connection.
type dialog struct {
	rnd         *rand.Rand
	k           *connection
	agents      [2]*agent // by side
	caller      int
	id          string
	tags        [2]string
	cseq        [2]int
	uris        [2]piece // hosts of From and To, by side
	vias        []string // of proxies before the caller
	record      bool     // the caller is a proxy that stays in the dialog
	established bool
	perMedia    bool // c= below each m=
}

func (d *dialog) chance(percent int) bool { return d.rnd.IntN(100) < percent }

func (a *agent) point(port int) *point {
	own, out := a.flow.real.Addr(), a.flow.seen.Addr()
	p := &point{side: a.side, real: netip.AddrPortFrom(own, uint16(port)), seen: netip.AddrPortFrom(out, 0)}
	if own == out {
		p.seen = p.real
	}
	a.points = append(a.points, p)
	return p
}

func newAgent(rnd *rand.Rand, k *connection, side, call int, user string) *agent {
	o, r := k.conn.Orig, k.conn.Reply
	a := &agent{side: side, call: call, user: user, flow: &point{side: side, real: o.Src, seen: r.Dst}}
	if side == 1 {
		a.flow = &point{side: side, real: r.Src, seen: o.Dst}
	}
	a.address = a.flow.real.Addr()
	if a.aware = rnd.IntN(5) == 0; a.aware {
		a.flow.real = a.flow.seen
	}
	at := a.flow
	if side == 0 && k.conn.Transport == helpers.TCP { // it is called at another port than it calls from
		at = a.point(5060)
	}
	a.via, a.contact = piece{form: whole, point: at}, piece{form: whole, point: at}
	if a.flow.real.Port() == 5060 && a.flow.seen.Port() == 5060 && rnd.IntN(3) == 0 {
		a.via, a.contact = piece{form: host, point: at}, piece{form: host, point: at}
	}
	if !a.aware && rnd.IntN(8) == 0 {
		a.via = piece{text: user + ".example.net"}
	}
	if !a.aware && rnd.IntN(8) == 0 {
		a.contact = piece{text: user + ".example.net:5062"}
	}
	for range 1 + rnd.IntN(3) {
		a.streams = append(a.streams, a.stream(rnd))
	}
	return a
}

func (a *agent) stream(rnd *rand.Rand) *stream {
	first := 4000 + 500*a.side + 20*len(a.points) + 2*rnd.IntN(2)
	if a.aware || a.side == 1 { // who has asked for a port has got a free one; a host has each port once
		first += 10000 + 1000*a.call
	}
	s := &stream{kind: "audio", proto: "RTP/AVP", rtp: a.point(first)}
	switch rnd.IntN(8) {
	case 0:
		s.rtcp = a.point(first + 1)
	case 1:
		s.rtcp = a.point(first + 7 + rnd.IntN(8))
	case 2:
		s.kind, s.proto = "video", "RTP/SAVPF"
		s.mux = true
	case 3:
		s.ice = true
	case 4:
		s.kind, s.proto = "image", "udptl"
	case 5:
		s.foreign = []string{"media.example.net", "2001:db8:77::7", "192.0.2.77"}[rnd.IntN(3)]
	}
	return s
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IP4"
	}
	return "IP6"
}

// describe adds the agent's session description.
func (d *dialog) describe(m *message, a *agent, hold bool) {
	own := piece{form: bare, point: a.flow}
	fam := family(a.flow.real.Addr())
	m.line("Content-Type: application/sdp")
	a.version++
	m.sdp("v=0")
	m.sdp("o=", a.user, " 2890844526 ", a.version, " IN ", fam, " ", own)
	m.sdp("s=call from ", a.user)
	if !d.perMedia {
		m.sdp("c=IN ", fam, " ", own)
	}
	m.sdp("t=0 0")
	for i, s := range a.streams {
		format := "0 8"
		if s.kind == "image" {
			format = "t38"
		}
		if s.off {
			m.sdp("m=", s.kind, " 0 ", s.proto, " ", format)
			continue
		}
		at := piece{form: port, point: s.rtp}
		if s.foreign != "" {
			at = piece{text: "7000"}
		}
		m.sdp("m=", s.kind, " ", at, " ", s.proto, " ", format)
		switch {
		case s.foreign == "media.example.net":
			m.sdp("c=IN ", fam, " ", s.foreign)
		case s.foreign != "":
			m.sdp("c=IN ", family(netip.MustParseAddr(s.foreign)), " ", s.foreign)
		case d.perMedia:
			m.sdp("c=IN ", fam, " ", own)
		}
		if s.kind == "audio" {
			m.sdp("a=rtpmap:0 PCMU/8000")
		}
		if s.rtcp != nil && s.foreign == "" {
			if i%2 == 0 {
				m.sdp("a=rtcp:", piece{form: port, point: s.rtcp}, " IN ", fam, " ", own)
			} else {
				m.sdp("a=rtcp:", piece{form: port, point: s.rtcp})
			}
		}
		if s.mux {
			m.sdp("a=rtcp-mux")
		}
		if s.ice && s.foreign == "" {
			m.sdp("a=ice-ufrag:F7gI")
			m.sdp("a=candidate:1 1 UDP 2130706431 ", own, " ", at, " typ host")
			m.sdp("a=candidate:3 1 UDP 1694498815 192.0.2.3 45664 typ relay raddr 192.0.2.44 rport 8998")
		}
		if hold {
			m.sdp("a=sendonly")
		}
	}
}

const (
	nothing = iota
	described
	held
)

// request makes a request of one side.
func (d *dialog) request(from int, method string, body int) *message {
	m := &message{from: from}
	a, b := d.agents[from], d.agents[1-from]
	if method != "ACK" && method != "CANCEL" {
		d.cseq[from]++
	}
	target := b.contact
	if !d.established { // nobody has heard of it yet
		if target = d.uris[1-from]; target.text != b.user+".example.com" {
			target = piece{form: whole, point: b.flow}
		}
	}
	transport := strings.ToUpper(d.k.conn.Transport.String())
	m.line(method, " sip:", b.user, "@", target, " SIP/2.0")
	branch := d.branch(from)
	m.line("Via: SIP/2.0/", transport, " ", a.via, ";branch=", branch, d.rport(from))
	if from == d.caller {
		for _, v := range d.vias {
			m.line(v)
		}
	}
	m.line("Max-Forwards: 70")
	m.line(fmt.Sprintf("%s: %q <sip:%s@", "From", a.user, a.user), d.uris[from], ">;tag=", d.tag(from))
	to := []any{"To: <sip:", b.user, "@", d.uris[1-from], ">"}
	if d.tags[1-from] != "" {
		to = append(to, ";tag=", d.tags[1-from])
	}
	m.line(to...)
	m.line("Call-ID: ", d.id)
	m.line("CSeq: ", d.cseq[from], " ", method)
	switch method {
	case "INVITE", "UPDATE", "REGISTER", "SUBSCRIBE":
		m.line("Contact: <sip:", a.user, "@", a.contact, ";transport=", strings.ToLower(transport), ">")
	}
	if d.record && from == d.caller {
		m.line("Record-Route: <sip:", piece{form: whole, point: a.flow}, ";lr>, <sip:proxy.example.org;lr>")
	}
	if d.record && from != d.caller && d.tags[1-from] != "" {
		m.line("Route: <sip:", piece{form: whole, point: b.flow}, ";lr>, <sip:proxy.example.org;lr>")
	}
	d.end(m, a, body)
	return m
}

func (d *dialog) branch(from int) string {
	id, _, _ := strings.Cut(d.id, "@")
	return fmt.Sprintf("z9hG4bK-%s-%d-%d", id, from, d.cseq[from])
}

// rport is the parameter by which a client asks for the port that he is seen at (RFC 3581).
func (d *dialog) rport(from int) string {
	if (len(d.id)+from)%2 == 0 {
		return ";rport"
	}
	return ""
}

func (d *dialog) end(m *message, a *agent, body int) {
	if m.held = body == held; body != nothing {
		d.describe(m, a, m.held)
	}
	m.line("Content-Length: ", piece{form: length})
}

func (d *dialog) tag(side int) string {
	if d.tags[side] == "" {
		d.tags[side] = fmt.Sprintf("t%d-%d", side, d.rnd.IntN(1e6))
	}
	return d.tags[side]
}

// response answers m.
func (d *dialog) response(to *message, status string, body int) *message {
	from := 1 - to.from
	a, b := d.agents[from], d.agents[to.from]
	m := &message{from: from}
	transport := strings.ToUpper(d.k.conn.Transport.String())
	m.line("SIP/2.0 ", status)
	via := []any{"Via: SIP/2.0/", transport, " ", b.via,
		";branch=" + d.branch(to.from)}
	if d.rport(to.from) != "" {
		via = append(via, ";rport=", piece{form: port, point: b.flow})
	}
	m.line(append(via, ";received=", piece{form: bare, point: b.flow})...)
	if to.from == d.caller {
		for _, v := range d.vias {
			m.line(v)
		}
		if d.record {
			m.line("Record-Route: <sip:", piece{form: whole, point: b.flow}, ";lr>, <sip:proxy.example.org;lr>")
		}
	}
	m.line(fmt.Sprintf("f: %q <sip:%s@", b.user, b.user), d.uris[to.from], ">;tag=", d.tag(to.from))
	tag := ""
	if !strings.HasPrefix(status, "100") {
		tag = ";tag=" + d.tag(from)
	}
	m.line("t: <sip:", a.user, "@", d.uris[from], ">", tag)
	m.line("i: ", d.id)
	method := strings.Fields(to.head[0].text)[0]
	m.line("CSeq: ", d.cseq[to.from], " ", method)
	switch {
	case method == "REGISTER" && status[0] == '2':
		m.line("Contact: <sip:", b.user, "@", b.contact, ">;expires=3600")
	case method == "INVITE" && status[0] != '1' || method == "UPDATE":
		m.line("Contact: <sip:", a.user, "@", a.contact, ">")
	}
	d.end(m, a, body)
	return m
}

// newDialog draws one of a connection.
func newDialog(rnd *rand.Rand, k *connection, n int, fromTo bool) *dialog {
	d := &dialog{rnd: rnd, k: k, caller: rnd.IntN(2), perMedia: rnd.IntN(2) == 0}
	for side, user := range []string{"alice", "bob"} {
		d.agents[side] = newAgent(rnd, k, side, n, user)
	}
	for side := range d.uris {
		at := d.agents[side].flow
		switch {
		case rnd.IntN(2) == 0 || d.agents[side].aware:
			d.uris[side] = piece{text: d.agents[side].user + ".example.com"}
		case fromTo:
			d.uris[side] = piece{form: host, point: at}
		default: // as the caller knows it, for good
			d.uris[side] = piece{text: string(piece{form: host, point: at}.write(nil, d.caller, 0))}
		}
	}
	d.id = fmt.Sprintf("%d-%x@%v", n, rnd.Uint32(), d.agents[d.caller].flow.real.Addr())
	for range rnd.IntN(3) {
		d.vias = append(d.vias, fmt.Sprintf("Via: SIP/2.0/UDP 192.0.2.%d:5060;branch=z9hG4bKx%d;received=10.9.9.9",
			rnd.IntN(100)+100, rnd.IntN(1e6)))
	}
	d.record = len(d.vias) > 0 && rnd.IntN(2) == 0
	return d
}

// talk holds the dialog; send delivers a message.
func (d *dialog) talk(send func(m *message)) {
	caller, callee := d.caller, 1-d.caller
	switch d.rnd.IntN(10) {
	case 0:
		m := d.request(caller, "OPTIONS", nothing)
		send(m)
		send(d.response(m, "200 OK", nothing))
		return
	case 1:
		m := d.request(caller, "REGISTER", nothing)
		send(m)
		send(d.response(m, "401 Unauthorized", nothing))
		m = d.request(caller, "REGISTER", nothing)
		send(m)
		send(d.response(m, "200 OK", nothing))
		return
	}
	late := d.chance(15)
	offer, answer := described, described
	if late {
		offer = nothing
	}
	invite := d.request(caller, "INVITE", offer)
	send(invite)
	send(d.response(invite, "100 Trying", nothing))
	if !late && d.chance(30) {
		send(d.response(invite, "183 Session Progress", described))
	}
	if !late && d.chance(20) { // another branch answers, with other media
		first := *d.agents[callee]
		tag := d.tags[callee]
		d.tags[callee] = ""
		d.agents[callee].streams = []*stream{d.agents[callee].stream(d.rnd)}
		send(d.response(invite, "183 Session Progress", described))
		if d.chance(50) {
			*d.agents[callee], d.tags[callee] = first, tag
		}
	}
	send(d.response(invite, "180 Ringing", nothing))
	switch d.rnd.IntN(8) {
	case 0:
		send(d.response(invite, "486 Busy Here", nothing))
		send(d.request(caller, "ACK", nothing))
		return
	case 1:
		cancel := d.request(caller, "CANCEL", nothing)
		send(cancel)
		send(d.response(cancel, "200 OK", nothing))
		send(d.response(invite, "487 Request Terminated", nothing))
		send(d.request(caller, "ACK", nothing))
		return
	}
	send(d.response(invite, "200 OK", answer))
	d.established = true
	body := nothing
	if late {
		body = described
	}
	send(d.request(caller, "ACK", body))
	for range d.rnd.IntN(3) {
		from := d.rnd.IntN(2)
		body := described
		switch a := d.agents[from]; d.rnd.IntN(4) {
		case 0:
			body = held
		case 1:
			a.streams = append(a.streams, a.stream(d.rnd))
		case 2:
			a.streams[0] = a.stream(d.rnd)
		case 3:
			a.streams[0].off = true
		}
		method := "INVITE"
		if d.chance(30) {
			method = "UPDATE"
		}
		m := d.request(from, method, body)
		send(m)
		send(d.response(m, "200 OK", body))
		if method == "INVITE" {
			send(d.request(from, "ACK", nothing))
		}
	}
	if d.chance(50) {
		return // the call goes on
	}
	bye := d.request(d.rnd.IntN(2), "BYE", nothing)
	send(bye)
	send(d.response(bye, "200 OK", nothing))
}

// Every address that the other side sees is the outside one; nothing else is changed but Content-Length, which is
// right. Media reach where they are announced, RTP and RTCP as a pair. A copy of a message leaves as the first one did.
// And a NAT the other way round makes of it what it was.
func TestNAT(t *testing.T) {
	const dialogs = 1000
	sites := []site{
		{name: "no NAT"}, {name: "no NAT, IPv6", ipv6: true},
		{name: "SNAT", snat: true}, {name: "SNAT with ports", snat: true, port: true},
		{name: "SNAT, IPv6", ipv6: true, snat: true},
		{name: "DNAT", dnat: true}, {name: "DNAT, IPv6", ipv6: true, dnat: true},
		{name: "SNAT and DNAT", snat: true, dnat: true},
		{name: "SNAT with ports and DNAT, IPv6", ipv6: true, snat: true, dnat: true, port: true},
	}
	checked := map[string]int{}
	for seed, made := uint64(0), 0; made < dialogs; seed++ {
		rnd := rand.New(rand.NewPCG(seed, 5))
		s := sites[rnd.IntN(len(sites))]
		transport := []helpers.Transport{helpers.UDP, helpers.UDP, helpers.TCP}[rnd.IntN(3)]
		fromTo := rnd.IntN(4) == 0
		w := newFirewall(t, options(fromTo))
		for n := range 1 + rnd.IntN(6) { // neighbours, who have the same ports
			s.port = s.port || s.snat && n > 0
			made++
			k := w.connect(s.conn(transport, n))
			c := k.conn
			inverse := newFirewall(t, options(fromTo)).connect(engine.Conn{
				Transport: c.Transport, Adjustable: true,
				Orig:  helpers.Tuple{Src: c.Reply.Dst, Dst: c.Reply.Src},
				Reply: helpers.Tuple{Src: c.Orig.Dst, Dst: c.Orig.Src},
			})
			d := newDialog(rnd, k, n, fromTo)
			d.talk(func(m *message) {
				if t.Failed() {
					return
				}
				sent := m.write(m.from)
				got := k.say(m.from, sent)
				err := m.read(got, 1-m.from)
				if err == nil && transport == helpers.UDP && d.chance(20) {
					checked["copies"]++
					if again := k.say(m.from, sent); !bytes.Equal(again, got) {
						err = fmt.Errorf("a copy left as\n%s", again)
					}
				}
				if err == nil {
					err = d.reached(m, checked)
				}
				if err == nil && d.invertible() {
					checked["inverse"]++
					if was := inverse.say(m.from, got); !bytes.Equal(was, sent) {
						err = fmt.Errorf("the way back made\n%s", was)
					}
				}
				if !bytes.Equal(sent, got) {
					checked["changed"]++
				}
				if err != nil {
					t.Errorf("seed %d, %s, %v, dialog %d, from side %d: %v\nsent\n%s\ngot\n%s\n%v | %v\n%s",
						seed, s.name, transport, n, m.from, err, sent, got, c.Orig, c.Reply, strings.Join(w.refused, "\n"))
				}
			})
			if t.Failed() {
				return
			}
		}
	}
	for _, what := range []string{"changed", "copies", "inverse", "media", "pairs", "moved"} {
		if checked[what] < 100 {
			t.Errorf("%s: only %d", what, checked[what])
		}
	}
	t.Log(checked)
}

// reached checks where the media of a description that was just sent will go.
func (d *dialog) reached(m *message, checked map[string]int) error {
	if len(m.body) == 0 || m.held {
		return nil
	}
	w := d.k.firewall
	for _, s := range d.agents[m.from].streams {
		if s.off || s.foreign != "" {
			continue
		}
		checked["media"]++
		at, to := s.rtp.seen, s.rtp.real
		if at.Port() != to.Port() {
			checked["moved"]++
		}
		if own := d.agents[m.from]; own.aware {
			to = netip.AddrPortFrom(own.address, to.Port())
		}
		if !w.leads(helpers.UDP, at, to) {
			return fmt.Errorf("%v does not lead to %v", at, to)
		}
		if s.kind != "audio" {
			continue
		}
		if at, to = next(at), next(to); s.rtcp != nil {
			at, to = s.rtcp.seen, netip.AddrPortFrom(to.Addr(), s.rtcp.real.Port())
		} else if checked["pairs"]++; at.Port()%2 != to.Port()%2 {
			return fmt.Errorf("%v is seen at %v", to, at)
		}
		if !w.leads(helpers.UDP, at, to) {
			return fmt.Errorf("%v does not lead to %v, where RTCP is awaited", at, to)
		}
	}
	return nil
}

func next(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), a.Port()+1) }

// invertible tells whether both sides write what they are on their own side, and no port but the connection's has
// changed.
func (d *dialog) invertible() bool {
	for _, a := range d.agents {
		if a.aware {
			return false
		}
		for _, p := range a.points {
			if p.seen.Port() != 0 && p.seen.Port() != p.real.Port() {
				return false
			}
		}
	}
	return true
}

func options(fromTo bool) any {
	o := sip.Protocol().Options.(*sip.Options)
	o.FromTo = fromTo
	return o
}
