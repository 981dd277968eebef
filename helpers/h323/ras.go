package h323

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

const (
	maxRequests      = 32 // questions whose answers are waited for, or may be repeated
	maxRegistrations = 32 // registered end points
	maxTTL           = 24 * time.Hour
)

var (
	errUnasked    = errors.New("answers no such request")
	errNotRAS     = fmt.Errorf("no RAS: %w", helpers.ErrForeign)
	errManyPlaces = errors.New("too many addresses in a registration")
)

// ras is what two hosts say to each other by RAS: an endpoint and its gatekeeper, or two gatekeepers. All their flows
// have one session, as an answer may come from another port, and an entry of UDP is soon forgotten.
type ras struct {
	all           *shared
	desk          *desk
	hosts         [2]netip.Addr  // that have spoken RAS
	requests      []request      // oldest first
	registrations []registration // the one asked for last is the last
	last          uint32         // Group.ID
	steps         int
}

// request is a question that was asked.
type request struct {
	kind      wire.Kind
	from      netip.Addr
	sequence  uint16
	reference uint16 // ARQ: callReferenceValue
	call      [16]byte
	group     uint32 // of what the answer opens
	announced bool
}

// registration is an end point that an endpoint wants to be called at, or its RAS address.
type registration struct {
	group     uint32
	owner     netip.Addr
	end       netip.AddrPort
	transport helpers.Transport
	sequence  uint16     // of the request that is about it
	renewal   bool       // that was a lightweight one
	leaves    netip.Addr // who asked to unregister it; invalid: nobody
	confirmed bool
	ttl       uint32 // seconds that it holds; 0: neither side has said
}

// Steps counts the bytes that were looked at.
func (s *ras) Steps() int { return s.steps }

// Close implements helpers.Session. A flow that is silent ends nothing.
func (s *ras) Close(helpers.FlowID, *helpers.Result) {}

// Rewrite implements helpers.Rewriter.
func (s *ras) Rewrite(seg *helpers.Segment, nat helpers.NAT, edits []helpers.Edit) []helpers.Edit {
	if s.desk == nil {
		return edits
	}
	return s.desk.rewrite(seg, nat, edits)
}

// Inspect implements helpers.Session.
func (s *ras) Inspect(seg *helpers.Segment, out *helpers.Result) error {
	if s.desk == nil {
		s.desk = s.all.desks.Take()
	}
	in := s.desk.begin(s.all, seg, out)
	out.Consumed = len(seg.Data)
	s.steps += len(seg.Data) + 1
	sender := seg.Flow.Own(seg.Dir).Addr()
	switch err := wire.ReadRAS(seg.Data, &in.desk.message); {
	case err == nil:
		s.speaks(sender)
		s.message(in)
	case slices.Contains(s.hosts[:], sender):
		in.failAt(0, err)
	default: // not even its first datagram
		in.first = errNotRAS
	}
	return in.end(&s.desk)
}

// speaks notes that a host speaks RAS.
func (s *ras) speaks(host netip.Addr) {
	for i := range s.hosts {
		if s.hosts[i] == host {
			return
		}
		if !s.hosts[i].IsValid() {
			s.hosts[i] = host
			return
		}
	}
}

func (s *ras) message(in *inspection) {
	m := &in.desk.message
	dir := in.seg.Dir
	own, other := in.seg.Flow.Own(dir).Addr(), in.seg.Flow.Own(dir.Other()).Addr()
	switch m.Kind {
	case wire.RegistrationRequest:
		s.register(in, own)
	case wire.UnregistrationRequest:
		s.leave(m, own, other)
		in.seeMessage(0)
	case wire.GatekeeperRequest, wire.AdmissionRequest, wire.LocationRequest:
		s.ask(m, own)
		in.seeMessage(0)
	case wire.GatekeeperConfirm, wire.AdmissionConfirm, wire.LocationConfirm:
		s.lead(in, other)
	case wire.RegistrationConfirm:
		s.confirm(in, other)
	case wire.RegistrationReject:
		s.withdraw(in, func(r *registration) bool {
			return r.owner == other && r.sequence == m.Sequence && !r.leaves.IsValid() && (r.renewal || !r.confirmed)
		})
		in.seeMessage(0)
	case wire.UnregistrationConfirm:
		s.withdraw(in, func(r *registration) bool { return r.leaves == other && r.sequence == m.Sequence })
		in.seeMessage(0)
	case wire.AdmissionReject, wire.LocationReject:
		s.end(in, func(r *request) bool {
			return r.kind == question(m.Kind) && r.from == other && r.sequence == m.Sequence
		})
		in.seeMessage(0)
	case wire.DisengageRequest:
		s.end(in, func(r *request) bool {
			return r.kind == wire.AdmissionRequest && r.reference == m.Reference && r.call == m.CallID
		})
		in.seeMessage(0)
	default:
		in.seeMessage(0)
	}
}

// next is a new Group.ID.
func (s *ras) next() uint32 {
	s.last = s.last%(1<<partBits-1) + 1
	return s.last
}

