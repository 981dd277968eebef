package sip

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/cthelperd/cthelperd/helpers"
)

// maxCounted bounds the pairs of ports of a message that count looks up.
const maxCounted = 32

// known is by which of its addresses a host calls itself.
type known uint8

const (
	unheard known = iota
	inside
	outside // it knows what its NAT makes of it (STUN, rport, an outbound proxy), and expects to be called so
)

// names is how a host has called itself last: where it waits for answers, and where it is to be called.
type names struct {
	via, contact known
	port, at     uint16 // of contact, if inside: as it is written, and as the other host sees it
}

func (n names) outsideVia() bool { return n.via == outside }

func (n names) outsideContact() bool {
	return n.contact == outside || n.contact == unheard && n.via == outside
}

// Rewrite implements helpers.Rewriter. What both sides know by the same address stays as it is written, and so do
// names.
func (s *session) Rewrite(seg *helpers.Segment, nat helpers.NAT, edits []helpers.Edit) []helpers.Edit {
	if s.desk == nil {
		return edits // the flow is not under NAT
	}
	for _, m := range s.desk.messages {
		e := editor{message: m, seg: seg, nat: nat, edits: edits, fromTo: s.all.FromTo}
		e.sender, e.reader = &s.names[hostOf(seg.Flow, seg.Dir)], s.names[hostOf(seg.Flow, seg.Dir.Other())]
		e.learn()
		edits = e.rewrite()
	}
	s.release()
	return edits
}

// editor makes the edits of one message.
type editor struct {
	*message
	seg     *helpers.Segment
	nat     helpers.NAT
	fromTo  bool // From and To are rewritten, too
	sender  *names
	reader  names
	edits   []helpers.Edit
	text    []byte // of all edits
	counted int    // pairs of ports that were looked up
}

// real and seen are a side's end points: as it knows itself, and as the other one knows it.
func (e *editor) real(dir helpers.Dir) netip.AddrPort { return e.seg.Flow.Own(dir) }
func (e *editor) seen(dir helpers.Dir) netip.AddrPort { return e.seg.Flow.Peer(dir.Other()) }

// learn hears how the sender calls itself.
func (e *editor) learn() {
	real, seen := e.real(e.seg.Dir).Addr(), e.seen(e.seg.Dir).Addr()
	for i := range e.places {
		p := &e.places[i]
		var as *known
		switch {
		case p.kind == via && p.top && e.status == 0:
			as = &e.sender.via
		case p.kind == contactURI && (e.status == 0 || e.method != register), p.kind == recordRoute && e.status == 0:
			as = &e.sender.contact // but not from a registrar's answer, which names the reader
		default:
			continue
		}
		switch p.addr.Addr() {
		case real:
			*as = inside
		case seen:
			*as = outside
		}
	}
}

// rewrite adds the edits, in order.
func (e *editor) rewrite() []helpers.Edit {
	first, of := len(e.edits), requestURI
	for i := range e.places {
		p := &e.places[i]
		switch p.kind {
		case via, viaReceived, viaRPort, viaMaddr:
			if p.top { // the others are of hops that are not here
				e.via(p)
			}
		case requestURI, contactURI, recordRoute, route, path, serviceRoute:
			of = p.kind
			e.uri(p)
		case from, to:
			if of = p.kind; e.fromTo {
				e.name(p)
			}
		case uriMaddr, uriReceived:
			if of != from && of != to {
				e.uri(p)
			}
		case origin:
			if to, ok := e.origin(i); ok {
				e.host(p, to)
			}
		case connection:
			if to, ok := e.connected(i); ok {
				e.host(p, to)
			}
		case mediaPort, rtcp:
			if to, ok := e.described(p); ok {
				e.write(p, to)
				e.count(p, to)
			}
		case candidate, related:
			if to, ok := e.described(p); ok && !e.foreseen(p) {
				e.write(p, to)
			}
		}
	}
	e.setLength(first)
	return e.edits
}

// name rewrites the host of a name. Nothing is sent there, so there is no port to it.
func (e *editor) name(p *place) {
	sender, reader := e.seg.Dir, e.seg.Dir.Other()
	switch a := p.addr.Addr(); {
	case a == e.real(sender).Addr():
		e.host(p, e.seen(sender).Addr())
	case a == e.seen(reader).Addr() && !e.reader.outsideContact():
		e.host(p, e.real(reader).Addr())
	}
}

