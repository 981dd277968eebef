package engine

import (
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// cutTime is how long a flow without an entry in conntrack is remembered.
const cutTime = 10 * time.Minute

// cut tells that conntrack has lost the flow's entry.
func (f *flow) cut() bool { return f.extra != nil && f.extra.cut }

// mayComeBack tells whether the flow's ends do not know that its entry is gone, and it has its session for itself. What
// nobody has answered is not kept: single packets of invented clients must not fill the table for so long.
func (f *flow) mayComeBack() bool {
	return f.transport() == helpers.TCP && !f.closed() && f.idle() && f.session.flows == 1 && len(f.waiting()) == 0 &&
		!f.dirs[0].finished && !f.dirs[1].finished && f.dirs[0].known && f.dirs[1].known
}

// cutOff keeps a flow that has lost its entry. What it announced is taken back, as at its end.
func (e *Engine) cutOff(f *flow) {
	for _, x := range slices.Clone(f.session.entries()) {
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
	f.more().cut = true
	e.timers.set(&f.extra.timer, e.now.Add(cutTime))
}

// rejoin goes on with a flow that was cut off, at its next packet; false: the packet is of another connection. What the
// kernel has forgotten of its numbers it is told again.
func (e *Engine) rejoin(f *flow, p *Packet, v *packet.View) bool {
	c, ok := e.connection(p, v)
	if !ok {
		return true // not in the table yet: nobody adjusts its numbers but the journal
	}
	if seenAs(&c, f.key.zone) != [2]key{f.key, f.seen(helpers.Reply)} {
		return false
	}
	f.extra.cut = false
	e.timers.clear(&f.extra.timer)
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
