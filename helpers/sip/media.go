package sip

import (
	"net/netip"

	"github.com/cthelperd/cthelperd/helpers"
)

// endPoint is what can be connected to.
type endPoint struct {
	to        netip.AddrPort
	transport helpers.Transport
}

// note is what an announcement says of its m= line.
type note struct{ stream, rtcp, candidate string }

func noteOf(name []byte) note {
	for _, n := range [...]note{
		{"audio", "audio rtcp", "audio candidate"},
		{"video", "video rtcp", "video candidate"},
		{"image", "image rtcp", "image candidate"},
		{"text", "text rtcp", "text candidate"},
		{"message", "message rtcp", "message candidate"},
		{"application", "application rtcp", "application candidate"},
	} {
		if string(name) == n.stream {
			return n
		}
	}
	return note{"media", "media rtcp", "media candidate"}
}

// announcer announces what one session description says.
type announcer struct {
	s     *session
	seg   *helpers.Segment
	m     *message
	c     *call
	by    host
	tag   uint64 // of the dialog
	out   *helpers.Result
	first int // in out.Expect, of this message
}

// described reads a session description: an offer, or the answer to one (RFC 3264). settles: with it the exchange is
// over, and what it does not name any more is gone.
func (s *session) described(
	seg *helpers.Segment, m *message, c *call, by host, tag uint64, answer, settles bool, out *helpers.Result,
) {
	if now := (exchange{m.method, m.status > 0, m.cseq}); c.latest[by] != now {
		c.latest[by] = now
		c.generation[by]++
	}
	c.offered[by] = !answer
	if answer {
		c.offered[by.other()] = false
	}
	a := announcer{s, seg, m, c, by, tag, out, len(out.Expect)}
	for i := range min(len(m.media), maxLines) {
		if a.media(i, answer) {
			break
		}
	}
	if answer && settles {
		a.offer()
		s.settle(c, tag, out)
	}
}

// settle takes down what newer session descriptions have replaced.
func (s *session) settle(c *call, tag uint64, out *helpers.Result) {
	c.drop(out, func(p *part) bool {
		return p.seen != c.generation[p.owner] && (p.owner == c.key.caller || p.of == tag)
	})
}

// revert takes down what an offer brought that was refused.
func (s *session) revert(c *call, owner host, refused exchange, out *helpers.Result) {
	if c.latest[owner] == refused {
		c.drop(out, func(p *part) bool { return p.owner == owner && p.born == c.generation[owner] })
	}
}

// listens tells whether the side that wrote an m= line waits for the connection (RFC 4145, section 4.1).
func (x *media) listens(answer bool) bool {
	switch x.setup {
	case passive, actpass:
		return true
	case noSetup:
		return answer
	}
	return false
}

// media announces m= line i. full: no more can be announced.
func (a *announcer) media(i int, answer bool) (full bool) {
	x := &a.m.media[i]
	line := a.m.places[x.line].addr
	switch {
	case x.kind == unknownMedia || line.Port() == 0:
		return false
	case !line.Addr().IsValid():
		a.s.fail(a.m.places[x.line].port.off, errHostName)
		return false
	case line.Addr().IsUnspecified(): // a hold as in RFC 2543: what was agreed upon stays. Or only candidates count
		a.keep(i)
		return a.candidates(i)
	case line.Addr().IsMulticast():
		return false
	}
	say := noteOf(x.name.of(a.seg.Data))
	dir := a.seg.Dir
	e := helpers.Expectation{Class: classMedia, Transport: helpers.UDP, Owner: dir, To: line, Note: say.stream}
	if answer && !x.ice {
		e.From = peerFrom(a.seg.Flow, dir, a.c.told(a.by.other(), uint8(i), a.tag))
	}
	switch x.kind {
	case tcpMedia:
		e.Class, e.Transport = classStream, helpers.TCP
		if !x.listens(answer) {
			p, ok := a.part(endPoint{line, helpers.TCP}, i, streamRole)
			if ok && p.born == p.seen {
				p.quiet = true
			}
			return !ok
		}
		full = a.announce(e, x.line, i, streamRole)
	case udpMedia:
		full = a.announce(e, x.line, i, streamRole)
	case rtpMedia:
		full = a.rtp(e, i, answer)
	}
	return full || a.candidates(i)
}

