package engine

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/freelist"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// GCPercent is for debug.SetGCPercent in a process that holds many flows. The heap is flows, nearly all of it: packets
// make no garbage, and flows that come and go make little. Go's default, 100, would let that little grow to the size of
// all flows before it is collected.
const GCPercent = 50

// maxSpare is how many are kept of what is used for a while: a flood must not leave its memory behind.
const maxSpare = 256

// Engine is one shard: it handles the packets of one queue, one call at a time.
type Engine struct {
	helpers  map[parser]*helper
	ports    map[port]*helper
	policy   Policy
	limits   Limits
	lookup   func(helpers.Transport, helpers.Tuple) (Conn, error)
	complete func(*Conn)
	record   func(*Event)
	wanted   func(EventKind) bool
	missed   func() uint64

	flows    table
	sessions []*session
	pairs    map[pair]*session
	entries  entries
	peers    map[netip.Addr]*peer
	sweep    int // peers at which those that say nothing are thrown away
	pending  int
	heirs    int // entries that wait
	mappings int // entries
	cuts     uint64
	memory   int    // stream bytes that are kept
	held     int    // packets in the flows' waiting
	tickets  []*job // that wait for answers, in the order of their tickets
	timers   timers
	last     names

	now      time.Time // of the newest packet or Tick
	cause    cause
	ticking  bool      // a Tick was interrupted by a ticket
	losses   uint8     // how often it was known that packets were lost before they came here; wraps
	excuse   time.Time // until then a connection may be met late because of it
	lossy    time.Time // until then there may be several holes in a stream, of one loss
	lost     uint64    // what missed said
	asked    time.Time // when it was asked
	step     Step
	owed     []Request // for the next Step
	out      []byte    // packets of the step's verdicts
	bytes    []byte
	event    Event
	scratch  helpers.Result
	jobs     freelist.Own[job]
	extras   freelist.Own[extra]
	spent    []*entry // forgotten, but a job may look at them still
	spares   freelist.Own[entry]
	copies   freelist.Own[[]byte] // of packets that wait
	prepared []prepared
	handled  int      // of prepared
	single   prepared // a packet that Prepare has not seen
	fetched  uint32   // keeps what Prepare reads from being left out
	stats    Stats
}

// names are the last ones given.
type names struct {
	Flow, Session, Expectation, Ticket uint64
}

// parser is what a helper is called by.
type parser struct {
	name      string
	transport helpers.Transport
}

// port is what a helper's flows are found by.
type port struct {
	transport helpers.Transport
	number    uint16
}

// New makes an engine. An error names the helper that breaks the contract (two helpers on a port, a name too long).
func New(cfg Config) (*Engine, error) {
	e := &Engine{
		flows: newTable(), pairs: map[pair]*session{},
		entries: newEntries(), peers: map[netip.Addr]*peer{},
		stats: Stats{Refused: map[Reason]uint64{}, Errors: map[string]uint64{}},
	}
	return e, e.Reload(cfg)
}

// Handle takes one packet.
func (e *Engine) Handle(p Packet) *Step {
	if len(e.spent) > 0 && len(e.tickets) == 0 { // no job is under way
		e.reclaim()
	}
	e.begin(p.Time)
	e.stats.Packets++
	e.handle(&p)
	return &e.step
}

// begin empties the Step. Time never goes back.
func (e *Engine) begin(now time.Time) {
	clear(e.step.Requests)
	e.step.Requests, e.step.Verdicts, e.step.Ticket = e.step.Requests[:0], e.step.Verdicts[:0], 0
	if e.owed != nil {
		e.step.Requests, e.owed = append(e.step.Requests, e.owed...), nil
	}
	e.out = e.out[:0]
	if now.After(e.now) {
		e.now = now
	}
}

