package h323

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/freelist"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// shared is what the sessions of a protocol have in common.
type shared struct {
	options Options
	desks   freelist.List[desk]
}

// maxFree bounds the desks that wait for a session.
const maxFree = 64

// desk is what a session needs for a call of Inspect, and until the Rewrite behind it: an announcement must not cost an
// allocation, an idle session no memory.
type desk struct {
	message    wire.Message
	inspection inspection
	sites      []site
	bytes      []byte // of edits
}

// begin prepares the desk for a call.
func (d *desk) begin(all *shared, seg *helpers.Segment, out *helpers.Result) *inspection {
	d.sites, d.bytes = d.sites[:0], d.bytes[:0]
	d.inspection = inspection{all: all, seg: seg, out: out, desk: d}
	return &d.inspection
}

// end is what Inspect returns. It leaves nil in place of a desk whose sites are of no use.
func (in *inspection) end(d **desk) error {
	err := in.first
	in.seg, in.out, in.first = nil, nil, nil
	if len(in.desk.sites) == 0 {
		in.all.desks.Give(in.desk)
		*d = nil
	}
	return err
}

// site is an address in Segment.Data.
type site struct {
	off    int
	addr   netip.AddrPort
	expect int // index in Result.Expect; -1: it is not announced
}

// inspection is one call of Inspect, whatever the session.
type inspection struct {
	all   *shared
	seg   *helpers.Segment
	out   *helpers.Result
	desk  *desk
	first error // what Inspect returns
}

// fail keeps the first error of a call: a bad message does not stop the next one.
func (in *inspection) fail(off int, err error) {
	if in.first == nil {
		in.first = &helpers.ParseError{Off: off, Err: err}
	}
}

// failAt is fail for an error of package wire, about a message at off.
func (in *inspection) failAt(off int, err error) {
	var werr *wire.Error
	if errors.As(err, &werr) {
		off, err = off+werr.Off, werr.Err
	}
	in.fail(min(off, len(in.seg.Data)), err)
}

// own tells whether a is an address of the sender's.
func (in *inspection) own(a netip.Addr) bool { return a == in.seg.Flow.Own(in.seg.Dir).Addr() }

// reader is the other end, as the sender knows it.
func (in *inspection) reader() netip.Addr { return in.seg.Flow.Peer(in.seg.Dir).Addr() }

// third tells whether a is a host that may send, other than the two.
func (in *inspection) third(a netip.Addr) bool {
	return !in.own(a) && a != in.reader() && a.Is4() == in.reader().Is4() && !a.IsMulticast() && !a.IsLoopback()
}

// saidBack tells whether a is the reader's own, said back to it. Behind a NAT it may as well be another host's there.
func (in *inspection) saidBack(a netip.Addr) bool {
	return a == in.reader() && a == in.seg.Flow.Own(in.seg.Dir.Other()).Addr()
}

// see notes an address that is not announced.
func (in *inspection) see(base int, a *wire.Address) {
	in.desk.sites = append(in.desk.sites, site{base + a.Off, a.Addr, -1})
}

// seeMessage notes the addresses of a message that announces none.
func (in *inspection) seeMessage(base int) {
	m := &in.desk.message
	for i := range m.Addresses {
		in.see(base, &m.Addresses[i])
	}
}

// announce appends an expectation of an address that stands in the message.
func (in *inspection) announce(base int, a *wire.Address, x helpers.Expectation) {
	in.desk.sites = append(in.desk.sites, site{base + a.Off, a.Addr, len(in.out.Expect)})
	x.To = a.Addr
	in.out.Expect = append(in.out.Expect, x)
}

// usable tells whether a says of an end point where it is.
func usable(a netip.AddrPort) bool {
	return a.Port() != 0 && a.Addr().IsValid() && !a.Addr().IsUnspecified()
}

// rewrite gives the edits of a desk's sites.
func (d *desk) rewrite(seg *helpers.Segment, nat helpers.NAT, edits []helpers.Edit) []helpers.Edit {
	slices.SortFunc(d.sites, func(a, b site) int { return a.off - b.off }) // they are in the order in which they were looked at
	for i := range d.sites {
		s := &d.sites[i]
		to, ok := netip.AddrPort{}, false
		if s.expect >= 0 {
			to, ok = nat.At(s.expect)
		}
		if !ok && (s.expect < 0 || s.addr.Addr() != seg.Flow.Own(seg.Dir).Addr()) {
			to, ok = nat.Translate(s.addr)
		}
		if !ok || to == s.addr || to.Addr().Is4() != s.addr.Addr().Is4() {
			continue
		}
		size := to.Addr().BitLen()/8 + 2
		start := len(d.bytes)
		d.bytes = binary.BigEndian.AppendUint16(appendAddr(d.bytes, to.Addr()), to.Port())
		edits = append(edits, helpers.Edit{Off: s.off, Len: size, New: d.bytes[start : start+size : start+size]})
	}
	return edits
}

// appendAddr appends the 4 or 16 bytes of an address.
func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		four := a.As4()
		return append(b, four[:]...)
	}
	sixteen := a.As16()
	return append(b, sixteen[:]...)
}
