package h323

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// Message types of Q.931, table 4-2.
const (
	typeSetup           = 0x05
	typeConnect         = 0x07
	typeReleaseComplete = 0x5a
)

// maxConnectionCalls bounds the calls that are followed on one connection (H.323, 7.3: several may share it).
const maxConnectionCalls = 8

var errNoCall = errors.New("no such call")

// signalling is a connection of H.225.0 call signalling.
type signalling struct {
	frames
	calls []call // oldest first
	last  uint32 // Group.ID of the latest, in the flow's own numbers
}

// call is a call on it.
type call struct {
	id        uint64 // Group.ID
	reference uint16
	caller    helpers.Dir
	announced bool // something was
	offered   bool // fastStart
	answered  bool // fastStart was accepted, or it is too late for it
	book      book
}

// partControl is the Group.Part of the H.245 connection. Those of media are above.
const (
	partControl = 1
	partMedia   = 3 // is added to the parts of a book
)

// Inspect implements helpers.Session.
func (s *signalling) Inspect(seg *helpers.Segment, out *helpers.Result) error {
	return s.inspect(seg, out, s.message)
}

// message reads the payload of a frame; false: it is not Q.931.
func (s *signalling) message(in *inspection, base int, payload []byte) bool {
	m := &in.desk.message
	if err := wire.ReadSignalling(payload, m); err != nil {
		in.failAt(base, err)
		return !errors.Is(err, wire.ErrProtocol)
	}
	c := s.call(in, m)
	if c == nil {
		if len(m.Addresses) > 0 || len(m.Controls) > 0 {
			in.fail(base, errNoCall)
		}
		in.seeMessage(base)
		return true
	}
	if m.Type == typeReleaseComplete { // it announces nothing
		in.seeMessage(base)
		s.over(in, c)
		return true
	}
	before := len(in.out.Expect)
	l := leg{c.id, flowBase(in.seg.Flow.ID) + partMedia, &c.book}
	s.addresses(in, base, c)
	if in.fastStart(base, &l, c.caller) {
		c.offered = true
		c.answered = c.answered || in.seg.Dir != c.caller
	}
	in.controls(base, &l)
	c.announced = c.announced || len(in.out.Expect) > before
	if m.Type == typeConnect && c.offered && !c.answered { // H.323, 8.1.7.1
		c.answered = true
		in.close(&l, func(by channel) bool { return by.kind == fast })
	}
	return true
}

// call is the call of a message; nil: there is none. A Setup begins one, and so does any message if bytes are lost that
// may have been its Setup.
func (s *signalling) call(in *inspection, m *wire.Message) *call {
	caller := in.seg.Dir
	if m.Flag {
		caller = caller.Other()
	}
	i := slices.IndexFunc(s.calls, func(c call) bool { return c.reference == m.Reference && c.caller == caller })
	switch {
	case i >= 0:
		return &s.calls[i]
	case m.Type == typeReleaseComplete || m.Type != typeSetup && !s.blind || m.Type == typeSetup && m.Flag:
		return nil
	}
	c := call{reference: m.Reference, caller: caller}
	if by := in.seg.Flow.Announced; by != nil && by.Group.ID != 0 && !by.Permanent && s.last == 0 {
		c.id = by.Group.ID // so that whoever announced this call can end it
	} else {
		c.id = flowBase(in.seg.Flow.ID) + uint64(s.last)
	}
	s.last = (s.last + 1) % (1 << partBits)
	if c.id == 0 {
		c.id = 1 << partBits
	}
	if len(s.calls) == maxConnectionCalls {
		s.calls = slices.Delete(s.calls, 0, 1)
	}
	s.calls = append(s.calls, c)
	return &s.calls[len(s.calls)-1]
}

// addresses announces where the H.245 connection leads, and where the call is forwarded to.
func (s *signalling) addresses(in *inspection, base int, c *call) {
	m := &in.desk.message
	for i := range m.Addresses {
		a := &m.Addresses[i]
		if a.Control >= 0 {
			continue
		}
		x := helpers.Expectation{Transport: helpers.TCP, Owner: in.seg.Dir, From: netip.AddrPortFrom(in.reader(), 0)}
		switch {
		case a.Field == wire.H245Address:
			x.Class, x.Helper, x.Note = classControl, nameControl, "H.245"
			x.Group = helpers.Group{ID: c.id, Part: flowBase(in.seg.Flow.ID) + partControl}
			x.Relayed = !in.own(a.Addr.Addr())
		case in.seg.Dir != c.caller && (a.Field == wire.AlternativeAddress || a.Field == wire.AlternativeAliasAddress):
			// The caller ends this call before it makes the other one: so of no group, and lasting.
			x.Class, x.Helper, x.Note, x.Lasting = classForward, nameSignalling, "forwarded", true
		}
		if x.Note == "" || !usable(a.Addr) || in.saidBack(a.Addr.Addr()) {
			in.see(base, a)
			continue
		}
		in.announce(base, a, x)
	}
}

// over ends a call.
func (s *signalling) over(in *inspection, c *call) {
	if c.announced {
		in.out.Cancel = append(in.out.Cancel, helpers.Group{ID: c.id})
	}
	id, reference, caller := c.id, c.reference, c.caller
	s.calls = slices.DeleteFunc(s.calls, func(o call) bool {
		return o.id == id && o.reference == reference && o.caller == caller
	})
}
