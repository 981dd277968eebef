package engine

import (
	"errors"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// lingers is how long the journal of a closed flow is kept for late copies, if conntrack does not end the flow before.
const lingers = 120 * time.Second

// flow is a connection that a session reads.
type flow struct {
	id           helpers.FlowID
	seen         [2]key // the tuple of a packet, as seen behind NAT, by direction
	session      *session
	newer, older *flow // in the order of the last packet
	announced    *helpers.Expectation
	dirs         [2]direction
	nat          *rewriting // nil: not under NAT
	wait         []waiting
	mark         uint32
	zone         uint16 // of conntrack; the keys have it only if the queue tells it
	late         bool   // its beginning was not seen
	missed       bool   // late without an excuse: it may announce nothing
	adjustable   bool
	closed       bool // no session reads it any more
	ended        bool // to be ended once its session is not busy
	gone         bool // out of the table
	timer        timer
}

// rewriting is what a flow under NAT has in addition.
type rewriting struct {
	journals [2]journal
}

// The keys are the tuples as packets behind NAT show them: the original direction is seen as the reply tuple turned,
// the reply direction as the original one turned.
func (f *flow) orig() helpers.Tuple  { return f.seen[helpers.Reply].tuple().Turned() }
func (f *flow) reply() helpers.Tuple { return f.seen[helpers.Original].tuple().Turned() }

func (f *flow) transport() helpers.Transport { return f.seen[0].transport }

// seenAs are the keys of a connection's packets; zone is 0 where the queue does not tell it.
func seenAs(c *Conn, zone uint16) [2]key {
	return [2]key{pack(c.Transport, c.Reply.Turned(), zone), pack(c.Transport, c.Orig.Turned(), zone)}
}

// find gives the flow of a packet, and makes it if a helper reads it; nil: none does.
func (e *Engine) find(p *Packet, v *packet.View) (*flow, helpers.Dir) {
	zone := uint16(0)
	if p.Conn != nil {
		zone = p.Conn.Zone
	}
	k := pack(v.Transport(), v.Tuple(), zone)
	f := e.flows[k]
	if f != nil {
		dir := helpers.Original
		if k != f.seen[0] {
			dir = helpers.Reply
		}
		if !e.replaced(f, dir, p.Conn, zone, v) {
			return f, dir
		}
		if !f.idle() {
			return f, dir // it waits for its turn, and is looked at again then
		}
		e.drop(f)
	}
	c, ok := e.connection(p, v)
	if !ok {
		return nil, 0
	}
	if f = e.open(&c, zone, v, p.ID); f == nil {
		return nil, 0
	}
	if k != f.seen[0] {
		return f, helpers.Reply
	}
	return f, helpers.Original
}

// replaced tells whether the packet is of another connection than f, with the same tuple.
func (e *Engine) replaced(f *flow, dir helpers.Dir, c *Conn, zone uint16, v *packet.View) bool {
	if c != nil && seenAs(c, zone) != f.seen {
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

// connection says what is known of a packet's connection.
func (e *Engine) connection(p *Packet, v *packet.View) (Conn, bool) {
	if p.Conn != nil {
		c := *p.Conn
		return c, c.Transport == v.Transport()
	}
	if e.lookup == nil {
		return Conn{}, false
	}
	t := v.Tuple()
	c, err := e.lookup(v.Transport(), t)
	switch {
	case err == nil:
		return c, c.Transport == v.Transport()
	case v.Transport() != helpers.UDP || !errors.Is(err, ErrNotTracked):
		return Conn{}, false
	case e.ports[port{helpers.UDP, t.Dst.Port()}] != nil:
		return Conn{Transport: helpers.UDP, Orig: t, Reply: t.Turned()}, true
	case e.ports[port{helpers.UDP, t.Src.Port()}] != nil:
		return Conn{Transport: helpers.UDP, Orig: t.Turned(), Reply: t}, true
	}
	return Conn{}, false
}

// open makes the flow of a connection; nil: no helper reads it.
func (e *Engine) open(c *Conn, zone uint16, v *packet.View, id uint64) *flow {
	h, by := e.reader(c)
	if h == nil {
		return nil
	}
	e.last.Flow++
	f := &flow{
		id: helpers.FlowID(e.last.Flow), seen: seenAs(c, zone), mark: c.Mark, zone: c.Zone,
		adjustable: c.Adjustable,
	}
	if c.Orig != c.Reply.Turned() {
		f.nat = &rewriting{}
		for dir := range f.nat.journals {
			f.nat.journals[dir].found(c.Adjust[dir])
		}
	}
	switch {
	case v.Transport() == helpers.UDP:
		f.late = c.Existing
	default:
		f.late = v.Flags()&packet.SYN == 0
	}
	f.missed = f.late && !c.Existing && !e.overflowed
	f.timer.flow = f
	if by != nil {
		said := by.said
		f.announced = &said
	}
	if f.session = e.sessionFor(h, f, by); f.session == nil {
		return nil
	}
	f.session.flows++
	for _, k := range f.seen { // what had one of the two is another connection
		if old := e.flows[k]; old != nil && old.idle() {
			e.drop(old)
		} else if old != nil {
			old.ended = true
		}
	}
	e.flows[f.seen[0]], e.flows[f.seen[1]] = f, f
	e.count++
	e.recent(f)
	for e.count > e.limits.Flows && e.forgetOldest(f) {
	}
	return f
}

// reader is the helper that reads a connection, and the expectation that led to it.
func (e *Engine) reader(c *Conn) (*helper, *entry) {
	read := func(x *entry) bool {
		h := e.helpers[x.said.Helper]
		return h != nil && h.Transport == c.Transport
	}
	if x := e.match(c, read); x != nil {
		return e.helpers[x.said.Helper], x
	}
	if h := e.ports[port{c.Transport, c.Orig.Dst.Port()}]; h != nil {
		return h, nil
	}
	return e.ports[port{c.Transport, c.Reply.Src.Port()}], nil
}

// recent makes f the flow with the newest packet.
func (e *Engine) recent(f *flow) {
	if e.newest == f {
		return
	}
	e.unlink(f)
	if f.older = e.newest; e.newest != nil {
		e.newest.newer = f
	}
	if e.newest = f; e.oldest == nil {
		e.oldest = f
	}
}

func (e *Engine) unlink(f *flow) {
	if f.newer != nil {
		f.newer.older = f.older
	} else if e.newest == f {
		e.newest = f.older
	}
	if f.older != nil {
		f.older.newer = f.newer
	} else if e.oldest == f {
		e.oldest = f.newer
	}
	f.newer, f.older = nil, nil
}

// forgetOldest drops the flow that was silent longest, but not keep; false: all others wait for answers.
func (e *Engine) forgetOldest(keep *flow) bool {
	for f := e.oldest; f != nil; f = f.newer {
		if f != keep && f.idle() {
			e.drop(f)
			return true
		}
	}
	return false
}

// drop takes a flow out of the table, after closing it.
func (e *Engine) drop(f *flow) {
	if f.gone {
		return
	}
	e.close(f)
	f.gone = true
	for _, k := range f.seen {
		if e.flows[k] == f {
			delete(e.flows, k)
		}
	}
	e.unlink(f)
	e.timers.clear(&f.timer)
	e.count--
}

// close ends the reading of a flow: what waits leaves, its session has one flow less. The journal stays.
func (e *Engine) close(f *flow) {
	if f.closed {
		return
	}
	for dir := range f.dirs {
		e.lose(&f.dirs[dir])
		e.heldOut(f, helpers.Dir(dir))
	}
	e.leave(f)
	f.closed = true
	s := f.session
	f.session, f.announced = nil, nil
	e.timers.set(&f.timer, e.now.Add(lingers))
	e.leftBy(s, f)
}
