package engine

import (
	"container/heap"
	"time"
)

// timer is a moment at which a flow or an entry has to be looked at.
type timer struct {
	when  time.Time
	place int // in the heap, from 1; 0: not set
	flow  *flow
	entry *entry
}

// timers are those that are set, the first one in front.
type timers []*timer

func (h timers) Len() int { return len(h) }

// Less puts the first one in front; at the same moment expectations come in the order of their announcement.
func (h timers) Less(i, j int) bool {
	a, b := h[i], h[j]
	if c := a.when.Compare(b.when); c != 0 || a.entry == nil || b.entry == nil {
		return c < 0
	}
	return a.entry.id < b.entry.id
}

func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}
func (h *timers) Push(x any) {
	t := x.(*timer)
	*h = append(*h, t)
	t.place = len(*h)
}
func (h *timers) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.place = 0
	return t
}

func (h *timers) set(t *timer, when time.Time) {
	t.when = when
	if t.place > 0 {
		heap.Fix(h, t.place-1)
	} else {
		heap.Push(h, t)
	}
}

func (h *timers) clear(t *timer) {
	if t.place > 0 {
		heap.Remove(h, t.place-1)
	}
}

// due takes the first timer that has run out at now.
func (h *timers) due(now time.Time) *timer {
	if len(*h) == 0 || (*h)[0].when.After(now) {
		return nil
	}
	return heap.Pop(h).(*timer)
}

// expire does what is due, until a session waits for answers: Resume goes on.
func (e *Engine) expire() {
	for e.step.Ticket == 0 {
		t := e.timers.due(e.now)
		switch {
		case t == nil:
			e.ticking = false
			return
		case t.entry != nil:
			e.cause = cause{time: e.now}
			e.expired(t.entry)
		case t.flow.closed(), t.flow.cut() && !e.now.Before(t.flow.extra.cut):
			e.drop(t.flow)
		default:
			e.cause = cause{time: e.now}
			e.waited(t.flow)
			if f := t.flow; f.cut() && t.place == 0 {
				e.timers.set(t, f.extra.cut)
			}
			t.flow.slim()
		}
	}
}
