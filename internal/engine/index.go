package engine

import (
	"iter"
	"net/netip"

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

// group names what a session has announced in a group.
type group struct {
	session *session
	id      uint64
}

func (x *entry) group() group { return group{x.session, x.said.Group.ID} }

// enlist adds x to its session, and names it.
func (e *Engine) enlist(x *entry) {
	x.session.more().list.add(x)
	e.mappings++
	e.named(x)
}

// named makes x known by its name, where it is and is seen, and by its group.
func (e *Engine) named(x *entry) {
	e.entries[x.id] = x
	link(e.ends, packEnd(x.said.Transport, x.at, x.master.Zone), x, nextEnd)
	link(e.tos, packEnd(x.said.Transport, x.to, x.master.Zone), x, nextTo)
	link(e.groups, x.group(), x, nextInGroup)
}

func (e *Engine) unnamed(x *entry) {
	delete(e.entries, x.id)
	unlink(e.ends, packEnd(x.said.Transport, x.at, x.master.Zone), x, nextEnd)
	unlink(e.tos, packEnd(x.said.Transport, x.to, x.master.Zone), x, nextTo)
	unlink(e.groups, x.group(), x, nextInGroup)
}

func nextEnd(x *entry) **entry     { return &x.next }
func nextTo(x *entry) **entry      { return &x.nextTo }
func nextInGroup(x *entry) **entry { return &x.nextInGroup }

// link puts x in front of what a table has at key.
func link[K comparable](table map[K]*entry, key K, x *entry, next func(*entry) **entry) {
	*next(x) = table[key]
	table[key] = x
}

func unlink[K comparable](table map[K]*entry, key K, x *entry, next func(*entry) **entry) {
	first := table[key]
	for at := &first; *at != nil; at = next(*at) {
		if *at == x {
			*at = *next(x)
			break
		}
	}
	if *next(x) = nil; first == nil {
		delete(table, key)
	} else {
		table[key] = first
	}
}

// owned gives a family's entries for the end point to, the newest first.
func (e *Engine) owned(s *session, t helpers.Transport, to netip.AddrPort, zone uint16) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for x := e.tos[packEnd(t, to, zone)]; x != nil; x = x.nextTo {
			if x.session.kin(s) && !yield(x) {
				return
			}
		}
	}
}

// grouped gives a session's entries of a group, or of a part of it, the newest first.
func (e *Engine) grouped(s *session, g helpers.Group) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for x := e.groups[group{s, g.ID}]; x != nil; x = x.nextInGroup {
			if within(x.said.Group, g) && !yield(x) {
				return
			}
		}
	}
}
