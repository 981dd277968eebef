package capture

import (
	"encoding/binary"
	"net/netip"
)

// IPv4, RFC 791 section 3.1.
const (
	v4HeaderLen = 20
	v4Length    = 2
	v4ID        = 4
	v4Fragment  = 6
	v4Protocol  = 9
	v4Checksum  = 10
	v4Src       = 12
	v4Dst       = 16

	v4More       = 0x2000
	v4OffsetMask = 0x1fff
)

// IPv6, RFC 8200 sections 3 and 4.
const (
	v6HeaderLen = 40
	v6Length    = 4
	v6Next      = 6
	v6Src       = 8
	v6Dst       = 24

	v6HopByHop    = 0
	v6Routing     = 43
	v6Fragment    = 44
	v6DestOptions = 60

	v6FragmentLen = 8
)

// packet makes a whole packet out of what the link layer carried; nil if there is none yet.
func (r *Reader) packet(b []byte) []byte {
	if b == nil {
		r.stats.Foreign++
		return nil
	}
	if b[0]>>4 == 4 {
		return r.packet4(b)
	}
	return r.packet6(b)
}

func (r *Reader) packet4(b []byte) []byte {
	if len(b) < v4HeaderLen {
		r.stats.Cut++
		return nil
	}
	header := int(b[0]&15) * 4
	total := int(binary.BigEndian.Uint16(b[v4Length:]))
	if total == 0 { // captured before the network card cut it up (segmentation offload)
		total = min(len(b), 0xffff)
		setLength4(b, header, total)
	}
	if header < v4HeaderLen || total < header {
		r.stats.Foreign++
		return nil
	}
	field := binary.BigEndian.Uint16(b[v4Fragment:])
	fragment := field&(v4More|v4OffsetMask) != 0
	if total > len(b) {
		r.stats.Cut++
		if len(b) < header {
			return nil
		}
		if fragment {
			r.stats.Fragments++
			r.stats.Dropped++
			return nil
		}
		total = len(b)
		setLength4(b, header, total)
	}
	b = b[:total]
	if !fragment {
		return b
	}
	r.stats.Fragments++
	k := fragmentKey{
		src: netip.AddrFrom4([4]byte(b[v4Src:])), dst: netip.AddrFrom4([4]byte(b[v4Dst:])),
		id: uint32(binary.BigEndian.Uint16(b[v4ID:])), protocol: b[v4Protocol],
	}
	whole := r.frags.add(k, b[:header], b[header:], int(field&v4OffsetMask)*8, field&v4More != 0, r.last)
	if whole == nil {
		return nil
	}
	binary.BigEndian.PutUint16(whole[v4Fragment:], 0)
	setLength4(whole, int(whole[0]&15)*4, len(whole))
	return whole
}

// setLength4 sets the total length and makes the header's checksum right.
func setLength4(b []byte, header, total int) {
	if header < v4HeaderLen || len(b) < header {
		return
	}
	binary.BigEndian.PutUint16(b[v4Length:], uint16(total))
	binary.BigEndian.PutUint16(b[v4Checksum:], 0)
	var sum uint32 // RFC 1071
	for i := 0; i < header; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[v4Checksum:], ^uint16(sum))
}

func (r *Reader) packet6(b []byte) []byte {
	if len(b) < v6HeaderLen {
		r.stats.Cut++
		return nil
	}
	total := v6HeaderLen + int(binary.BigEndian.Uint16(b[v6Length:]))
	if total == v6HeaderLen { // a jumbogram (RFC 2675), or captured before segmentation: take what is there
		total = min(len(b), v6HeaderLen+0xffff)
		binary.BigEndian.PutUint16(b[v6Length:], uint16(total-v6HeaderLen))
	}
	cut := total > len(b)
	if cut {
		r.stats.Cut++
		total = len(b)
		binary.BigEndian.PutUint16(b[v6Length:], uint16(total-v6HeaderLen))
	}
	b = b[:total]
	next, at := fragmentHeader6(b)
	if at == 0 {
		return b
	}
	r.stats.Fragments++
	if cut {
		r.stats.Dropped++
		return nil
	}
	field := binary.BigEndian.Uint16(b[at+2:])
	k := fragmentKey{
		src: netip.AddrFrom16([16]byte(b[v6Src:])), dst: netip.AddrFrom16([16]byte(b[v6Dst:])),
		id: binary.BigEndian.Uint32(b[at+4:]),
	}
	header := append([]byte(nil), b[:at]...)
	header[next] = b[at]
	whole := r.frags.add(k, header, b[at+v6FragmentLen:], int(field&^7), field&1 != 0, r.last)
	if whole == nil {
		return nil
	}
	binary.BigEndian.PutUint16(whole[v6Length:], uint16(len(whole)-v6HeaderLen))
	return whole
}

// fragmentHeader6 finds the fragment header at, and the byte next that names it; at is 0 if there is none.
func fragmentHeader6(b []byte) (next, at int) {
	next, at = v6Next, v6HeaderLen
	for {
		switch b[next] {
		case v6Fragment:
			if at+v6FragmentLen > len(b) {
				return 0, 0
			}
			return next, at
		case v6HopByHop, v6Routing, v6DestOptions:
			if at+2 > len(b) {
				return 0, 0
			}
			next, at = at, at+8+int(b[at+1])*8
			if at > len(b) {
				return 0, 0
			}
		default:
			return 0, 0
		}
	}
}
