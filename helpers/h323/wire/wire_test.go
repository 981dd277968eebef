package wire_test

import (
	"net/netip"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// setup is a Setup as end points send it: fast start with two audio codecs and one for video in each direction.
func setup() []byte {
	rtp, rtcp := netip.MustParseAddrPort("192.0.2.1:5000"), netip.MustParseAddrPort("192.0.2.1:5001")
	var channels []any
	for i, data := range []V{
		{"audioData": V{"g711Ulaw64k": 20}}, {"audioData": V{"g729": 2}},
		{"videoData": V{"h263VideoCapability": V{
			"cifMPI": 1, "maxBitRate": 3840, "unrestrictedVector": false, "arithmeticCoding": false,
		}}},
	} {
		session := 1 + i/2
		sent := V{"sessionID": session, "mediaControlChannel": rtcp, "mediaGuaranteedDelivery": false}
		channels = append(channels, V{
			"forwardLogicalChannelNumber": i + 1,
			"forwardLogicalChannelParameters": V{
				"dataType": data, "multiplexParameters": V{"h2250LogicalChannelParameters": sent},
			},
		}, V{
			"forwardLogicalChannelNumber": i + 101,
			"forwardLogicalChannelParameters": V{
				"dataType": V{"nullData": nil}, "multiplexParameters": V{"none": nil},
			},
			"reverseLogicalChannelParameters": V{"dataType": data, "multiplexParameters": V{
				"h2250LogicalChannelParameters": V{
					"sessionID": session, "mediaChannel": rtp, "mediaControlChannel": rtcp,
				},
			}},
		})
	}
	return h323test.Signalling(5, 0x1234, false, V{"h323-uu-pdu": V{
		"h323-message-body": V{"setup": V{
			"protocolIdentifier": "0.0.8.2250.0.4",
			"sourceAddress":      []any{V{"h323-ID": "alice"}, V{"dialledDigits": "1001"}},
			"sourceInfo": V{
				"vendor": V{
					"vendor":    V{"t35CountryCode": 181, "manufacturerCode": 18},
					"productId": []byte("end point"), "versionId": []byte("1.0"),
				},
				"terminal": V{},
			},
			"destinationAddress":      []any{V{"dialledDigits": "1002"}},
			"destCallSignalAddress":   netip.MustParseAddrPort("198.51.100.2:1720"),
			"sourceCallSignalAddress": netip.MustParseAddrPort("192.0.2.1:30000"),
			"callIdentifier":          V{"guid": []byte("0123456789abcdef")},
			"fastStart":               channels,
			"mediaWaitForConnect":     []byte{0},
			"canOverlapSend":          []byte{0},
			"multipleCalls":           []byte{0},
			"maintainConnection":      []byte{0x80},
		}},
		"h245Tunnelling": true,
	}})
}

// TestSetup reads a Setup with fast start.
func TestSetup(t *testing.T) {
	b := setup()
	var m wire.Message
	if err := wire.ReadSignalling(b, &m); err != nil {
		t.Fatal(err)
	}
	if m.Kind != wire.Setup || !m.Tunnelling || string(m.CallID[:]) != "0123456789abcdef" || m.Reference != 0x1234 {
		t.Errorf("read %+v", m)
	}
	if len(m.Controls) != 6 || len(m.Addresses) != 2+3+6 {
		t.Fatalf("%d channels and %d addresses, want 6 and 11", len(m.Controls), len(m.Addresses))
	}
	forward := wire.Control{
		Kind: wire.OpenLogicalChannel, In: wire.FastStart, Channel: 3, Session: 2, Data: wire.VideoData,
	}
	if m.Controls[4] != forward {
		t.Errorf("channel %+v, want %+v", m.Controls[4], forward)
	}
	reverse := wire.Control{
		Kind: wire.OpenLogicalChannel, In: wire.FastStart, Channel: 102, ReverseSession: 1,
		Data: wire.NullData, ReverseData: wire.AudioData,
	}
	if m.Controls[3] != reverse {
		t.Errorf("channel %+v, want %+v", m.Controls[3], reverse)
	}
	last := m.Addresses[10]
	if last.Field != wire.MediaControlChannel || !last.Reverse || last.Session != 2 || last.Control != 5 {
		t.Errorf("address %+v", last)
	}
}

// TestAllocations checks that reading allocates nothing once the slices have grown.
func TestAllocations(t *testing.T) {
	b := setup()
	var m wire.Message
	if n := testing.AllocsPerRun(100, func() { _ = wire.ReadSignalling(b, &m) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkSetup reads a Setup with six channels.
func BenchmarkSetup(b *testing.B) {
	data := setup()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	var m wire.Message
	for b.Loop() {
		if err := wire.ReadSignalling(data, &m); err != nil {
			b.Fatal(err)
		}
	}
}
