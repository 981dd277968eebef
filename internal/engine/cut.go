package engine

import (
	"errors"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// cutTime is how long a flow without an entry in conntrack is remembered.
const cutTime = 10 * time.Minute

// cut tells that conntrack has lost the flow's entry.
func (f *flow) cut() bool { return f.extra != nil && !f.extra.cut.IsZero() }

// mayComeBack tells whether the flow's ends do not know that its entry is gone, and it has its session for itself. What
// nobody has answered is not kept: single packets of invented clients must not fill the table for so long.
func (f *flow) mayComeBack() bool {
	return f.transport() == helpers.TCP && !f.closed() && f.idle() && f.session.flows == 1 && len(f.waiting()) == 0 &&
		!f.dirs[0].finished && !f.dirs[1].finished && f.dirs[0].known && f.dirs[1].known
}

// cutOff keeps a flow that has lost its entry. What it announced is taken back, as at its end.
func (e *Engine) cutOff(f *flow) {
	for x := range f.session.entries() {
		if x.pending {
			e.cancelEntry(x, CancelFlowEnded)
		}
		e.forget(x)
	}
	if f.changed() {
		for dir := range f.nat.journals {
			f.nat.journals[dir].kernel = SeqAdjust{}
		}
	}
	e.cuts++
	e.more(f).cut = e.now.Add(cutTime)
	e.wakeFlow(f, f.extra.cut)
}

// rejoin goes on with a flow that was cut off, at its next packet; false: the packet is of another connection. What the
// kernel has forgotten of its numbers it is told again.
func (e *Engine) rejoin(f *flow, p *Packet, v *packet.View) bool {
	c, ok := e.connection(p, v)
	if !ok || c.Unconfirmed {
		return true // not in the table yet: nobody adjusts its numbers but the journal
	}
	if seenAs(&c, f.key.zone) != [2]key{f.key, f.seen(helpers.Reply)} {
		return false
	}
	if e.complete != nil {
		e.complete(&c)
	}
	f.extra.cut = time.Time{}
	e.clear(&f.extra.timer, f.alarm())
	f.adjustable, f.mark = c.Adjustable, c.Mark
	if !f.changed() {
		return true
	}
	for dir := range f.nat.journals {
		j := &f.nat.journals[dir]
		j.kernel = c.Adjust[dir]
		if want := j.adjust(); want != j.kernel && f.adjustable {
			j.kernel = want
			e.request(Request{Adjust: &Adjust{
				Transport: helpers.TCP, Orig: f.orig(), Zone: f.zone, Dir: helpers.Dir(dir), SeqAdjust: want,
			}})
		}
	}
	return true
}

// stray tells whether a packet of no connection is an answer of one under NAT, which is not translated any more since
// conntrack has lost its entry. Of the translated packets of its connection it has the tuple the other way round.
func (e *Engine) stray(p *Packet, v *packet.View) bool {
	if v.Transport() != helpers.TCP || v.Flags()&packet.SYN != 0 || p.Conn != nil && !p.Conn.Unconfirmed {
		return false
	}
	k := show(v)
	k = k.turned()
	if p.Conn != nil {
		k.zone = p.Conn.Zone
	}
	if f, dir := e.flows.find(&k); f == nil || dir != helpers.Original || f.nat == nil || f.closed() {
		return false
	}
	if p.Conn != nil {
		return true
	}
	if e.lookup == nil {
		return false
	}
	for _, t := range []helpers.Tuple{v.Tuple(), v.Tuple().Turned()} { // the other one: it is queued before NAT
		if _, err := e.lookup(v.Transport(), t); !errors.Is(err, ErrNotTracked) {
			return false
		}
	}
	return true
}

// doubtful tells whether a packet's numbers may be moved by an entry that is gone: they would be moved twice, or not.
func (e *Engine) doubtful(seen *prepared) bool {
	k := seen.key
	k.zone = 0
	f, _ := e.flows.findHashed(&k, seen.hash)
	return f != nil && f.cut() && f.changed()
}

// Cuts is how many connections have lost their entries until now, and are remembered.
func (e *Engine) Cuts() uint64 { return e.cuts }

// adjust is the kernel's part of what the journal does: its newest edit and all before it.
func (j *journal) adjust() SeqAdjust {
	n := len(j.steps)
	switch n {
	case 0:
		return SeqAdjust{Before: j.base, After: j.base}
	case 1:
		return SeqAdjust{Pos: j.steps[0].start, Before: j.base, After: j.steps[0].after}
	}
	return SeqAdjust{Pos: j.steps[n-1].start, Before: j.steps[n-2].after, After: j.steps[n-1].after}
}
