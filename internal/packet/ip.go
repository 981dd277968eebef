package packet

import "encoding/binary"

// Offsets in an IPv4 header, RFC 791 section 3.1.
const (
	ipv4Len      = 20
	ipv4Total    = 2
	ipv4ID       = 4
	ipv4Fragment = 6
	ipv4Protocol = 9
	ipv4Checksum = 10
	ipv4Src      = 12
	ipv4Dst      = 16

	ipv4DontFragment  = 0x40 // of the first byte
	ipv4MoreFragments = 0x2000
	ipv4Offset        = 0x1fff
)

// Offsets in an IPv6 header, RFC 8200 section 3.
const (
	ipv6Len           = 40
	ipv6PayloadLength = 4
	ipv6NextHeader    = 6
	ipv6Src           = 8
	ipv6Dst           = 24
)

// Extension headers, RFC 8200 section 4, and the authentication header, RFC 4302 section 2.
const (
	hopByHop         = 0
	routing          = 43
	fragment         = 44
	authentication   = 51
	destination      = 60
	routingLeft      = 3 // segments that are still to be visited
	extensionUnit    = 8
	authUnit         = 4
	maxExtensions    = 8
	extensionMinimum = 8
)

// maxPacket is the longest packet without jumbograms (RFC 2675).
const maxPacket = 65535

func (v *View) decodeIPv4(b []byte) (next byte, err error) {
	if len(b) < ipv4Len {
		return 0, ErrTruncated
	}
	header := int(b[0]&15) * 4
	total := int(binary.BigEndian.Uint16(b[ipv4Total:]))
	if total == 0 && len(b) <= maxPacket {
		total = len(b) // a capture taken before segmentation offload has filled it in
	}
	if header < ipv4Len || total < header || total > len(b) {
		return 0, ErrTruncated
	}
	if binary.BigEndian.Uint16(b[ipv4Fragment:])&(ipv4MoreFragments|ipv4Offset) != 0 {
		return 0, ErrFragment
	}
	v.data, v.head = b[:total:total], header
	return b[ipv4Protocol], nil
}

func (v *View) decodeIPv6(b []byte) (next byte, err error) {
	if len(b) < ipv6Len {
		return 0, ErrTruncated
	}
	total := ipv6Len + int(binary.BigEndian.Uint16(b[ipv6PayloadLength:]))
	if total > len(b) {
		return 0, ErrTruncated
	}
	v.ipv6, v.data = true, b[:total:total]
	next, at := b[ipv6NextHeader], ipv6Len
	for range maxExtensions {
		if next != hopByHop && next != routing && next != fragment && next != authentication && next != destination {
			break
		}
		if next == fragment {
			return 0, ErrFragment
		}
		if at+extensionMinimum > total {
			return 0, ErrTruncated
		}
		if next == routing && b[at+routingLeft] != 0 {
			return 0, ErrTransport // the address of the header is not yet that of the receiver
		}
		length := (int(b[at+1]) + 1) * extensionUnit
		if next == authentication {
			length = (int(b[at+1]) + 2) * authUnit
		}
		next, at = b[at], at+length
	}
	if at > total {
		return 0, ErrTruncated
	}
	v.head = at
	return next, nil
}

// setLength writes the packet's own length into its IP header, and the header's checksum.
func (v *View) setLength() {
	if v.ipv6 {
		binary.BigEndian.PutUint16(v.data[ipv6PayloadLength:], uint16(len(v.data)-ipv6Len))
		return
	}
	binary.BigEndian.PutUint16(v.data[ipv4Total:], uint16(len(v.data)))
	header := v.data[:int(v.data[0]&15)*4]
	binary.BigEndian.PutUint16(header[ipv4Checksum:], 0)
	binary.BigEndian.PutUint16(header[ipv4Checksum:], ^fold(sum(0, header)))
}
