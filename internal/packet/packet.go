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
	tuple     helpers.Tuple
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
	var src, dst netip.Addr
	var err error
	switch b[0] >> 4 {
	case 4:
		next, err = v.decodeIPv4(b)
		if err == nil {
			src, dst = netip.AddrFrom4([4]byte(b[ipv4Src:])), netip.AddrFrom4([4]byte(b[ipv4Dst:]))
		}
	case 6:
		next, err = v.decodeIPv6(b)
		if err == nil {
			src, dst = netip.AddrFrom16([16]byte(b[ipv6Src:])), netip.AddrFrom16([16]byte(b[ipv6Dst:]))
		}
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
	if err != nil {
		return err
	}
	l4 := v.data[v.head:]
	v.tuple = helpers.Tuple{
		Src: netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4[srcPort:])),
		Dst: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[dstPort:])),
	}
	return nil
}

// Transport is TCP or UDP.
func (v *View) Transport() helpers.Transport { return v.transport }

// Tuple is who sent the packet to whom.
func (v *View) Tuple() helpers.Tuple { return v.tuple }

// Payload is what the transport carries, in the packet's own memory.
func (v *View) Payload() []byte { return v.data[v.body:v.end] }

// Data is the whole packet without a link layer's padding.
func (v *View) Data() []byte { return v.data }
