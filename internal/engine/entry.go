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
	// maxIdlePair is the same of two hosts' session: a trunk has thousands of calls, with two ports each.
	maxIdlePair = 1 << 15
)

// entry is an end point that a session announced: a mapping to a port on the other side of a NAT and, while it is
// pending, an expectation. It lives until its group is cancelled or its session ends.
type entry struct {
	// What the end of a call needs comes first: with many calls, each line of memory has to be waited for.
	links         [4]link // of entries
	session       *session
	before, after *entry // neighbours among the session's
	timer         timer
	owner         *peer  // has it on his account while it is pending
	part          uint64 // of its group
	class         uint8  // as it was counted when it became pending
	listed        bool
	translated    bool // at has an address, and may have a port, other than to
	pending       bool
	waits         bool // another one that is pending has its end point
	asked         bool // the table may have it
	again         bool // and it was placed in the stead of an earlier one while that was pending
	used          bool // by usedBy

	own       bool                // it is the flow's own end point, so at is given
	nat       bool                // the flow is
	reserved  bool                // it was asked for before it was opened
	toward    helpers.Dir         // of the flow
	said      helpers.Expectation // as the helper said it
	from      netip.AddrPort      // the initiator on his own side
	to, at    netip.AddrPort      // the end point itself, and as the other side sees it
	usedBy    key
	master    *expect.Master // the flow in which it was announced; never written to
	announced uint64         // packet
	timeout   time.Duration
	note      string // the latest
}

func (x *entry) id() expect.ID { return expect.ID(x.links[byID].hash) }

// insert enters x into all tables, with a name of its own.
func (e *Engine) insert(x *entry) {
	x.links[byID].hash = e.nextName()
	e.enlist(x)
	own, most := &x.session.more().list, maxIdle
	if x.session.helper.PerPair {
		most = maxIdlePair
	}
	looked := 0
	for o := range own.all() { // the oldest of those that are not pending, if it is not far
		if looked++; own.count-own.pending-1 <= most || looked > maxIdle {
			break
		}
		if !o.pending && o != x && !o.planned() {
			e.forget(o)
		}
	}
}

// nextName is an ID that no entry ever had.
func (e *Engine) nextName() uint64 {
	e.last.Expectation++
	return e.last.Expectation
}

// planned tells whether the job at hand still needs the entry.
func (x *entry) planned() bool {
	if j := x.session.job; j != nil {
		for i := range j.plans {
			if j.plans[i].entry == x {
				return true
			}
		}
	}
	return false
}

// rename gives x another name.
func (e *Engine) rename(x *entry) {
	e.entries.unlink(byID, x)
	x.links[byID].hash = e.nextName()
	e.entries.link(byID, x)
	e.renamed(x)
}

// move gives x another place, and another name.
func (e *Engine) move(x *entry, at netip.AddrPort) {
	e.unnamed(x)
	x.at, x.links[byID].hash = at, e.nextName()
	e.named(x)
	e.renamed(x)
}

// renew takes over what a later announcement of the same end point says.
func (e *Engine) renew(x, by *entry) {
	e.entries.unlink(byGroup, x)
	x.said, x.from, x.timeout, x.note = by.said, by.from, by.timeout, by.note
	x.reserved = x.reserved || by.reserved
	master := *by.master
	master.Session = x.master.Session // it may be announced again in another flow of the family
	x.toward, x.nat, x.master, x.announced = by.toward, by.nat, x.session.master(&master), by.announced
	e.entries.link(byGroup, x)
}

// regroup gives x another group.
func (e *Engine) regroup(x *entry, g helpers.Group) {
	e.entries.unlink(byGroup, x)
	x.said.Group = g
	e.entries.link(byGroup, x)
}

func (e *Engine) setPending(x *entry, p *peer) {
	x.pending, x.used, x.again, x.owner, x.class = true, false, false, p, x.said.Class
	own := &x.session.extra.list
	own.pending++
	own.classes[x.class]++
	p.pending++
	e.pending++
}

// unsetPending says that x is pending no more: used, expired, cancelled or refused. Who waits for its place has it.
func (e *Engine) unsetPending(x *entry) {
	was := x.pending
	if e.unset(x); was {
		e.succeed(x)
	}
}

