package engine

import (
	"unsafe"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// fetches is how many packets' memory is fetched at once: more than a processor has requests under way.
const fetches = 32

// prepared is what Prepare has found out about a packet.
type prepared struct {
	view packet.View
	key  key // without the zone, which Prepare does not know
	hash uint32
}

// Prepare looks at the packets that are next, in the order in which Handle will get them, and changes nothing. Most of a
// packet's time here is waiting for memory: for its slot, then its flow, then its session. The packets of a batch wait
// for theirs together. Their bytes must not change before Handle gets them.
func (e *Engine) Prepare(packets [][]byte) {
	e.prepared, e.handled = e.prepared[:0], 0
	for _, data := range packets {
		var p prepared
		if p.view.Decode(data) == nil {
			p.key = show(&p.view)
			p.hash = e.flows.hash(&p.key)
			e.prepared = append(e.prepared, p)
		}
	}
	for rest := e.prepared; len(rest) > 0; rest = rest[min(fetches, len(rest)):] {
		e.fetch(rest[:min(fetches, len(rest))])
	}
}

// decode is what Prepare has found out about the packet at hand, or what is found out now; nil: it cannot be decoded.
func (e *Engine) decode(data []byte) *prepared {
	if e.handled < len(e.prepared) {
		if p := &e.prepared[e.handled]; len(data) > 0 && unsafe.SliceData(data) == unsafe.SliceData(p.view.Data()) {
			e.handled++
			return p
		}
	}
	p := &e.single
	if p.view.Decode(data) != nil {
		return nil
	}
	p.key = show(&p.view)
	p.hash = e.flows.hash(&p.key)
	return p
}

// fetch has a loop for each step, so that the processor need not wait for one packet's memory to ask for the next one's.
func (e *Engine) fetch(packets []prepared) {
	var flows [fetches]*flow
	var sessions [fetches]*session
	mask := uint32(len(e.flows.slots) - 1)
	for i := range packets {
		if s := &e.flows.slots[packets[i].hash&mask]; s.place > 0 {
			flows[i] = e.flows.at(int(s.place - 1))
		}
	}
	for i, f := range flows[:len(packets)] {
		if f != nil {
			sessions[i] = f.session
			e.fetched += uint32(f.key.transport) + f.dirs[0].next + f.dirs[1].next + f.place
		}
	}
	for _, s := range sessions[:len(packets)] {
		if s == nil || s.job != nil {
			continue
		}
		if b := helperState(&s.impl); b != nil {
			e.fetched += uint32(*b)
		}
	}
}

// fetchEntries does so for entries that are taken out together: with many calls, each is in a slot of its own in each index.
func (e *Engine) fetchEntries(entries []*entry) {
	for _, x := range entries {
		for way := range x.links {
			if *e.entries.indexes[way].slot(x.links[way].hash) != nil {
				e.fetched++
			}
		}
		e.fetched += uint32(x.class)
	}
}

// helperState is the first byte of a helper's session, whatever it is: the second word of an interface is a pointer.
func helperState(s *helpers.Session) *byte {
	return (*[2]*byte)(unsafe.Pointer(s))[1]
}
