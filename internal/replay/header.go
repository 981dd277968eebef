package replay

import (
	"encoding/binary"
	"net/netip"

	"github.com/cthelperd/cthelperd/helpers"
)

// Flags of a TCP header, RFC 9293 section 3.1.
const (
	finFlag = 1 << iota
	synFlag
	rstFlag
	_
	ackFlag
)

// header is what the connection table reads of a packet.
type header struct {
	transport helpers.Transport
	tuple     helpers.Tuple
	at        int // of the transport header in the packet
	flags     byte
	seq, ack  uint32
}

// parseHeader reads a whole IP packet as package capture gives it; false: it is neither TCP nor UDP, or malformed.
func parseHeader(b []byte) (header, bool) {
	var h header
	var src, dst netip.Addr
	var next byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4: // RFC 791
		src, dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		next, h.at = b[9], int(b[0]&15)*4
	case len(b) >= 40 && b[0]>>4 == 6: // RFC 8200
		src, dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		next, h.at = b[6], 40
		for next == 0 || next == 43 || next == 60 { // hop-by-hop, routing, destination options
			if h.at+8 > len(b) {
				return header{}, false
			}
			next, h.at = b[h.at], h.at+8+int(b[h.at+1])*8
		}
	default:
		return header{}, false
	}
	var least int
	switch h.transport = helpers.Transport(next); h.transport {
	case helpers.TCP:
		least = 20
	case helpers.UDP:
		least = 8
	default:
		return header{}, false
	}
	if h.at+least > len(b) {
		return header{}, false
	}
	l4 := b[h.at:]
	h.tuple = helpers.Tuple{
		Src: netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4)),
		Dst: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:])),
	}
	if h.transport == helpers.TCP {
		h.seq, h.ack, h.flags = binary.BigEndian.Uint32(l4[4:]), binary.BigEndian.Uint32(l4[8:]), l4[13]
	}
	return h, true
}

// readdress gives the packet b, whose header is h, another source and moves its acknowledgement. Checksums are
// corrected, not computed, so that wrong ones stay wrong.
func (h *header) readdress(b []byte, src netip.AddrPort, ack uint32) {
	l4 := b[h.at:]
	sum := 16 // offset in l4; RFC 9293 section 3.1
	if h.transport == helpers.UDP {
		sum = 6
	}
	none := h.transport == helpers.UDP && l4[6] == 0 && l4[7] == 0
	var network []byte
	if b[0]>>4 == 4 {
		network = b[12:16]
	} else {
		network = b[8:24]
	}
	set := func(field, value []byte, ip bool) {
		if ip && b[0]>>4 == 4 {
			correct(b[10:12], field, value)
		}
		if !none {
			correct(l4[sum:sum+2], field, value)
		}
		copy(field, value)
	}
	set(network, src.Addr().AsSlice(), true)
	set(l4[:2], binary.BigEndian.AppendUint16(nil, src.Port()), false)
	if h.transport == helpers.TCP && h.flags&ackFlag != 0 {
		set(l4[8:12], binary.BigEndian.AppendUint32(nil, ack), false)
	}
}

// correct changes a checksum for a field that gets another value (RFC 1624, equation 3).
func correct(sum, from, to []byte) {
	c := uint32(^binary.BigEndian.Uint16(sum))
	for i := 0; i < len(from); i += 2 {
		c += uint32(^binary.BigEndian.Uint16(from[i:])) + uint32(binary.BigEndian.Uint16(to[i:]))
	}
	for c > 0xffff {
		c = c>>16 + c&0xffff
	}
	binary.BigEndian.PutUint16(sum, ^uint16(c))
}