// keep says that the sender's parts of line i are still what they were.
func (a *announcer) keep(i int) {
	for j := range a.c.parts {
		if p := &a.c.parts[j]; p.owner == a.by && int(p.line) == i {
			p.seen = a.c.generation[a.by]
		}
	}
}

// rtp announces the ports of an RTP line, and those of its RTCP (RFC 3605: the next ones if nothing else is said).
func (a *announcer) rtp(e helpers.Expectation, i int, answer bool) (full bool) {
	x := &a.m.media[i]
	first := e.To
	say := noteOf(x.name.of(a.seg.Data))
	for n := range x.count {
		port := int(first.Port()) + 2*n
		if port > 1<<16-1 {
			return false
		}
		e.To, e.Note = netip.AddrPortFrom(first.Addr(), uint16(port)), say.stream
		control, place := netip.AddrPortFrom(first.Addr(), uint16(port+1)), -1
		if x.rtcp >= 0 && n == 0 {
			control, place = a.m.places[x.rtcp].addr, x.rtcp
		}
		muxed := x.mux && answer || x.muxOnly || control == e.To || control.Port() == 0 || !control.Addr().IsValid() ||
			control.Addr().IsUnspecified()
		e.Paired = port&1 == 0 && !muxed && control == netip.AddrPortFrom(first.Addr(), uint16(port+1))
		line := x.line
		if n > 0 {
			line = -1
		}
		if a.announce(e, line, i, streamRole) {
			return true
		}
		if muxed {
			continue
		}
		e.To, e.Paired, e.Note = control, false, say.rtcp
		if a.announce(e, place, i, rtcpRole) {
			return true
		}
	}
	return false
}

// candidates announces the sender's own and server-reflexive candidates of line i (RFC 8839), for anybody: checks also
// come from addresses that only they bring to light (RFC 8445, section 7.3.1.3).
func (a *announcer) candidates(i int) (full bool) {
	if !a.s.all.ICE || !a.m.media[i].ice {
		return false
	}
	e := helpers.Expectation{Owner: a.seg.Dir, Note: noteOf(a.m.media[i].name.of(a.seg.Data)).candidate}
	for at := range a.m.places {
		p := &a.m.places[at]
		if p.kind != candidate || int(p.media) != i || !p.usable() || p.active ||
			p.candidate != hostCandidate && p.candidate != reflexiveCandidate {
			continue
		}
		e.To, e.Transport, e.Class = p.addr, p.transport, classMedia
		switch p.transport {
		case helpers.TCP:
			e.Class = classStream
		case helpers.UDP:
		default:
			continue
		}
		if a.announce(e, at, i, candidateRole) {
			return true
		}
	}
	return false
}

// announce appends an announcement of the sender's, which stands at a place; place -1: nowhere. full: there were too
// many before.
func (a *announcer) announce(e helpers.Expectation, place, line int, r role) (full bool) {
	for i := a.first; i < len(a.out.Expect); i++ { // media that share a port
		if o := &a.out.Expect[i]; o.To == e.To && o.Transport == e.Transport && o.Owner == e.Owner {
			a.at(place, i)
			return false
		}
	}
	if !a.room(place) {
		return true
	}
	p, ok := a.part(endPoint{e.To, e.Transport}, line, r)
	if !ok {
		return true
	}
	p.quiet, p.paired = false, e.Paired
	e.Group = p.group(a.c)
	a.at(place, len(a.out.Expect))
	a.out.Expect = append(a.out.Expect, e)
	return false
}

// at notes for Rewrite where an announcement stands.
func (a *announcer) at(place, expect int) {
	if place >= 0 {
		a.m.places[place].expect = int16(expect)
	}
}

// room tells whether the message may announce one more.
func (a *announcer) room(place int) bool {
	if len(a.out.Expect)-a.first < int(a.s.all.Media) {
		return true
	}
	a.tooMany(place)
	return false
}

