package engine

import (
	"hash/maphash"
	"iter"
	"slices"

	"github.com/cthelperd/cthelperd/helpers"
)

const (
	blockLen   = 1024 // flows whose memory is taken at once: whole pages, so nothing is lost between two blocks
	minSlots   = 64
	candidates = 64 // flows that are compared when one has to go
)

// table holds the flows. They lie in blocks that never move, each in a place with a number; what is dropped leaves its
// place to a later one. slots is a hash table of places, open addressed, without pointers: a look-up costs one slot and
// the flow itself, which holds its keys. A flow without NAT has one slot for both directions, else one for each.
//
// The hash has a secret seed, as the tuples are chosen by others.
type table struct {
	blocks []*[blockLen]flow
	unused []uint32 // places that were left
	places int      // that were ever taken
	count  int
	packet uint64 // packets up to now
	lot    uint32 // see idlest
	seed   maphash.Seed
	slots  []slot // a power of two
	full   int    // slots that are not empty
}

// slot is an entry of the hash table.
type slot struct {
	place uint32 // from 1; 0: empty
	hash  uint32
}

func newTable() table { return table{seed: maphash.MakeSeed(), slots: make([]slot, minSlots)} }

func (t *table) at(place int) *flow { return &t.blocks[place/blockLen][place%blockLen] }

// hash leaves the zone out: Prepare does not know it.
func (t *table) hash(k *key) uint32 {
	c := k.either()
	c.zone = 0
	return uint32(maphash.Comparable(t.seed, c))
}

// find is the flow whose packets show k, and their direction; nil: there is none.
func (t *table) find(k *key) (*flow, helpers.Dir) { return t.findHashed(k, t.hash(k)) }

// findHashed is find with the hash of k.
func (t *table) findHashed(k *key, h uint32) (*flow, helpers.Dir) {
	mask := uint32(len(t.slots) - 1)
	for i := h & mask; t.slots[i].place > 0; i = (i + 1) & mask {
		if t.slots[i].hash != h {
			continue
		}
		switch f := t.at(int(t.slots[i].place - 1)); {
		case f.key == *k:
			return f, helpers.Original
		case f.nat == nil && f.key.answers(k), f.nat != nil && f.nat.reply == *k:
			return f, helpers.Reply
		}
	}
	return nil, 0
}

// take gives the place of a flow that is to be.
func (t *table) take() *flow {
	place := t.places
	if n := len(t.unused); n > 0 {
		place = int(t.unused[n-1])
		t.unused = t.unused[:n-1]
	} else {
		if place == len(t.blocks)*blockLen {
			t.blocks = append(t.blocks, new([blockLen]flow))
		}
		t.places++
	}
	f := t.at(place)
	*f = flow{place: uint32(place)}
	return f
}

// giveBack empties a flow's place.
func (t *table) giveBack(f *flow) {
	t.unused = append(t.unused, f.place)
	*f = flow{}
}

// enter makes a flow to be found by its keys, of which nobody else has any.
func (t *table) enter(f *flow) {
	f.live = true
	t.count++
	t.put(slot{f.place + 1, t.hash(&f.key)})
	if f.nat != nil {
		k := f.seen(helpers.Reply)
		t.put(slot{f.place + 1, t.hash(&k)})
	}
	if t.full > len(t.slots)/4*3 {
		old := t.slots
		t.slots, t.full = make([]slot, 2*len(old)), 0
		for _, s := range old {
			if s.place > 0 {
				t.put(s)
			}
		}
	}
}

func (t *table) put(s slot) {
	mask := uint32(len(t.slots) - 1)
	i := s.hash & mask
	for t.slots[i].place > 0 {
		i = (i + 1) & mask
	}
	t.slots[i] = s
	t.full++
}

// remove takes a flow out, and gives its place back.
func (t *table) remove(f *flow) {
	t.clear(slot{f.place + 1, t.hash(&f.key)})
	if f.nat != nil {
		k := f.seen(helpers.Reply)
		t.clear(slot{f.place + 1, t.hash(&k)})
	}
	t.count--
	t.giveBack(f)
}

// hide has packets that show k not find f any more.
func (t *table) hide(f *flow, k *key) { t.clear(slot{f.place + 1, t.hash(k)}) }

// clear empties a slot. What was put behind it for want of room moves up.
func (t *table) clear(s slot) {
	mask := uint32(len(t.slots) - 1)
	i := s.hash & mask
	for t.slots[i] != s {
		if t.slots[i].place == 0 {
			return
		}
		i = (i + 1) & mask
	}
	for j := (i + 1) & mask; t.slots[j].place > 0; j = (j + 1) & mask {
		if home := t.slots[j].hash & mask; (j-home)&mask >= (j-i)&mask {
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = slot{}
	t.full--
}

// touch says that f has a packet.
func (t *table) touch(f *flow) {
	t.packet++
	f.last = t.packet
}

// idlest is a flow that may go, but not keep: of a few drawn by lot the one that was silent longest, which is one of the
// oldest. To have all flows in order would cost each packet several misses of the cache. nil: all others wait for
// answers.
func (t *table) idlest(keep *flow) (found *flow) {
	compare := func(place int) {
		if f := t.at(place); f.live && f != keep && f.idle() && (found == nil || f.last < found.last) {
			found = f
		}
	}
	if t.places > candidates {
		for range candidates {
			t.lot = t.lot*1664525 + 1013904223 // Numerical Recipes, section 7.1: all numbers in turn
			compare(int(uint64(t.lot) * uint64(t.places) >> 32))
		}
	}
	if found == nil {
		for place := range t.places {
			compare(place)
		}
	}
	return found
}

// all are the flows. The one at hand may be removed meanwhile.
func (t *table) all() iter.Seq[*flow] {
	return func(yield func(*flow) bool) {
		for place := range t.places {
			if f := t.at(place); f.live && !yield(f) {
				return
			}
		}
	}
}

// byAge are the flows, from the one that was silent longest.
func (t *table) byAge() []*flow {
	return slices.SortedFunc(t.all(), func(a, b *flow) int { return int(int64(a.last - b.last)) })
}