// handle takes a packet for the first time, or after it has waited for its session.
func (e *Engine) handle(p *Packet) {
	seen := e.decode(p.Data)
	if seen == nil {
		e.stats.Undecodable++
		e.step.Verdicts = append(e.step.Verdicts, Verdict{ID: p.ID})
		return
	}
	v := &seen.view
	if p.Doubtful && e.doubtful(seen) {
		e.stats.Stray++
		e.step.Verdicts = append(e.step.Verdicts, Verdict{ID: p.ID, Drop: true})
		return
	}
	f, dir := e.find(p, seen)
	if f == nil {
		stray := e.stray(p, v)
		if stray {
			e.stats.Stray++
		} else {
			e.stats.Unknown++
		}
		e.step.Verdicts = append(e.step.Verdicts, Verdict{ID: p.ID, Drop: stray})
		return
	}
	if p.Conn != nil {
		f.mark = p.Conn.Mark
	}
	e.flows.touch(f)
	if f.closed() {
		e.pass(f, dir, p.ID, v)
		return
	}
	if f.session.job != nil {
		e.later(f, dir, p, v)
		return
	}
	e.cause = cause{packet: p.ID, time: p.Time, dir: dir}
	if v.Transport() == helpers.UDP {
		e.datagram(f, dir, p, v)
	} else {
		e.segment(f, dir, p, v)
	}
	e.slim(f)
}

// later keeps a packet until its session is not busy.
func (e *Engine) later(f *flow, dir helpers.Dir, p *Packet, v *packet.View) {
	s := f.session
	if len(s.queue()) == maxQueue {
		e.overtake(f, dir, p, v)
		return
	}
	q := *p
	q.Data = append([]byte(nil), p.Data...)
	if p.Conn != nil {
		c := *p.Conn
		q.Conn = &c
	}
	s.more().queue = append(s.queue(), q)
}

// overtake lets a packet go before those that wait for their session: they are too many. Its bytes are read in their
// turn, but cannot be changed any more.
func (e *Engine) overtake(f *flow, dir helpers.Dir, p *Packet, v *packet.View) {
	d := &f.dirs[dir]
	if v.Transport() == helpers.TCP && d.known && !d.ended && !d.locked && v.Flags()&(packet.SYN|packet.RST) == 0 {
		seq, data := v.Seq(), v.Payload()
		end := seq + uint32(len(data))
		if far := ahead(end, d.next); far >= 0 && far < window {
			if v.Flags()&packet.FIN != 0 && !d.finished {
				e.setFIN(f, dir, end)
			}
			e.keep(f, dir, chunk{seq: seq, ack: v.Ack(), acks: v.Flags()&packet.ACK != 0, data: data})
			d.release(end)
		}
	}
	e.stats.HeldOut++
	e.pass(f, dir, p.ID, v)
}

// Resume goes on where a Step with a Ticket stopped; answers are those to its Requests, one each, in order.
func (e *Engine) Resume(t Ticket, answers []error) *Step {
	i := slices.IndexFunc(e.tickets, func(j *job) bool { return j.ticket == t }) // it is the first, nearly always
	if i < 0 {
		e.begin(e.now)
		return &e.step
	}
	j := e.tickets[i]
	e.tickets = slices.Delete(e.tickets, i, i+1)
	e.begin(e.now)
	if j.abandoned {
		e.takeBack(j, answers)
		return &e.step
	}
	e.cause = j.cause
	f, s := j.flow, j.flow.session
	e.answered(j, answers)
	if s.job == nil {
		e.pump(f)
		e.settle(f)
		e.slim(f)
		e.finish(f)
		e.drain(s)
	}
	if e.ticking {
		e.expire()
	}
	return &e.step
}

// takeBack asks to remove what was placed for a job whose packets have left meanwhile.
func (e *Engine) takeBack(j *job, answers []error) {
	if j.adjusting {
		e.request(Request{Adjust: &j.adjust})
	}
	for i := range j.plans {
		if p := &j.plans[i]; p.place && p.request < len(answers) && answers[p.request] == nil {
			e.request(Request{Remove: p.asked.ID})
		}
	}
}

// drain handles the packets that waited for a session, until it waits again.
func (e *Engine) drain(s *session) {
	for s.job == nil && len(s.queue()) > 0 {
		x := s.extra
		p := x.queue[0]
		x.queue[0] = Packet{}
		if x.queue = x.queue[1:]; len(x.queue) == 0 {
			x.queue = nil
		}
		e.handle(&p)
	}
	e.maybeOver(s)
}

