package sip

import (
	"bytes"
	"hash/maphash"
)

const (
	maxCallID = 255 // bytes of a Call-ID; RFC 3261 names no limit
	none      = -1  // no entry
)

// key names a call: its Call-ID, who began it, and his tag. Two hosts may have several calls with one Call-ID, as when
// a proxy leads a call back to where it came from. A registration has no tag.
type key struct {
	callID   []byte
	tag      uint64
	caller   host
	register bool
}

func (k *key) equal(o *key) bool {
	return k.tag == o.tag && k.caller == o.caller && k.register == o.register && bytes.Equal(k.callID, o.callID)
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

// table holds the calls and registrations of a session, and their order of use. Its zero value is empty.
type table struct {
	entries []call
	index   []int32 // by hash, open addressing; an entry's number and 1. A power of two, at most half full
	used    int
	free    int32 // entries that are not used, chained by newer; meaningful if used < len(entries)

	newest, oldest int32 // meaningful if used > 0
}

func hashOf(seed maphash.Seed, k *key) uint64 {
	n := uint64(k.caller)
	if k.register {
		n += 2
	}
	return maphash.Comparable(seed, [3]uint64{maphash.Bytes(seed, k.callID), k.tag, n})
}

// find is the entry of a key, and makes it the newest; nil: there is none.
func (t *table) find(seed maphash.Seed, k *key) *call {
	if t.used == 0 {
		return nil
	}
	h := hashOf(seed, k)
	mask := uint64(len(t.index) - 1)
	for i := h & mask; t.index[i] != 0; i = (i + 1) & mask {
		if c := &t.entries[t.index[i]-1]; c.hash == h && c.key.equal(k) {
			t.touch(t.index[i] - 1)
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
		t.free = t.entries[n].newer
	} else {
		n = int32(len(t.entries))
		t.entries = append(t.entries, call{})
	}
	c := &t.entries[n]
	own := append(c.key.callID[:0], k.callID...)
	*c = call{key: *k, hash: hashOf(seed, k), live: true, parts: c.parts[:0], dialogs: c.dialogs[:0]}
	c.key.callID = own
	t.enter(n)
	t.link(n)
	t.used++
	return c
}

// enter puts an entry into the index.
func (t *table) enter(n int32) {
	mask := uint64(len(t.index) - 1)
	i := t.entries[n].hash & mask
	for t.index[i] != 0 {
		i = (i + 1) & mask
	}
	t.index[i] = n + 1
}

func (t *table) grow() {
	t.index = make([]int32, max(8, 2*len(t.index)))
	for n := range t.entries {
		if t.entries[n].live {
			t.enter(int32(n))
		}
	}
}

// remove forgets an entry.
func (t *table) remove(c *call) {
	mask := uint64(len(t.index) - 1)
	i := c.hash & mask
	for t.index[i] == 0 || &t.entries[t.index[i]-1] != c {
		i = (i + 1) & mask
	}
	n := t.index[i] - 1
	// What was put behind its own place because of this entry moves up.
	for j := i; ; {
		j = (j + 1) & mask
		if t.index[j] == 0 {
			break
		}
		if home := t.entries[t.index[j]-1].hash & mask; (j-home)&mask >= (j-i)&mask {
			t.index[i] = t.index[j]
			i = j
		}
	}
	t.index[i] = 0
	t.unlink(n)
	t.used--
	c.live = false
	c.newer, t.free = t.free, n
}

// touch makes an entry the newest.
func (t *table) touch(n int32) {
	if t.newest != n {
		t.unlink(n)
		t.link(n)
	}
}

// link makes an entry that is in no order the newest.
func (t *table) link(n int32) {
	c := &t.entries[n]
	c.older, c.newer = none, none
	if t.used == 0 {
		t.oldest = n
	} else {
		c.older, t.entries[t.newest].newer = t.newest, n
	}
	t.newest = n
}

func (t *table) unlink(n int32) {
	c := &t.entries[n]
	if c.older == none {
		t.oldest = c.newer
	} else {
		t.entries[c.older].newer = c.newer
	}
	if c.newer == none {
		t.newest = c.older
	} else {
		t.entries[c.newer].older = c.older
	}
}
