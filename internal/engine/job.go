package engine

import (
	"errors"
	"net/netip"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

// job is what one Inspect has started. While it waits for answers, its session is given nothing else.
type job struct {
	ticket    Ticket // 0: it did not have to wait
	cause     cause
	flow      *flow
	engine    *Engine
	dir       helpers.Dir
	udp       bool
	view      helpers.Flow // what seg.Flow points to
	seg       helpers.Segment
	kept      []byte // seg.Data while it waits
	base      uint32 // sequence number of seg.Data[0]
	out       helpers.Result
	consumed  int
	err       error
	foreign   bool
	plans     []plan
	edits     []helpers.Edit
	adjust    Adjust
	adjusting bool
	request   int // of adjust, in the Step that asks
	changed   []byte
	abandoned bool // its packets have left
}

var errNoAnswer = errors.New("no answer")

// newJob takes a job that is not in use.
func (e *Engine) newJob(f *flow, dir helpers.Dir) *job {
	j := e.jobs.Take()
	// It is large, so what is always set before it is read is not cleared.
	j.engine, j.flow, j.dir, j.udp, j.cause = e, f, dir, f.transport() == helpers.UDP, e.cause
	j.out.Reset()
	j.plans, j.edits, j.changed = j.plans[:0], j.edits[:0], nil
	if j.ticket != 0 || j.adjust.Transport != 0 {
		j.ticket, j.adjust, j.adjusting = 0, Adjust{}, false
	}
	j.view.ID, j.view.Transport, j.view.Late, j.view.Announced = f.id, f.transport(), f.late, nil
	f.setTuples(&j.view)
	if f.extra != nil {
		j.view.Announced = f.extra.announced
	}
	return j
}

// asks tells whether the table is to be asked for x.
func (j *job) asks(x *entry) bool {
	for i := range j.plans {
		if p := &j.plans[i]; p.entry == x && p.open() {
			return true
		}
	}
	return false
}

// place asks for what is planned.
func (e *Engine) place(j *job) {
	for i := range j.plans {
		p := &j.plans[i]
		if !p.open() {
			continue
		}
		x := p.entry
		p.request = len(e.step.Requests)
		x.asked, x.session.shadow = true, true
		x.ask(&p.asked)
		e.request(Request{Place: &p.asked})
	}
}

// ask makes q what the table is asked to enter for x.
func (x *entry) ask(q *expect.Request) {
	q.ID, q.Master, q.Class, q.Transport, q.Toward = x.id(), *x.master, x.said.Class, x.said.Transport, x.toward
	q.From, q.At, q.To, q.NAT = x.from, x.at, x.to, x.nat
	q.Permanent, q.Timeout, q.Helper = x.said.Permanent, x.timeout, x.said.Helper
}

// wait gives the Step a ticket. The segment's bytes are copied, as the packet's are not valid for longer.
func (e *Engine) wait(j *job) {
	if j.ticket == 0 {
		j.kept = append(j.kept[:0], j.seg.Data...)
		j.seg.Data = j.kept
	}
	e.last.Ticket++
	j.ticket = Ticket(e.last.Ticket)
	e.tickets = append(e.tickets, j)
	e.step.Ticket = j.ticket
}

// answered goes on with a job.
func (e *Engine) answered(j *job, answers []error) {
	answer := func(i int) error {
		if i < len(answers) {
			return answers[i]
		}
		return errNoAnswer
	}
	if j.adjusting {
		j.adjusting = false
		if answer(j.request) != nil {
			e.undo(j, RefuseNoAdjust)
		}
		e.conclude(j)
		return
	}
	for i := range j.plans {
		if p := &j.plans[i]; p.open() {
			e.placed(p, answer(p.request))
		}
	}
	again := false // only now: half of a pair may move the other half
	for i := range j.plans {
		if p := &j.plans[i]; p.failed != nil {
			again = e.another(j, p) || again
		}
	}
	if again {
		e.place(j)
		e.wait(j)
		return
	}
	e.rewrite(j)
}

// open tells whether the table is still to be asked, or to answer.
func (p *plan) open() bool { return p.place && !p.placed && p.refused == "" }

// placed takes the answer to one Place.
func (e *Engine) placed(p *plan, err error) {
	x := p.entry
	switch {
	case !x.pending: // cancelled meanwhile
		if err == nil {
			e.request(Request{Remove: x.id()})
		}
		p.placed = true
	case err == nil:
		p.placed = true
		if p.tries >= 0 {
			e.stats.Announced++
		}
		e.wakeEntry(x, e.now.Add(x.timeout))
	case errors.Is(err, expect.ErrTaken):
		x.asked, p.failed = false, err
	default:
		x.asked = false
		e.refuse(p, RefuseKernel, err.Error())
	}
}

// another gives an end point whose port is taken the next one, together with its partner; false: there is none, and it
// is refused.
func (e *Engine) another(j *job, p *plan) bool {
	p.failed = nil
	if !e.moved(j, p) {
		e.refuse(p, RefusePortTaken, "")
		return false
	}
	return true
}

func (e *Engine) moved(j *job, p *plan) bool {
	x := p.entry
	if p.fixed || !x.translated || x.own || p.tries >= maxTries {
		return false
	}
	var mate *plan
	if y := e.partner(x); y != nil {
		for i := range j.plans {
			if q := &j.plans[i]; q.entry == y && q.place && q.fresh && q.refused == "" {
				mate = q
			}
		}
		if mate == nil {
			return false
		}
	}
	at := *x
	for p.tries++; p.tries < maxTries; p.tries++ {
		at.at = at.following()
		if mate != nil && !at.said.Paired { // both move
			at.at = at.following()
		}
		if !e.free(&at, at.at) {
			continue
		}
		if mate != nil {
			half := *mate.entry
			half.at = netip.AddrPortFrom(at.at.Addr(), at.at.Port()^1)
			if !e.free(&half, half.at) {
				continue
			}
			e.unplace(mate)
			e.move(mate.entry, half.at)
		}
		e.move(x, at.at)
		return true
	}
	return false
}

// unplace takes a placed expectation out again, to place it elsewhere.
func (e *Engine) unplace(p *plan) {
	if p.entry.asked {
		e.request(Request{Remove: p.entry.id()})
	}
	if p.placed {
		p.placed = false
		if p.tries >= 0 {
			e.stats.Announced--
		}
	}
	p.entry.asked, p.failed = false, nil
	e.letSleep(p.entry)
}

// refuse ends a plan. What it made is undone.
func (e *Engine) refuse(p *plan, why Reason, text string) {
	x := p.entry
	ev := x.event()
	ev.Kind, ev.Reason, ev.Text = EventRefuse, why, text
	p.refused, p.told = why, &ev
	if p.placed {
		e.unplace(p)
	}
	e.unsetPending(x)
	if p.fresh || !x.translated {
		e.forget(x)
	}
}

// undo refuses all of a job's announcements that the reader would have to see rewritten.
func (e *Engine) undo(j *job, why Reason) {
	j.edits = j.edits[:0]
	for i := range j.plans {
		p := &j.plans[i]
		if p.refused == "" && p.entry != nil && p.entry.at != j.out.Expect[i].To && (p.place || p.fresh) {
			e.refuse(p, why, "")
		}
	}
}

// rewrite asks the helper for its edits, and the kernel for what they need.
func (e *Engine) rewrite(j *job) {
	f := j.flow
	if f.nat == nil || j.foreign {
		e.conclude(j)
		return
	}
	w, ok := f.session.impl.(helpers.Rewriter)
	if !ok {
		e.conclude(j)
		return
	}
	n := len(j.edits)
	j.edits = w.Rewrite(&j.seg, (*translation)(j), j.edits[:n])
	if len(j.edits) == 0 {
		e.conclude(j)
		return
	}
	if !e.valid(j) {
		e.undo(j, RefuseHeldOut)
		e.conclude(j)
		return
	}
	if j.udp {
		if e.apply(j); j.overlong() {
			j.changed = nil
			e.undo(j, RefuseNoAdjust)
		}
		e.conclude(j)
		return
	}
	jl := f.nat.journal(j.dir)
	found, _ := jl.foundStep()
	total, grows := jl.total(), false
	for _, c := range j.edits {
		more := int32(len(c.New)) - int32(c.Len)
		if more == 0 {
			continue
		}
		pos := j.base + uint32(c.Off)
		if len(c.New) == 0 {
			pos-- // else what acknowledges its end would be moved as what acknowledges its beginning
		}
		if jl.again(pos, more) {
			continue // an earlier daemon has seen to it
		}
		if found != nil && ahead(found.start, j.base) >= 0 && ahead(j.base+uint32(j.consumed), found.start) > 0 {
			e.undo(j, RefuseNoAdjust) // an earlier daemon sent other bytes, and the receiver may have them
			e.conclude(j)
			return
		}
		j.adjust = Adjust{
			Transport: helpers.TCP, Orig: f.orig(), Zone: f.zone, Dir: j.dir,
			SeqAdjust: SeqAdjust{Pos: pos, Before: total, After: total + more},
		}
		total, grows = total+more, true
	}
	switch {
	case !grows:
		e.conclude(j)
	case f.cut(): // nobody else adjusts its numbers; the kernel is told when it knows the connection again
		j.adjust = Adjust{}
		e.conclude(j)
	case !f.adjustable: // to adjust all packets here, without the kernel, would start in this place
		e.undo(j, RefuseNoAdjust)
		e.conclude(j)
	default:
		j.adjusting, j.request = true, len(e.step.Requests)
		e.request(Request{Adjust: &j.adjust})
		e.wait(j)
	}
}

// valid checks the edits: sorted, disjoint, in consumed bytes, none in bytes that have left.
func (e *Engine) valid(j *job) bool {
	at, gone := 0, 0
	if !j.udp {
		gone = ahead(j.flow.dirs[j.dir].released, j.base)
	}
	for _, c := range j.edits {
		if c.Off < at || c.Len < 0 || c.Off+c.Len > j.consumed || c.Len == 0 && c.Off == j.consumed {
			e.tellError(j.flow, j.dir, ErrorContract, e.offset(j, max(0, c.Off)), "an edit outside of what was consumed")
			return false
		}
		if c.Off < gone {
			return false
		}
		at = c.Off + c.Len
	}
	return true
}

// apply makes the payload of a datagram with its edits.
func (e *Engine) apply(j *job) {
	b, at := make([]byte, 0, len(j.seg.Data)+64), 0
	for _, c := range j.edits {
		b = append(append(b, j.seg.Data[at:c.Off]...), c.New...)
		at = c.Off + c.Len
	}
	j.changed = append(b, j.seg.Data[at:]...)
}

// overlong tells whether a changed datagram cannot be sent: it is longer than can be said, or than an Ethernet frame takes
// it, and what IPv6 sends in one piece nobody fragments on its way (RFC 8200, section 5).
func (j *job) overlong() bool {
	const (
		most     = 65535 - 60 - 8 // of IPv4 with all options, RFC 791 and RFC 768
		ethernet = 1500 - 40 - 8
	)
	was, is := len(j.seg.Data), len(j.changed)
	return is > most || j.flow.key.ipv6 && was <= ethernet && is > ethernet
}

// conclude ends a job: events, journal, stream.
func (e *Engine) conclude(j *job) {
	f, s := j.flow, j.flow.session
	for i := range j.plans {
		switch p := &j.plans[i]; {
		case p.refused != "":
			e.stats.Refused[p.refused]++
			e.tell(*p.told)
		case p.placed && p.tries >= 0 && p.entry.pending:
			e.tellEntry(EventExpect, p.entry, "")
		}
	}
	for _, n := range j.out.Notes {
		e.note(s, f, n)
	}
	for i := range j.edits {
		e.edited(j, &j.edits[i])
	}
	if j.adjust.Transport != 0 && len(j.edits) > 0 {
		f.nat.journal(j.dir).kernel = j.adjust.SeqAdjust
	}
	e.tellFailure(j)
	e.commit(j)
	s.job = nil
	s.slim()
	if wait := f.waiting(); j.udp && len(wait) > 0 && j.ticket != 0 {
		wait[0].payload = j.changed // nothing else of the flow can wait before it
	}
	e.jobs.Give(j, maxSpare)
}

// edited records an edit, and for a stream enters it into the journal.
func (e *Engine) edited(j *job, c *helpers.Edit) {
	e.stats.Edits++
	e.tell(Event{
		Kind: EventEdit, Helper: j.flow.session.helper.Name, Flow: j.flow.orig(), FlowProto: j.flow.transport(), Dir: j.dir,
		Offset: e.offset(j, c.Off), Old: j.seg.Data[c.Off : c.Off+c.Len], New: c.New,
	})
	if !j.udp {
		by := append([]byte(nil), c.New...)
		j.flow.nat.journal(j.dir).add(j.base+uint32(c.Off), uint32(c.Len), by)
	}
}

// tellFailure records the error of an Inspect.
func (e *Engine) tellFailure(j *job) {
	if j.err == nil {
		return
	}
	at, why := 0, ErrorParse
	var perr *helpers.ParseError
	switch {
	case j.foreign:
		why = ErrorForeign
	case errors.As(j.err, &perr):
		at = min(max(0, perr.Off), len(j.seg.Data))
	default:
		why = ErrorContract
	}
	text := j.err
	if perr != nil && perr.Err != nil {
		text = perr.Err
	}
	e.tellError(j.flow, j.dir, why, e.offset(j, at), text.Error())
}

// translation is a job as the NAT that a Rewriter asks.
type translation job

// At implements helpers.NAT.
func (t *translation) At(i int) (netip.AddrPort, bool) {
	if i < 0 || i >= len(t.plans) || t.plans[i].refused != "" || t.plans[i].entry == nil {
		return netip.AddrPort{}, false
	}
	x := t.plans[i].entry
	if x.said.Owner != t.dir { // the reader owns it, and knows it as it is
		return x.to, true
	}
	return x.at, true
}

// Translate implements helpers.NAT.
func (t *translation) Translate(a netip.AddrPort) (netip.AddrPort, bool) {
	f := t.flow
	sender, reader := f.sides(t.dir), f.sides(t.dir.Other())
	b := a
	switch a.Addr() {
	case sender.real.Addr():
		if b = sender.outside; a != sender.real {
			b = t.at(a, sender.outside.Addr())
		}
	case reader.outside.Addr():
		if b = reader.real; a != reader.outside {
			b = t.to(a, reader.real.Addr())
		}
	}
	return b, b != a
}

// at is where a, the sender's, is seen: with the address outside, and the port that a mapping has there.
func (t *translation) at(a netip.AddrPort, outside netip.Addr) netip.AddrPort {
	for _, transport := range bothTransports {
		for x := range t.engine.owned(t.flow.session, transport, a, t.flow.zone) {
			if x.translated {
				return x.at
			}
		}
	}
	return netip.AddrPortFrom(outside, a.Port())
}

// to is what is seen at a: of the reader's, with the address real, or of another host on the reader's side. The two reach
// each other without the NAT.
func (t *translation) to(a netip.AddrPort, real netip.Addr) netip.AddrPort {
	neighbour := netip.AddrPortFrom(real, a.Port())
	for _, transport := range bothTransports {
		for x := t.engine.seenAt(transport, a, t.flow.zone); x != nil; x = x.next(byAt) {
			switch {
			case !x.translated:
			case x.session.kin(t.flow.session):
				return x.to
			case x.to.Addr() != real:
				neighbour = x.to
			}
		}
	}
	return neighbour
}

var bothTransports = [2]helpers.Transport{helpers.TCP, helpers.UDP}
