package h323_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
)

// BenchmarkCall is a call with fastStart as the session of its connection sees it, from Setup to ReleaseComplete, and what
// a message that announces nothing costs in it.
func BenchmarkCall(b *testing.B) {
	channel := func(reverse bool, session int, port uint16, host string) []byte {
		at := func(port uint16) h323test.V {
			return h323test.V{"unicastAddress": netip.AddrPortFrom(netip.MustParseAddr(host), port)}
		}
		parameters := h323test.V{"multiplexParameters": h323test.V{"h2250LogicalChannelParameters": h323test.V{
			"sessionID": session, "mediaChannel": at(port), "mediaControlChannel": at(port + 1),
		}}}
		if reverse {
			return h323test.OLC(h323test.V{"forwardLogicalChannelParameters": h323test.V{"dataType": h323test.V{"nullData": nil}},
				"reverseLogicalChannelParameters": parameters})
		}
		return h323test.OLC(h323test.V{"forwardLogicalChannelParameters": parameters})
	}
	frame := func(called bool, body string, v h323test.V) []byte {
		return h323test.TPKT(signalling(7, called, h323test.V{body: v}))
	}
	fast := func(kind byte, called bool, body string, elements ...any) []byte {
		return h323test.TPKT(h323test.Signalling(kind, 7, called, h323test.V{"h323-uu-pdu": h323test.V{
			"h323-message-body": h323test.V{body: h323test.V{"fastStart": elements}}}}))
	}
	quiet := frame(true, "alerting", h323test.V{})
	type say struct {
		dir  helpers.Dir
		data []byte
	}
	for _, bb := range []struct {
		name string
		said []say
	}{
		{"whole", []say{
			{helpers.Original, fast(0x05, false, "setup", channel(true, 1, 4000, "192.0.2.2"), channel(true, 2, 4002, "192.0.2.2"))},
			{helpers.Reply, frame(true, "callProceeding", h323test.V{})},
			{helpers.Reply, quiet},
			{helpers.Reply, fast(0x07, true, "connect", channel(false, 1, 6000, "198.51.100.9"), channel(false, 2, 6002, "198.51.100.9"))},
			{helpers.Original, frame(false, "releaseComplete", h323test.V{})},
		}},
		{"a message without announcement", []say{{helpers.Reply, quiet}}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			s := helper(b, "q931", nil).New()
			orig := helpers.Tuple{Src: netip.MustParseAddrPort("192.0.2.2:50000"), Dst: netip.MustParseAddrPort("198.51.100.9:1720")}
			flow := &helpers.Flow{ID: 1, Transport: helpers.TCP, Orig: orig, Reply: orig.Turned()}
			var out helpers.Result
			seg := helpers.Segment{Flow: flow, Time: time.Unix(0, 0)}
			say := func(dir helpers.Dir, data []byte) {
				out.Reset()
				seg.Dir, seg.Data = dir, data
				if err := s.Inspect(&seg, &out); err != nil {
					b.Fatal(err)
				}
			}
			say(helpers.Original, frame(false, "setup", h323test.V{}))
			b.ReportAllocs()
			for b.Loop() {
				for _, x := range bb.said {
					say(x.dir, x.data)
				}
			}
		})
	}
}
