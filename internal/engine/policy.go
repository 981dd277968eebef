package engine

import (
	"net/netip"
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

const firstPort = 1024 // that anybody may use (RFC 6335, section 6: lower ones are the system's)

func (p *Policy) withDefaults() {
	if p.MinPort == 0 {
		p.MinPort = firstPort
	}
}

func (l *Limits) withDefaults() {
	set := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	set(&l.PerPeer, 512)
	set(&l.Total, 1024)
	set(&l.Rate, 256)
	set(&l.Flows, 1<<20)
	set(&l.HoldBytes, 64<<10)
	set(&l.HoldSegs, 48)
	set(&l.HoldAll, 1024)
	set(&l.Ahead, 64<<10)
	set(&l.Memory, 64<<20)
	if l.HoldTime <= 0 {
		l.HoldTime = 2 * time.Second
	}
}

// allowed tells whether an owner with the address own may announce to.
func (p *Policy) allowed(to, own netip.Addr) bool {
	if to.Is4() != own.Is4() || !to.IsValid() || to.IsUnspecified() || to.IsMulticast() {
		return false
	}
	if to == own || p.ForeignAny {
		return true
	}
	for _, prefix := range p.Foreign {
		if prefix.Contains(to) {
			return true
		}
	}
	return false
}

// peer is what one owner address has pending, and what it may still announce: a bucket of tokens.
type peer struct {
	addr    netip.Addr
	pending int
	tokens  float64
	filled  time.Time
}

func (p *peer) fill(now time.Time, rate int) {
	full := float64(2 * rate)
	if d := now.Sub(p.filled); d > 0 {
		p.tokens, p.filled = min(full, p.tokens+d.Seconds()*float64(rate)), now
	}
}

// peer is the account of an owner address. Accounts that say nothing are thrown away now and then.
func (e *Engine) peer(a netip.Addr) *peer {
	if p := e.peers[a]; p != nil {
		p.fill(e.now, e.limits.Rate)
		return p
	}
	if len(e.peers) >= e.sweep {
		for a, p := range e.peers {
			if p.fill(e.now, e.limits.Rate); p.pending == 0 && p.tokens >= float64(2*e.limits.Rate) {
				delete(e.peers, a)
			}
		}
		e.sweep = 2*len(e.peers) + 1024
	}
	p := &peer{addr: a, tokens: float64(2 * e.limits.Rate), filled: e.now}
	e.peers[a] = p
	return p
}

// room checks the limits for one more expectation and takes its token; empty: there is room.
func (e *Engine) room(s *session, class uint8, p *peer) Reason {
	n := 0
	if s.extra != nil {
		n = s.extra.list.classes[class]
	}
	most := s.helper.Classes[class].Max
	switch {
	case most > 0 && n >= int(most):
		return RefuseLimitFlow
	case p.pending >= e.limits.PerPeer:
		return RefuseLimitPeer
	case e.pending >= e.limits.Total || e.mappings >= mappingsPer*e.limits.Total:
		return RefuseLimitTotal
	case p.tokens < 1:
		return RefuseRate
	}
	p.tokens--
	return ""
}

// mappingsPer is how many mappings are kept for each expectation that may be pending.
const mappingsPer = 64

// sides are the addresses by which a flow's end points are known on both sides of a NAT.
type sides struct {
	real, outside netip.AddrPort // of the owner
	peer          netip.AddrPort // the initiator, as the owner knows him
	initiator     netip.AddrPort // the same, on his own side
}

func (f *flow) sides(owner helpers.Dir) sides {
	orig, reply := f.orig(), f.reply()
	return sidesOf(&orig, &reply, owner)
}

func sidesOf(orig, reply *helpers.Tuple, owner helpers.Dir) sides {
	if owner == helpers.Original {
		return sides{real: orig.Src, outside: reply.Dst, peer: orig.Dst, initiator: reply.Src}
	}
	return sides{real: reply.Src, outside: orig.Dst, peer: reply.Dst, initiator: orig.Src}
}

// plan is what becomes of one announcement.
type plan struct {
	entry   *entry // nil: refused before there was one, or not for the table at all
	refused Reason
	place   bool // the table is to be asked
	fresh   bool // the entry was made for it
	fixed   bool // its port must not change
	placed  bool
	failed  error  // its place was taken
	told    *Event // of what was refused
	request int    // index in the Step that asks
	tries   int
	asked   expect.Request
}

// judge plans one announcement. Most become an entry, so it is made where an entry will be: plans and entries are large.
func (e *Engine) judge(j *job, i int) *plan {
	n := len(j.plans)
	j.plans = slices.Grow(j.plans, 1)[:n+1]
	p, x := &j.plans[n], e.spares.Take()
	*p = plan{}
	if p.refused = e.decide(j, &j.out.Expect[i], x, p); p.refused != "" {
		ev := x.event()
		ev.Kind, ev.Reason = EventRefuse, p.refused
		p.told = &ev
	}
	if p.entry != x {
		*x = entry{}
		e.spares.Give(x, maxSpare)
	}
	return p
}

// decide makes x, which is empty, of what was said, and p of x; or says why not.
func (e *Engine) decide(j *job, said *helpers.Expectation, x *entry, p *plan) Reason {
	f := j.flow
	s := f.session
	owner := sidesOf(&j.view.Orig, &j.view.Reply, said.Owner&1)
	x.session, x.said, x.to, x.from, x.timeout = s, *said, said.To, said.From, said.Timeout
	x.at, x.announced, x.note, x.reserved = said.To, e.cause.packet, said.Note, said.Reserve
	x.master = s.master(&expect.Master{
		Session: s.id, Helper: s.helper.Name, Transport: f.transport(), Orig: j.view.Orig, Reply: j.view.Reply,
		Zone: f.zone, Mark: f.mark,
	})
	if int(said.Class) >= len(s.helper.Classes) || said.Owner > helpers.Reply || !said.To.IsValid() ||
		said.Transport != helpers.TCP && said.Transport != helpers.UDP {
		return ErrorContract
	}
	if x.timeout <= 0 {
		x.timeout = s.helper.Classes[said.Class].Timeout
	}
	if said.From.Addr() == owner.peer.Addr() {
		x.from = netip.AddrPortFrom(owner.initiator.Addr(), said.From.Port())
	}
	switch {
	case said.To == owner.outside && said.Transport == f.transport():
		x.to = owner.real
	case said.To.Addr() == owner.outside.Addr():
		x.to = netip.AddrPortFrom(owner.real.Addr(), said.To.Port())
	}
	if x.at = x.to; x.to.Addr() == owner.real.Addr() && owner.real.Addr() != owner.outside.Addr() {
		x.translated = true
		x.at = netip.AddrPortFrom(owner.outside.Addr(), x.to.Port())
		if x.own = x.to == owner.real && said.Transport == f.transport(); x.own {
			x.at = owner.outside
		}
	}
	// The kernel translates what follows a master to the master's own hosts. What goes elsewhere is for the rules of NAT.
	x.toward, x.nat = said.Owner.Other(), f.nat != nil && x.to.Addr() == owner.real.Addr()
	relayed := e.relayed(j, x)
	if relayed != nil {
		if x.to = relayed.to; x.to.Addr() == f.sides(j.dir.Other()).real.Addr() { // it is said back to its owner
			return ""
		}
		x.at = x.to
	}
	old := e.known(x)
	switch {
	case j.foreign:
		return RefuseLockIn
	case relayed == nil && !e.policy.allowed(x.to.Addr(), owner.real.Addr()):
		return RefuseForeignAddress
	case said.Owner != j.dir && !e.announcedBefore(x) || x.from.Addr().IsValid() && x.from.Addr().Is4() != x.to.Addr().Is4():
		return RefuseForeignAddress
	case x.to.Port() < e.policy.MinPort:
		return RefuseLowPort
	case f.late && e.policy.RefuseLate || f.missed:
		return RefuseLate
	}
	if old != nil && (old.pending || said.Reserve) {
		*p = e.refresh(j, old, x)
		return ""
	}
	fixed := old != nil
	if fixed {
		x.at = old.at
	}
	opener := e.opener(x, !fixed)
	switch {
	case !fixed && e.opened(x):
		return ""
	case opener != nil && !covers(opener.from, x.from) && !covers(x.from, opener.from):
		return RefusePortTaken
	case !fixed && opener != nil:
		x.at = opener.at
	case !fixed && !e.choose(x):
		return RefusePortTaken
	case fixed && old.session != s:
		old = nil // its port is the family's, its expectation was the other session's
	}
	account := e.peer(owner.real.Addr())
	if r := e.room(s, said.Class, account); r != "" {
		return r
	}
	p.fixed, p.place = fixed, !said.Reserve
	if old == nil {
		p.entry, p.fresh = x, true
		e.insert(x)
	} else {
		p.entry = old
		e.renew(old, x)
	}
	switch {
	case !p.place:
	case opener != nil && covers(opener.from, x.from):
		e.stand(p.entry, e.now.Add(x.timeout))
		e.bound(p.entry)
		p.place = false
	default:
		for ; opener != nil; opener = e.opener(x, false) {
			e.stepBack(opener)
		}
		e.unset(p.entry)
		e.setPending(p.entry, account)
	}
	return ""
}

// relayed is what x passes on: the reader's own end point, or that of another host, which is open to the sender or to the
// reader already; nil: none of these.
func (e *Engine) relayed(j *job, x *entry) *entry {
	if !x.said.Relayed || x.said.Owner != j.dir {
		return nil
	}
	sender, reader := j.flow.sides(j.dir).real.Addr(), j.flow.sides(j.dir.Other()).real.Addr()
	if x.to.Addr() == sender {
		return nil
	}
	for y := e.seenAt(x.said.Transport, x.said.To, x.master.Zone); y != nil; y = y.next(byAt) {
		if y.to.Addr() == reader || y.pending && (covers(y.from, netip.AddrPortFrom(sender, 0)) || covers(y.from, x.from)) {
			return y
		}
	}
	return nil
}

// opened tells whether x is open without it: one of two sessions has relayed it.
func (e *Engine) opened(x *entry) bool {
	for y := e.seenAt(x.said.Transport, x.at, x.master.Zone); y != nil; y = y.next(byAt) {
		if y.pending && y.to == x.to && covers(y.from, x.from) && (x.said.Relayed || y.said.Relayed) {
			return true
		}
	}
	return false
}

// refresh answers an announcement of what is pending. A narrower From changes something, and a later end.
func (e *Engine) refresh(j *job, old, x *entry) plan {
	narrow := narrower(x.from, old.from)
	later := old.timer.set() && e.now.Add(x.timeout).Sub(old.timer.time()) >= prolonged
	if !old.pending || !narrow && !later {
		e.regroup(old, x.said.Group)
		old.announced = x.announced
		return plan{entry: old}
	}
	if j.asks(old) { // the same message has announced it already, by another of its addresses
		if narrow && !e.outgrown(old, x.from) {
			e.renew(old, x)
		}
		e.regroup(old, x.said.Group)
		return plan{entry: old}
	}
	if narrow && e.outgrown(old, x.from) {
		e.stepBack(old)
		e.renew(old, x)
		e.succeed(old)
		return plan{entry: old}
	}
	if !narrow {
		x.from, x.said.From = old.from, old.said.From
	}
	if old.asked {
		e.request(Request{Remove: old.id()})
	}
	e.rename(old)
	at := old.at
	e.renew(old, x)
	old.at, old.again = at, true
	return plan{entry: old, place: true, fixed: true, tries: -1}
}

// prolonged is by how much later an expectation must end to be placed again: copies of a message change nothing.
const prolonged = time.Second

// narrower tells whether a allows less than b, and nothing that b does not.
func narrower(a, b netip.AddrPort) bool { return a != b && covers(b, a) }

// covers tells whether a, which may be open, allows all that b allows.
func covers(a, b netip.AddrPort) bool {
	return (open(a) || a.Addr() == b.Addr()) && (a.Port() == 0 || a.Port() == b.Port())
}

// overlap tells whether an initiator can be allowed by both.
func overlap(a, b netip.AddrPort) bool {
	return (open(a) || open(b) || a.Addr() == b.Addr()) && (a.Port() == 0 || b.Port() == 0 || a.Port() == b.Port())
}

// open tells whether any address will do.
func open(a netip.AddrPort) bool { return !a.Addr().IsValid() || a.Addr().IsUnspecified() }
