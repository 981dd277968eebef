package sip

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cthelperd/cthelperd/helpers"
)

var (
	errTooLong      = errors.New("headers too long")
	errBody         = errors.New("body too long")
	errNoLength     = errors.New("no Content-Length")
	errCallIDLong   = errors.New("Call-ID too long")
	errTooManyCalls = errors.New("too many calls: one that was silent for long is forgotten")
	errTooManyMedia = errors.New("too many media")
	errContacts     = errors.New("too many contacts")
	errHostName     = errors.New("a host name stands for an address of media")
)

// session is all that two hosts say to each other by SIP.
type session struct {
	all   *shared
	flows map[helpers.FlowID]*flow
	table table
	last  uint64   // Group.ID of the latest call or registration
	names [2]names // by host: what Rewrite has heard
	desk  *desk    // nil but during a call and, under NAT, until Rewrite
	steps int
}

func newSession(all *shared) *session {
	return &session{all: all, flows: map[helpers.FlowID]*flow{}}
}

// Steps implements helpertest.Stepper: bytes looked at.
func (s *session) Steps() int { return s.steps }

// Inspect implements helpers.Session.
func (s *session) Inspect(seg *helpers.Segment, out *helpers.Result) error {
	if s.desk == nil {
		s.desk = s.all.desks.Take()
	} else {
		s.desk.tidy() // nobody asked for a Rewrite
	}
	f := s.flows[seg.Flow.ID]
	if f == nil {
		f = &flow{}
		s.flows[seg.Flow.ID] = f
	}
	if seg.Flow.Transport == helpers.TCP {
		s.stream(seg, &f[seg.Dir], out)
	} else {
		s.datagram(seg, &f[seg.Dir], out)
	}
	err := s.desk.first
	if untranslated(seg.Flow) {
		s.release()
	}
	return err
}

// untranslated tells whether a flow is not under NAT: there will be no Rewrite.
func untranslated(f *helpers.Flow) bool { return f.Reply == f.Orig.Turned() }

// blank is a message to be filled from a segment.
func (s *session) blank(seg *helpers.Segment) *message {
	m := s.desk.blank()
	switch {
	case untranslated(seg.Flow):
		m.brevity = terse
	case s.all.FromTo:
		m.brevity = complete
	default:
		m.brevity = nameless
	}
	return m
}

// Close implements helpers.Session: calls go on by other flows.
func (s *session) Close(id helpers.FlowID, _ *helpers.Result) { delete(s.flows, id) }

// release gives the desk back: there is nothing left to rewrite.
func (s *session) release() {
	if s.desk != nil {
		s.all.giveBack(s.desk)
		s.desk = nil
	}
}

// fail keeps the first error of a call: one call may read several messages, and a bad one does not stop the others.
func (s *session) fail(off int, err error) {
	if s.desk.first == nil {
		s.desk.first = failure(off, err)
	}
}

// failed keeps an error that has a place already.
func (s *session) failed(err error) {
	if s.desk.first == nil {
		s.desk.first = err
	}
}

// foreign ends all trust in a direction; what says what it looks like.
func (s *session) foreign(d *direction, what string) {
	d.mode = foreign
	s.desk.first = fmt.Errorf("%s: %w", what, helpers.ErrForeign)
}

// host numbers the two hosts of a session: the flows between them begin on either side.
type host uint8

func (h host) other() host { return h ^ 1 }

// hostOf is who sends in a direction of a flow.
func hostOf(f *helpers.Flow, dir helpers.Dir) host {
	if f.Reply.Src.Addr().Less(f.Orig.Src.Addr()) {
		dir = dir.Other()
	}
	return host(dir)
}

// dirOf is the direction in which a host sends in a flow.
func dirOf(f *helpers.Flow, h host) helpers.Dir {
	if hostOf(f, helpers.Original) == h {
		return helpers.Original
	}
	return helpers.Reply
}

// read carries out what a message says. It lies at seg.Data[m.whole.off:], and is a part of the bytes that will be
// consumed.
func (s *session) read(seg *helpers.Segment, m *message, out *helpers.Result) {
	s.desk.keep(m)
	switch m.method {
	case register:
		s.register(seg, m, out)
	case invite, ack, prack, update, bye, cancel:
		s.inCall(seg, m, out)
	}
}

// publicly tells whether an address can be reached from anywhere.
func publicly(a netip.Addr) bool {
	shared := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10) // RFC 6598
	return a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a)
}

// peerFrom is who connects to what owner announced, if the other side has said that it is at the address told; any
// port will do. Without an address, or with one that cannot be where its packets come from, anybody may.
func peerFrom(f *helpers.Flow, owner helpers.Dir, told netip.Addr) netip.AddrPort {
	peer := f.Peer(owner).Addr()
	switch {
	case !told.IsValid() || told.Is4() != peer.Is4():
		return netip.AddrPort{}
	case told == f.Own(owner.Other()).Addr() || told == peer:
		return netip.AddrPortFrom(peer, 0)
	case publicly(peer) && !publicly(told): // behind a NAT that nobody has told of
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(told, 0)
}
