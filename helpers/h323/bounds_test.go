package h323_test

import (
	"net/netip"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
)

// What a session remembers of ever new calls, channels, questions and registrations is bounded.
func TestBounds(t *testing.T) {
	const most = 16 << 10 // of a snapshot, which has all that a session knows
	at := func(n int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), uint16(1024+n*2))
	}
	channel := func(n int) h323test.V {
		return h323test.V{"request": h323test.V{"openLogicalChannel": h323test.V{
			"forwardLogicalChannelNumber": 1 + n%60000,
			"forwardLogicalChannelParameters": h323test.V{"multiplexParameters": h323test.V{"h2250LogicalChannelParameters": h323test.V{
				"sessionID": n % 256, "mediaChannel": h323test.V{"unicastAddress": at(n)},
				"mediaControlChannel": h323test.V{"unicastAddress": netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 5000)},
			}}},
		}}}
	}
	for _, tt := range []struct {
		name, helper string
		message      func(n int) []byte
	}{
		{"channels", "h245", func(n int) []byte { return h323test.TPKT(h323test.Control(channel(n))) }},
		{"calls", "q931", func(n int) []byte {
			return h323test.TPKT(signalling(uint16(n&0x7fff), false, h323test.V{"setup": h323test.V{"h245Address": at(n)}}))
		}},
		{"channels of calls", "q931", func(n int) []byte {
			return h323test.TPKT(signalling(uint16(n%8), false, h323test.V{"setup": h323test.V{}, "h245Control": []any{channel(n)}}))
		}},
		{"questions", "ras", func(n int) []byte {
			return h323test.RAS(h323test.V{"admissionRequest": h323test.V{"requestSeqNum": 1 + n, "callReferenceValue": n}})
		}},
		{"registrations", "ras", func(n int) []byte {
			return h323test.RAS(h323test.V{"registrationRequest": h323test.V{
				"requestSeqNum": 1 + n, "callSignalAddress": []any{at(n), at(n + 1)}, "rasAddress": []any{at(n)}}})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := helper(t, tt.helper, nil)
			s := h.New()
			orig := helpers.Tuple{Src: netip.MustParseAddrPort("192.0.2.2:50000"), Dst: netip.MustParseAddrPort("198.51.100.9:1720")}
			flow := &helpers.Flow{ID: 1, Transport: h.Transport, Orig: orig, Reply: orig.Turned()}
			var out helpers.Result
			said := 0
			for n := range 3000 {
				out.Reset()
				if err := s.Inspect(&helpers.Segment{Flow: flow, Data: tt.message(n)}, &out); err != nil {
					t.Fatal(err)
				}
				said += len(out.Expect)
			}
			b, err := s.(helpers.Snapshotter).AppendBinary(nil)
			if err != nil || len(b) > most || tt.name != "questions" && said == 0 {
				t.Errorf("%d bytes, want at most %d; %d announced, error %v", len(b), most, said, err)
			}
			t.Logf("%d bytes", len(b))
		})
	}
}