// unset says that x is neither pending, nor waits.
func (e *Engine) unset(x *entry) {
	if x.waits {
		x.waits = false
		e.heirs--
		e.letSleep(x)
	}
	if !x.pending {
		return
	}
	x.pending, x.asked = false, false
	own := &x.session.extra.list
	own.pending--
	own.classes[x.class]--
	x.owner.pending--
	x.owner = nil
	e.pending--
	e.letSleep(x)
}

// forget takes x out of all tables.
func (e *Engine) forget(x *entry) {
	e.unsetPending(x)
	if !x.listed {
		return
	}
	e.letSleep(x)
	e.unlist(x)
	if len(e.spent) < maxSpare {
		e.spent = append(e.spent, x)
	}
	if x.session.job == nil { // else something may be announced in its stead
		x.session.slim()
	}
}

// reclaim makes spares of forgotten entries. Plans may look at theirs as long as a job is under way.
func (e *Engine) reclaim() {
	for i, x := range e.spent {
		*x = entry{}
		e.spares.Give(x, maxSpare)
		e.spent[i] = nil
	}
	e.spent = e.spent[:0]
}

// known is the entry of the same end point: of the same group, and if it is a registration that is a group of its own,
// which every later one replaces, of any.
func (e *Engine) known(x *entry) *entry {
	var found *entry
	s := x.session
	for y := range e.owned(s, x.said.Transport, x.to, x.master.Zone) {
		same := y.said.Group.ID == x.said.Group.ID
		switch {
		case y.said.Owner != x.said.Owner:
		case (y.pending || y.waits) && !overlap(y.from, x.from): // for somebody else
		case y.session == s && y.pending && (same || y.said.Permanent && y.said.Group.Part == 0):
			return y
		case same && (found == nil || y.session == s && found.session != s):
			found = y
		}
	}
	return found
}

// announcedBefore tells whether the same end point was announced before in the same group, whoever was to connect to it.
func (e *Engine) announcedBefore(x *entry) bool {
	for y := range e.owned(x.session, x.said.Transport, x.to, x.master.Zone) {
		if y.said.Owner == x.said.Owner && y.said.Group.ID == x.said.Group.ID {
			return true
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
		all := slices.Collect(e.grouped(s, g)) // the newest first
		e.fetchEntries(all)
		for _, x := range slices.Backward(all) {
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
		e.request(Request{Remove: x.id()})
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
// port on the other side, or an end point that the other side may yet open, or of a call say who connects to it.
func (e *Engine) retire(x *entry) {
	e.unsetPending(x)
	if !x.translated && !x.reserved && !x.session.helper.PerPair {
		e.forget(x)
	}
	e.maybeOver(x.session)
}

// match is the entry that a connection meets, the one that says most of its initiator.
func (e *Engine) match(c *Conn, fits func(*entry) bool) *entry {
	if e.mappings == 0 {
		return nil
	}
	by := pack(c.Transport, c.Orig, 0)
	var found *entry
	for x := e.seenAt(c.Transport, c.Orig.Dst, c.Zone); x != nil; x = x.next(byAt) {
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
	if y := e.partner(x); y != nil {
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
func (e *Engine) partner(x *entry) *entry {
	to := netip.AddrPortFrom(x.to.Addr(), x.to.Port()^1)
	for y := range e.owned(x.session, x.said.Transport, to, x.master.Zone) {
		if x.pairs(y) {
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
	for y := e.seenAt(x.said.Transport, at, x.master.Zone); y != nil; y = y.next(byAt) {
		if y != x && y.blocks(x) && !(y.session == x.session && y.to == x.to) {
			return false
		}
	}
	if !x.translated {
		return true
	}
	half := netip.AddrPortFrom(at.Addr(), at.Port()^1)
	for y := e.seenAt(x.said.Transport, half, x.master.Zone); y != nil; y = y.next(byAt) {
		if y != x && (x.said.Paired || y.said.Paired) && y.blocks(x) && !x.pairs(y) {
			return false
		}
	}
	return true
}

// blocks tells whether x cannot be where y is.
func (y *entry) blocks(x *entry) bool { return (y.pending || y.translated) && overlap(y.from, x.from) }
