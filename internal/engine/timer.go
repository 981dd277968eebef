package engine

import (
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/expect"
)

// timer is a moment at which a flow or an entry has to be looked at, in nanoseconds of Unix time.
type timer struct {
	when   int64 // 0: not set
	queued int64 // of its alarm; 0: it has none
}

func (t *timer) set() bool { return t.when != 0 }

func (t *timer) time() time.Time {
	if !t.set() {
		return time.Time{}
	}
	return time.Unix(0, t.when)
}

// timers are the alarms of all timers. An alarm names its flow or entry and does not know where that is: so moving it
// costs no look at the other's memory, and a timer that is cleared, or set to a later moment, leaves it where it is until
// its turn comes, or until there are too many such. The first one is always right.
type timers struct {
	line []alarm // in their order: most are set to a moment behind all others
	gone int     // of line
	heap []alarm // the others, the first one in front
	idle int     // alarms whose timers are not set
}

// alarm is when to look at a timer.
type alarm struct {
	when int64
	of   uint64 // twice the name of an entry, or twice the place of a flow and 1
}

func (x *entry) alarm() uint64 { return uint64(x.id()) << 1 }
func (f *flow) alarm() uint64  { return uint64(f.place)<<1 | 1 }

// before puts expectations of one moment in the order of their announcement.
func (a alarm) before(b alarm) bool { return a.when < b.when || a.when == b.when && a.of < b.of }

func (h *timers) count() int { return len(h.line) - h.gone + len(h.heap) }

// first is the first alarm; there is one.
func (h *timers) first() alarm {
	if h.inLine() {
		return h.line[h.gone]
	}
	return h.heap[0]
}

func (h *timers) inLine() bool {
	return h.gone < len(h.line) && (len(h.heap) == 0 || h.line[h.gone].before(h.heap[0]))
}

func (h *timers) push(a alarm) {
	if n := len(h.line); n == h.gone || !a.before(h.line[n-1]) {
		if n == cap(h.line) && h.gone > n/2 {
			h.line, h.gone = h.line[:copy(h.line, h.line[h.gone:])], 0
		}
		h.line = append(h.line, a)
		return
	}
	h.heap = append(h.heap, a)
	i := len(h.heap) - 1
	for i > 0 && a.before(h.heap[(i-1)/2]) {
		h.heap[i] = h.heap[(i-1)/2]
		i = (i - 1) / 2
	}
	h.heap[i] = a
}

// pop takes the first alarm out.
func (h *timers) pop() {
	if h.inLine() {
		h.gone++
		return
	}
	last := len(h.heap) - 1
	a := h.heap[last]
	if h.heap = h.heap[:last]; last > 0 {
		h.down(0, a)
	}
}

// down puts a into the heap at i or behind it.
func (h *timers) down(i int, a alarm) {
	for {
		least := 2*i + 1
		if least+1 < len(h.heap) && h.heap[least+1].before(h.heap[least]) {
			least++
		}
		if least >= len(h.heap) || !h.heap[least].before(a) {
			break
		}
		h.heap[i] = h.heap[least]
		i = least
	}
	h.heap[i] = a
}

// timed is whose alarm it is, and the timer; nil: there is none any more.
func (e *Engine) timed(a alarm) (*flow, *entry, *timer) {
	if a.of&1 == 0 {
		if x := e.byName(expect.ID(a.of >> 1)); x != nil {
			return nil, x, &x.timer
		}
		return nil, nil, nil
	}
	f := e.flows.at(int(a.of >> 1))
	if f.extra == nil {
		return nil, nil, nil
	}
	return f, nil, &f.extra.timer
}

func (e *Engine) wakeEntry(x *entry, when time.Time) { e.set(&x.timer, x.alarm(), when) }

func (e *Engine) wakeFlow(f *flow, when time.Time) { e.set(&e.more(f).timer, f.alarm(), when) }

func (e *Engine) set(t *timer, of uint64, when time.Time) {
	at := when.UnixNano()
	if at == 0 {
		at = 1
	}
	h := &e.timers
	if t.queued != 0 && !t.set() {
		h.idle--
	}
	if t.when = at; t.queued != 0 && t.queued <= at {
		e.rightFirst(of)
		return
	}
	if t.queued != 0 {
		h.idle++
	}
	t.queued = at
	h.push(alarm{at, of})
}

func (e *Engine) letSleep(x *entry) { e.clear(&x.timer, x.alarm()) }

func (e *Engine) clear(t *timer, of uint64) {
	if !t.set() {
		return
	}
	t.when = 0
	h := &e.timers
	h.idle++
	if e.rightFirst(of); h.idle > 64 && h.idle > h.count()/2 {
		e.tidy()
	}
}

// renamed gives an entry's timer another alarm: the one that it has names nobody any more.
func (e *Engine) renamed(x *entry) {
	t, h := &x.timer, &e.timers
	if t.queued = 0; t.set() {
		h.idle++
		t.queued = t.when
		h.push(alarm{t.when, x.alarm()})
	}
	e.findFirst()
}

// rightFirst has the first alarm be right again if it is of what has changed.
func (e *Engine) rightFirst(of uint64) {
	if h := &e.timers; h.count() > 0 && h.first().of == of {
		e.findFirst()
	}
}

// findFirst throws alarms away until the first one is right.
func (e *Engine) findFirst() {
	h := &e.timers
	for h.count() > 0 {
		a := h.first()
		t, kept := e.judged(a)
		if kept && t.when == a.when {
			return
		}
		if h.pop(); kept {
			t.queued = t.when
			h.push(alarm{t.when, a.of})
		} else {
			h.idle--
		}
	}
}

// judged gives an alarm's timer, and tells whether it is set; if not, the alarm is to be thrown away.
func (e *Engine) judged(a alarm) (*timer, bool) {
	_, _, t := e.timed(a)
	if t == nil || t.queued != a.when {
		return nil, false
	}
	if !t.set() {
		t.queued = 0
	}
	return t, t.set()
}

// tidy throws all alarms away whose timers are not set.
func (e *Engine) tidy() {
	h := &e.timers
	useless := func(a alarm) bool {
		_, kept := e.judged(a)
		return !kept
	}
	h.line, h.gone = slices.DeleteFunc(h.line[h.gone:], useless), 0
	h.heap = slices.DeleteFunc(h.heap, useless)
	h.idle = 0
	for i := len(h.heap)/2 - 1; i >= 0; i-- {
		h.down(i, h.heap[i])
	}
}

// due takes the first timer that has run out.
func (e *Engine) due() (*flow, *entry) {
	h := &e.timers
	if h.count() == 0 || h.first().when > e.now.UnixNano() {
		return nil, nil
	}
	f, x, t := e.timed(h.first())
	*t = timer{}
	h.pop()
	e.findFirst()
	return f, x
}

// expire does what is due, until a session waits for answers: Resume goes on.
func (e *Engine) expire() {
	for e.step.Ticket == 0 {
		f, x := e.due()
		switch {
		case x != nil:
			e.cause = cause{time: e.now}
			e.expired(x)
		case f == nil:
			e.ticking = false
			return
		case f.closed(), f.cut() && !e.now.Before(f.extra.cut):
			e.drop(f)
		default:
			e.cause = cause{time: e.now}
			e.waited(f)
			if f.cut() && !f.extra.timer.set() {
				e.wakeFlow(f, f.extra.cut)
			}
			e.slim(f)
		}
	}
}
