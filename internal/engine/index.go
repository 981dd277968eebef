package engine

import (
	"hash/maphash"
	"iter"
	"net/netip"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

// A trunk has thousands of calls in one session: what is asked at each message is found by name, never by a search.

// list are entries in the order of their announcement.
type list struct {
	first, last    *entry
	count, pending int
	classes        [maxClasses]int // of pending
}

// all gives the entries; the one at hand may be taken out meanwhile.
func (l *list) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for x := l.first; x != nil; {
			after := x.after
			if !yield(x) {
				return
			}
			x = after
		}
	}
}

func (l *list) add(x *entry) {
	if x.before = l.last; x.before == nil {
		l.first = x
	} else {
		x.before.after = x
	}
	l.last = x
	l.count++
}

func (l *list) remove(x *entry) {
	if x.before == nil {
		l.first = x.after
	} else {
		x.before.after = x.after
	}
	if x.after == nil {
		l.last = x.before
	} else {
		x.after.before = x.before
	}
	x.before, x.after = nil, nil
	l.count--
}

// Ways to find an entry.
const (
	byID    = iota
	byAt    // where it is seen
	byTo    // where it is
	byGroup // of its session
)

// link is an entry's place in one of the indexes.
type link struct {
	hash uint64 // of the name it has there
	next *entry
}

// entries finds them by names. Two names with one hash are as good as never met: it is long, and its seed is secret.
type entries struct {
	seed    maphash.Seed
	indexes [4]index
	latest  end // that was hashed, and what came of it
	hashed  uint64
}

// index is a hash table of lists, the newest in front. It has at least four slots for each entry, since what is passed on
// the way has to be waited for.
type index struct {
	slots []*entry // a power of two
	count int
}

func newEntries() (t entries) {
	t.seed = maphash.MakeSeed()
	t.hashed = maphash.Comparable(t.seed, t.latest)
	for way := range t.indexes {
		t.indexes[way].slots = make([]*entry, 16)
	}
	return t
}

// endHash has the two ports of a pair, which come and go together, in slots side by side.
func (t *entries) endHash(transport helpers.Transport, a netip.AddrPort, zone uint16) uint64 {
	p := packEnd(transport, a, zone)
	half := uint64(p.port & 1)
	p.port &^= 1
	if p != t.latest { // one announcement asks for its end point again and again
		t.latest, t.hashed = p, maphash.Comparable(t.seed, p)
	}
	return t.hashed&^1 | half
}

// groupHash has groups that a session counts side by side.
func (t *entries) groupHash(s *session, id uint64) uint64 {
	return maphash.Comparable(t.seed, s.id) + id
}

func (t *entries) hash(way int, x *entry) uint64 {
	switch way {
	case byID:
		return uint64(x.id())
	case byAt:
		return t.endHash(x.said.Transport, x.at, x.master.Zone)
	case byTo:
		return t.endHash(x.said.Transport, x.to, x.master.Zone)
	}
	return t.groupHash(x.session, x.said.Group.ID)
}

func (t *entries) link(way int, x *entry) {
	ix, l := &t.indexes[way], &x.links[way]
	if ix.count++; 4*ix.count > len(ix.slots) {
		ix.grow(way)
	}
	l.hash, x.part = t.hash(way, x), x.said.Group.Part
	at := ix.slot(l.hash)
	l.next, *at = *at, x
}

func (t *entries) unlink(way int, x *entry) {
	ix, l := &t.indexes[way], &x.links[way]
	at := ix.slot(l.hash)
	for *at != x {
		at = &(*at).links[way].next
	}
	*at, l.next = l.next, nil
	ix.count--
}

// slot is where the list of a name begins.
func (ix *index) slot(hash uint64) **entry { return &ix.slots[hash&uint64(len(ix.slots)-1)] }

// grow doubles the slots. Each list becomes two, in the same order.
func (ix *index) grow(way int) {
	n := len(ix.slots)
	slots := make([]*entry, 2*n)
	for i, x := range ix.slots {
		ends := [2]**entry{&slots[i], &slots[i+n]}
		for ; x != nil; x = x.links[way].next {
			half := x.links[way].hash / uint64(n) & 1
			*ends[half] = x
			ends[half] = &x.links[way].next
		}
		*ends[0], *ends[1] = nil, nil
	}
	ix.slots = slots
}

// first is the newest of the entries with a name; nil: there is none.
func (t *entries) first(way int, hash uint64) *entry {
	return (*t.indexes[way].slot(hash)).named(way, hash)
}

// next is the one behind it.
func (x *entry) next(way int) *entry { return x.links[way].next.named(way, x.links[way].hash) }

// named is the first entry with a name from x on.
func (x *entry) named(way int, hash uint64) *entry {
	for x != nil && x.links[way].hash != hash {
		x = x.links[way].next
	}
	return x
}

// enlist adds x to its session, and names it.
func (e *Engine) enlist(x *entry) {
	x.session.more().list.add(x)
	x.listed = true
	e.mappings++
	e.named(x)
}

func (e *Engine) unlist(x *entry) {
	x.session.extra.list.remove(x)
	x.listed = false
	e.mappings--
	e.unnamed(x)
}

// named makes x known by its name, where it is and is seen, and by its group.
func (e *Engine) named(x *entry) {
	for way := range x.links {
		e.entries.link(way, x)
	}
}

func (e *Engine) unnamed(x *entry) {
	for way := range x.links {
		e.entries.unlink(way, x)
	}
}

// byName is the entry that is named so; nil: there is none.
func (e *Engine) byName(id expect.ID) *entry { return e.entries.first(byID, uint64(id)) }

// seenAt is the newest entry that is seen at an end point; others come by next(byAt).
func (e *Engine) seenAt(t helpers.Transport, at netip.AddrPort, zone uint16) *entry {
	return e.entries.first(byAt, e.entries.endHash(t, at, zone))
}

// standingAt is the newest entry for an end point itself; others come by next(byTo).
func (e *Engine) standingAt(t helpers.Transport, to netip.AddrPort, zone uint16) *entry {
	return e.entries.first(byTo, e.entries.endHash(t, to, zone))
}

// owned gives a family's entries for the end point to, the newest first.
func (e *Engine) owned(s *session, t helpers.Transport, to netip.AddrPort, zone uint16) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for x := e.standingAt(t, to, zone); x != nil; x = x.next(byTo) {
			if x.session.kin(s) && !yield(x) {
				return
			}
		}
	}
}

// grouped gives a session's entries of a group, or of a part of it, the newest first.
func (e *Engine) grouped(s *session, g helpers.Group) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for x := e.entries.first(byGroup, e.entries.groupHash(s, g.ID)); x != nil; x = x.next(byGroup) {
			if (g.Part == 0 || g.Part == x.part) && !yield(x) {
				return
			}
		}
	}
}

// master is what announcements of s hang on. Those of a trunk have one and the same.
func (s *session) master(m *expect.Master) *expect.Master {
	x := s.more()
	if x.master == nil || *x.master != *m {
		own := *m
		x.master = &own
	}
	return x.master
}
