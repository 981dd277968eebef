// Package nfnl speaks nfnetlink: connection tracking, expectations and user-space helper objects, as raw messages over
// a netlink socket. It is the only place that knows attribute numbers.
package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Subsystems (linux/netfilter/nfnetlink.h).
const (
	subsysCT     = 1
	subsysExp    = 2
	subsysHelper = 9
)

// Messages of the connection table (linux/netfilter/nfnetlink_conntrack.h), of the expectation table, of helper objects.
const (
	CTNew        = subsysCT << 8
	CTGet        = subsysCT<<8 | 1
	CTDelete     = subsysCT<<8 | 2
	CTGetZero    = subsysCT<<8 | 3 // get, and set the counters to zero
	CTStatsCPU   = subsysCT<<8 | 4
	CTStats      = subsysCT<<8 | 5
	CTDying      = subsysCT<<8 | 6
	CTUnconfirm  = subsysCT<<8 | 7
	ExpNew       = subsysExp << 8
	ExpGet       = subsysExp<<8 | 1
	ExpDelete    = subsysExp<<8 | 2
	ExpStatsCPU  = subsysExp<<8 | 3
	HelperNew    = subsysHelper << 8
	HelperGet    = subsysHelper<<8 | 1
	HelperDelete = subsysHelper<<8 | 2
)

// Multicast groups (enum nfnetlink_groups).
const (
	GroupCTNew      = 1
	GroupCTUpdate   = 2
	GroupCTDestroy  = 3
	GroupExpNew     = 4
	GroupExpUpdate  = 5
	GroupExpDestroy = 6
)

