package capture

import "encoding/binary"

// Link types of tcpdump.org/linktypes.html. Raw IP has one number in files and others in what old systems wrote.
const (
	linkNull      = 0
	linkEthernet  = 1
	linkPPP       = 9
	linkRawBSD    = 12
	linkRawOpen   = 14
	linkPPPSerial = 50
	linkRaw       = 101
	linkCiscoHDLC = 104
	linkLoop      = 108
	linkSLL       = 113
	linkIPv4      = 228
	linkIPv6      = 229
	linkNFLog     = 239
	linkSLL2      = 276
)

// EtherTypes, IEEE 802 Numbers (IANA).
const (
	etherIPv4    = 0x0800
	etherIPv6    = 0x86dd
	etherVLAN    = 0x8100
	etherQinQ    = 0x88a8
	etherQinQOld = 0x9100
	etherPPPoE   = 0x8864
)

// maxTags is how many VLAN tags are taken off.
const maxTags = 8

// network is the packet of a frame, from the IP header on and perhaps with padding behind; nil if there is none.
func network(link uint32, b []byte) []byte {
	switch link {
	case linkEthernet:
		if len(b) < 14 {
			return nil
		}
		return ether(binary.BigEndian.Uint16(b[12:]), b[14:])
	case linkSLL:
		if len(b) < 16 {
			return nil
		}
		return ether(binary.BigEndian.Uint16(b[14:]), b[16:])
	case linkSLL2:
		if len(b) < 20 {
			return nil
		}
		return ether(binary.BigEndian.Uint16(b), b[20:])
	case linkRaw, linkRawBSD, linkRawOpen, linkIPv4, linkIPv6:
		return versioned(b)
	case linkNull, linkLoop:
		// An address family in somebody's byte order, whose value for IPv6 differs between systems: the version nibble
		// behind it tells as much.
		if len(b) < 4 {
			return nil
		}
		return versioned(b[4:])
	case linkPPP, linkPPPSerial:
		if len(b) >= 4 && b[0] == 0xff && b[1] == 0x03 { // RFC 1662 section 3.1: address and control
			b = b[2:]
		}
		return ppp(b)
	case linkCiscoHDLC:
		if len(b) < 4 {
			return nil
		}
		return ether(binary.BigEndian.Uint16(b[2:]), b[4:])
	case linkNFLog:
		return nflog(b)
	}
	return nil
}

func ether(kind uint16, b []byte) []byte {
	for range maxTags {
		switch kind {
		case etherIPv4, etherIPv6:
			return versioned(b)
		case etherVLAN, etherQinQ, etherQinQOld:
			if len(b) < 4 {
				return nil
			}
			kind, b = binary.BigEndian.Uint16(b[2:]), b[4:]
		case etherPPPoE: // RFC 2516 section 4: version, type, code, session, length
			if len(b) < 6 {
				return nil
			}
			return ppp(b[6:])
		default:
			return nil
		}
	}
	return nil
}

// ppp looks behind a protocol number, which may have lost its first byte (RFC 1661 section 6.5).
func ppp(b []byte) []byte {
	const ipv4, ipv6 = 0x21, 0x57
	if len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	if len(b) > 0 && (b[0] == ipv4 || b[0] == ipv6) {
		return versioned(b[1:])
	}
	return nil
}

// nflog finds NFULA_PAYLOAD (linux/netfilter/nfnetlink_log.h) behind the header of linktype NFLOG. Its attributes are
// in the byte order of the host that wrote the file; the lower reading of a length is the right one.
func nflog(b []byte) []byte {
	const payload = 9
	for b = b[min(4, len(b)):]; len(b) >= 4; {
		order := binary.ByteOrder(binary.LittleEndian)
		if binary.BigEndian.Uint16(b) < order.Uint16(b) {
			order = binary.BigEndian
		}
		n := int(order.Uint16(b))
		if n < 4 || n > len(b) {
			return nil
		}
		if order.Uint16(b[2:])&0x7fff == payload {
			return versioned(b[4:n])
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// versioned is b if it begins like an IP packet.
func versioned(b []byte) []byte {
	if len(b) > 0 && (b[0]>>4 == 4 || b[0]>>4 == 6) {
		return b
	}
	return nil
}
