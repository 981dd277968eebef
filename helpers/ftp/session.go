package ftp

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/freelist"
)

const (
	maxOutstanding = 64  // commands that wait for their reply; more are only counted
	maxGroups      = 16  // announcements whose fate is followed; twice what may be pending
	maxNote        = 256 // bytes of a note; longer file names are cut
	maxPipelined   = 4   // notes kept until the answer to a pipelined PASV names the group that they belong to
	maxNames       = 2 * maxPipelined * maxNote
	maxFree        = 256 // desks that wait for a session: a flood of announcements must not leave its memory behind
	maxParts       = 255 // a nameID's
)

// A session follows one control connection. Its size is bounded by the constants above. There may be a million, most of
// them idle: numbers are as small as their bounds, and what it has for a while only is taken from desks.
type session struct {
	dirs  [2]direction // by helpers.Dir
	greet greeting
	// blind: bytes of the client were lost, so a passive reply cannot be matched with its command any more.
	// loose: bytes of either side were lost, so replies may not be those of the oldest command.
	blind, loose bool
	epsvAll      bool   // EPSV ALL was accepted (RFC 2428, section 4)
	toldTLS      bool   // the note about encryption was given
	multi        uint16 // code of the reply whose last line is still to come; 0: between replies

	steps  uint32  // see Steps
	last   groupID // of the latest announcement
	effect groupID // that a transfer uses now, as the replies tell; 0: none known
	groups *group  // announced and not known to be dead, oldest first
	sent   *queue  // nil: nothing of it
	desk   *desk   // that of all.none: nothing of it
}

func newSession(all *desks) *session { return &session{desk: &all.none} }

// queue is what the client has sent and the server has not answered.
type queue struct {
	commands []command // oldest first
	overflow uint32    // further ones behind a full queue
}

// groupID is a Group.ID of a session; 0: none. It wraps when nobody remembers the early ones any more.
type groupID uint32

func (id groupID) group() helpers.Group { return helpers.Group{ID: uint64(id)} }

// desk is what a session needs for a call or a few.
type desk struct {
	all *desks

	names []byte // notes of the commands that were sent
	parts []part // of names, each a note

	// Of the present call only.
	sites []site   // where its announcements stand, for Rewrite
	first error    // what Inspect returns
	plain []byte   // a line without telnet commands
	index []uint16 // of each byte of plain, and of its end, the place in the line
}

// outstanding are the commands that wait for their reply.
func (s *session) outstanding() []command {
	if s.sent == nil {
		return nil
	}
	return s.sent.commands
}

// overflows tells whether more commands wait than the queue holds.
func (s *session) overflows() bool { return s.sent != nil && s.sent.overflow > 0 }

// send gives the session a queue.
func (s *session) send() *queue {
	if s.sent == nil {
		s.sent = s.desk.all.queues.Take()
	}
	return s.sent
}

// rest gives the queue back if nothing waits.
func (s *session) rest() {
	if q := s.sent; q != nil && len(q.commands) == 0 && q.overflow == 0 {
		s.sent = nil
		s.desk.all.queues.Give(q)
	}
}

// work gives the session a desk.
func (s *session) work() *desk {
	if !s.working() {
		s.desk = s.desk.all.take()
	}
	return s.desk
}

// working tells whether the session has a desk.
func (s *session) working() bool { return s.desk != &s.desk.all.none }

// tidy clears the desk for the next call, and gives it back if no command needs it.
func (s *session) tidy() {
	if !s.working() {
		return
	}
	d := s.desk
	d.sites, d.first = d.sites[:0], nil
	if !slices.ContainsFunc(s.outstanding(), func(c command) bool { return c.name > 0 }) {
		d.names, d.parts = d.names[:0], d.parts[:0]
		s.desk = &d.all.none
		d.all.free.Give(d)
	}
}

// desks are what no session needs at the moment.
type desks struct {
	none   desk // stands for no desk: a session then needs no other pointer to what all share
	free   freelist.List[desk]
	queues freelist.List[queue]
	groups freelist.List[group]
}

func newDesks() *desks {
	all := &desks{}
	all.free.Most, all.queues.Most, all.groups.Most = maxFree, maxFree, maxFree
	all.none.all = all
	return all
}

func (all *desks) take() *desk {
	d := all.free.Take()
	d.all = all
	return d
}

// first is what Inspect returns.
func (s *session) first() error { return s.desk.first }