// Error is the kernel's answer to an operation.
type Error struct {
	Op    string // what was asked
	Errno unix.Errno
	Text  string // the kernel's own words (NLMSGERR_ATTR_MSG); most answers have none
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: %v (%d)", e.Op, e.Errno, int(e.Errno))
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

func (e *Error) Unwrap() error { return e.Errno }

// NoSubsystem says whether err, of a question that cannot be wrong, means that the kernel lacks the subsystem
// (nfnetlink_rcv_msg: EINVAL) or nfnetlink as a whole (netlink_create: EPROTONOSUPPORT).
func NoSubsystem(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// headerLen is the length of struct nfgenmsg.
const headerLen = 4

// Family is the address family of a.
func Family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Tuple is one direction of a connection, or a mask of one. GRE has its keys in the place of ports; ICMP its id as SrcPort
// and type<<8|code as DstPort (union nf_conntrack_man_proto, struct nf_conntrack_tuple).
type Tuple struct {
	Src, Dst         netip.Addr
	Proto            uint8
	SrcPort, DstPort uint16
}

// Attributes of a tuple (enum ctattr_tuple, ctattr_ip, ctattr_l4proto).
const (
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaTupleZone  = 3 // nf_conntrack_zone.dir is this tuple's

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum        = 1
	ctaProtoSrcPort    = 2
	ctaProtoDstPort    = 3
	ctaProtoICMPID     = 4
	ctaProtoICMPType   = 5
	ctaProtoICMPCode   = 6
	ctaProtoICMPv6ID   = 7
	ctaProtoICMPv6Type = 8
	ctaProtoICMPv6Code = 9
)

// put appends the tuple as attribute number typ.
func (t *Tuple) put(b []byte, typ uint16) []byte {
	if t.Proto == unix.IPPROTO_ICMP || t.Proto == unix.IPPROTO_ICMPV6 || !t.Src.Is4() || !t.Dst.Is4() {
		return t.putAny(b, typ)
	}
	return t.putIPv4(b, typ)
}

func (t *Tuple) putAny(b []byte, typ uint16) []byte {
	b, tuple := begin(b, typ)
	b, ip := begin(b, ctaTupleIP)
	src, dst := uint16(ctaIPv6Src), uint16(ctaIPv6Dst)
	if t.Src.Is4() {
		src, dst = ctaIPv4Src, ctaIPv4Dst
	}
	b = end(putAddr(putAddr(b, src, t.Src), dst, t.Dst), ip)
	b, proto := begin(b, ctaTupleProto)
	b = putUint8(b, ctaProtoNum, t.Proto)
	switch t.Proto {
	case unix.IPPROTO_ICMP:
		b = t.putICMP(b, ctaProtoICMPID, ctaProtoICMPType, ctaProtoICMPCode)
	case unix.IPPROTO_ICMPV6:
		b = t.putICMP(b, ctaProtoICMPv6ID, ctaProtoICMPv6Type, ctaProtoICMPv6Code)
	default:
		b = putUint16(b, ctaProtoSrcPort, t.SrcPort)
		b = putUint16(b, ctaProtoDstPort, t.DstPort)
	}
	return end(end(b, proto), tuple)
}

func (t *Tuple) putICMP(b []byte, id, typ, code uint16) []byte {
	b = putUint16(b, id, t.SrcPort)
	return putUint8(putUint8(b, typ, uint8(t.DstPort>>8)), code, uint8(t.DstPort))
}

// parse reads a tuple's attributes, and the zone if the tuple is in one of its own. What is not an address or a port is
// passed over.
func (t *Tuple) parse(b []byte) (zone uint16, err error) {
	if t.parseIPv4(b) {
		return 0, nil
	}
	return t.parseAny(b)
}

func (t *Tuple) parseAny(b []byte) (zone uint16, err error) {
	*t = Tuple{}
	a := attributes{rest: b}
	for a.next() {
		switch a.typ {
		case ctaTupleIP:
			ip := attributes{rest: a.value}
			for ip.next() {
				switch ip.typ {
				case ctaIPv4Src, ctaIPv6Src:
					t.Src = ip.addr()
				case ctaIPv4Dst, ctaIPv6Dst:
					t.Dst = ip.addr()
				}
			}
			a.note(ip.err)
		case ctaTupleProto:
			p := attributes{rest: a.value}
			for p.next() {
				switch p.typ {
				case ctaProtoNum:
					t.Proto = p.uint8()
				case ctaProtoSrcPort:
					t.SrcPort = p.uint16()
				case ctaProtoDstPort:
					t.DstPort = p.uint16()
				case ctaProtoICMPID, ctaProtoICMPv6ID:
					t.SrcPort = p.uint16()
				case ctaProtoICMPType, ctaProtoICMPv6Type:
					t.DstPort |= uint16(p.uint8()) << 8
				case ctaProtoICMPCode, ctaProtoICMPv6Code:
					t.DstPort |= uint16(p.uint8())
				}
			}
			a.note(p.err)
		case ctaTupleZone:
			zone = a.uint16()
		}
	}
	return zone, a.err
}

// complete tells whether it has its addresses.
func (t *Tuple) complete() bool { return t.Src.IsValid() && t.Dst.IsValid() }

// header is struct nlattr.
type header struct{ length, typ uint16 }

// ipv4Tuple is the tuple of an IPv4 connection with ports as an attribute. Values of less than 4 bytes are filled up.
type ipv4Tuple struct {
	tuple, ip, src header
	srcAddr        [4]byte
	dst            header
	dstAddr        [4]byte
	l4, num        header
	proto          [4]byte
	srcPort        header
	srcValue       [4]byte
	dstPort        header
	dstValue       [4]byte
}

// putIPv4 is putAny of an IPv4 connection with ports: most are.
func (t *Tuple) putIPv4(b []byte, typ uint16) []byte {
	const nested, size = unix.NLA_F_NESTED, unix.SizeofNlAttr + ipv4TupleLen
	b = append(b, make([]byte, size)...)
	x := (*ipv4Tuple)(unsafe.Pointer(&b[len(b)-size]))
	x.tuple, x.ip = header{size, typ | nested}, header{20, ctaTupleIP | nested}
	x.src, x.srcAddr = header{8, ctaIPv4Src}, t.Src.As4()
	x.dst, x.dstAddr = header{8, ctaIPv4Dst}, t.Dst.As4()
	x.l4, x.num, x.proto[0] = header{28, ctaTupleProto | nested}, header{5, ctaProtoNum}, t.Proto
	x.srcPort, x.dstPort = header{6, ctaProtoSrcPort}, header{6, ctaProtoDstPort}
	binary.BigEndian.PutUint16(x.srcValue[:], t.SrcPort)
	binary.BigEndian.PutUint16(x.dstValue[:], t.DstPort)
	return b
}

// ipv4TupleLen is the length of what is in the tuple of an IPv4 connection with ports.
const ipv4TupleLen = 48

// parseIPv4 reads the tuple of an IPv4 connection with ports, as the kernel writes it (ctnetlink_dump_tuples), and nothing
// else: most are.
func (t *Tuple) parseIPv4(b []byte) bool {
	const (
		nested  = unix.NLA_F_NESTED
		ip      = 20 | (ctaTupleIP|nested)<<16 // struct nlattr, in the order of most machines
		src     = 8 | ctaIPv4Src<<16
		dst     = 8 | ctaIPv4Dst<<16
		l4      = 28 | (ctaTupleProto|nested)<<16
		num     = 5 | ctaProtoNum<<16
		srcPort = 6 | ctaProtoSrcPort<<16
		dstPort = 6 | ctaProtoDstPort<<16
	)
	if len(b) != ipv4TupleLen {
		return false
	}
	order := binary.LittleEndian
	if order.Uint64(b) != ip|src<<32 || order.Uint32(b[12:]) != dst || order.Uint64(b[20:]) != l4|num<<32 ||
		order.Uint32(b[32:]) != srcPort || order.Uint32(b[40:]) != dstPort {
		return false
	}
	t.Src, t.Dst = netip.AddrFrom4([4]byte(b[8:])), netip.AddrFrom4([4]byte(b[16:]))
	t.Proto, t.SrcPort, t.DstPort = b[28], binary.BigEndian.Uint16(b[36:]), binary.BigEndian.Uint16(b[44:])
	return true
}
