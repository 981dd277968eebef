package sip

import (
	"cmp"
	"hash/maphash"
	"slices"
)

const (
	maxCallID = 255 // bytes of a Call-ID; RFC 3261 names no limit
	lot       = 64  // calls among which the one that is forgotten is chosen
)

// key names a call: its Call-ID, who began it, and his tag. Two hosts may have several calls with one Call-ID, as when
// a proxy leads a call back to where it came from. A registration is named by its address-of-record, in the place of a tag.
type key struct {
	callID   []byte
	tag      uint64
	caller   host
	register bool
}

// tagOf stands for a tag; 0: there is none. Who makes two tags that are alike only confuses calls of his own.
func tagOf(b []byte) uint64 {
	if len(b) == 0 {
		return 0
	}
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return max(h, 1)
}

// table holds the calls and registrations of a session. Its zero value is empty. What a look-up touches is kept small:
// with many calls, most of its time is waiting for memory.
type table struct {
	entries []call
	index   []uint64 // open addressing, at most half full: upper half of a hash, and an entry's number and 1
	used    int
	free    int32  // entries that are not used, chained by next; meaningful if used < len(entries)
	clock   uint32 // of call.heard
	hand    int    // where oldest goes on
}

// hashOf stands for a key. The seed is secret, so nobody can make two that are alike, or many that are near each other.
func hashOf(seed maphash.Seed, k *key) uint64 {
	n := uint64(k.caller)
	if k.register {
		n += 2
	}
	return maphash.Comparable(seed, [3]uint64{maphash.Bytes(seed, k.callID), k.tag, n})
}

// A slot of the index says all that is needed to search and move it.
func slot(hash uint64, n int32) uint64 { return hash&^(1<<32-1) | uint64(n+1) }

func entryOf(slot uint64) int32 { return int32(uint32(slot)) - 1 }

// home is where the search for a hash, or for that of a slot, begins.
func (t *table) home(hash uint64) uint64 { return hash >> 32 & uint64(len(t.index)-1) }

// find is the entry of a key, which was heard of now; nil: there is none.
func (t *table) find(seed maphash.Seed, k *key) *call {
	if t.used == 0 {
		return nil
	}
	h := hashOf(seed, k)
	mask := uint64(len(t.index) - 1)
	for i := t.home(h); t.index[i] != 0; i = (i + 1) & mask {
		if t.index[i]>>32 != h>>32 {
			continue
		}
		if c := &t.entries[entryOf(t.index[i])]; c.hash == h {
			t.clock++
			c.heard = t.clock
			return c
		}
	}
	return nil
}

// add makes an entry of a key that has none. It stays where it is until the next add.
func (t *table) add(seed maphash.Seed, k *key) *call {
	if 2*(t.used+1) > len(t.index) {
		t.grow()
	}
	var n int32
	if t.used < len(t.entries) {
		n = t.free
		t.free = t.entries[n].next
	} else {
		n = int32(len(t.entries))
		t.entries = append(t.entries, call{})
	}
	c := &t.entries[n]
	own := append(c.key.callID[:0], k.callID...)
	t.clock++
	*c = call{key: *k, hash: hashOf(seed, k), heard: t.clock, live: true, parts: c.parts[:0], dialogs: c.dialogs[:0]}
	c.key.callID = own
	t.enter(n)
	t.used++
	return c
}

// enter puts an entry into the index.
func (t *table) enter(n int32) {
	mask := uint64(len(t.index) - 1)
	h := t.entries[n].hash
	i := t.home(h)
	for t.index[i] != 0 {
		i = (i + 1) & mask
	}
	t.index[i] = slot(h, n)
}

func (t *table) grow() {
	t.index = make([]uint64, max(8, 2*len(t.index)))
	for n := range t.entries {
		if t.entries[n].live {
			t.enter(int32(n))
		}
	}
}

// remove forgets an entry.
func (t *table) remove(c *call) {
	mask := uint64(len(t.index) - 1)
	i := t.home(c.hash)
	for t.index[i] == 0 || &t.entries[entryOf(t.index[i])] != c {
		i = (i + 1) & mask
	}
	n := entryOf(t.index[i])
	// What was put behind its own place because of this entry moves up.
	for j := i; ; {
		j = (j + 1) & mask
		if t.index[j] == 0 {
			break
		}
		if home := t.home(t.index[j]); (j-home)&mask >= (j-i)&mask {
			t.index[i] = t.index[j]
			i = j
		}
	}
	t.index[i] = 0
	t.used--
	c.live = false
	if cap(c.parts) > fewParts {
		c.parts = nil
	}
	c.next, t.free = t.free, n
}

// oldest is the entry of which nothing was heard for longest, among some. The table is not empty.
func (t *table) oldest() (old *call) {
	for seen := 0; seen < min(lot, t.used); t.hand++ {
		t.hand %= len(t.entries)
		c := &t.entries[t.hand]
		if !c.live {
			continue
		}
		seen++
		if old == nil || int32(c.heard-old.heard) < 0 {
			old = c
		}
	}
	return old
}

// inOrder are the numbers of all entries, those first of which nothing was heard for longest.
func (t *table) inOrder() []int32 {
	order := make([]int32, 0, t.used)
	for n := range t.entries {
		if t.entries[n].live {
			order = append(order, int32(n))
		}
	}
	slices.SortFunc(order, func(a, b int32) int {
		return -cmp.Compare(int32(t.clock-t.entries[a].heard), int32(t.clock-t.entries[b].heard))
	})
	return order
}
