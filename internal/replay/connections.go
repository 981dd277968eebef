package replay

import (
	"container/list"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// How long connections live without a packet: the kernel's defaults (net/netfilter/nf_conntrack_proto_udp.c and
// _tcp.c).
const (
	udpLife       = 30 * time.Second
	udpStreamLife = 120 * time.Second
	tcpLife       = 5 * 24 * time.Hour
	tcpClosedLife = 120 * time.Second
)

// maxConnections is how many are remembered; then the one that was silent longest is forgotten, closed ones first.
const maxConnections = 1 << 18

// Queues of connections, each in the order of their last packet, so that the first one of each runs out first.
const (
	closedTCP = iota
	newUDP
	streamUDP
	openTCP
	queues
)

var lives = [queues]time.Duration{tcpClosedLife, udpLife, udpStreamLife, tcpLife}

type connKey struct {
	transport helpers.Transport
	tuple     helpers.Tuple
}

// connection is one entry of the table.
type connection struct {
	engine.Conn
	captured helpers.Tuple // original direction, as captured
	isn      uint32        // of the initiator, if began
	began    bool          // a SYN, or the answer to it, was seen
	replied  bool
	fin      [2]bool
	reset    bool
	shifts   [2][]engine.SeqAdjust // all that were set in a direction, the newest last
	queue    int
	place    *list.Element
	last     time.Time
}

// connections does for a capture what nf_conntrack does for a firewall, as far as helpers can tell.
type connections struct {
	server  func(helpers.Transport, uint16) bool // whether a helper reads this server port
	nat     *translator
	ended   func(*connection)
	packets map[connKey]*connection // by the tuple of a packet, as captured, in either direction
	replies map[connKey]*connection // by Conn.Reply
	origs   map[connKey]*connection // by Conn.Orig
	queues  [queues]list.List       // of *connection
}

func newConnections(server func(helpers.Transport, uint16) bool, nat *translator, ended func(*connection)) *connections {
	return &connections{
		server: server, nat: nat, ended: ended,
		packets: map[connKey]*connection{}, replies: map[connKey]*connection{}, origs: map[connKey]*connection{},
	}
}

// expire ends what was silent for too long at now.
func (c *connections) expire(now time.Time) {
	for q := range c.queues {
		for e := c.queues[q].Front(); e != nil; e = c.queues[q].Front() {
			if conn := e.Value.(*connection); now.Sub(conn.last) < lives[q] {
				break
			} else {
				c.end(conn)
			}
		}
	}
}

// packet finds or makes the connection of a packet. It is nil for what begins none: a reset out of nowhere.
func (c *connections) packet(h *header, now time.Time) (conn *connection, dir helpers.Dir, fresh bool) {
	conn = c.packets[connKey{h.transport, h.tuple}]
	if conn != nil && conn.again(h) {
		c.end(conn)
		conn = nil
	}
	if conn == nil {
		if h.transport == helpers.TCP && h.flags&rstFlag != 0 {
			return nil, 0, false
		}
		conn, fresh = c.begin(h), true
	}
	if h.tuple != conn.captured {
		dir = helpers.Reply
	}
	conn.saw(h, dir)
	c.touch(conn, now)
	return conn, dir, fresh
}

// again says whether a packet opens another connection with the tuple of an old one.
func (c *connection) again(h *header) bool {
	if h.transport != helpers.TCP || h.flags&synFlag == 0 {
		return false
	}
	closed := c.reset || c.fin[0] && c.fin[1]
	if h.flags&ackFlag != 0 {
		return closed && (!c.began || h.ack-1 != c.isn)
	}
	if h.tuple != c.captured {
		return closed // the other side opens one; else both open this one at once
	}
	return !c.began || h.seq != c.isn
}

// begin makes the connection that a packet without one belongs to.
func (c *connections) begin(h *header) *connection {
	if c.len() >= maxConnections {
		c.forgetOne()
	}
	conn := &connection{captured: h.tuple}
	conn.Transport = h.transport
	if h.transport == helpers.TCP {
		switch h.flags & (synFlag | ackFlag) {
		case synFlag:
			conn.isn, conn.began = h.seq, true
		case synFlag | ackFlag:
			conn.captured = h.tuple.Turned()
			conn.isn, conn.began = h.ack-1, true
		default:
			conn.Existing = true
			if c.server(h.transport, h.tuple.Src.Port()) && !c.server(h.transport, h.tuple.Dst.Port()) {
				conn.captured = h.tuple.Turned()
			}
		}
	}
	conn.Adjustable = true
	conn.Orig, conn.Reply = c.nat.tuples(h.transport, conn.captured, func(reply helpers.Tuple) bool {
		_, taken := c.replies[connKey{h.transport, reply}]
		return taken
	})
	c.packets[connKey{h.transport, conn.captured}] = conn
	c.packets[connKey{h.transport, conn.captured.Turned()}] = conn
	c.replies[connKey{h.transport, conn.Reply}] = conn
	c.origs[connKey{h.transport, conn.Orig}] = conn
	conn.queue = openTCP
	if h.transport == helpers.UDP {
		conn.queue = newUDP
	}
	conn.place = c.queues[conn.queue].PushBack(conn)
	return conn
}

// saw follows the state of a connection.
func (c *connection) saw(h *header, dir helpers.Dir) {
	c.replied = c.replied || dir == helpers.Reply
	if h.transport == helpers.TCP {
		c.fin[dir] = c.fin[dir] || h.flags&finFlag != 0
		c.reset = c.reset || h.flags&rstFlag != 0
	}
}

// touch moves a connection to the end of its queue.
func (c *connections) touch(conn *connection, now time.Time) {
	q := openTCP
	switch {
	case conn.Transport == helpers.UDP && conn.replied:
		q = streamUDP
	case conn.Transport == helpers.UDP:
		q = newUDP
	case conn.reset || conn.fin[0] && conn.fin[1]:
		q = closedTCP
	}
	conn.last = now
	if q == conn.queue {
		c.queues[q].MoveToBack(conn.place)
		return
	}
	c.queues[conn.queue].Remove(conn.place)
	conn.queue, conn.place = q, c.queues[q].PushBack(conn)
}

func (c *connections) len() (n int) {
	for q := range c.queues {
		n += c.queues[q].Len()
	}
	return n
}

func (c *connections) forgetOne() {
	for q := range c.queues {
		if e := c.queues[q].Front(); e != nil {
			c.end(e.Value.(*connection))
			return
		}
	}
}

func (c *connections) end(conn *connection) {
	c.queues[conn.queue].Remove(conn.place)
	forget := func(table map[connKey]*connection, t helpers.Tuple) {
		if key := (connKey{conn.Transport, t}); table[key] == conn {
			delete(table, key)
		}
	}
	forget(c.packets, conn.captured)
	forget(c.packets, conn.captured.Turned())
	forget(c.replies, conn.Reply)
	forget(c.origs, conn.Orig)
	c.ended(conn)
}

// maxShifts is how many changes of length per direction are remembered: acknowledgements older than the oldest of
// them are out of any window.
const maxShifts = 64

// adjust remembers what the kernel would adjust from now on.
func (c *connection) adjust(dir helpers.Dir, a engine.SeqAdjust) {
	c.Adjust[dir] = a
	s := append(c.shifts[dir], a)
	if len(s) > maxShifts {
		s = append(s[:0], s[1:]...)
	}
	c.shifts[dir] = s
}

// acknowledged is what the receiver of the rewritten bytes would acknowledge where the capture, in which nobody
// rewrote any, has ack: bytes of the direction dir.
func (c *connection) acknowledged(dir helpers.Dir, ack uint32) uint32 {
	s := c.shifts[dir]
	if len(s) == 0 {
		return ack
	}
	for i := len(s) - 1; i >= 0; i-- {
		if int32(ack-s[i].Pos) > 0 {
			return ack + uint32(s[i].After)
		}
	}
	return ack + uint32(s[0].Before)
}
