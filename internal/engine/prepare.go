package engine

import (
	"unsafe"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/packet"
)

const (
	batch = 32   // packets whose memory is fetched at once: more than a processor has requests under way
	few   = 4096 // flows that a processor's cache holds anyway
)

// Prepare reads what Handle will need for the packets that are next, and changes nothing. Among many flows nearly all of
// a packet's time is waiting for memory: for its slot, then its flow, then its session. Here the packets of a batch wait
// for theirs together.
func (e *Engine) Prepare(packets [][]byte) {
	if e.flows.count < few {
		return
	}
	for len(packets) > batch {
		e.fetch(packets[:batch])
		packets = packets[batch:]
	}
	if len(packets) > 1 {
		e.fetch(packets)
	}
}

// fetch has a loop for each step, so that the processor need not wait for one packet's memory to ask for the next one's.
func (e *Engine) fetch(packets [][]byte) {
	var hashes [batch]uint32
	var flows [batch]*flow
	var sessions [batch]*session
	n := 0
	for _, data := range packets {
		var v packet.View
		if v.Decode(data) == nil {
			k := show(&v, 0)
			hashes[n] = e.flows.hash(&k)
			n++
		}
	}
	mask := uint32(len(e.flows.slots) - 1)
	for i, h := range hashes[:n] {
		if s := &e.flows.slots[h&mask]; s.place > 0 {
			flows[i] = e.flows.at(int(s.place - 1))
		}
	}
	for i, f := range flows[:n] {
		if f != nil {
			sessions[i] = f.session
			e.fetched += uint32(f.key.transport) + f.dirs[0].next + f.dirs[1].next + f.place
		}
	}
	for _, s := range sessions[:n] {
		if s == nil || s.job != nil {
			continue
		}
		if b := helperState(&s.impl); b != nil {
			e.fetched += uint32(*b)
		}
	}
}

// helperState is the first byte of a helper's session, whatever it is: the second word of an interface is a pointer.
func helperState(s *helpers.Session) *byte {
	return (*[2]*byte)(unsafe.Pointer(s))[1]
}
