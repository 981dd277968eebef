// Package packet reads and rebuilds IP packets with TCP or UDP inside, as views on the bytes that a queue or a capture
// gave. Decoding allocates nothing. All numbers are in the order of the network.
package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/cthelperd/cthelperd/helpers"
)

// Errors of Decode. A packet that gives one is nothing to look into: it passes as it is.
var (
	ErrTruncated = errors.New("shorter than its headers say")
	ErrVersion   = errors.New("neither IPv4 nor IPv6")
	ErrFragment  = errors.New("a fragment")
	ErrTransport = errors.New("neither TCP nor UDP")
)

// A View is a decoded packet. It refers to the bytes that it was decoded from. The zero View holds no packet.
type View struct {
	data      []byte // as long as the IP header says; what a link layer padded is cut off
	transport helpers.Transport
	ipv6      bool
	head      int // offset of the transport header
	body      int // offset of the payload
	end       int // behind the payload
}

// Decode reads b, which begins with the IP header.
func (v *View) Decode(b []byte) error {
	*v = View{}
	if len(b) == 0 {
		return ErrTruncated
	}
	var next byte
	var err error
	switch b[0] >> 4 {
	case 4:
		next, err = v.decodeIPv4(b)
	case 6:
		next, err = v.decodeIPv6(b)
	default:
		err = ErrVersion
	}
	if err != nil {
		return err
	}
	v.end = len(v.data)
	switch v.transport = helpers.Transport(next); v.transport {
	case helpers.TCP:
		err = v.decodeTCP()
	case helpers.UDP:
		err = v.decodeUDP()
	default:
		err = ErrTransport
	}
	return err
}

// Transport is TCP or UDP.
func (v *View) Transport() helpers.Transport { return v.transport }

// Tuple is who sent the packet to whom.
func (v *View) Tuple() helpers.Tuple {
	src, dst := v.Addresses()
	a, _ := netip.AddrFromSlice(src)
	b, _ := netip.AddrFromSlice(dst)
	from, to := v.Ports()
	return helpers.Tuple{Src: netip.AddrPortFrom(a, from), Dst: netip.AddrPortFrom(b, to)}
}

// Addresses are the sender's and the receiver's, in the packet's own memory: 4 bytes each, or 16 of IPv6.
func (v *View) Addresses() (src, dst []byte) {
	if v.ipv6 {
		return v.data[ipv6Src:ipv6Dst], v.data[ipv6Dst:ipv6Len]
	}
	return v.data[ipv4Src:ipv4Dst], v.data[ipv4Dst:ipv4Len]
}

// Ports are the sender's and the receiver's.
func (v *View) Ports() (src, dst uint16) {
	l4 := v.data[v.head:]
	return binary.BigEndian.Uint16(l4[srcPort:]), binary.BigEndian.Uint16(l4[dstPort:])
}

// Payload is what the transport carries, in the packet's own memory.
func (v *View) Payload() []byte { return v.data[v.body:v.end] }

// Data is the whole packet without a link layer's padding.
func (v *View) Data() []byte { return v.data }