// ask notes a question.
func (s *ras) ask(m *wire.Message, from netip.Addr) *request {
	if r := s.find(from, m.Sequence, m.Kind); r != nil && r.reference == m.Reference && r.call == m.CallID {
		return r // again
	}
	r := request{kind: m.Kind, from: from, sequence: m.Sequence, reference: m.Reference, call: m.CallID, group: s.next()}
	s.requests = slices.DeleteFunc(s.requests, func(o request) bool {
		return o.kind == r.kind && o.from == from && o.sequence == r.sequence
	})
	if len(s.requests) == maxRequests {
		s.requests = slices.Delete(s.requests, 0, 1)
	}
	s.requests = append(s.requests, r)
	return &s.requests[len(s.requests)-1]
}

// find is the question of a host with a number; nil: there is none.
func (s *ras) find(from netip.Addr, sequence uint16, kind wire.Kind) *request {
	i := slices.IndexFunc(s.requests, func(r request) bool {
		return r.kind == kind && r.from == from && r.sequence == sequence
	})
	if i < 0 {
		return nil
	}
	return &s.requests[i]
}

// question is what a confirmation or rejection answers.
func question(answer wire.Kind) wire.Kind {
	switch answer {
	case wire.GatekeeperConfirm:
		return wire.GatekeeperRequest
	case wire.AdmissionConfirm, wire.AdmissionReject:
		return wire.AdmissionRequest
	}
	return wire.LocationRequest
}

// lead announces where a confirmation leads: to call signalling, or to the gatekeeper's RAS address.
func (s *ras) lead(in *inspection, asker netip.Addr) {
	m := &in.desk.message
	r := s.find(asker, m.Sequence, question(m.Kind))
	if r == nil && in.seg.Flow.Late { // it may have been asked before we came
		r = s.ask(&wire.Message{Kind: question(m.Kind), Sequence: m.Sequence}, asker)
	}
	if r == nil {
		in.fail(0, errUnasked)
		in.seeMessage(0)
		return
	}
	for i := range m.Addresses {
		a := &m.Addresses[i]
		x := helpers.Expectation{
			Owner: in.seg.Dir, From: netip.AddrPortFrom(in.reader(), 0), Group: helpers.Group{ID: uint64(r.group)},
			Relayed: !in.own(a.Addr.Addr()),
		}
		switch {
		case !usable(a.Addr) || a.Quoted || a.Addr == in.seg.Flow.Own(in.seg.Dir):
		case m.Kind == wire.AdmissionConfirm && a.Field == wire.DestCallSignalAddress && !in.saidBack(a.Addr.Addr()):
			x.Class, x.Transport, x.Helper, x.Note = classCalled, helpers.TCP, nameSignalling, "ACF"
		case m.Kind == wire.LocationConfirm && a.Field == wire.CallSignalAddress:
			x.Class, x.Transport, x.Helper, x.Note = classCalled, helpers.TCP, nameSignalling, "LCF"
		case m.Kind == wire.GatekeeperConfirm && a.Field == wire.RASAddress:
			x.Class, x.Transport, x.Helper, x.Note = classRAS, helpers.UDP, nameRAS, "GCF"
		}
		if x.Note == "" {
			in.see(0, a)
			continue
		}
		r.announced = true
		in.announce(0, a, x)
	}
}

// end takes back what the answers to questions have opened.
func (s *ras) end(in *inspection, over func(*request) bool) {
	kept := s.requests[:0]
	for i := range s.requests {
		r := &s.requests[i]
		if !over(r) {
			kept = append(kept, *r)
		} else if r.announced {
			in.out.Cancel = append(in.out.Cancel, helpers.Group{ID: uint64(r.group)})
		}
	}
	s.requests = kept
}

// register notes what an endpoint wants to be reached at, and keeps the ports of it on the other side of a NAT.
func (s *ras) register(in *inspection, owner netip.Addr) {
	m := &in.desk.message
	any := false
	for i := range m.Addresses {
		a := &m.Addresses[i]
		transport := helpers.TCP
		if a.Field == wire.RASAddress {
			transport = helpers.UDP
		}
		if a.Field != wire.CallSignalAddress && a.Field != wire.RASAddress || !usable(a.Addr) || a.Quoted {
			in.see(0, a)
			continue
		}
		r := s.registration(owner, a.Addr, transport, m.Sequence)
		if r == nil {
			in.fail(a.Off, errManyPlaces)
			in.see(0, a)
			continue
		}
		s.renew(r, m)
		any = any || transport == helpers.TCP
		x := in.registered(r)
		x.Owner, x.Reserve = in.seg.Dir, true
		in.announce(0, a, x)
	}
	if m.KeepAlive && !any { // it is about all that there is
		for i := range s.registrations {
			if r := &s.registrations[i]; r.owner == owner {
				s.renew(r, m)
			}
		}
	}
}

func (s *ras) renew(r *registration, m *wire.Message) {
	r.sequence, r.renewal, r.leaves = m.Sequence, m.KeepAlive, netip.Addr{}
	if m.Has&wire.HasTimeToLive != 0 {
		r.ttl = m.TimeToLive
	} else if !m.KeepAlive {
		r.ttl = 0
	}
}

