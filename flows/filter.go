package flows

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Filter says which entries are meant. All of its conditions must hold; the zero value means every entry.
type Filter struct {
	Family      uint8 // unix.AF_INET, unix.AF_INET6; 0: both
	Transport   helpers.Transport
	Orig, Reply Ends
	// An entry's mark & MarkMask must be Mark, its status & StatusMask must be Status. A mask of 0: any.
	Mark, MarkMask     uint32
	Status, StatusMask Status
	Zone               *uint16  // of both directions or of one
	ZoneDir            *ZoneDir // which
	Labels             Labels   // all of these are set
	State              *uint8
	Helper             *string
	Where              func(*Flow) bool // anything else; it is asked if all the rest holds
}

// Ends are conditions on a tuple.
type Ends struct {
	Src, Dst           netip.Prefix // not valid: any
	SrcPort, DstPort   Ports
	ICMPType, ICMPCode *uint8
	ICMPID             *uint16
}

// Ports are those from Min to Max; the zero value means any.
type Ports struct{ Min, Max uint16 }

// Port is one port.
func Port(n uint16) Ports { return Ports{n, n} }

// Addr is one address.
func Addr(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Match says whether e is meant.
func (f *Filter) Match(e *Flow) bool {
	return (f.Family == 0 || e.Family() == f.Family) &&
		(f.Transport == 0 || e.Transport == f.Transport) &&
		f.Orig.match(e.Transport, &e.Orig) && f.Reply.match(e.Transport, &e.Reply) &&
		e.Mark&f.MarkMask == f.Mark&f.MarkMask &&
		e.Status&f.StatusMask == f.Status&f.StatusMask &&
		(f.Zone == nil || e.Zone == *f.Zone) &&
		(f.ZoneDir == nil || e.ZoneDir == *f.ZoneDir) &&
		f.Labels.in(&e.Labels) &&
		(f.State == nil || e.State == *f.State) &&
		(f.Helper == nil || e.Helper == *f.Helper) &&
		(f.Where == nil || f.Where(e))
}

func (n *Ends) match(tr helpers.Transport, t *helpers.Tuple) bool {
	if *n == (Ends{}) {
		return true
	}
	if n.Src.IsValid() && !n.Src.Contains(t.Src.Addr()) || n.Dst.IsValid() && !n.Dst.Contains(t.Dst.Addr()) {
		return false
	}
	if isICMP(tr) {
		typ, code, id := ICMP(*t)
		return n.SrcPort == Ports{} && n.DstPort == Ports{} &&
			(n.ICMPType == nil || *n.ICMPType == typ) &&
			(n.ICMPCode == nil || *n.ICMPCode == code) &&
			(n.ICMPID == nil || *n.ICMPID == id)
	}
	return !n.icmp() && n.SrcPort.has(t.Src.Port()) && n.DstPort.has(t.Dst.Port())
}

func (n *Ends) icmp() bool { return n.ICMPType != nil || n.ICMPCode != nil || n.ICMPID != nil }

func (p Ports) has(port uint16) bool { return p == Ports{} || p.Min <= port && port <= p.Max }

func (l *Labels) in(of *Labels) bool {
	for i := range l {
		if l[i]&^of[i] != 0 {
			return false
		}
	}
	return true
}

// Parts is a set of a filter's conditions.
type Parts uint32

// Conditions of a filter.
const (
	PartFamily Parts = 1 << iota
	PartTransport
	PartOrigSrc
	PartOrigDst
	PartOrigSrcPort
	PartOrigDstPort
	PartOrigICMP
	PartReplySrc
	PartReplyDst
	PartReplySrcPort
	PartReplyDstPort
	PartReplyICMP
	PartMark
	PartStatus
	PartZone
	PartZoneDir
	PartLabels
	PartState
	PartHelper
	PartWhere
)

// parts are the conditions that f has.
func (f *Filter) parts() (p Parts) {
	for _, c := range []struct {
		part Parts
		has  bool
	}{
		{PartFamily, f.Family != 0},
		{PartTransport, f.Transport != 0},
		{PartMark, f.MarkMask != 0},
		{PartStatus, f.StatusMask != 0},
		{PartZone, f.Zone != nil},
		{PartZoneDir, f.ZoneDir != nil},
		{PartLabels, f.Labels != Labels{}},
		{PartState, f.State != nil},
		{PartHelper, f.Helper != nil},
		{PartWhere, f.Where != nil},
	} {
		if c.has {
			p |= c.part
		}
	}
	return p | f.Orig.parts(PartOrigSrc) | f.Reply.parts(PartReplySrc)
}

// parts are the conditions that n has; the first of them is src, the others follow.
func (n *Ends) parts(src Parts) (p Parts) {
	for i, has := range []bool{
		n.Src.IsValid(), n.Dst.IsValid(), n.SrcPort != Ports{}, n.DstPort != Ports{}, n.icmp(),
	} {
		if has {
			p |= src << i
		}
	}
	return p
}

const (
	partsOfOrig  = PartOrigSrc | PartOrigDst | PartOrigSrcPort | PartOrigDstPort | PartOrigICMP
	partsOfReply = PartReplySrc | PartReplyDst | PartReplySrcPort | PartReplyDstPort | PartReplyICMP
	partsOfTuple = PartTransport | partsOfOrig | partsOfReply
)

// exact are the conditions of f that a kernel may be able to test: no prefix, no range, and ports of TCP and UDP only
// (ctnetlink_filter_match_tuple).
func (f *Filter) exact() Parts {
	return f.parts() & (PartFamily | PartTransport | PartMark | PartStatus | PartZone |
		f.Orig.exact(PartOrigSrc, f.Transport) | f.Reply.exact(PartReplySrc, f.Transport))
}

func (n *Ends) exact(src Parts, tr helpers.Transport) (p Parts) {
	ports := tr == helpers.TCP || tr == helpers.UDP
	for i, is := range []bool{
		n.Src.IsSingleIP(), n.Dst.IsSingleIP(),
		ports && n.SrcPort.Min == n.SrcPort.Max, ports && n.DstPort.Min == n.DstPort.Max, isICMP(tr),
	} {
		if is {
			p |= src << i
		}
	}
	return p
}

// harmless are those of exact that every kernel tests rightly or not at all, so that a list needs no trial: all is tested
// here again. Not so IPv6 addresses, of which kernels find all but the right ones, and reply tuples, which Linux 5.8 reads
// by the original one's fields.
func (f *Filter) harmless() Parts {
	p := f.exact() &^ partsOfReply
	if f.family() != unix.AF_INET {
		p &^= PartOrigSrc | PartOrigDst
	}
	return p
}

// family is the only one that f can mean; 0: either.
func (f *Filter) family() uint8 {
	switch {
	case f.Family != 0:
		return f.Family
	case f.Transport == unix.IPPROTO_ICMP:
		return unix.AF_INET
	case f.Transport == unix.IPPROTO_ICMPV6:
		return unix.AF_INET6
	}
	for _, p := range []netip.Prefix{f.Orig.Src, f.Orig.Dst, f.Reply.Src, f.Reply.Dst} {
		if p.IsValid() {
			return nfnl.Family(p.Addr())
		}
	}
	return 0
}

// requests are what the kernel is asked to test the conditions p. Tuples are of one family
// (ctnetlink_parse_tuple_filter).
func (f *Filter) requests(p Parts) []nfnl.Filter {
	one := nfnl.Filter{Family: f.family()}
	if p&PartMark != 0 {
		one.Mark, one.MarkMask = f.Mark&f.MarkMask, f.MarkMask
	}
	if p&PartStatus != 0 {
		one.Status, one.StatusMask = uint32(f.Status&f.StatusMask), uint32(f.StatusMask)
	}
	if p&PartZone != 0 {
		one.Zone, one.HasZone = *f.Zone, true
	}
	one.Orig, one.OrigBits = f.Orig.request(p, PartOrigSrc, f.Transport)
	one.Reply, one.ReplyBits = f.Reply.request(p, PartReplySrc, f.Transport)
	if p&partsOfTuple == 0 || one.Family != 0 {
		return []nfnl.Filter{one}
	}
	four, six := one, one
	four.Family, six.Family = unix.AF_INET, unix.AF_INET6
	return []nfnl.Filter{four, six}
}

// request is n as the kernel wants it, as far as p says; the first of its conditions there is src.
func (n *Ends) request(p, src Parts, tr helpers.Transport) (t nfnl.Tuple, bits uint32) {
	t.Proto = uint8(tr)
	icmp := [3]uint32{nfnl.FieldICMPType, nfnl.FieldICMPCode, nfnl.FieldICMPID}
	if tr == unix.IPPROTO_ICMPV6 {
		icmp = [3]uint32{nfnl.FieldICMPv6Type, nfnl.FieldICMPv6Code, nfnl.FieldICMPv6ID}
	}
	if p&src != 0 {
		t.Src, bits = n.Src.Addr(), bits|nfnl.FieldSrc
	}
	if p&(src<<1) != 0 {
		t.Dst, bits = n.Dst.Addr(), bits|nfnl.FieldDst
	}
	if p&(src<<2) != 0 {
		t.SrcPort, bits = n.SrcPort.Min, bits|nfnl.FieldSrcPort
	}
	if p&(src<<3) != 0 {
		t.DstPort, bits = n.DstPort.Min, bits|nfnl.FieldDstPort
	}
	if p&(src<<4) != 0 {
		if n.ICMPType != nil {
			t.DstPort, bits = t.DstPort|uint16(*n.ICMPType)<<8, bits|icmp[0]
		}
		if n.ICMPCode != nil {
			t.DstPort, bits = t.DstPort|uint16(*n.ICMPCode), bits|icmp[1]
		}
		if n.ICMPID != nil {
			t.SrcPort, bits = *n.ICMPID, bits|icmp[2]
		}
	}
	if bits&^(nfnl.FieldSrc|nfnl.FieldDst) != 0 || src == PartOrigSrc && p&PartTransport != 0 {
		bits |= nfnl.FieldProto
	}
	return t, bits
}
