package packet

import (
	"encoding/binary"

	"github.com/cthelperd/cthelperd/helpers"
)

// Change says how a packet is rebuilt. Seq, Ack and Edge are of TCP only.
type Change struct {
	Payload  []byte // instead of the packet's own
	Seq, Ack uint32
	Clear    byte                // flags that are taken away
	Edge     func(uint32) uint32 // of each edge of a selectively acknowledged block; nil: they stay
}

// What each link carries: of IPv6 RFC 8200 section 5, of IPv4 what RFC 791 section 3.1 has each host accept.
const (
	leastIPv4 = 576
	leastIPv6 = 1280
)

// Room is how long the payload may be so that the packet arrives wherever it would as it is: of IPv4 routers may fragment
// it.
func (v *View) Room() int {
	if v.ipv6 {
		return max(len(v.data), leastIPv6) - v.body
	}
	return maxPacket - v.body
}

// Append appends the packet, changed, to b. Lengths and checksums are computed anew, as what comes from a queue may
// have left them to the network card. An IPv4 packet that may not fit where it did as it is may be fragmented. It gives
// false, and b as it was, if the packet would be too long for its headers.
func (v *View) Append(b []byte, c Change) ([]byte, bool) {
	if v.body+len(c.Payload) > maxPacket {
		return b, false
	}
	start := len(b)
	b = append(b, v.data[:v.body]...)
	b = append(b, c.Payload...)
	w := *v
	w.data = b[start:]
	w.end = len(w.data)
	l4 := w.data[w.head:]
	if w.transport == helpers.TCP {
		binary.BigEndian.PutUint32(l4[tcpSeq:], c.Seq)
		binary.BigEndian.PutUint32(l4[tcpAck:], c.Ack)
		l4[tcpFlags] &^= c.Clear
		if c.Edge != nil {
			for at := range w.SACK() {
				edge := binary.BigEndian.Uint32(w.data[at:])
				binary.BigEndian.PutUint32(w.data[at:], c.Edge(edge))
			}
		}
	} else {
		binary.BigEndian.PutUint16(l4[udpLength:], uint16(len(l4)))
	}
	if !w.ipv6 && len(w.data) > max(len(v.data), leastIPv4) {
		w.fragmentable(c.Payload)
	}
	w.setLength()
	w.setChecksum()
	return b, true
}

// fragmentable lets routers fragment a packet that has become longer. Its sender was told how long it may be, and would
// be told the same again. Without identification (RFC 6864, section 4.1: atomic datagrams need none) it gets one that
// its copies have, too.
func (v *View) fragmentable(payload []byte) {
	if v.data[ipv4Fragment]&ipv4DontFragment == 0 {
		return
	}
	v.data[ipv4Fragment] &^= ipv4DontFragment
	if v.data[ipv4ID] == 0 && v.data[ipv4ID+1] == 0 {
		binary.BigEndian.PutUint16(v.data[ipv4ID:], fold(sum(0, payload)))
	}
}

// setChecksum computes the transport's checksum, RFC 9293 section 3.1 and RFC 768, with the pseudo header of RFC 8200
// section 8.1 for IPv6.
func (v *View) setChecksum() {
	l4 := v.data[v.head:]
	at := tcpChecksum
	if v.transport == helpers.UDP {
		at = udpChecksum
		if !v.ipv6 && l4[at] == 0 && l4[at+1] == 0 {
			return // the sender computes none
		}
	}
	binary.BigEndian.PutUint16(l4[at:], 0)
	c := ^fold(sum(v.pseudo(len(l4)), l4))
	if c == 0 && v.transport == helpers.UDP {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], c)
}

// Valid tells whether the checksums are right. A UDP datagram without one is valid.
func (v *View) Valid() bool {
	if !v.ipv6 && fold(sum(0, v.data[:int(v.data[0]&15)*4])) != 0xffff {
		return false
	}
	l4 := v.data[v.head:v.end]
	if v.transport == helpers.UDP && !v.ipv6 && l4[udpChecksum] == 0 && l4[udpChecksum+1] == 0 {
		return true
	}
	return fold(sum(v.pseudo(len(l4)), l4)) == 0xffff
}

// pseudo is the sum of the pseudo header.
func (v *View) pseudo(length int) uint64 {
	addresses := v.data[ipv4Src : ipv4Dst+4]
	if v.ipv6 {
		addresses = v.data[ipv6Src : ipv6Dst+16]
	}
	return sum(uint64(length)+uint64(v.transport), addresses)
}

// sum adds the 16-bit words of b to s, RFC 1071.
func sum(s uint64, b []byte) uint64 {
	for len(b) >= 4 {
		s += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		s += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

// fold makes a sum of one word.
func fold(s uint64) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
