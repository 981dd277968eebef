package engine

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/packet"
)

const (
	maxWaiting = 64 // packets of a flow that wait for bytes before them
	fewWaiting = 4  // room for so many is kept
	maxCopies  = 3  // the copy of held bytes that lets them go
	busyPause  = 10 * time.Millisecond
	// tooLate is how long a packet may wait behind a hole and leave all the same: longer than the wire disorders packets, and
	// less than any TCP's clock waits (RFC 6298; Linux 200 ms).
	tooLate = 100 * time.Millisecond
	// spareCopy is how long a packet may be whose memory another one gets.
	spareCopy = 2048
)

// waiting is a packet whose verdict is not given yet.
type waiting struct {
	id      uint64
	time    time.Time
	dir     helpers.Dir
	bare    bool   // nothing but an acknowledgement
	behind  bool   // when it came, bytes before it were missing
	end     uint32 // behind its last byte
	size    int
	data    *[]byte // under NAT: the packet
	payload []byte  // of a datagram that was changed
}

// idle tells that no answer is awaited before packets of f may leave.
func (f *flow) idle() bool { return f.closed() || f.session.job == nil }

// decided tells whether all bytes of w are as they will leave.
func (f *flow) decided(w *waiting) bool {
	d := &f.dirs[w.dir]
	return f.nat == nil || f.closed() || w.bare || d.ended || ahead(w.end, d.released) <= 0
}

// repeated tells whether w waited behind a hole until its sender's clock filled that. The sender has taken w for lost by
// then, and repeats it. If it left, its acknowledgement would be a measure of the round trip: the clock would be set to more
// than the wait (RFC 6298 section 2), the next hole would stay open for longer than that, and so on until HoldTime.
func (e *Engine) repeated(f *flow, w *waiting) bool {
	return w.behind && !f.closed() && ahead(w.end, f.dirs[w.dir].next) <= 0 && e.now.Sub(w.time) >= tooLate
}

// stalled tells whether w, a copy from seq on, says that its sender's clock has run out over held bytes, with more under way
// behind them. He sends nothing else before it is acknowledged (RFC 5681 section 3.1): the rest of the message does not come.
func (e *Engine) stalled(f *flow, w *waiting, seq uint32) bool {
	d, wait := &f.dirs[w.dir], f.waiting()
	if ahead(seq, d.released) > 0 || ahead(d.next, w.end) <= 0 && len(f.chunks(w.dir)) == 0 {
		return false
	}
	first := slices.IndexFunc(wait, func(x waiting) bool { return x.dir == w.dir && !f.decided(&x) })
	return first >= 0 && e.now.Sub(wait[first].time) >= tooLate
}

// hold has a packet wait.
func (e *Engine) hold(f *flow, w waiting) {
	x := e.more(f)
	x.wait = append(x.wait, w)
	e.held++
}

// settle lets go the packets that are decided, in the order of their arrival, and those that waited in vain.
func (e *Engine) settle(f *flow) {
	if !f.idle() || len(f.waiting()) == 0 {
		return
	}
	e.letGo(f)
	if len(f.waiting()) == 0 {
		return
	}
	for dir := range f.dirs {
		d := &f.dirs[dir]
		n, size := f.held(helpers.Dir(dir))
		if n > e.limits.HoldSegs || size > e.limits.HoldBytes || n > 0 && d.copies >= maxCopies {
			e.heldOut(f, helpers.Dir(dir))
		}
	}
	e.letGo(f)
	if wait := f.waiting(); len(wait) > maxWaiting || len(wait) > 0 && e.held > e.limits.HoldAll {
		e.stats.HeldOut += uint64(len(wait))
		for i := range wait {
			f.dirs[wait[i].dir].release(wait[i].end)
		}
		e.letGo(f)
	}
	if wait := f.waiting(); len(wait) > 0 {
		e.wakeFlow(f, wait[0].time.Add(e.limits.HoldTime))
	}
}

// heldOut lets the held bytes of a direction go, unchanged.
func (e *Engine) heldOut(f *flow, dir helpers.Dir) {
	n, _ := f.held(dir)
	e.stats.HeldOut += uint64(n)
	d := &f.dirs[dir]
	d.release(d.next)
	d.copies = 0
}

// held counts the packets that wait for the rest of a message; others wait behind a hole.
func (f *flow) held(dir helpers.Dir) (n, size int) {
	wait := f.waiting()
	for i := range wait {
		if w := &wait[i]; w.dir == dir && !f.decided(w) && ahead(w.end, f.dirs[dir].next) <= 0 {
			n++
			size += w.size
		}
	}
	return n, size
}

// copied is a copy of a packet that waits, in memory that an earlier one had.
func (e *Engine) copied(data []byte) *[]byte {
	b := e.copies.Take()
	*b = append((*b)[:0], data...)
	return b
}

