package engine

import (
	"errors"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/packet"
)

const (
	defaultBacklog = 4096    // helpers.Helper.Backlog
	maxSkip        = 1 << 31 // bytes that a session may skip unread: as far as sequence numbers can be compared
)

// inspect gives the session the next bytes of a stream, or word of a loss or of the end.
func (e *Engine) inspect(f *flow, dir helpers.Dir, data []byte, end bool) {
	d := &f.dirs[dir]
	d.next += uint32(len(data))
	if d.locked {
		d.ended = d.ended || end
		d.release(d.next)
		return
	}
	if skip := f.skip(dir); skip > 0 {
		n := min(int(skip), len(data))
		data = data[n:]
		e.setSkip(f, dir, skip-uint32(n))
	}
	if len(data) == 0 && !d.lost && !end {
		d.release(d.next)
		return
	}
	if d.lost {
		e.setKept(f, dir, nil)
		d.release(d.next - uint32(len(data)))
	}
	all := data
	if kept := f.kept(dir); len(kept) > 0 {
		all = append(kept, data...)
		f.extra.streams[dir].kept = all
		e.memory += cap(all) - cap(kept)
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
			w.data = e.copied(p.Data)
		}
		e.hold(f, w)
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
	if out := &j.out; out.Consumed < 0 || out.Consumed-n > maxSkip || out.Hold < 0 || out.Hold > max(0, n-out.Consumed) {
		e.tellError(f, j.dir, ErrorContract, e.offset(j, 0), "consumed or held bytes that are not there")
		out.Consumed = min(max(0, out.Consumed), n+maxSkip)
		out.Hold = 0
	}
	j.consumed = min(n, j.out.Consumed)
	j.err, j.foreign = err, errors.Is(err, helpers.ErrForeign)
	s.job = j
	for _, g := range j.out.Cancel {
		why := CancelEnded
		if len(j.out.Expect) > 0 {
			why = CancelReplaced
		}
		e.cancel(s, g, why)
	}
	ask := false
	for i := range j.out.Expect {
		ask = e.judge(j, i).place || ask
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
		e.setKept(f, j.dir, nil)
		e.setSkip(f, j.dir, 0)
		d.ended = d.ended || j.seg.End
		d.release(d.next)
		return
	}
	e.setSkip(f, j.dir, uint32(j.out.Consumed-j.consumed))
	rest := j.seg.Data[j.consumed:]
	backlog := f.session.helper.Backlog
	if backlog <= 0 {
		backlog = defaultBacklog
	}
	hold := j.out.Hold
	if hold > 0 {
		if _, ok := f.session.impl.(helpers.Rewriter); !ok {
			hold = 0 // nothing will be changed
		}
	}
	if over := len(rest) > backlog; over || e.memory+len(rest)-cap(f.kept(j.dir)) > e.limits.Memory {
		if over {
			e.tellError(f, j.dir, ErrorContract, e.offset(j, j.consumed), "more bytes are wanted than may be kept")
		}
		e.stats.Gaps += uint64(len(rest))
		rest, hold, d.lost = nil, 0, true
	}
	if ahead(d.released, d.next-uint32(hold)) > 0 {
		hold = 0 // the beginning has left, so nothing of it will be changed
	}
	if j.seg.End {
		if len(rest) > 0 {
			e.heldOut(f, j.dir)
		}
		rest, hold, d.ended = nil, 0, true
	}
	e.setKept(f, j.dir, rest)
	d.release(d.next - uint32(hold))
}