// registration finds or makes one for a request; nil: the request has too many. What is over or replaced need not have been
// withdrawn: of too many the one goes that was not confirmed, or not asked for, for the longest time.
func (s *ras) registration(owner netip.Addr, end netip.AddrPort, transport helpers.Transport, sequence uint16) *registration {
	made := registration{owner: owner, end: end, transport: transport, sequence: sequence}
	i := slices.IndexFunc(s.registrations, func(r registration) bool {
		return r.owner == owner && r.end == end && r.transport == transport
	})
	if i >= 0 {
		made = s.registrations[i]
	} else {
		made.group = s.next()
	}
	if i < 0 && len(s.registrations) == maxRegistrations {
		earlier := func(r registration) bool { return r.owner != owner || r.sequence != sequence }
		i = slices.IndexFunc(s.registrations, func(r registration) bool { return !r.confirmed && earlier(r) })
		if i < 0 {
			i = slices.IndexFunc(s.registrations, earlier)
		}
		if i < 0 {
			return nil
		}
	}
	if i >= 0 {
		s.registrations = slices.Delete(s.registrations, i, i+1)
	}
	s.registrations = append(s.registrations, made)
	return &s.registrations[len(s.registrations)-1]
}

// registered is the expectation that a registration leads to, but for whose it is.
func (in *inspection) registered(r *registration) helpers.Expectation {
	x := helpers.Expectation{
		Class: classCalls, Transport: r.transport, To: r.end, Permanent: true,
		Group: helpers.Group{ID: uint64(r.group)}, Helper: nameSignalling, Note: "RRQ",
	}
	if r.transport == helpers.UDP {
		x.Class, x.Helper = classRAS, nameRAS
	}
	return x
}

// confirm opens what a registration asked for, for the time that the two have agreed upon, and the way to the gatekeeper's
// call signalling.
func (s *ras) confirm(in *inspection, owner netip.Addr) {
	m := &in.desk.message
	group, life := helpers.Group{}, time.Duration(0)
	for i := range s.registrations {
		r := &s.registrations[i]
		if r.owner != owner || r.sequence != m.Sequence || r.leaves.IsValid() {
			continue
		}
		r.confirmed = true
		x := in.registered(r)
		x.Owner = in.seg.Dir.Other()
		if m.Has&wire.HasTimeToLive != 0 { // H.225.0, 7.9: the answer decides
			r.ttl = m.TimeToLive
		}
		x.Timeout = in.life(r)
		if life == 0 {
			group, life = x.Group, x.Timeout
		}
		if in.all.options.Calls != anyone || r.transport == helpers.UDP {
			x.From = netip.AddrPortFrom(in.seg.Flow.Peer(x.Owner).Addr(), 0)
		}
		in.out.Expect = append(in.out.Expect, x)
	}
	for i := range m.Addresses {
		a := &m.Addresses[i]
		if life == 0 || a.Field != wire.CallSignalAddress || !usable(a.Addr) || a.Addr.Addr() == in.reader() {
			in.see(0, a)
			continue
		}
		in.announce(0, a, helpers.Expectation{
			Class: classCalled, Transport: helpers.TCP, Owner: in.seg.Dir, From: netip.AddrPortFrom(in.reader(), 0),
			Permanent: true, Timeout: life, Group: group, Helper: nameSignalling, Note: "RCF",
		})
	}
}

// life is for how long a registration holds.
func (in *inspection) life(r *registration) time.Duration {
	if r.ttl == 0 {
		return in.all.options.Registration
	}
	return min(time.Duration(r.ttl)*time.Second, maxTTL)
}

// leave notes what an unregistration is about: the addresses of its sender's that it names; else all that there is of
// either host, as a gatekeeper has none.
func (s *ras) leave(m *wire.Message, owner, other netip.Addr) {
	named := func(r *registration) bool {
		return r.owner == owner && slices.ContainsFunc(m.Addresses, func(a wire.Address) bool {
			return a.Field == wire.CallSignalAddress && a.Addr == r.end && r.transport == helpers.TCP
		})
	}
	all, some := true, false
	for i := range s.registrations {
		if r := &s.registrations[i]; r.owner == owner && r.transport == helpers.TCP {
			all, some = all && named(r), some || named(r)
		}
	}
	for i := range s.registrations {
		r := &s.registrations[i]
		if (all || !some) && (r.owner == owner || r.owner == other) || named(r) {
			r.leaves, r.sequence = owner, m.Sequence
		}
	}
}

// withdraw closes registrations and forgets them.
func (s *ras) withdraw(in *inspection, over func(*registration) bool) {
	kept := s.registrations[:0]
	for i := range s.registrations {
		if r := &s.registrations[i]; over(r) {
			in.out.Cancel = append(in.out.Cancel, helpers.Group{ID: uint64(r.group)})
		} else {
			kept = append(kept, *r)
		}
	}
	s.registrations = kept
}
