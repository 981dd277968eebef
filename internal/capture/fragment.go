package capture

import (
	"container/list"
	"net/netip"
	"slices"
	"time"
)

// gopacket has a reassembler for each family, but neither bounds its memory, and the one for IPv6 goes by the clock on
// the wall and loses extension headers.
const (
	maxDatagram      = 65535
	maxFragmentBytes = 4 << 20          // kept in all: net.ipv4.ipfrag_high_thresh
	fragmentLife     = 30 * time.Second // net.ipv4.ipfrag_time; RFC 8200 section 4.5 has 60, Linux waits that long
	fragmentOverhead = 128              // what a kept fragment costs beside its bytes, about
)

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	protocol byte // IPv4 only: RFC 8200 section 4.5 leaves it out
}

// reassembler puts datagrams together within bounds: the oldest gives way to the newest.
type reassembler struct {
	open    map[fragmentKey]*list.Element // of *datagram
	age     list.List                     // oldest first
	bytes   int
	dropped uint64 // fragments whose datagram will not be seen
}

type datagram struct {
	key    fragmentKey
	since  time.Time
	header []byte // of the fragment at offset 0
	parts  []part // sorted, disjoint
	have   int
	end    int // -1: not known
	cost   int
}

type part struct {
	off  int
	data []byte
}

// add takes a fragment and gives the whole datagram if it was the last one missing: the first fragment's header and
// all data. Overlaps end a datagram (RFC 5722 section 4, and Linux for both families); exact copies are ignored.
func (r *reassembler) add(k fragmentKey, header, data []byte, off int, more bool, now time.Time) []byte {
	r.expire(now)
	if r.open == nil {
		r.open = make(map[fragmentKey]*list.Element)
	}
	e := r.open[k]
	if e == nil {
		e = r.age.PushBack(&datagram{key: k, since: now, end: -1})
		r.open[k] = e
	}
	d := e.Value.(*datagram)
	added, ok := d.insert(header, data, off, more)
	if !ok {
		r.dropped++
		r.drop(e)
		return nil
	}
	r.bytes += added
	d.cost += added
	if d.have == d.end && d.header != nil {
		if len(d.header)+d.have > maxDatagram {
			r.drop(e)
			return nil
		}
		whole := slices.Clone(d.header)
		for _, p := range d.parts {
			whole = append(whole, p.data...)
		}
		r.forget(e)
		return whole
	}
	for r.bytes > maxFragmentBytes {
		r.drop(r.age.Front())
	}
	return nil
}

// insert says what the fragment adds to the memory in use, and whether the datagram is still good.
func (d *datagram) insert(header, data []byte, off int, more bool) (int, bool) {
	end := off + len(data)
	if len(data) == 0 || len(header)+end > maxDatagram || more && len(data)%8 != 0 {
		return 0, false
	}
	i, same := slices.BinarySearchFunc(d.parts, off, func(p part, off int) int { return p.off - off })
	if same && len(d.parts[i].data) == len(data) {
		return 0, true
	}
	if same || i > 0 && d.parts[i-1].off+len(d.parts[i-1].data) > off || i < len(d.parts) && end > d.parts[i].off {
		return 0, false
	}
	if d.end >= 0 && end > d.end || !more && d.end >= 0 {
		return 0, false
	}
	if !more {
		if i < len(d.parts) {
			return 0, false // something lies behind the last fragment
		}
		d.end = end
	}
	cost := len(data) + fragmentOverhead
	if off == 0 {
		d.header = slices.Clone(header)
		cost += len(header)
	}
	d.parts = slices.Insert(d.parts, i, part{off, slices.Clone(data)})
	d.have += len(data)
	return cost, true
}

// expire drops what waits too long by capture time.
func (r *reassembler) expire(now time.Time) {
	for e := r.age.Front(); e != nil && now.Sub(e.Value.(*datagram).since) > fragmentLife; e = r.age.Front() {
		r.drop(e)
	}
}

func (r *reassembler) drop(e *list.Element) {
	r.dropped += uint64(len(e.Value.(*datagram).parts))
	r.forget(e)
}

func (r *reassembler) forget(e *list.Element) {
	d := e.Value.(*datagram)
	r.bytes -= d.cost
	delete(r.open, d.key)
	r.age.Remove(e)
}