// direction is the state of one side's stream.
type direction struct {
	mode   mode
	long   bool // in a line that is too long: skip to its end
	joined bool // some byte was read, so what follows is no longer the stream's beginning
	torn   bool // bytes were lost: the first line may be a part of one

	// What was known when the present line began. Its first bytes may have gone out since, as nothing that mattered,
	// so what was learned meanwhile does not count.
	begun bool
	early bool  // of a command: before the greeting. Of a reply: client bytes were lost since
	known uint8 // of a reply: so many commands were waiting

	scanned uint16 // bytes of the unconsumed line that were searched for a line end
}

// begin notes what is known.
func (s *session) begin(d *direction) {
	if !d.begun {
		d.begun, d.known, d.early = true, uint8(len(s.outstanding())), s.greet == silent
	}
}

type mode uint8

const (
	text    mode = iota // lines
	records             // TLS records, stepped over by their headers
	opaque              // neither: nothing is read any more
	foreign             // another protocol: never trusted again
)

// greeting tells whether the server has said that it speaks FTP (RFC 959, section 5.4: 120, then 220).
type greeting uint8

const (
	silent greeting = iota
	waiting
	greeted
)

// group is an announcement and what is known of it. It has 32 bytes, one of Go's sizes: each flow that has announced
// something keeps one.
type group struct {
	next *group
	id   groupID
	addr [16]byte
	port uint16
	asks uint8 // PORT, EPRT, LPRT commands for it that are not answered
	is   trait
}

// trait is a set of what a group is.
type trait uint8

const (
	ofServer trait = 1 << iota // the server announced it
	ipv6                       // addr is no IPv4 address
	accepted                   // the server has agreed to it
)

// newGroup has an end point without the pointer of netip's.
func newGroup(id groupID, owner helpers.Dir, to netip.AddrPort) group {
	g := group{id: id, addr: to.Addr().As16(), port: to.Port()}
	if owner == helpers.Reply {
		g.is |= ofServer
	}
	if to.Addr().Is6() {
		g.is |= ipv6
	}
	return g
}

// names tells whether g is the announcement of the same end point by the same side.
func (g *group) names(of *group) bool {
	return g.addr == of.addr && g.port == of.port && (g.is^of.is)&^accepted == 0
}

func (g *group) owner() helpers.Dir { return helpers.Dir(g.is & ofServer) }

func (g *group) to() netip.AddrPort {
	a := netip.AddrFrom16(g.addr)
	if g.is&ipv6 == 0 {
		a = a.Unmap()
	}
	return netip.AddrPortFrom(a, g.port)
}

// site is the line of an announcement in Segment.Data.
type site struct {
	expect     int // index in Result.Expect
	form       form
	start, end int
}

// Inspect implements helpers.Session.
func (s *session) Inspect(seg *helpers.Segment, out *helpers.Result) error {
	s.tidy()
	d := &s.dirs[seg.Dir]
	if seg.Flow.Late && !s.blind {
		s.blind, s.loose, s.greet = true, true, greeted
	}
	if seg.Gap {
		s.lost(seg.Dir)
	}
	off := 0
loop:
	for off < len(seg.Data) {
		if d.long {
			off += d.skip(seg.Data[off:])
			continue
		}
		switch d.mode {
		case opaque, foreign:
			off = len(seg.Data)
		case records:
			n := s.record(seg.Data[off:], seg.Dir, off)
			if n == 0 && d.mode == records {
				break loop // the header is not whole
			}
			off += n
		case text:
			if !d.joined {
				if !s.encrypted(seg.Data[off:], d, out) {
					break loop // not yet to be told from a TLS record
				}
				if d.mode != text {
					continue
				}
			}
			n := s.line(seg, off, out)
			if n == 0 {
				break loop
			}
			off += n
		}
	}
	out.Consumed = off
	if off < len(seg.Data) && d.mode == text && !d.long {
		out.Hold = s.hold(seg, off)
	}
	return s.first()
}

// Steps counts the bytes that were looked at, again and again if they were looked at again: what bounds the work.
func (s *session) Steps() int { return int(s.steps) }

// Close implements helpers.Session. The engine cancels what the flow leaves behind.
func (s *session) Close(helpers.FlowID, *helpers.Result) {}