// finish closes a flow of which both ends have said that they send no more, or that is gone.
func (e *Engine) finish(f *flow) {
	switch {
	case !f.idle():
	case f.ended:
		e.drop(f)
	case !f.closed() && f.dirs[0].ended && f.dirs[1].ended:
		e.close(f)
	}
}

// Tick lets go what waited too long and expires what has run out at now.
func (e *Engine) Tick(now time.Time) *Step {
	e.begin(now)
	e.ticking = true
	e.expire()
	return &e.step
}

// Next is when Tick has something to do; zero: nothing waits.
func (e *Engine) Next() time.Time {
	if e.timers.count() == 0 {
		return time.Time{}
	}
	return time.Unix(0, e.timers.first().when)
}

// Related says that the table met an expectation: c is the new connection, first seen in packet (0: not known). A
// connection that no expectation of this engine led to is ignored.
func (e *Engine) Related(c Conn, packet uint64, now time.Time) *Step {
	e.begin(now)
	x := e.match(&c, func(x *entry) bool { return x.pending })
	if x == nil {
		return &e.step
	}
	e.cause = cause{packet: packet, time: now}
	e.stats.Related++
	ev := x.event()
	ev.Kind, ev.Flow, ev.FlowProto = EventRelated, c.Orig, c.Transport
	ev.Announced, ev.Note = x.announced, x.note
	e.tell(ev)
	x.used, x.usedBy = true, pack(c.Transport, c.Orig, 0)
	if x.again && !x.said.Permanent { // it may have met the earlier one, just before; then the table has the later one still
		e.request(Request{Remove: x.id()})
	}
	switch {
	case x.said.Permanent:
	case x.said.Helper != "": // the child's first packet is still to come
		e.unsetPending(x)
		e.wakeEntry(x, e.now.Add(lingers))
	default:
		e.retire(x)
	}
	return &e.step
}

// Gone says that the table lost an expectation that was neither used nor removed by this engine.
func (e *Engine) Gone(id expect.ID, now time.Time) *Step {
	e.begin(now)
	x := e.byName(id)
	if x == nil || !x.pending || !x.timer.set() {
		return &e.step
	}
	e.cause = cause{time: now}
	e.tellEntry(EventCancel, x, CancelEvicted)
	e.retire(x)
	return &e.step
}

// Ended says that conntrack has no such connection any more; orig is its original tuple.
func (e *Engine) Ended(t helpers.Transport, orig helpers.Tuple, zone uint16, now time.Time) *Step {
	e.begin(now)
	e.cause = cause{time: now}
	for _, z := range [2]uint16{zone, 0} { // the keys have the zone only if the queue tells it
		k := pack(t, orig.Turned(), z)
		f, dir := e.flows.find(&k)
		if f == nil || dir != helpers.Reply || f.zone != zone {
			continue
		}
		if !f.idle() {
			f.ended = true
		} else {
			e.drop(f)
		}
		break
	}
	return &e.step
}

// Vanished says that conntrack has no such connection any more; orig is its original tuple. If neither end has closed it
// somebody has emptied the table, and it may come back: its session and its journal are kept for a while.
func (e *Engine) Vanished(t helpers.Transport, orig helpers.Tuple, zone uint16, now time.Time) *Step {
	for _, z := range [2]uint16{zone, 0} {
		k := pack(t, orig.Turned(), z)
		f, dir := e.flows.find(&k)
		if f == nil || dir != helpers.Reply || f.zone != zone {
			continue
		}
		if !f.mayComeBack() {
			break
		}
		e.begin(now)
		e.cause = cause{time: now}
		e.cutOff(f)
		return &e.step
	}
	return e.Ended(t, orig, zone, now)
}

// Overflowed says that the queue has lost packets: flows that are joined late within an hour may have been missed, and
// count as if they had existed before; holes in the streams of those that are known will not be filled.
func (e *Engine) Overflowed(now time.Time) {
	if now.After(e.now) {
		e.now = now
	}
	e.losses++
	e.excuse = e.now.Add(excuseTime)
	e.lossy = e.now.Add(lossTime)
}

