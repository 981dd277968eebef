package engine

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/expect"
)

// maxHeirs is how many announcements may wait for an end point that is open already.
const maxHeirs = 64

// Two calls may announce one end point: a proxy that forks, music on hold, a transfer. The kernel has room for one
// expectation of it, so the others wait: when what is open is cancelled, used or over, the next one is opened.

// opener is who has opened the end point of x for somebody whom x allows too; nil: nobody, or at another port.
func (e *Engine) opener(x *entry, anywhere bool) *entry {
	for y := e.standingAt(x.said.Transport, x.to, x.master.Zone); y != nil; y = y.next(byTo) {
		if y != x && y.pending && overlap(y.from, x.from) && (y.at == x.at || anywhere && y.session == x.session) {
			return y
		}
	}
	return nil
}

// stand has x wait until its end point is free.
func (e *Engine) stand(x *entry, until time.Time) {
	e.unset(x)
	x.waits = true
	e.heirs++
	e.wakeEntry(x, until)
}

// stepBack closes x for one that allows more, and has it wait.
func (e *Engine) stepBack(x *entry) {
	until := x.timer.time()
	if !x.timer.set() { // its answer is still to come
		until = e.now.Add(x.timeout)
	}
	if x.asked {
		e.request(Request{Remove: x.id()})
	}
	e.tellEntry(EventCancel, x, CancelReplaced)
	e.stand(x, until)
}

// outgrown tells whether somebody waits for the end point of x who would be shut out if it were open for from only.
func (e *Engine) outgrown(x *entry, from netip.AddrPort) bool {
	if e.heirs == 0 {
		return false
	}
	for y := e.seenAt(x.said.Transport, x.at, x.master.Zone); y != nil; y = y.next(byAt) {
		if y.waits && overlap(y.from, x.from) && !covers(from, y.from) {
			return true
		}
	}
	return false
}

// succeed opens what waits for the end point that x had: first who allows most, and of these the oldest.
func (e *Engine) succeed(x *entry) {
	if e.heirs == 0 {
		return
	}
	var heirs, open []*entry
	for y := e.seenAt(x.said.Transport, x.at, x.master.Zone); y != nil; y = y.next(byAt) {
		switch {
		case y.waits:
			heirs = append(heirs, y)
		case y.pending:
			open = append(open, y)
		}
	}
	slices.Reverse(heirs)
	slices.SortStableFunc(heirs, func(a, b *entry) int { return cmp.Compare(wildness(b.from), wildness(a.from)) })
	for _, y := range heirs {
		if !slices.ContainsFunc(open, func(o *entry) bool { return overlap(o.from, y.from) }) && e.inherit(y) {
			open = append(open, y)
		}
	}
}

// wildness is how much of an initiator is left open.
func wildness(a netip.AddrPort) (n int) {
	if open(a) {
		n += 2
	}
	if a.Port() == 0 {
		n++
	}
	return n
}

// inherit opens x, which has waited; false: a limit forbids it. Nothing waits for the kernel's answer: what it refuses
// runs out.
func (e *Engine) inherit(x *entry) bool {
	until := x.timer.time()
	e.unset(x)
	p := e.peer(x.to.Addr())
	if r := e.room(x.session, x.said.Class, p); r != "" {
		e.stats.Refused[r]++
		e.tellEntry(EventRefuse, x, r)
		e.maybeOver(x.session)
		return false
	}
	e.rename(x)
	x.timeout = max(time.Second, until.Sub(e.now).Round(time.Second)) // to the kernel mostly what its class has
	e.setPending(x, p)
	x.asked, x.session.shadow = true, true
	e.wakeEntry(x, until)
	asked := new(expect.Request)
	x.ask(asked)
	e.request(Request{Place: asked})
	e.stats.Announced++
	e.tellEntry(EventExpect, x, "")
	return true
}

// bound forgets the oldest that waits for the end point of x if there are too many.
func (e *Engine) bound(x *entry) {
	n, oldest := 0, x
	for y := e.seenAt(x.said.Transport, x.at, x.master.Zone); y != nil; y = y.next(byAt) {
		if y.waits {
			n, oldest = n+1, y
		}
	}
	if n > maxHeirs && !oldest.planned() {
		e.forget(oldest)
		e.maybeOver(oldest.session)
	}
}
