package nfnl

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Fields of a tuple that Filter looks at (CTA_FILTER_F_*, net/netfilter/nf_internals.h). Ports, keys and ICMP's fields
// need FieldProto beside them.
const (
	FieldSrc        = 1 << 0
	FieldDst        = 1 << 1
	FieldProto      = 1 << 3
	FieldSrcPort    = 1 << 4
	FieldDstPort    = 1 << 5
	FieldICMPType   = 1 << 6
	FieldICMPCode   = 1 << 7
	FieldICMPID     = 1 << 8
	FieldICMPv6Type = 1 << 9
	FieldICMPv6Code = 1 << 10
	FieldICMPv6ID   = 1 << 11

	noField = 1 << 31
)

const (
	ctaFilterOrig  = 1
	ctaFilterReply = 2
)

// Filter is what the kernel compares entries with when it lists or deletes them (ctnetlink_alloc_filter). All must hold.
// Kernels that know less than all of it are no exception, and most of them say nothing: one that does not know zones lists,
// and deletes, those of all zones. What a kernel does must be tried (flows does).
type Filter struct {
	Family              uint8 // AF_UNSPEC: any
	Mark, MarkMask      uint32
	Status, StatusMask  uint32
	Zone                uint16 // looked at if HasZone: of either direction
	HasZone             bool
	Orig, Reply         Tuple  // exact, looked at as far as the fields say; the family must be given
	OrigBits, ReplyBits uint32 // Field*
}

func (f *Filter) put(b []byte) []byte {
	if f.MarkMask != 0 {
		b = putUint32(putUint32(b, ctaMark, f.Mark), ctaMarkMask, f.MarkMask)
	}
	if f.StatusMask != 0 {
		b = putUint32(putUint32(b, ctaStatus, f.Status), ctaStatusMask, f.StatusMask)
	}
	if f.HasZone {
		b = putUint16(b, ctaZone, f.Zone)
	}
	if f.OrigBits|f.ReplyBits == 0 {
		return b
	}
	if f.OrigBits != 0 {
		b = f.putTuple(b, ctaTupleOrig, &f.Orig)
	}
	if f.ReplyBits != 0 {
		b = f.putTuple(b, ctaTupleReply, &f.Reply)
	}
	b, nest := begin(b, ctaFilter)
	b = putNative32(putNative32(b, ctaFilterOrig, f.OrigBits), ctaFilterReply, f.ReplyBits)
	return end(b, nest)
}

// putTuple appends a whole tuple: the kernel wants to find whatever it is told to look at.
func (f *Filter) putTuple(b []byte, typ uint16, t *Tuple) []byte {
	whole := *t
	zero := netip.IPv6Unspecified()
	if f.Family == unix.AF_INET {
		zero = netip.IPv4Unspecified()
	}
	if !whole.Src.IsValid() {
		whole.Src = zero
	}
	if !whole.Dst.IsValid() {
		whole.Dst = zero
	}
	return whole.put(b, typ)
}
