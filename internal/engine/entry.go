package engine

import (
	"net/netip"
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

const (
	maxTries = 64 // ports that are tried for an end point
	maxIdle  = 32 // mappings of a session of which nothing is pending
)

// entry is an end point that a session announced: a mapping to a port on the other side of a NAT and, while it is
// pending, an expectation. It lives until its group is cancelled or its session ends.
type entry struct {
	id         expect.ID
	session    *session
	said       helpers.Expectation // as the helper said it
	from       netip.AddrPort      // the initiator on his own side
	to, at     netip.AddrPort      // the end point itself, and as the other side sees it
	toward     helpers.Dir
	nat        bool // the flow is
	translated bool // at has an address, and may have a port, other than to
	own        bool // it is the flow's own end point, so at is given
	reserved   bool // it was asked for before it was opened
	pending    bool
	asked      bool // the table may have it
	used       bool // by usedBy
	usedBy     key
	master     expect.Master // the flow in which it was announced
	announced  uint64        // packet
	timeout    time.Duration
	note       string // the latest
	owner      *peer  // has it on his account while it is pending
	next       *entry // with the same at
	timer      timer
}

// insert makes an entry of x, with a name of its own.
func (e *Engine) insert(x entry) *entry {
	n := &x
	n.timer.entry = n
	e.last.Expectation++
	n.id = expect.ID(e.last.Expectation)
	e.index(n)
	e.mappings++
	s := n.session
	own := s.more()
	own.entries = append(own.entries, n)
	if len(own.entries) > maxIdle {
		idle := 0
		for _, o := range own.entries {
			if !o.pending && o != n {
				idle++
			}
		}
		for _, o := range slices.Clone(own.entries) {
			if idle > maxIdle && !o.pending && o != n && !o.planned() {
				e.forget(o)
				idle--
			}
		}
	}
	return n
}

// planned tells whether the job at hand still needs the entry.
func (x *entry) planned() bool {
	j := x.session.job
	return j != nil && slices.ContainsFunc(j.plans, func(p plan) bool { return p.entry == x })
}

// index enters x into the tables by name and end point.
func (e *Engine) index(x *entry) {
	e.entries[x.id] = x
	k := packEnd(x.said.Transport, x.at, x.master.Zone)
	x.next = e.ends[k]
	e.ends[k] = x
}

func (e *Engine) unindex(x *entry) {
	delete(e.entries, x.id)
	k := packEnd(x.said.Transport, x.at, x.master.Zone)
	if e.ends[k] == x {
		if x.next == nil {
			delete(e.ends, k)
		} else {
			e.ends[k] = x.next
		}
	} else {
		for o := e.ends[k]; o != nil; o = o.next {
			if o.next == x {
				o.next = x.next
				break
			}
		}
	}
	x.next = nil
}

// rename gives x another name.
func (e *Engine) rename(x *entry) {
	delete(e.entries, x.id)
	e.last.Expectation++
	x.id = expect.ID(e.last.Expectation)
	e.entries[x.id] = x
}

// move gives x another place, and another name.
func (e *Engine) move(x *entry, at netip.AddrPort) {
	e.unindex(x)
	x.at = at
	e.last.Expectation++
	x.id = expect.ID(e.last.Expectation)
	e.index(x)
}

// renew takes over what a later announcement of the same end point says.
func (x *entry) renew(by *entry) {
	x.said, x.from, x.timeout, x.note = by.said, by.from, by.timeout, by.note
	x.reserved = x.reserved || by.reserved
	session := x.master.Session // it may be announced again in another flow of the family
	x.toward, x.nat, x.master, x.announced = by.toward, by.nat, by.master, by.announced
	x.master.Session = session
}

func (e *Engine) setPending(x *entry, p *peer) {
	x.pending, x.used, x.owner = true, false, p
	p.pending++
	e.pending++
}

// unsetPending says that x is pending no more: used, expired, cancelled or refused.
func (e *Engine) unsetPending(x *entry) {
	if !x.pending {
		return
	}
	x.pending, x.asked = false, false
	x.owner.pending--
	x.owner = nil
	e.pending--
	e.timers.clear(&x.timer)
}

// forget takes x out of all tables.
func (e *Engine) forget(x *entry) {
	e.unsetPending(x)
	if e.entries[x.id] != x {
		return
	}
	e.timers.clear(&x.timer)
	e.unindex(x)
	e.mappings--
	own := x.session.extra
	own.entries = slices.DeleteFunc(own.entries, func(o *entry) bool { return o == x })
	x.session.slim()
}

// known is the entry of the same end point: pending in the session, or of the same group in its family.
func (s *session) known(x *entry) *entry {
	var found *entry
	for o := range s.family() {
		for _, y := range o.entries() {
			if y.said.Transport != x.said.Transport || y.to != x.to || y.said.Owner != x.said.Owner {
				continue
			}
			same := y.said.Group.ID == x.said.Group.ID
			switch {
			case y.pending && !overlap(y.from, x.from): // for somebody else
			case y.session == s && y.pending:
				return y
			case same && (found == nil || y.session == s):
				found = y
			}
		}
	}
	return found
}

// asked tells whether the same end point was announced before in the same group, whoever was to connect to it.
func (s *session) asked(x *entry) bool {
	for o := range s.family() {
		for _, y := range o.entries() {
			if y.to == x.to && y.said.Transport == x.said.Transport && y.said.Owner == x.said.Owner &&
				y.said.Group.ID == x.said.Group.ID {
				return true
			}
		}
	}
	return false
}

// cancel takes back a group of a session's family.
func (e *Engine) cancel(of *session, g helpers.Group, why Reason) {
	if g.ID == 0 {
		return
	}
	for _, s := range slices.Collect(of.family()) {
		for _, x := range slices.Clone(s.entries()) {
			if !within(x.said.Group, g) {
				continue
			}
			if x.pending {
				e.cancelEntry(x, why)
			}
			e.forget(x)
		}
		e.maybeOver(s)
	}
}

// cancelEntry takes back one pending expectation.
func (e *Engine) cancelEntry(x *entry, why Reason) {
	if x.asked {
		e.request(Request{Remove: x.id})
	}
	e.tellEntry(EventCancel, x, why)
	e.unsetPending(x)
}

// expired ends an expectation whose time is over, or the wait for the child that it was met by.
func (e *Engine) expired(x *entry) {
	if x.pending {
		e.cancelEntry(x, CancelExpired)
	}
	e.retire(x)
}

// retire forgets an entry of which nothing is pending any more, unless it stands for more than its expectation did: a
// port on the other side, or an end point that the other side may yet open.
func (e *Engine) retire(x *entry) {
	e.unsetPending(x)
	if !x.translated && !x.reserved {
		e.forget(x)
	}
	e.maybeOver(x.session)
}

// match is the entry that a connection meets, the one that says most of its initiator.
func (e *Engine) match(c *Conn, fits func(*entry) bool) *entry {
	if len(e.ends) == 0 {
		return nil
	}
	by := pack(c.Transport, c.Orig, 0)
	var found *entry
	for x := e.ends[packEnd(c.Transport, c.Orig.Dst, c.Zone)]; x != nil; x = x.next {
		if !covers(x.from, c.Orig.Src) || !(x.pending || x.used && x.usedBy == by) || fits != nil && !fits(x) {
			continue
		}
		if found == nil || narrower(x.from, found.from) {
			found = x
		}
	}
	return found
}

// choose finds a free port for x on the other side of the NAT; false: there is none.
func (e *Engine) choose(x *entry) bool {
	if !x.translated || x.own {
		return e.free(x, x.at)
	}
	if y := x.partner(); y != nil {
		x.at = netip.AddrPortFrom(x.at.Addr(), y.at.Port()^1)
		return e.free(x, x.at)
	}
	for range maxTries {
		if e.free(x, x.at) {
			return true
		}
		x.at = x.following()
	}
	return false
}

// following is the next port to try.
func (x *entry) following() netip.AddrPort {
	step := 1
	if x.said.Paired {
		step = 2
	}
	p := int(x.at.Port()) + step
	if p > 65535 {
		p = firstPort + int(x.at.Port()&1)*(step-1)
	}
	return netip.AddrPortFrom(x.at.Addr(), uint16(p))
}

// partner is the other half of a pair.
func (x *entry) partner() *entry {
	for _, y := range x.session.entries() {
		if y != x && x.pairs(y) {
			return y
		}
	}
	return nil
}

func (x *entry) pairs(y *entry) bool {
	return y.session == x.session && (x.said.Paired || y.said.Paired) && y.said.Transport == x.said.Transport &&
		y.to.Addr() == x.to.Addr() && y.to.Port() == x.to.Port()^1 && y.said.Group.ID == x.said.Group.ID
}

// free tells whether nobody else has what x wants to be at.
func (e *Engine) free(x *entry, at netip.AddrPort) bool {
	for y := e.ends[packEnd(x.said.Transport, at, x.master.Zone)]; y != nil; y = y.next {
		if y != x && y.blocks(x) && !(y.session == x.session && y.to == x.to) {
			return false
		}
	}
	if !x.translated {
		return true
	}
	half := netip.AddrPortFrom(at.Addr(), at.Port()^1)
	for y := e.ends[packEnd(x.said.Transport, half, x.master.Zone)]; y != nil; y = y.next {
		if y != x && (x.said.Paired || y.said.Paired) && y.blocks(x) && !x.pairs(y) {
			return false
		}
	}
	return true
}

// blocks tells whether x cannot be where y is.
func (y *entry) blocks(x *entry) bool { return (y.pending || y.translated) && overlap(y.from, x.from) }