// via rewrites an address of the topmost Via, which is the sender's in a request and the reader's in a response.
func (e *editor) via(p *place) {
	a, to, ok := p.endPoint(), netip.AddrPort{}, false
	switch reader := e.seg.Dir.Other(); {
	case e.status == 0:
		to, ok = e.nat.Translate(a)
	case e.reader.outsideVia():
	case p.kind == viaRPort: // another port is that of another NAT, behind this one
		to, ok = e.real(reader), p.addr.Port() == e.seen(reader).Port()
	case a.Addr() == e.seen(reader).Addr():
		if to, ok = e.nat.Translate(a); to.Addr() != e.real(reader).Addr() { // a neighbour has the port
			to = netip.AddrPortFrom(e.real(reader).Addr(), a.Port())
		}
	}
	if ok {
		e.header(p, a, to)
	}
}

// uri rewrites the address of a URI.
func (e *editor) uri(p *place) {
	a, reader := p.endPoint(), e.seg.Dir.Other()
	to, ok := netip.AddrPort{}, false
	switch {
	case a.Addr() == e.seen(reader).Addr() && e.reader.outsideContact():
		return
	case a == netip.AddrPortFrom(e.seen(reader).Addr(), e.reader.at):
		to, ok = netip.AddrPortFrom(e.real(reader).Addr(), e.reader.port), true
	case p.expect >= 0:
		to, ok = e.nat.At(int(p.expect))
	}
	if !ok {
		to, ok = e.nat.Translate(a)
	}
	if !ok {
		return
	}
	if p.kind == contactURI && a.Addr() == e.real(e.seg.Dir).Addr() {
		e.sender.port, e.sender.at = a.Port(), to.Port()
	}
	e.header(p, a, to)
}

// endPoint is what a place in a header says, with the port that is meant if none is written.
func (p *place) endPoint() netip.AddrPort {
	switch {
	case p.addr.Port() > 0 || !p.addr.Addr().IsValid():
		return p.addr
	case p.secure:
		return netip.AddrPortFrom(p.addr.Addr(), securePort)
	}
	return netip.AddrPortFrom(p.addr.Addr(), signalPort)
}

// header writes b in the place of a, with a port if it is another one than that which is meant without.
func (e *editor) header(p *place, a, b netip.AddrPort) {
	alone := false // it has no port, whatever is meant
	switch p.kind {
	case viaReceived, viaMaddr, uriMaddr, uriReceived:
		alone = true
	}
	if alone || !p.port.empty() || b.Port() == a.Port() {
		e.write(p, b)
		return
	}
	e.edit(span{p.host.off, p.port.off}, func(text []byte) []byte {
		if text = appendHost(text, p.host.of(e.seg.Data), b.Addr()); p.boxed {
			text = append(text, ']')
		}
		return strconv.AppendUint(append(text, ':'), uint64(b.Port()), 10)
	})
}

// described is what the reader must see for an end point of a session description; false: what is there.
func (e *editor) described(p *place) (netip.AddrPort, bool) {
	if p.addr.Port() == 0 || !p.addr.Addr().IsValid() {
		return p.addr, false
	}
	var to netip.AddrPort
	var ok bool
	if p.expect >= 0 && p.addr.Addr() == e.real(e.seg.Dir).Addr() {
		to, ok = e.nat.At(int(p.expect)) // refused: neither is it told
	} else {
		to, ok = e.nat.Translate(p.addr)
	}
	return to, ok && to != p.addr
}

// count leaves of the port pairs of an m= line, which is seen at to, those that are one behind the other there as they
// are here. The first is that of a layered encoding's base (RFC 8866, section 5.14).
func (e *editor) count(p *place, to netip.AddrPort) {
	if p.kind != mediaPort {
		return
	}
	said, n := e.media[p.media].count, 1
	for ; n < said; n++ {
		if e.counted++; e.counted > maxCounted || int(p.addr.Port())+2*n > 1<<16-1 {
			return // nor are they announced
		}
		step := uint16(2 * n)
		seen, _ := e.nat.Translate(netip.AddrPortFrom(p.addr.Addr(), p.addr.Port()+step))
		if seen.Port() != to.Port()+step {
			break
		}
	}
	if n == said {
		return
	}
	rest := span{p.port.end, p.port.end + 1}
	for rest.end < e.body.end && digit(e.seg.Data[rest.end]) {
		rest.end++
	}
	e.edit(rest, func(b []byte) []byte {
		if n == 1 {
			return b
		}
		return strconv.AppendInt(append(b, '/'), int64(n), 10)
	})
}