// reuse keeps the memory of a copy for another one.
func (e *Engine) reuse(w *waiting) {
	if w.data != nil && cap(*w.data) <= spareCopy {
		e.copies.Give(w.data, maxSpare)
	}
}

// letGo gives the verdicts of all packets that are decided.
func (e *Engine) letGo(f *flow) {
	x := f.extra
	kept := x.wait[:0]
	for i := range x.wait {
		w := &x.wait[i]
		if !f.decided(w) {
			kept = append(kept, *w)
			continue
		}
		if e.repeated(f, w) {
			e.stats.Behind++
			e.step.Verdicts = append(e.step.Verdicts, Verdict{ID: w.id, Drop: true})
		} else {
			e.verdict(f, w)
		}
		e.reuse(w)
	}
	e.held -= len(x.wait) - len(kept)
	clear(x.wait[len(kept):])
	if x.wait = kept; len(kept) == 0 && cap(kept) > fewWaiting {
		x.wait = nil
	}
}

// leave gives the verdicts of all packets that wait.
func (e *Engine) leave(f *flow) {
	wait := f.waiting()
	for i := range wait {
		e.verdict(f, &wait[i])
	}
	e.held -= len(wait)
	if f.extra != nil {
		f.extra.wait = nil
	}
}

func (e *Engine) verdict(f *flow, w *waiting) {
	if w.data == nil || w.payload == nil && !f.changed() {
		e.step.Verdicts = append(e.step.Verdicts, Verdict{ID: w.id})
		return
	}
	var v packet.View
	if v.Decode(*w.data) != nil {
		e.step.Verdicts = append(e.step.Verdicts, Verdict{ID: w.id}) // cannot be: it was decoded before
		return
	}
	if w.payload != nil {
		e.rebuilt(w.id, &v, packet.Change{Payload: w.payload})
		return
	}
	e.pass(f, w.dir, w.id, &v)
}

// waited is called when the first packet of f that waits has waited for long enough. What waits behind a hole leaves,
// and cannot be changed any more; the session gets it when the hole is filled.
func (e *Engine) waited(f *flow) {
	wait := f.waiting()
	if len(wait) == 0 {
		return
	}
	if !f.idle() {
		e.wakeFlow(f, e.now.Add(busyPause))
		return
	}
	for i := range wait {
		w := &wait[i]
		if w.time.Add(e.limits.HoldTime).After(e.now) || f.decided(w) {
			continue
		}
		d := &f.dirs[w.dir]
		e.heldOut(f, w.dir)
		if !f.decided(w) {
			d.release(w.end)
			e.stats.HeldOut++
		}
	}
	e.settle(f)
}

// pass gives the verdict of a packet of f as it has to leave: with the bytes and numbers of the journal.
func (e *Engine) pass(f *flow, dir helpers.Dir, id uint64, v *packet.View) {
	if !f.changed() || v.Transport() != helpers.TCP || f.nat.journals[0].idle() && f.nat.journals[1].idle() {
		e.step.Verdicts = append(e.step.Verdicts, Verdict{ID: id})
		return
	}
	own, other := &f.nat.journals[dir], &f.nat.journals[dir.Other()]
	first := v.Seq() // of the payload
	if v.Flags()&packet.SYN != 0 {
		first++
	}
	c := packet.Change{Payload: v.Payload(), Seq: own.sequence(v.Seq()), Ack: v.Ack()}
	changed := c.Seq != v.Seq()
	if v.Flags()&packet.ACK != 0 {
		c.Ack = other.acknowledged(v.Ack())
		changed = changed || c.Ack != v.Ack()
		for at := range v.SACK() {
			edge := binary.BigEndian.Uint32(v.Data()[at:])
			changed = changed || other.acknowledged(edge) != edge
		}
		c.Edge = other.acknowledged
	}
	if own.touched(first, len(c.Payload)) {
		e.bytes = own.append(e.bytes[:0], first, c.Payload)
		c.Payload, changed = e.bytes, true
		if room := v.Room(); len(c.Payload) > room {
			// Over IPv6 it may not fit into the next link, and nobody cuts it. Without its end it fits: that is lost as far
			// as the sender knows, and comes again in a segment of its own. Where segments were kept short at the
			// connection's beginning (internal/rules) this is rare; else a busy sender loses all that it sends.
			c.Payload, c.Clear = c.Payload[:room], packet.FIN|packet.PSH
		}
	}
	if !changed {
		e.step.Verdicts = append(e.step.Verdicts, Verdict{ID: id})
		return
	}
	e.rebuilt(id, v, c)
}

// rebuilt gives the verdict of a changed packet.
func (e *Engine) rebuilt(id uint64, v *packet.View, c packet.Change) {
	start := len(e.out)
	b, ok := v.Append(e.out, c)
	if !ok {
		e.step.Verdicts = append(e.step.Verdicts, Verdict{ID: id})
		return
	}
	e.out = b
	e.step.Verdicts = append(e.step.Verdicts, Verdict{ID: id, Data: b[start:len(b):len(b)]})
}