// excuseTime is more than most servers wait for a client that says nothing. Whoever has made the queue overflow once must
// not be excused for good.
const excuseTime = time.Hour

// lossTime is more than it takes to read what was in a queue.
const lossTime = 2 * time.Second

// askMissed asks whether packets were lost since the last time.
func (e *Engine) askMissed() {
	if e.missed == nil {
		return
	}
	e.asked = e.now
	if n := e.missed(); n != e.lost {
		e.lost = n
		e.Overflowed(e.now)
	}
}

// excused says whether a connection may be met late because packets were lost.
func (e *Engine) excused() bool {
	if !e.now.Before(e.excuse) {
		e.askMissed()
	}
	return e.now.Before(e.excuse)
}

// Reload changes helpers, policy and limits for what comes; flows and what they announced live on. Lookup, Missed
// and Record stay if they are nil in cfg.
func (e *Engine) Reload(cfg Config) error {
	byName, ports := map[parser]*helper{}, map[port]*helper{}
	for _, h := range cfg.Helpers {
		if err := check(&h); err != nil {
			return fmt.Errorf("helper %q: %w", h.Name, err)
		}
		if byName[parser{h.Name, h.Transport}] != nil {
			return fmt.Errorf("two helpers for %v are called %q", h.Transport, h.Name)
		}
		for p, other := range byName {
			if p.name == h.Name && (other.PerPair != h.PerPair || !slices.Equal(other.Classes, h.Classes)) {
				return fmt.Errorf("helpers %q for %v and %v differ in classes or PerPair", h.Name, p.transport, h.Transport)
			}
		}
		own := &helper{h}
		byName[parser{h.Name, h.Transport}] = own
		for _, n := range h.Ports {
			p := port{h.Transport, n}
			if other := ports[p]; other != nil && other != own {
				return fmt.Errorf("helpers %q and %q both read %v port %d", other.Name, h.Name, h.Transport, n)
			}
			ports[p] = own
		}
	}
	e.helpers, e.ports, e.policy, e.limits = byName, ports, cfg.Policy, cfg.Limits
	e.policy.withDefaults()
	e.limits.withDefaults()
	if cfg.Lookup != nil {
		e.lookup = cfg.Lookup
	}
	if cfg.Complete != nil {
		e.complete = cfg.Complete
	}
	if cfg.Missed != nil {
		e.missed = cfg.Missed
	}
	if cfg.Record != nil {
		e.record, e.wanted = cfg.Record, cfg.Wanted
	}
	return nil
}

// Names and classes that the kernel can hold (linux/netfilter/nfnetlink_cthelper.h).
const (
	maxName    = 15 - len("cth-")
	maxClasses = 4
)

// check says what of the contract a helper breaks.
func check(h *helpers.Helper) error {
	switch {
	case h.Name == "":
		return errors.New("it has no name")
	case len(h.Name) > maxName:
		return fmt.Errorf("the name has more than %d bytes", maxName)
	case h.Transport != helpers.TCP && h.Transport != helpers.UDP:
		return fmt.Errorf("it cannot read %v", h.Transport)
	case len(h.Classes) == 0 || len(h.Classes) > maxClasses:
		return fmt.Errorf("it has %d classes, 1 to %d are possible", len(h.Classes), maxClasses)
	case h.New == nil:
		return errors.New("it has no New")
	case slices.Contains(h.Ports, 0):
		return errors.New("it has port 0")
	}
	for _, c := range h.Classes {
		if c.Timeout <= 0 {
			return fmt.Errorf("class %q has no timeout", c.Name)
		}
	}
	return nil
}

// Release gives the verdicts of all packets that wait, unchanged: before the process leaves its state to the next one.
func (e *Engine) Release() *Step {
	e.begin(e.now)
	e.releaseAll()
	return &e.step
}

