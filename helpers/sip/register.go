package sip

import (
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
)

// maxContacts bounds the contacts of a registration.
const maxContacts = 16

// register carries out REGISTER and its answers (RFC 3261, section 10). The request only reserves: whether the contact
// is registered, and for how long, is for the registrar to say.
func (s *session) register(seg *helpers.Segment, m *message, out *helpers.Result) {
	if m.callID.len() > maxCallID {
		s.fail(m.callID.off, errCallIDLong)
		return
	}
	by := hostOf(seg.Flow, seg.Dir)
	k := key{tag: tagOf(m.toURI.of(seg.Data)), caller: by, register: true}
	if m.status > 0 {
		k.caller = by.other()
	}
	c := s.table.find(s.all.seed, &k)
	switch {
	case m.status == 0:
		s.registering(seg, m, c, &k, out)
	case c != nil && m.status >= 200 && m.status < 300:
		s.registered(seg, m, c, out)
	}
}

// contactEnd is the end point that a contact names; false: none that packets can be sent to.
func contactEnd(f *helpers.Flow, m *message, c *contact) (end endPoint, ok bool) {
	if c.place < 0 {
		return end, false
	}
	p := &m.places[c.place]
	if !p.addr.Addr().IsValid() || p.addr.Addr().IsUnspecified() || p.addr.Addr().IsMulticast() {
		return end, false
	}
	end = endPoint{withPort(p.addr, signalPort), c.transport}
	if c.secure {
		end = endPoint{withPort(p.addr, securePort), helpers.TCP}
	}
	if end.transport == 0 {
		end.transport = f.Transport
	}
	return end, true
}

// registering reserves what a REGISTER names.
func (s *session) registering(seg *helpers.Segment, m *message, c *call, k *key, out *helpers.Result) {
	if c == nil {
		if len(m.contacts) == 0 {
			return // a question, or the end of what is not known
		}
		c = s.begin(seg, k, m, out)
	}
	c.cseq, c.clears = m.cseq, m.star
	for i := range m.contacts {
		x := &m.contacts[i]
		end, ok := contactEnd(seg.Flow, m, x)
		if !ok {
			continue
		}
		asked := x.expires
		if asked < 0 {
			asked = m.expires
		}
		p := c.contact(end)
		if p == nil {
			if asked == 0 {
				continue
			}
			if len(c.parts) == maxContacts {
				s.fail(x.whole.off, errContacts)
				return
			}
			p = c.addPart(part{to: end.to, transport: end.transport, owner: k.caller})
		}
		p.asked, p.of, p.secure = int32(min(asked, 1<<31-1)), tagOf(x.user.of(seg.Data)), x.secure
		p.born, p.seen = series(seg, m), uint16(m.cseq)
		e := s.registration(seg.Flow, c, p)
		e.Reserve = true
		m.places[x.place].expect = int16(len(out.Expect))
		out.Expect = append(out.Expect, e)
	}
}

// series stands for the Call-ID of registrations: a telephone keeps it until it starts anew, and each of several that have
// one address-of-record has its own.
func series(seg *helpers.Segment, m *message) uint16 { return uint16(tagOf(m.callID.of(seg.Data))) }

// contact is the part of an end point; nil: none.
func (c *call) contact(end endPoint) *part {
	for i := range c.parts {
		if c.parts[i].end() == end {
			return &c.parts[i]
		}
	}
	return nil
}

// hasPort tells whether a part has the port of an end point.
func (c *call) hasPort(end endPoint) bool {
	return slices.ContainsFunc(c.parts, func(p part) bool {
		return p.to.Port() == end.to.Port() && p.transport == end.transport
	})
}

// registration is the announcement of a contact.
func (s *session) registration(f *helpers.Flow, c *call, p *part) helpers.Expectation {
	owner := dirOf(f, p.owner)
	e := helpers.Expectation{
		Class: classSignalling, Transport: p.transport, Owner: owner, To: p.to, Permanent: true, Helper: name,
		Group: p.group(c), Note: "contact",
	}
	if s.all.Incoming == "registrar" {
		e.From = peerFrom(f, owner, f.Peer(owner).Addr())
	}
	if p.secure {
		e.Helper = "" // nobody can read it
	}
	return e
}

// registered opens what the registrar has granted, and closes what it has not.
func (s *session) registered(seg *helpers.Segment, m *message, c *call, out *helpers.Result) {
	var closed [maxContacts]bool
	latest := c.cseq == m.cseq
	clears := c.clears && latest
	for i := range c.parts {
		p := &c.parts[i]
		if !clears && (p.born != series(seg, m) || !latest && p.seen != uint16(m.cseq)) {
			continue
		}
		seconds := c.grant(seg, m, p, clears, int(s.all.Registration/time.Second))
		if seconds == 0 {
			closed[i] = true
			continue
		}
		e := s.registration(seg.Flow, c, p)
		e.Timeout = min(time.Duration(seconds)*time.Second, maxGranted)
		out.Expect = append(out.Expect, e)
	}
	i := -1
	c.drop(out, func(*part) bool {
		i++
		return closed[i]
	})
	if len(c.parts) == 0 {
		s.table.remove(c)
	}
}

// grant is for how many seconds a contact is registered by an answer: its expires parameter, the header, what was
// asked for, or the default. A registrar lists all contacts that are; one that lists none is believed to do what was
// asked. Behind a NAT the listed address is another one, our own outside one if the NAT is here.
func (c *call) grant(seg *helpers.Segment, m *message, p *part, clears bool, byDefault int) int {
	outside := seg.Flow.Peer(seg.Dir).Addr()
	withdrawn := clears || p.asked == 0
	listed, granted := false, -1
	for i := range m.contacts {
		x := &m.contacts[i]
		end, ok := contactEnd(seg.Flow, m, x)
		switch {
		case ok && end == p.end():
			return first(x.expires, m.expires, int(p.asked), byDefault)
		case !ok || withdrawn || tagOf(x.user.of(seg.Data)) != p.of || c.contact(end) != nil:
		case end.to.Addr() == outside && p.to.Port() != end.to.Port() && c.hasPort(end): // most NATs keep ports
		case !listed || end.to.Addr() == outside:
			listed, granted = true, x.expires
		}
	}
	if withdrawn || !listed && len(m.contacts) > 0 {
		return 0
	}
	return first(granted, m.expires, int(p.asked), byDefault)
}

// first is the first number that is given.
func first(numbers ...int) int {
	for _, n := range numbers {
		if n >= 0 {
			return n
		}
	}
	return 0
}
