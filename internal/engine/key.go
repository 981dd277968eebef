package engine

import (
	"bytes"
	"net/netip"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// key is a tuple in a table: packed, without pointers.
type key struct {
	src, dst         [16]byte
	srcPort, dstPort uint16
	zone             uint16
	transport        helpers.Transport
	ipv6             bool
}

func pack(t helpers.Transport, tu helpers.Tuple, zone uint16) key {
	return key{
		src: tu.Src.Addr().As16(), dst: tu.Dst.Addr().As16(),
		srcPort: tu.Src.Port(), dstPort: tu.Dst.Port(),
		zone: zone, transport: t, ipv6: tu.Src.Addr().Is6(),
	}
}

// show is what a packet shows. It does not show its zone.
func show(v *packet.View) key {
	k := key{transport: v.Transport()}
	src, dst := v.Addresses()
	if k.ipv6 = len(src) == len(k.src); k.ipv6 {
		copy(k.src[:], src)
		copy(k.dst[:], dst)
	} else { // as netip.Addr.As16 has it
		k.src[10], k.src[11], k.dst[10], k.dst[11] = 0xff, 0xff, 0xff, 0xff
		copy(k.src[12:], src)
		copy(k.dst[12:], dst)
	}
	k.srcPort, k.dstPort = v.Ports()
	return k
}

// turned is the key of the answers, without NAT.
func (k *key) turned() key {
	t := *k
	t.src, t.dst, t.srcPort, t.dstPort = k.dst, k.src, k.dstPort, k.srcPort
	return t
}

// answers tells whether o is the key of the answers.
func (k *key) answers(o *key) bool {
	return k.srcPort == o.dstPort && k.dstPort == o.srcPort && k.src == o.dst && k.dst == o.src && k.zone == o.zone &&
		k.transport == o.transport && k.ipv6 == o.ipv6
}

// either is the same for both directions of a connection without NAT.
func (k *key) either() key {
	if c := bytes.Compare(k.src[:], k.dst[:]); c > 0 || c == 0 && k.srcPort > k.dstPort {
		return k.turned()
	}
	return *k
}

func (k *key) tuple() helpers.Tuple {
	return helpers.Tuple{
		Src: netip.AddrPortFrom(unpack(k.src, k.ipv6), k.srcPort),
		Dst: netip.AddrPortFrom(unpack(k.dst, k.ipv6), k.dstPort),
	}
}

// of tells whether the key's tuple is src>dst.
func (k *key) of(src, dst netip.AddrPort) bool {
	return k.srcPort == src.Port() && k.dstPort == dst.Port() &&
		unpack(k.src, k.ipv6) == src.Addr() && unpack(k.dst, k.ipv6) == dst.Addr()
}

func unpack(b [16]byte, ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte(b[12:]))
}

// end is one end point in a table.
type end struct {
	addr      [16]byte
	port      uint16
	zone      uint16
	transport helpers.Transport
	ipv6      bool
}

func packEnd(t helpers.Transport, a netip.AddrPort, zone uint16) end {
	return end{addr: a.Addr().As16(), port: a.Port(), zone: zone, transport: t, ipv6: a.Addr().Is6()}
}

// ahead is by how many sequence numbers a is in front of b; negative: behind (RFC 9293, section 3.4).
func ahead(a, b uint32) int { return int(int32(a - b)) }

// later is the one of two sequence numbers that is ahead of the other.
func later(a, b uint32) uint32 {
	if ahead(a, b) > 0 {
		return a
	}
	return b
}