// line reads the line at off and returns its length; 0: its end is still to come.
func (s *session) line(seg *helpers.Segment, off int, out *helpers.Result) int {
	d := &s.dirs[seg.Dir]
	rest := seg.Data[off:]
	from := min(int(d.scanned), len(rest))
	n := bytes.IndexByte(rest[from:], '\n')
	if n >= 0 {
		s.steps += uint32(n + 1)
		n += from + 1
	} else {
		s.steps += uint32(len(rest) - from)
	}
	s.begin(d)
	if n < 0 && len(rest) < maxLine {
		d.scanned = uint16(len(rest))
		return 0
	}
	torn := d.torn
	d.scanned, d.torn = 0, false
	start := rest[:min(maxLine, len(rest))]
	if n < 0 || n > maxLine {
		// What is judged is the same whether the line end is there already or not.
		d.long, n = true, len(start)
	} else {
		start = rest[:n]
	}
	s.steps += uint32(len(start))
	was := s.first()
	if seg.Dir == helpers.Original {
		s.readCommand(seg, off, start, torn, out)
	} else {
		s.readReply(seg, off, start, out)
	}
	d.begun = false
	if torn && s.first() != was && !errors.Is(s.first(), helpers.ErrForeign) {
		s.work().first = was // a piece of a line is no error of the sender's
	}
	return n
}

// skip steps over the rest of a line that is too long.
func (d *direction) skip(b []byte) int {
	n := bytes.IndexByte(b, '\n')
	if n < 0 {
		return len(b)
	}
	d.long = false
	return n + 1
}

// lost says that bytes of dir are missing before the present ones.
func (s *session) lost(dir helpers.Dir) {
	d := &s.dirs[dir]
	*d = direction{mode: d.mode, torn: true}
	s.loose = true
	if s.overflows() {
		s.sent.overflow = 0
		s.rest()
	}
	if dir == helpers.Original {
		s.blind = true
		s.dirs[helpers.Reply].early = true
		s.clear()
		return
	}
	s.multi = 0
	s.greet = greeted // it may have been among them
}

// fail keeps the first error of a call: one call may read many lines, and a bad one does not stop the others.
func (s *session) fail(off int, err error) {
	if s.first() == nil {
		s.work().first = &helpers.ParseError{Off: off, Err: err}
	}
}

// lock ends all trust in a direction; why is what it looks like.
func (s *session) lock(dir helpers.Dir, why string) {
	s.dirs[dir].mode = foreign
	s.clear()
	s.work().first = fmt.Errorf("%s: %w", why, helpers.ErrForeign)
}

// clear forgets the commands that wait for their reply.
func (s *session) clear() {
	if s.sent != nil {
		s.sent.overflow = 0
		s.pop(len(s.sent.commands))
	}
}

// announce appends an expectation, of an old group if the end point is one that is announced already.
func (s *session) announce(seg *helpers.Segment, to netip.AddrPort, note string, at site, out *helpers.Result) *group {
	fresh := newGroup(0, seg.Dir, to)
	g := s.find(fresh.names)
	if g == nil {
		if s.last++; s.last == 0 {
			s.last++
		}
		fresh.id = s.last
		g = s.add(&fresh)
	}
	at.expect = len(out.Expect)
	work := s.work()
	work.sites = append(work.sites, at)
	out.Expect = append(out.Expect, helpers.Expectation{
		Transport: helpers.TCP,
		Owner:     seg.Dir,
		From:      netip.AddrPortFrom(seg.Flow.Peer(seg.Dir).Addr(), 0),
		To:        to,
		Group:     g.id.group(),
		Note:      note,
	})
	return g
}

// add puts a group behind all others, of which the oldest may have to go.
func (s *session) add(like *group) *group {
	at, n := &s.groups, 0
	for *at != nil {
		at, n = &(*at).next, n+1
	}
	g := s.desk.all.groups.Take()
	*g = *like
	if *at = g; n == maxGroups {
		s.remove(&s.groups)
	}
	return g
}

// remove takes the group at a place of the list out.
func (s *session) remove(at **group) {
	g := *at
	*at = g.next
	s.desk.all.groups.Give(g)
}

func (s *session) find(is func(*group) bool) *group {
	for g := s.groups; g != nil; g = g.next {
		if is(g) {
			return g
		}
	}
	return nil
}

func (s *session) byID(id groupID) *group {
	return s.find(func(g *group) bool { return g.id == id })
}

// accept says that the server has agreed to g: transfers use it from now on. As replies come in the order of the
// commands, every transfer of an end point agreed upon earlier is over, and none can follow.
func (s *session) accept(g *group, out *helpers.Result) {
	g.is |= accepted
	s.effect = g.id
	if !s.loose {
		s.drop(out, func(o *group) bool { return o != g && superseded(o) })
	}
}

// superseded tells whether g is of no use once the server has agreed to something newer.
func superseded(g *group) bool { return g.is&accepted != 0 && g.asks == 0 }

// drop cancels and forgets groups.
func (s *session) drop(out *helpers.Result, dead func(*group) bool) {
	for at := &s.groups; *at != nil; {
		g := *at
		if !dead(g) {
			at = &g.next
			continue
		}
		out.Cancel = append(out.Cancel, g.id.group())
		s.remove(at)
	}
}
