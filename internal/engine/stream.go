package engine

import (
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// window is how far ahead of what is expected a segment may be: more than any control connection has under way.
const window = 1 << 20

// maxChunks bounds the pieces that are kept behind a hole, however small they are.
const maxChunks = 128

// direction is one direction of a flow. All numbers are its sender's own.
type direction struct {
	next     uint32 // the first byte that the session has not been given
	released uint32 // under NAT: the first byte that may still be changed
	isn      uint32
	copies   uint8 // of the bytes between released and next
	known    bool  // next is valid
	begun    bool  // isn is valid
	lost     bool  // tell the session that bytes before next are lost
	locked   bool  // foreign: the session is given nothing
	finished bool  // its stream's fin is valid
	ended    bool  // the session knows that fin was reached
	resumed  bool  // loaded: what came before its next segment passed while nobody looked
}

// stream is what a direction has for a while.
type stream struct {
	kept  []byte  // the bytes before next that the session has not consumed
	ahead []chunk // bytes behind a hole, in order
	skip  uint32  // bytes behind next that the session does not want
	fin   uint32  // where it ends
}

func (s *stream) empty() bool { return s.kept == nil && s.ahead == nil && s.skip == 0 }

// kept are the bytes of dir that the session has not consumed.
func (f *flow) kept(dir helpers.Dir) []byte {
	if f.extra == nil {
		return nil
	}
	return f.extra.streams[dir].kept
}

// chunks are the bytes of dir behind a hole.
func (f *flow) chunks(dir helpers.Dir) []chunk {
	if f.extra == nil {
		return nil
	}
	return f.extra.streams[dir].ahead
}

// skip is how many bytes of dir behind next the session does not want.
func (f *flow) skip(dir helpers.Dir) uint32 {
	if f.extra == nil {
		return 0
	}
	return f.extra.streams[dir].skip
}

func (e *Engine) setSkip(f *flow, dir helpers.Dir, n uint32) {
	if n > 0 || f.extra != nil {
		e.more(f).streams[dir].skip = n
	}
}

// fin is where dir ends, if it is finished.
func (f *flow) fin(dir helpers.Dir) uint32 { return f.extra.streams[dir].fin }

func (e *Engine) setFIN(f *flow, dir helpers.Dir, at uint32) {
	f.dirs[dir].finished = true
	e.more(f).streams[dir].fin = at
}

// pieceCost is what a chunk takes beside its bytes: whoever sends single bytes must not take many times what is allowed.
const pieceCost = 64

// keptRoom is how much longer than twice its bytes a buffer may stay.
const keptRoom = 256

// cost is the memory that chunks take.
func cost(chunks []chunk) int { return size(chunks) + pieceCost*len(chunks) }

// chunk are bytes that were seen before others that belong in front of them.
type chunk struct {
	seq  uint32
	ack  uint32
	acks bool
	data []byte
}

// cause is the packet that makes the engine do something.
type cause struct {
	packet uint64
	time   time.Time
	dir    helpers.Dir // of the packet
	seq    uint32      // of its first byte
}

// segment handles a TCP packet of a flow whose session is not busy.
func (e *Engine) segment(f *flow, dir helpers.Dir, p *Packet, v *packet.View) {
	flags, seq, data := v.Flags(), v.Seq(), v.Payload()
	d, o := &f.dirs[dir], &f.dirs[dir.Other()]
	if flags&packet.SYN != 0 {
		if !d.known {
			d.isn, d.begun = seq, true
			d.start(seq + 1)
		}
		seq++
	}
	// What has no bytes may be a keep-alive, whose number is one too low (RFC 9293 section 3.8.4): it says nothing of where
	// this direction is. Its answer does.
	silent := !d.known && len(data) == 0 && flags&(packet.FIN|packet.RST) == 0
	if !d.known && !silent {
		d.start(seq)
		d.lost = true
	}
	if flags&packet.ACK != 0 && !o.known {
		at := f.original(dir.Other(), v.Ack())
		o.start(at)
		if o.lost = f.late; !f.late && flags&packet.SYN != 0 {
			o.isn, o.begun = at-1, true
		}
	}
	if far := ahead(seq, d.next); silent || far > window || far < -window {
		e.pass(f, dir, p.ID, v)
		return
	}
	for d.resumed { // a hole will not be filled
		at := d.next
		e.reach(f, dir, seq)
		d.resumed = d.next != at
	}
	if ahead(seq, d.next) > 0 && len(data) > 0 && f.stuck(dir) && e.wereLost(f) && !e.giveUp(f, dir, seq) {
		e.later(f, dir, p, v)
		return
	}
	if flags&packet.RST != 0 {
		e.close(f)
		e.pass(f, dir, p.ID, v)
		return
	}
	if e.fullBehind(f, dir, seq, len(data)) {
		e.stats.Behind++
		e.step.Verdicts = append(e.step.Verdicts, Verdict{ID: p.ID, Drop: true})
		return
	}
	w := waiting{id: p.ID, time: e.now, dir: dir, end: seq + uint32(len(data)), size: len(data)}
	w.bare = len(data) == 0 && flags&(packet.FIN|packet.SYN) == 0
	w.behind = f.nat != nil && len(data) > 0 && ahead(seq, d.next) > 0
	if flags&packet.FIN != 0 && !d.finished && ahead(w.end, d.next) >= 0 {
		e.setFIN(f, dir, w.end)
	}
	e.cause.seq = seq
	c := chunk{seq: seq, ack: v.Ack(), acks: flags&packet.ACK != 0, data: data}
	switch {
	case ahead(w.end, d.next) > 0:
		e.arrived(f, dir, c)
	case c.acks && len(f.chunks(dir.Other())) > 0:
		// What lies behind a hole waits for bytes that have come another way.
		e.reach(f, dir.Other(), f.original(dir.Other(), c.ack))
		e.pump(f)
	default:
		if len(data) > 0 && ahead(w.end, d.released) > 0 {
			d.copies++
			if e.stalled(f, &w, seq) {
				d.copies = maxCopies
			}
		}
		e.pump(f) // a FIN without data
	}
	if len(data) > 0 && d.next == w.end {
		e.inPlace(f)
	}
	if f.idle() && f.decided(&w) && len(f.waiting()) == 0 {
		e.pass(f, dir, p.ID, v)
	} else {
		if f.nat != nil {
			w.data = e.copied(p.Data)
		}
		e.hold(f, w)
		e.settle(f)
	}
	e.finish(f)
}

// askEvery is how often a hole makes the engine ask whether packets were lost.
const askEvery = 100 * time.Millisecond

// stuck tells whether new bytes of dir behind a hole cannot wait for what fills it: under NAT they must not leave before
// they are read, and else if the other direction waits, too. A hole may as well be of the wire, and be filled.
func (f *flow) stuck(dir helpers.Dir) bool { return f.nat != nil || len(f.chunks(dir.Other())) > 0 }

// wereLost tells whether packets were lost since the flow's holes were given up.
func (e *Engine) wereLost(f *flow) bool {
	if !e.now.Before(e.lossy) && f.losses == e.losses && e.now.Sub(e.asked) >= askEvery {
		e.askMissed()
	}
	return f.losses != e.losses || e.now.Before(e.lossy)
}

// inPlace says that a packet has come in its place: nothing that it follows or acknowledges was lost. It may have been in
// the queue before others were lost, so that counts only after lossTime.
func (e *Engine) inPlace(f *flow) {
	if f.losses != e.losses && !e.now.Before(e.lossy) && len(f.chunks(helpers.Original))+len(f.chunks(helpers.Reply)) == 0 {
		f.losses = e.losses
	}
}

// giveUp goes on behind the holes of both directions, in dir up to seq: their bytes passed unseen. Each may wait for the
// other's, so neither ends by itself. False: the session waits for answers now.
func (e *Engine) giveUp(f *flow, dir helpers.Dir, seq uint32) bool {
	var until [2]uint32
	until[dir], until[dir.Other()] = seq, f.dirs[dir.Other()].next
	if chunks := f.chunks(dir.Other()); len(chunks) > 0 {
		last := &chunks[len(chunks)-1]
		until[dir.Other()] = last.seq + uint32(len(last.data))
	}
	for _, dir := range [2]helpers.Dir{dir.Other(), dir} {
		for at := f.dirs[dir].next - 1; at != f.dirs[dir].next && f.session.job == nil; {
			at = f.dirs[dir].next
			e.reach(f, dir, until[dir])
		}
	}
	if f.session.job != nil {
		return false
	}
	f.losses = e.losses
	return true
}

// start sets the beginning of a direction.
func (d *direction) start(at uint32) { d.known, d.next, d.released = true, at, at }

// release says that bytes before to may leave.
func (d *direction) release(to uint32) { d.released = later(d.released, to) }

// original is the position in dir that an acknowledgement of the other direction names.
func (f *flow) original(dir helpers.Dir, ack uint32) uint32 {
	if !f.changed() {
		return ack
	}
	return f.nat.journals[dir].in(ack)
}

// arrived takes the bytes of a packet and gives the session what is in order now. Bytes that are kept are copied.
func (e *Engine) arrived(f *flow, dir helpers.Dir, c chunk) {
	d := &f.dirs[dir]
	if ahead(c.seq, d.next) <= 0 && f.reached(dir, &c) {
		e.deliver(f, dir, &c)
		e.pump(f)
		return
	}
	if d.locked {
		d.next = later(d.next, c.seq+uint32(len(c.data)))
		d.release(d.next)
		e.pump(f)
		return
	}
	if d.ended {
		return
	}
	for len(f.chunks(dir)) > 0 && e.crowded(f, dir, len(c.data)) && f.idle() && !d.ended {
		e.reach(f, dir, f.chunks(dir)[0].seq) // the hole is given up
		e.pump(f)
	}
	e.keep(f, dir, c)
	e.pump(f)
}

// crowded tells whether n more bytes behind a hole are too many.
func (e *Engine) crowded(f *flow, dir helpers.Dir, n int) bool {
	chunks := f.chunks(dir)
	return size(chunks)+n > e.limits.Ahead || len(chunks) == maxChunks
}

// fullBehind tells whether there is no room for n bytes more behind a hole, under NAT, where they must not leave before they
// are read. As long as none has left, TCP repeats the hole's and these. It does not take long: HoldTime.
func (e *Engine) fullBehind(f *flow, dir helpers.Dir, seq uint32, n int) bool {
	d := &f.dirs[dir]
	return f.nat != nil && n > 0 && ahead(seq, d.next) > 0 && ahead(d.released, d.next) <= 0 && !d.locked && !d.ended &&
		len(f.waiting()) > 0 && (len(f.waiting()) >= maxWaiting || e.crowded(f, dir, n))
}

// keep stores a copy of bytes behind a hole, or bytes that must wait for a session's answers.
func (e *Engine) keep(f *flow, dir helpers.Dir, c chunk) {
	if ahead(c.seq+uint32(len(c.data)), f.dirs[dir].next) <= 0 || e.memory+len(c.data)+pieceCost > e.limits.Memory ||
		e.crowded(f, dir, len(c.data)) {
		return
	}
	chunks := f.chunks(dir)
	at := len(chunks)
	for at > 0 && ahead(chunks[at-1].seq, c.seq) > 0 {
		at--
	}
	if at > 0 && chunks[at-1].seq == c.seq && len(chunks[at-1].data) >= len(c.data) {
		return // a copy
	}
	c.data = slices.Clone(c.data)
	e.memory += len(c.data) + pieceCost
	e.more(f).streams[dir].ahead = slices.Insert(chunks, at, c)
}

func size(chunks []chunk) (n int) {
	for i := range chunks {
		n += len(chunks[i].data)
	}
	return n
}

// shift forgets the first chunk of dir.
func (e *Engine) shift(f *flow, dir helpers.Dir) {
	s := &f.extra.streams[dir]
	e.memory -= cost(s.ahead[:1])
	if s.ahead = slices.Delete(s.ahead, 0, 1); len(s.ahead) == 0 {
		s.ahead = nil
	}
}

// setKept keeps a copy of b in place of what was kept of dir.
func (e *Engine) setKept(f *flow, dir helpers.Dir, b []byte) {
	old := f.kept(dir)
	switch {
	case len(b) > 0:
		to := old[:0]
		if cap(old) > 2*len(b)+keptRoom {
			to = nil // a long segment was in it
		}
		to = append(to, b...)
		e.memory += cap(to)
		e.more(f).streams[dir].kept = to
	case len(old) > 0:
		f.extra.streams[dir].kept = nil
	}
	e.memory -= cap(old)
}

// lose forgets all bytes that are kept of dir.
func (e *Engine) lose(f *flow, dir helpers.Dir) {
	if f.extra == nil {
		return
	}
	e.setKept(f, dir, nil)
	e.memory -= cost(f.chunks(dir))
	f.extra.streams[dir].ahead = nil
}

// reached tells whether all that a chunk of dir acknowledges was given to the session, or reported as lost.
func (f *flow) reached(dir helpers.Dir, c *chunk) bool {
	o := &f.dirs[dir.Other()]
	if !c.acks || !o.known {
		return true
	}
	far := ahead(f.original(dir.Other(), c.ack), o.next)
	return far <= 0 || far > window || o.ended
}

// pump gives the session all that is in order, until it waits for answers.
func (e *Engine) pump(f *flow) {
	for !f.closed() && f.session.job == nil {
		if !e.advance(f, helpers.Original) && !e.advance(f, helpers.Reply) {
			return
		}
	}
}

// advance gives the session the next bytes of dir, or what must come before them; false: there are none.
func (e *Engine) advance(f *flow, dir helpers.Dir) bool {
	d := &f.dirs[dir]
	if !d.known || d.ended || !d.finished && len(f.chunks(dir)) == 0 {
		return false
	}
	if c, ok := e.ready(f, dir); ok {
		if !f.reached(dir, &c) {
			e.reach(f, dir.Other(), f.original(dir.Other(), c.ack))
			return true
		}
		e.shift(f, dir)
		e.deliver(f, dir, &c)
		return true
	}
	if d.finished && ahead(d.next, f.fin(dir)) >= 0 {
		e.inspect(f, dir, nil, true)
		return true
	}
	return false
}

// ready is the first chunk of dir, if it is next; chunks that bring nothing new are forgotten.
func (e *Engine) ready(f *flow, dir helpers.Dir) (chunk, bool) {
	d := &f.dirs[dir]
	for len(f.chunks(dir)) > 0 {
		c := f.chunks(dir)[0]
		if ahead(c.seq, d.next) > 0 {
			break
		}
		if ahead(c.seq+uint32(len(c.data)), d.next) > 0 {
			return c, true
		}
		e.shift(f, dir)
	}
	return chunk{}, false
}

// reach gives the session the bytes of dir before to, one piece a call: what was not seen is lost.
func (e *Engine) reach(f *flow, dir helpers.Dir, to uint32) {
	d := &f.dirs[dir]
	far := ahead(to, d.next)
	if !d.known || d.ended || far <= 0 || far > window || f.session.job != nil {
		return
	}
	if c, ok := e.ready(f, dir); ok {
		e.shift(f, dir)
		e.deliver(f, dir, &c)
		return
	}
	if d.finished && ahead(to, f.fin(dir)) > 0 {
		to = f.fin(dir) // the FIN itself has a number, too
	}
	if chunks := f.chunks(dir); len(chunks) > 0 && ahead(to, chunks[0].seq) > 0 {
		to = chunks[0].seq
	}
	n := ahead(to, d.next)
	if n <= 0 {
		e.inspect(f, dir, nil, true)
		return
	}
	d.next, d.copies = to, 0
	skip := f.skip(dir)
	if n <= int(skip) {
		e.setSkip(f, dir, skip-uint32(n))
		d.release(d.next)
		return
	}
	e.stats.Gaps += uint64(n) - uint64(skip)
	d.lost = true
	e.setSkip(f, dir, 0)
	e.setKept(f, dir, nil)
	e.heldOut(f, dir)
	e.inspect(f, dir, nil, false)
}

// deliver gives the session the bytes of a chunk that are next.
func (e *Engine) deliver(f *flow, dir helpers.Dir, c *chunk) {
	d := &f.dirs[dir]
	data := c.data[-ahead(c.seq, d.next):]
	if d.finished && ahead(f.fin(dir), d.next) < len(data) {
		data = data[:max(0, ahead(f.fin(dir), d.next))] // nothing comes behind the end
	}
	d.copies = 0
	e.inspect(f, dir, data, false)
}
