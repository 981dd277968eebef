package nfnl

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// FuzzParse asks that any attributes give an error or an entry with addresses, and never panic; that nothing of the entry
// before is left; that an expectation that was read can be written; and that the fast ways to read give what the others do.
func FuzzParse(f *testing.F) {
	f.Add(connection(f, everything()))
	f.Add(more(f))
	e := Expectation{Tuple: tuple("192.0.2.2:0", "198.51.100.9:1"), NAT: true, Function: "x"}
	f.Add(e.putWhole(nil))
	f.Add(e.Tuple.put(nil, ctaTupleOrig)[unix.SizeofNlAttr:])
	var used Connection
	if err := used.Parse(append(connection(f, everything()), more(f)...)); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Connection
		err := c.Parse(b)
		if err == nil && !(c.Orig.Src.IsValid() && c.Reply.Dst.IsValid()) {
			t.Errorf("no error, no addresses: %+v", c)
		}
		if len(c.Helper)+len(c.Secctx) > len(b) {
			t.Errorf("read more than there is: %+v", c)
		}
		if kept := used; kept.Parse(b) == nil && kept != c || (err == nil) != (kept.Parse(b) == nil) {
			t.Errorf("%+v, but %+v where another was before", c, kept)
		}
		sight := Sight{Orig: used.Reply, Reply: used.Orig, Zone: 1, Mark: 2, Status: 3, Adjust: used.Adjust}
		if seen := sight.Parse(b); err == nil {
			want := Sight{Orig: c.Orig, Reply: c.Reply, Zone: c.Zone, Mark: c.Mark, Status: c.Status, Adjust: c.Adjust}
			if seen != nil || sight != want {
				t.Errorf("seen as %+v, %v, want %+v", sight, seen, want)
			}
		}
		var fast, slow Tuple
		if fast.parseIPv4(b) {
			if zone, err := slow.parseAny(b); fast != slow || zone != 0 || err != nil {
				t.Errorf("read as %+v, want %+v, zone %d, %v", fast, slow, zone, err)
			}
			if quick, whole := fast.put(nil, ctaTupleOrig), fast.putAny(nil, ctaTupleOrig); !bytes.Equal(quick, whole) {
				t.Errorf("written as %x, want %x", quick, whole)
			}
		}
		var e, again Expectation
		if e.Parse(b) == nil && e.Tuple.Src.IsValid() && e.Tuple.Dst.IsValid() && e.Tuple.Src.Is4() == e.Tuple.Dst.Is4() {
			if len(e.Function) > len(b) {
				t.Errorf("read more than there is: %+v", e)
			}
			e.Master, e.Mask, e.Helper, e.ID = e.Tuple, e.Tuple, "", 0 // these two are not written
			if e.NATTuple = (Tuple{}); e.NAT {
				e.NATTuple = e.Tuple
			}
			if err := again.Parse(e.putWhole(nil)); err != nil || again != e {
				t.Errorf("written and read again: %+v, error %v, want %+v", again, err, e)
			}
		}
		var h HelperObject
		if h.parse(b) == nil && len(h.Name) > len(b) {
			t.Errorf("read more than there is: %+v", h)
		}
	})
}

// more is what everything has not.
func more(t testing.TB) []byte {
	nest := func(ae *netlink.AttributeEncoder, typ uint16, put func(*netlink.AttributeEncoder)) {
		ae.Nested(typ, func(n *netlink.AttributeEncoder) error {
			put(n)
			return nil
		})
	}
	return encode(t, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(ctaUse, 1)
		ae.Uint32(ctaID, 77)
		ae.Bytes(ctaLabels, make([]byte, 16))
		for dir := range uint16(2) {
			nest(ae, ctaCountersOrig+dir, func(n *netlink.AttributeEncoder) {
				n.Uint64(ctaPackets, 3)
				n.Uint64(ctaBytes, 1<<40)
			})
		}
		nest(ae, ctaTimestamp, func(n *netlink.AttributeEncoder) {
			n.Uint64(ctaTimestampStart, 1)
			n.Uint64(ctaTimestampStop, 2)
		})
		nest(ae, ctaSecctx, func(n *netlink.AttributeEncoder) { n.String(ctaSecctxName, "system_u:object_r:unlabeled_t:s0") })
		nest(ae, ctaProtoInfo, func(n *netlink.AttributeEncoder) {
			nest(n, ctaProtoInfoTCP, func(tcp *netlink.AttributeEncoder) {
				tcp.Uint8(ctaProtoInfoTCPState, TCPEstablished)
				tcp.Uint8(ctaProtoInfoTCPScaleReply, 7)
				tcp.Bytes(ctaProtoInfoTCPFlagsOrig, []byte{8, 8})
			})
			nest(n, ctaProtoInfoSCTP, func(sctp *netlink.AttributeEncoder) { sctp.Uint32(ctaProtoInfoSCTPTagReply, 9) })
			nest(n, ctaProtoInfoDCCP, func(dccp *netlink.AttributeEncoder) { dccp.Uint64(ctaProtoInfoDCCPHandshake, 9) })
		})
	})
}

// FuzzDatagram asks that any datagram is read to its end as answers, as events and as statistics: nothing but what was
// asked for is answered, and never twice.
func FuzzDatagram(f *testing.F) {
	message := func(typ, flags uint16, seq uint32, data ...byte) []byte {
		b := appendHeader(nil, typ, flags, unix.AF_INET)
		b = append(b, data...)
		binary.NativeEndian.PutUint32(b, uint32(len(b)))
		binary.NativeEndian.PutUint32(b[8:], seq)
		return b
	}
	refused := message(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, 1, make([]byte, unix.SizeofNlMsghdr)...)
	f.Add(putString(refused, nlmsgerrMsg, "words"), true)
	entry, e := connection(f, everything()), Expectation{Tuple: tuple("192.0.2.2:0", "198.51.100.9:1")}
	f.Add(append(message(CTNew, unix.NLM_F_CREATE, 0, entry...), message(CTDelete, 0, 3, entry...)...), true)
	f.Add(message(ExpNew, 0, 1, e.putWhole(nil)...), true)
	f.Add(message(CTStats, 0, 2, putUint32(nil, ctaStatsEntries, 5)...), false)
	f.Fuzz(func(t *testing.T, b []byte, whole bool) {
		var c Connection
		var x Expectation
		var counts [2]uint32
		batch := Batch{ops: []op{{into: &c}, {expected: &x}, {counts: &counts}, {}}}
		batch.take(batch.ops, 0, b, whole)
		first := batch.ops
		batch.ops = append([]op(nil), first...)
		batch.take(batch.ops, 0, b, whole)
		for i := range first {
			if o := batch.ops[i]; o != first[i] && first[i].answered {
				t.Errorf("answered twice: %+v, then %+v", first[i], o)
			}
			if o := &first[i]; o.answered && len(o.text) > len(b) {
				t.Errorf("read more than there is: %+v", o)
			}
		}
		steps := 0
		for m := (messages{rest: b}); m.next(); steps++ {
			var s CPUStats
			if len(m.data) >= headerLen {
				_ = s.parse(m.data)
			}
			_ = m.text()
		}
		for _, n := range []int{len(appendEvents(nil, b)), len(appendExpectationEvents(nil, b))} {
			if n > steps || steps > len(b)/unix.SizeofNlMsghdr {
				t.Errorf("%d events of %d messages in %d bytes", n, steps, len(b))
			}
		}
	})
}
