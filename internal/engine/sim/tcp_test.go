package sim

import "slices"

// segment is a TCP segment on a wire.
type segment struct {
	seq, ack      uint32
	syn, fin, rst bool
	acks          bool
	sack          [2]uint32 // one block; equal: none
	data          []byte
}

func before(a, b uint32) bool { return int32(a-b) < 0 }

// host is one end of the connection: a stack good enough to lose nothing, whatever the wire does.
type host struct {
	w    *world
	dir  int // direction of what it sends
	isn  uint32
	open bool

	out   []byte // all that the application has said
	una   int    // acknowledged bytes of it
	nxt   int    // bytes sent at least once
	fin   bool   // the application says no more
	finUp bool   // the FIN is acknowledged
	sent  bool   // the FIN was sent
	timer int    // generation of the running timer; older ones do nothing
	rto   int64

	peerISN uint32
	in      []byte // in order
	early   map[int][]byte
	peerFin int // where the other side ends; -1: not known
	closed  bool
}

func (h *host) seqOf(off int) uint32 { return h.isn + 1 + uint32(off) }

// push sends what the window allows.
func (h *host) push() {
	if !h.open {
		return
	}
	for h.nxt < len(h.out) && h.nxt-h.una < h.w.window {
		n := min(h.w.mss[h.dir], len(h.out)-h.nxt, h.w.window-(h.nxt-h.una))
		if h.w.nagle && h.nxt > h.una && n < h.w.mss[h.dir] {
			break
		}
		h.transmit(h.nxt, n)
		h.nxt += n
	}
	if h.fin && !h.sent && h.nxt == len(h.out) {
		h.sent = true
		h.transmit(h.nxt, 0)
	}
	h.arm()
}

// transmit sends n bytes from off, with the FIN if it stands behind them.
func (h *host) transmit(off, n int) {
	s := segment{seq: h.seqOf(off), data: slices.Clone(h.out[off : off+n]), fin: h.sent && off+n == len(h.out)}
	h.send(s)
}

// send fills in what is acknowledged.
func (h *host) send(s segment) {
	s.acks = true
	s.ack = h.peerISN + 1 + uint32(len(h.in))
	if h.closed {
		s.ack++
	}
	if h.w.sack {
		for off, b := range h.early { // any block will do
			s.sack = [2]uint32{h.peerISN + 1 + uint32(off), h.peerISN + 1 + uint32(off+len(b))}
			break
		}
	}
	h.w.fromHost(h.dir, s)
}

// arm starts the retransmission timer if something is not acknowledged.
func (h *host) arm() {
	h.timer++
	if h.una == h.nxt && (!h.sent || h.finUp) {
		return
	}
	mine := h.timer
	h.w.after(h.rto, func() {
		if mine != h.timer {
			return
		}
		h.rto = min(2*h.rto, 3_000)
		n := min(h.w.resegment(h.w.mss[h.dir]), h.nxt-h.una)
		h.transmit(h.una, n)
		h.arm()
	})
}

// receive takes a segment from the wire.
func (h *host) receive(s segment) {
	if s.syn {
		h.peerISN = s.seq
		if h.dir == 1 { // the server answers a SYN
			h.w.fromHost(1, segment{seq: h.isn, syn: true, acks: true, ack: s.seq + 1})
			return
		}
		if !h.open {
			h.open = true
			h.send(segment{seq: h.seqOf(0)})
			h.w.opened(0)
		} else {
			h.send(segment{seq: h.seqOf(h.nxt)})
		}
		return
	}
	if !h.open {
		h.open = true
		h.w.opened(h.dir)
	}
	if s.acks {
		off := int(int32(s.ack - h.seqOf(0)))
		most := h.nxt
		if h.sent {
			most++
		}
		if off > most || off < 0 {
			h.w.failf("direction %d is acknowledged %d, it has sent %d", h.dir, off, most)
			return
		}
		if s.sack[0] != s.sack[1] {
			l, r := int(int32(s.sack[0]-h.seqOf(0))), int(int32(s.sack[1]-h.seqOf(0)))
			if l > r || r > h.nxt || l < 0 {
				h.w.failf("direction %d: selectively acknowledged %d to %d, it has sent %d", h.dir, l, r, h.nxt)
			}
		}
		if h.sent && off == len(h.out)+1 {
			h.finUp, off = true, len(h.out)
		}
		if off > h.una {
			h.una, h.rto = off, h.w.rto
			h.push()
		}
		if h.una == h.nxt && (!h.sent || h.finUp) {
			h.timer++
		}
	}
	if len(s.data) == 0 && !s.fin {
		return
	}
	off := int(int32(s.seq - (h.peerISN + 1)))
	if off < 0 || off > len(h.in)+1<<20 {
		h.w.failf("direction %d is sent bytes at %d, it has %d", h.dir, off, len(h.in))
		return
	}
	if s.fin {
		h.peerFin = off + len(s.data)
	}
	if old := h.early[off]; len(s.data) > len(old) {
		h.early[off] = s.data
	}
	had := len(h.in)
	for again := true; again; {
		again = false
		for at, b := range h.early {
			if at <= len(h.in) {
				if at+len(b) > len(h.in) {
					h.in, again = append(h.in, b[len(h.in)-at:]...), true
				}
				delete(h.early, at)
			}
		}
	}
	if h.peerFin == len(h.in) {
		h.closed = true
	}
	h.send(segment{seq: h.seqOf(h.nxt)})
	if len(h.in) > had {
		h.w.heard(h.dir)
	}
	if h.closed && !h.fin {
		h.fin = true
		h.push()
	}
}
