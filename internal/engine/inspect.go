package engine

import (
	"errors"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/packet"
)

const defaultBacklog = 4096 // helpers.Helper.Backlog

// inspect gives the session the next bytes of a stream, or word of a loss or of the end.
func (e *Engine) inspect(f *flow, dir helpers.Dir, data []byte, end bool) {
	d := &f.dirs[dir]
	d.next += uint32(len(data))
	if d.locked {
		d.ended = d.ended || end
		d.release(d.next)
		return
	}
	if n := min(d.skip, len(data)); n > 0 {
		data, d.skip = data[n:], d.skip-n
	}
	if len(data) == 0 && !d.lost && !end {
		d.release(d.next)
		return
	}
	if d.lost {
		e.memory -= len(d.kept)
		d.kept = nil
		d.release(d.next - uint32(len(data)))
	}
	all := data
	if len(d.kept) > 0 {
		d.kept = append(d.kept, data...)
		e.memory += len(data)
		all = d.kept
	}
	j := e.newJob(f, dir)
	j.base = d.next - uint32(len(all))
	j.seg = helpers.Segment{Flow: &j.view, Dir: dir, Data: all, Gap: d.lost, End: end, Time: e.cause.time}
	d.lost = false
	e.look(j)
}

// datagram handles a UDP packet of a flow whose session is not busy.
func (e *Engine) datagram(f *flow, dir helpers.Dir, p *Packet, v *packet.View) {
	if f.dirs[dir].locked {
		e.pass(f, dir, p.ID, v)
		return
	}
	j := e.newJob(f, dir)
	j.seg = helpers.Segment{Flow: &j.view, Dir: dir, Data: v.Payload(), Time: p.Time}
	e.look(j)
	w := waiting{id: p.ID, time: e.now, dir: dir, size: len(v.Payload())}
	if f.idle() {
		if j.changed == nil {
			e.pass(f, dir, p.ID, v)
		} else {
			e.rebuilt(p.ID, v, packet.Change{Payload: j.changed})
		}
	} else {
		if f.nat != nil {
			w.data = append([]byte(nil), p.Data...)
		}
		f.wait = append(f.wait, w)
	}
}

// look calls Inspect and does what follows from it: at once, or as the answers come in.
func (e *Engine) look(j *job) {
	f, s := j.flow, j.flow.session
	err := s.impl.Inspect(&j.seg, &j.out)
	n := len(j.seg.Data)
	if j.udp {
		j.out.Consumed, j.out.Hold = n, 0
	}
	if out := &j.out; out.Consumed < 0 || out.Hold < 0 || out.Hold > max(0, n-out.Consumed) {
		e.tellError(f, j.dir, ErrorContract, e.offset(j, 0), "consumed or held bytes that are not there")
		out.Consumed = max(0, out.Consumed)
		out.Hold = 0
	}
	j.consumed = min(n, j.out.Consumed)
	j.err, j.foreign = err, errors.Is(err, helpers.ErrForeign)
	for _, g := range j.out.Cancel {
		why := CancelEnded
		if len(j.out.Expect) > 0 {
			why = CancelReplaced
		}
		e.cancel(s.family, g, why)
	}
	s.job = j
	ask := false
	for i := range j.out.Expect {
		j.plans = append(j.plans, e.judge(j, i))
		ask = ask || j.plans[i].place
	}
	if ask {
		e.place(j)
		e.wait(j)
		return
	}
	e.rewrite(j)
}

// offset is a place in the data of a job as one in the payload of the packet that caused it.
func (e *Engine) offset(j *job, at int) int {
	if j.udp {
		return at
	}
	if j.dir != e.cause.dir {
		return 0
	}
	return max(0, ahead(j.base+uint32(at), e.cause.seq))
}

// commit ends a job: its bytes are decided.
func (e *Engine) commit(j *job) {
	f, d := j.flow, &j.flow.dirs[j.dir]
	d.locked = d.locked || j.foreign
	if j.udp {
		return
	}
	if d.locked {
		e.memory -= len(d.kept)
		d.kept, d.skip, d.ended = nil, 0, d.ended || j.seg.End
		d.release(d.next)
		return
	}
	d.skip = j.out.Consumed - j.consumed
	rest := j.seg.Data[j.consumed:]
	backlog := f.session.helper.Backlog
	if backlog <= 0 {
		backlog = defaultBacklog
	}
	hold := j.out.Hold
	if _, ok := f.session.impl.(helpers.Rewriter); !ok {
		hold = 0 // nothing will be changed
	}
	if over := len(rest) > backlog; over || e.memory+len(rest)-len(d.kept) > e.limits.Memory {
		if over {
			e.tellError(f, j.dir, ErrorContract, e.offset(j, j.consumed), "more bytes are wanted than may be kept")
		}
		e.stats.Gaps += uint64(len(rest))
		rest, hold, d.lost = nil, 0, true
	}
	if j.seg.End {
		if len(rest) > 0 {
			e.heldOut(f, j.dir)
		}
		rest, hold, d.ended = nil, 0, true
	}
	e.memory += len(rest) - len(d.kept)
	if len(rest) == 0 {
		d.kept = nil
	} else {
		d.kept = append(d.kept[:0], rest...)
	}
	d.release(d.next - uint32(hold))
}