// releaseAll lets all packets go. Jobs that wait are abandoned: what they asked for is taken back when it is answered.
func (e *Engine) releaseAll() {
	for i, j := range e.tickets {
		if !j.abandoned {
			e.tickets[i] = e.abandon(j)
		}
	}
	for f := range e.flows.all() {
		for dir := range f.dirs {
			e.heldOut(f, helpers.Dir(dir))
		}
		for _, w := range f.waiting() {
			f.dirs[w.dir].release(w.end)
		}
		e.leave(f)
		if !f.closed() && f.extra != nil {
			e.clear(&f.extra.timer, f.alarm())
			e.slim(f)
		}
	}
}

// abandon ends a job without its answers, and gives what is to wait for them.
func (e *Engine) abandon(j *job) *job {
	f, s := j.flow, j.flow.session
	left := &job{ticket: j.ticket, abandoned: true}
	for i := range j.plans {
		p := &j.plans[i]
		if p.refused != "" || p.entry == nil {
			continue
		}
		if p.place && !p.placed { // its answer is still to come
			left.plans = append(left.plans, *p)
			e.unsetPending(p.entry)
			ev := p.entry.event()
			ev.Kind, ev.Reason, ev.Text = EventRefuse, RefuseKernel, "not answered in time"
			p.place, p.refused, p.told = false, RefuseKernel, &ev
		}
	}
	if j.adjusting { // the numbers stay as they are
		left.adjusting, left.adjust = true, j.adjust
		left.adjust.SeqAdjust = f.nat.journal(j.dir).kernel
		e.request(Request{Adjust: &left.adjust})
	}
	e.undo(j, RefuseHeldOut)
	e.cause = j.cause
	e.conclude(j)
	j.plans = nil // their requests may still be under way
	e.settle(f)
	for _, p := range s.queue() {
		var v packet.View
		if v.Decode(p.Data) != nil {
			e.step.Verdicts = append(e.step.Verdicts, Verdict{ID: p.ID})
			continue
		}
		zone := uint16(0)
		if p.Conn != nil {
			zone = p.Conn.Zone
		}
		k := show(&v)
		k.zone = zone
		of, dir := e.flows.find(&k)
		if of == nil {
			e.step.Verdicts = append(e.step.Verdicts, Verdict{ID: p.ID})
			continue
		}
		e.overtake(of, dir, &p, &v)
	}
	if s.extra != nil {
		s.extra.queue = nil
	}
	e.finish(f)
	e.maybeOver(s)
	return left
}

// Stop releases all packets and asks to remove all expectations and shadows. The engine is empty afterwards.
func (e *Engine) Stop(now time.Time) *Step {
	e.begin(now)
	e.cause = cause{time: now}
	e.releaseAll()
	for _, s := range e.inOrder() {
		for x := range s.entries() {
			if x.pending && x.asked {
				e.request(Request{Remove: x.id()})
			}
			e.forget(x)
		}
		if s.shadow {
			e.request(Request{Forget: s.id})
		}
	}
	clear(e.pairs)
	clear(e.peers)
	e.flows, e.sessions, e.timers, e.memory, e.ticking = newTable(), nil, timers{}, 0, false
	return &e.step
}

// Now is the engine's time: that of the newest packet or Tick.
func (e *Engine) Now() time.Time { return e.now }

// Stats is a copy of the engine's counters and gauges.
func (e *Engine) Stats() Stats {
	s := e.stats
	s.Refused, s.Errors = maps.Clone(s.Refused), maps.Clone(s.Errors)
	s.Flows, s.Sessions, s.Pending = e.flows.count, len(e.sessions), e.pending
	return s
}

// Stats counts since the engine was made.
type Stats struct {
	Packets, Unknown, Undecodable uint64            // received; of no connection that is read; not IP, TCP or UDP that could be read
	Stray                         uint64            // dropped: Verdict.Drop
	Announced, Related            uint64            // expectations placed; used
	Refused                       map[Reason]uint64 // by reason
	Errors                        map[string]uint64 // by helper name
	Behind                        uint64            // dropped: too many behind a hole, or for too long, under NAT
	Gaps, HeldOut                 uint64            // stream bytes lost; packets whose bytes waited and left unchanged
	Edits                         uint64
	Flows, Sessions, Pending      int // now
}
