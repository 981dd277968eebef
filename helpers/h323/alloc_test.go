package h323_test

import (
	"net/netip"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
)

// What is announced again, as for each element of a repeated fastStart, costs no allocation either.
func TestAllocations(t *testing.T) {
	media := func(a string) h323test.V { return h323test.V{"unicastAddress": netip.MustParseAddrPort(a)} }
	proposal := h323test.OLC(h323test.V{
		"forwardLogicalChannelNumber":     20,
		"forwardLogicalChannelParameters": h323test.V{"dataType": h323test.V{"nullData": nil}},
		"reverseLogicalChannelParameters": h323test.V{"multiplexParameters": h323test.V{"h2250LogicalChannelParameters": h323test.V{
			"sessionID": 1, "mediaChannel": media("192.0.2.2:4000"), "mediaControlChannel": media("192.0.2.2:4001"),
		}}},
	})
	quiet := signalling(7, true, h323test.V{"alerting": h323test.V{}})
	setup := signalling(7, false, h323test.V{"setup": h323test.V{}})
	fast := h323test.Signalling(0x05, 7, false, h323test.V{"h323-uu-pdu": h323test.V{"h323-message-body": h323test.V{
		"setup": h323test.V{"fastStart": []any{proposal, proposal}}}}})
	for _, tt := range []struct {
		name      string
		dir       helpers.Dir
		payload   []byte
		announced int
	}{
		{"a Setup that announces nothing", helpers.Original, setup, 0},
		{"Alerting", helpers.Reply, quiet, 0},
		{"a Setup with fastStart", helpers.Original, fast, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := helper(t, "q931", nil).New()
			orig := helpers.Tuple{Src: netip.MustParseAddrPort("192.0.2.2:50000"), Dst: netip.MustParseAddrPort("198.51.100.9:1720")}
			flow := &helpers.Flow{ID: 1, Transport: helpers.TCP, Orig: orig, Reply: orig.Turned()}
			var out helpers.Result
			inspect := func(dir helpers.Dir, payload []byte) {
				out.Reset()
				if err := s.Inspect(&helpers.Segment{Flow: flow, Dir: dir, Data: payload}, &out); err != nil {
					t.Fatal(err)
				}
			}
			begin, frame := h323test.TPKT(setup), h323test.TPKT(tt.payload)
			inspect(helpers.Original, begin)
			seg := helpers.Segment{Flow: flow, Dir: tt.dir, Data: frame}
			n := testing.AllocsPerRun(200, func() {
				out.Reset()
				if err := s.Inspect(&seg, &out); err != nil {
					t.Fatal(err)
				}
			})
			if n > 0 || len(out.Expect) != tt.announced {
				t.Errorf("%v allocations, %d announced, want 0 and %d", n, len(out.Expect), tt.announced)
			}
		})
	}
}
