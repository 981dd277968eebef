package engine

import (
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// lingers is how long the journal of a closed flow is kept for late copies, if conntrack does not end the flow before.
const lingers = 120 * time.Second

// flow is a connection that a session reads. There may be a million: what few flows have at a time is in extra. What
// every packet needs comes first.
type flow struct {
	key        key        // what packets of the original direction show
	session    *session   // nil: closed, no session reads it any more
	nat        *rewriting // nil: not under NAT
	extra      *extra     // nil: there is nothing of it
	dirs       [2]direction
	last       uint64 // when it had a packet; see table.touch
	id         helpers.FlowID
	place      uint32 // in the table
	mark       uint32
	zone       uint16 // of conntrack; the keys have it only if the queue tells it
	live       bool   // in the table
	late       bool   // its beginning was not seen
	missed     bool   // late without an excuse: it may announce nothing
	adjustable bool
	losses     uint8 // Engine.losses when its holes were given up
	ended      bool  // to be ended once its session is not busy
}

// rewriting is what a flow under NAT has in addition.
type rewriting struct {
	reply    key         // what packets of the reply direction show
	journals *[2]journal // by direction; nil: nothing was ever changed
}

// journal is that of one direction of a flow under NAT, to write to.
func (r *rewriting) journal(dir helpers.Dir) *journal {
	if r.journals == nil {
		r.journals = &[2]journal{}
	}
	return &r.journals[dir]
}

// changed tells whether packets of f may have to leave with other bytes or numbers.
func (f *flow) changed() bool { return f.nat != nil && f.nat.journals != nil }

// extra is what a flow has for a while: bytes and packets that wait, an end that is near. An announced flow keeps it.
type extra struct {
	announced *helpers.Expectation
	streams   [2]stream
	wait      []waiting
	timer     timer
	cut       time.Time // until then it is kept, though conntrack has lost its entry; zero: it has not
}

// more gives the flow an extra.
func (e *Engine) more(f *flow) *extra {
	if f.extra == nil {
		f.extra = e.extras.Take()
	}
	return f.extra
}

// slim takes the flow's extra away if there is nothing in it.
func (e *Engine) slim(f *flow) {
	x := f.extra
	if x == nil || x.announced != nil || len(x.wait) > 0 || x.timer.set() || f.cut() || !x.streams[0].empty() ||
		!x.streams[1].empty() || f.dirs[0].finished || f.dirs[1].finished {
		return
	}
	f.extra = nil
	if cap(x.wait) <= fewWaiting {
		*x = extra{wait: x.wait}
		e.extras.Give(x, maxSpare)
	}
}

// closed tells that no session reads the flow any more.
func (f *flow) closed() bool { return f.session == nil }

// waiting are the packets whose verdicts are not given yet.
func (f *flow) waiting() []waiting {
	if f.extra == nil {
		return nil
	}
	return f.extra.wait
}

// seen is what packets of a direction show behind NAT: the original direction is seen as the reply tuple turned, the
// reply direction as the original one turned.
func (f *flow) seen(dir helpers.Dir) key {
	switch {
	case dir == helpers.Original:
		return f.key
	case f.nat != nil:
		return f.nat.reply
	}
	return f.key.turned()
}

func (f *flow) orig() helpers.Tuple {
	k := f.seen(helpers.Reply)
	return k.tuple().Turned()
}

func (f *flow) reply() helpers.Tuple { return f.key.tuple().Turned() }

// setTuples has v show those of both directions.
func (f *flow) setTuples(v *helpers.Flow) {
	v.Orig = f.key.tuple()
	v.Reply.Src, v.Reply.Dst = v.Orig.Dst, v.Orig.Src
	if f.nat != nil {
		v.Orig = f.orig()
	}
}

func (f *flow) transport() helpers.Transport { return f.key.transport }

// seenAs are the keys of a connection's packets; zone is 0 where the queue does not tell it.
func seenAs(c *Conn, zone uint16) [2]key {
	return [2]key{pack(c.Transport, c.Reply.Turned(), zone), pack(c.Transport, c.Orig.Turned(), zone)}
}

// find gives the flow of a packet, and makes it if a helper reads it; nil: none does.
func (e *Engine) find(p *Packet, seen *prepared) (*flow, helpers.Dir) {
	zone := uint16(0)
	if p.Conn != nil {
		zone = p.Conn.Zone
	}
	v, k := &seen.view, &seen.key
	k.zone = zone
	f, dir := e.flows.findHashed(k, seen.hash)
	if f != nil {
		if c := p.Conn; c != nil && c.Unconfirmed && !f.cut() && f.is(c, zone) && f.mayComeBack() && v.Flags()&packet.SYN == 0 {
			e.cutOff(f) // a packet of the entry that is gone was queued still when its end was told
		}
		if !e.replaced(f, dir, p.Conn, zone, v) && (!f.cut() || e.rejoin(f, p, v)) {
			return f, dir
		}
		if !f.idle() {
			return f, dir // it waits for its turn, and is looked at again then
		}
		e.drop(f)
	}
	c, ok := e.connection(p, v)
	if !ok || c.Unconfirmed && c.Transport == helpers.TCP { // it is met again when more is known of it
		return nil, 0
	}
	if f = e.open(&c, zone, v, p.ID); f == nil {
		return nil, 0
	}
	if *k != f.key {
		return f, helpers.Reply
	}
	return f, helpers.Original
}

// replaced tells whether the packet is of another connection than f, with the same tuple.
func (e *Engine) replaced(f *flow, dir helpers.Dir, c *Conn, zone uint16, v *packet.View) bool {
	if c != nil && !f.is(c, zone) {
		return true
	}
	if v.Transport() != helpers.TCP || v.Flags()&packet.SYN == 0 || v.Flags()&packet.RST != 0 {
		return false
	}
	d := &f.dirs[dir]
	if !d.begun {
		return d.known // joined later than this, or a beginning of its own
	}
	return d.isn != v.Seq()
}

// is tells whether c, with the keys' zone, is the connection of f.
func (f *flow) is(c *Conn, zone uint16) bool {
	if f.key.zone != zone || f.key.transport != c.Transport || !f.key.of(c.Reply.Dst, c.Reply.Src) {
		return false
	}
	if f.nat != nil {
		return f.nat.reply.of(c.Orig.Dst, c.Orig.Src)
	}
	return f.key.of(c.Orig.Src, c.Orig.Dst)
}

// connection says what is known of a packet's connection.
func (e *Engine) connection(p *Packet, v *packet.View) (Conn, bool) {
	if p.Conn != nil {
		return *p.Conn, p.Conn.Transport == v.Transport()
	}
	if e.lookup == nil {
		return Conn{}, false
	}
	c, err := e.lookup(v.Transport(), v.Tuple())
	return c, err == nil && c.Transport == v.Transport()
}

// open makes the flow of a connection; nil: no helper reads it.
func (e *Engine) open(c *Conn, zone uint16, v *packet.View, id uint64) *flow {
	h, by := e.reader(c)
	if h == nil {
		return nil
	}
	if e.complete != nil {
		e.complete(c)
	}
	e.last.Flow++
	seen := seenAs(c, zone)
	f := e.flows.take()
	f.id, f.key, f.mark, f.zone = helpers.FlowID(e.last.Flow), seen[helpers.Original], c.Mark, c.Zone
	f.adjustable, f.losses = c.Adjustable, e.losses
	if seen[helpers.Reply] != f.key.turned() {
		f.nat = &rewriting{reply: seen[helpers.Reply]}
		for dir, k := range c.Adjust {
			if k != (SeqAdjust{}) {
				f.nat.journal(helpers.Dir(dir)).found(k)
			}
		}
	}
	switch {
	case v.Transport() == helpers.UDP:
		f.late = c.Existing
	default:
		f.late = v.Flags()&packet.SYN == 0
	}
	f.missed = f.late && !c.Existing && !e.excused()
	if by != nil {
		said := by.said
		e.more(f).announced = &said
	}
	if f.session = e.sessionFor(h, f, by); f.session == nil {
		e.flows.giveBack(f)
		return nil
	}
	f.session.flows++
	for i := range seen { // what had one of the two is another connection
		if old, _ := e.flows.find(&seen[i]); old != nil && old.idle() {
			e.drop(old)
		} else if old != nil {
			old.ended = true
			e.flows.hide(old, &seen[i])
		}
	}
	e.flows.enter(f)
	e.flows.touch(f)
	for e.flows.count > e.limits.Flows {
		idle := e.flows.idlest(f)
		if idle == nil {
			break
		}
		e.drop(idle)
	}
	return f
}

// reader is the helper that reads a connection, and the expectation that led to it.
func (e *Engine) reader(c *Conn) (*helper, *entry) {
	read := func(x *entry) bool {
		return e.helpers[parser{x.said.Helper, c.Transport}] != nil
	}
	if x := e.match(c, read); x != nil {
		return e.helpers[parser{x.said.Helper, c.Transport}], x
	}
	if h := e.ports[port{c.Transport, c.Orig.Dst.Port()}]; h != nil {
		return h, nil
	}
	return e.ports[port{c.Transport, c.Reply.Src.Port()}], nil
}

// drop takes a flow out of the table, after closing it. f is of no use afterwards: another flow may get its place.
func (e *Engine) drop(f *flow) {
	if !f.live {
		return
	}
	e.close(f)
	if f.extra != nil {
		e.clear(&f.extra.timer, f.alarm())
	}
	e.flows.remove(f)
}

// close ends the reading of a flow: what waits leaves, its session has one flow less. The journal stays.
func (e *Engine) close(f *flow) {
	if f.closed() {
		return
	}
	for dir := range f.dirs {
		e.lose(f, helpers.Dir(dir))
		e.heldOut(f, helpers.Dir(dir))
	}
	e.leave(f)
	s := f.session
	f.session = nil
	e.more(f).announced = nil
	e.wakeFlow(f, e.now.Add(lingers))
	e.leftBy(s, f)
}