func (a *announcer) tooMany(place int) {
	off := a.m.whole.off
	if place >= 0 {
		off = a.m.places[place].port.off
	}
	a.s.fail(off, errTooManyMedia)
}

// part is the sender's part of an end point; false: there are too many.
func (a *announcer) part(to endPoint, line int, r role) (*part, bool) {
	c := a.c
	now := c.generation[a.by]
	tag := a.tag
	if a.by == c.key.caller {
		tag = 0 // all dialogs'
	}
	for i := range c.parts {
		if p := &c.parts[i]; p.owner == a.by && p.end() == to {
			p.line, p.role, p.of, p.seen = uint8(line), r, tag, now
			return p, true
		}
	}
	most := a.s.mostParts()
	if len(c.parts) >= most {
		c.drop(a.out, func(p *part) bool { return p.seen != c.generation[p.owner] })
	}
	if len(c.parts) >= most {
		a.tooMany(-1)
		return nil, false
	}
	return c.addPart(part{
		to: to.to, transport: to.transport, owner: a.by, line: uint8(line), role: r, quiet: true, of: tag, born: now,
		seen: now,
	}), true
}

// mostParts is how many parts a call may have now: all calls together have a bound that does not depend on who has
// them.
func (s *session) mostParts() int {
	const each = 8 // if all have the same: audio and video
	return min(maxParts, max(fewParts, each*int(s.all.Calls)/s.table.used))
}

// addPart gives a part its number and keeps it.
func (c *call) addPart(p part) *part {
	if c.lastID++; c.lastID == 0 {
		c.lastID++
	}
	p.id = c.lastID
	if c.parts == nil {
		c.parts = make([]part, 0, 4) // audio of both sides
	}
	c.parts = append(c.parts, p)
	return &c.parts[len(c.parts)-1]
}

// told is the address that a host has last said for an m= line.
func (c *call) told(owner host, line uint8, tag uint64) (a netip.Addr) {
	for i := range c.parts {
		p := &c.parts[i]
		if p.owner == owner && p.line == line && p.role == streamRole && p.seen == c.generation[owner] &&
			(owner == c.key.caller || p.of == tag) {
			return p.to.Addr()
		}
	}
	return a
}

// offer says of what the other side offered who will connect, now that it is answered, and takes down what the answer
// does not want.
func (a *announcer) offer() {
	c, owner := a.c, a.by.other()
	dir := dirOf(a.seg.Flow, owner)
	mine := func(p *part) bool {
		return p.owner == owner && !p.quiet && p.seen == c.generation[owner] && int(p.line) < len(a.m.media) &&
			(owner == c.key.caller || p.of == a.tag)
	}
	c.drop(a.out, func(p *part) bool {
		if !mine(p) {
			return false
		}
		x := &a.m.media[p.line]
		told := a.m.places[x.line].addr
		return told.Port() == 0 && !x.bundleOnly && !x.bundled || p.role == rtcpRole && x.mux ||
			p.role == candidateRole && !x.ice && !told.Addr().IsUnspecified() // else candidates may yet come (RFC 8840)
	})
	for i := range c.parts {
		p := &c.parts[i]
		if !mine(p) || p.role == candidateRole {
			continue
		}
		if !a.room(-1) {
			return
		}
		x := &a.m.media[p.line]
		if p.transport == helpers.TCP && x.listens(true) { // who offered connects
			p.quiet = true
			a.out.Cancel = append(a.out.Cancel, p.group(c))
			continue
		}
		e := helpers.Expectation{
			Class: classMedia, Transport: p.transport, Owner: dir, To: p.to, Group: p.group(c), Paired: p.paired,
		}
		if p.transport == helpers.TCP {
			e.Class = classStream
		}
		say := noteOf(x.name.of(a.seg.Data))
		told := a.m.places[x.line].addr.Addr()
		if e.Note = say.stream; p.role == rtcpRole {
			e.Note = say.rtcp
			if x.rtcp >= 0 {
				told = a.m.places[x.rtcp].addr.Addr()
			}
		}
		if !x.ice {
			e.From = peerFrom(a.seg.Flow, dir, told)
		}
		a.out.Expect = append(a.out.Expect, e)
	}
}