// connected is the address for a c= line, which is that of the first of its streams; false: what is there.
func (e *editor) connected(line int) (netip.Addr, bool) {
	p, used := &e.places[line], false
	streams := e.media
	switch {
	case p.media >= 0:
		streams = e.media[p.media : p.media+1]
	case e.bodies[p.body].connection != line: // one too many
		streams = nil
	}
	for i := range streams {
		if m := &streams[i]; m.connection == line && e.places[m.line].addr.Port() != 0 {
			if to, ok := e.described(&e.places[m.line]); ok {
				return to.Addr(), true
			}
			used = true
		}
	}
	if used {
		return netip.Addr{}, false
	}
	return e.own(p)
}

// own translates the sender's address where it is not that of a stream.
func (e *editor) own(p *place) (netip.Addr, bool) {
	a := p.addr.Addr()
	if a != e.real(e.seg.Dir).Addr() {
		return a, false
	}
	to, ok := e.nat.Translate(netip.AddrPortFrom(a, 0))
	return to.Addr(), ok
}

// origin is the address for an o= line: that of the c= line behind it that says the same.
func (e *editor) origin(line int) (netip.Addr, bool) {
	p := &e.places[line]
	if e.bodies[p.body].origin != line { // one too many
		return e.own(p)
	}
	for i := line; i < len(e.places) && e.places[i].body == p.body; i++ {
		if c := &e.places[i]; c.kind == connection && c.addr.Addr() == p.addr.Addr() {
			return e.connected(i)
		}
	}
	return e.own(p)
}

// foreseen tells whether the sender has seen to it that candidates are right: the address that he prefers is.
func (e *editor) foreseen(p *place) bool {
	line := &e.places[e.media[p.media].line]
	a := line.addr.Addr()
	if !a.IsValid() || a.IsUnspecified() || line.addr.Port() == 0 {
		return false
	}
	_, changes := e.described(line)
	return !changes
}

// write writes host and port where they are written, and differ.
func (e *editor) write(p *place, to netip.AddrPort) {
	if p.port.off < p.host.off { // a=rtcp
		e.port(p, to.Port())
		e.host(p, to.Addr())
		return
	}
	e.host(p, to.Addr())
	e.port(p, to.Port())
}

func (e *editor) host(p *place, to netip.Addr) {
	if !p.host.empty() && p.addr.Addr() != to {
		e.edit(p.host, func(b []byte) []byte { return appendHost(b, p.host.of(e.seg.Data), to) })
	}
}

func (e *editor) port(p *place, to uint16) {
	if !p.port.empty() && p.addr.Port() != to {
		e.edit(p.port, func(b []byte) []byte { return strconv.AppendUint(b, uint64(to), 10) })
	}
}

// appendHost writes an address in the place of old: one that was written as an IPv6 address stays one.
func appendHost(b, old []byte, a netip.Addr) []byte {
	if a.Is4() && slices.Contains(old, ':') {
		a = netip.AddrFrom16(a.As16())
	}
	return a.AppendTo(b)
}

// edit replaces s by what write appends.
func (e *editor) edit(s span, write func([]byte) []byte) {
	if e.text == nil {
		e.text = make([]byte, 0, 256)
	}
	at := len(e.text)
	e.text = write(e.text)
	e.edits = append(e.edits, helpers.Edit{Off: s.off, Len: s.end - s.off, New: e.text[at:len(e.text):len(e.text)]})
}

// setLength corrects Content-Length by what the edits from first on have changed in the body.
func (e *editor) setLength(first int) {
	more, at := 0, first
	for i, c := range e.edits[first:] {
		if c.Off >= e.body.off {
			more += len(c.New) - c.Len
		}
		if c.Off < e.lengthAt.off {
			at = first + i + 1
		}
	}
	if more == 0 || e.length < 0 {
		return
	}
	e.edit(e.lengthAt, func(b []byte) []byte { return strconv.AppendInt(b, int64(e.length+more), 10) })
	last := len(e.edits) - 1
	edit := e.edits[last]
	e.edits = slices.Insert(e.edits[:last], at, edit)
}
