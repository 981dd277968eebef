package queue

import "sort"

// waiting are the ids of packets that have been read and have no verdict yet, oldest first. There are few but for the
// newest batch, and that is answered from the front.
type waiting struct {
	ids  []uint32
	from int // the first in ids that counts
}

// after tells whether packet a is newer than b. Ids wrap: they are compared as the kernel does (nf_queue_cmp_id in
// nfqnl_recv_verdict_batch), which is right while fewer than 2^31 lie between.
func after(a, b uint32) bool { return int32(a-b) > 0 }

// add enters the newest packet.
func (w *waiting) add(id uint32) {
	if w.from > 0 && len(w.ids) == cap(w.ids) {
		w.ids = append(w.ids[:0], w.ids[w.from:]...)
		w.from = 0
	}
	w.ids = append(w.ids, id)
}

// remove takes a packet out; false: it is not there.
func (w *waiting) remove(id uint32) bool {
	ids := w.ids[w.from:]
	i := 0
	if len(ids) > 0 && ids[0] != id {
		i = sort.Search(len(ids), func(i int) bool { return !after(id, ids[i]) })
	}
	if i == len(ids) || ids[i] != id {
		return false
	}
	copy(ids[1:i+1], ids[:i])
	if w.from++; w.from == len(w.ids) {
		w.ids, w.from = w.ids[:0], 0
	}
	return true
}

// oldest is the packet that waits longest.
func (w *waiting) oldest() (id uint32, ok bool) {
	if w.from == len(w.ids) {
		return 0, false
	}
	return w.ids[w.from], true
}
