package wire_test

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// encoded is a value as an addition that the tables skip holds it.
func encoded(typ string, v any) []byte {
	b, _ := h323test.Encode(typ, v)
	return b
}

// one is a list of one element, whose encoding begins with a whole byte.
func one(element []byte) []byte { return append([]byte{1}, element...) }

var (
	rtp, rtcp = netip.MustParseAddrPort("192.0.2.1:49170"), netip.MustParseAddrPort("192.0.2.1:49171")
	cisco     = V{"nonStandardIdentifier": V{"h221NonStandard": V{"t35CountryCode": 181, "manufacturerCode": 18}},
		"data": []byte("\x80\x90\x01\x06\x00\x08\x81\x6b\x00\x05\xc0\x00\x02\x02\x4e\x20")} // it has the bytes of an address
	avaya = V{"nonStandardIdentifier": V{"object": "2.16.840.1.114187.1.3"},
		"data": []byte("\x02\x01\x80\xc0\x00\x02\x03\x06\xb8")}
	h239 = []byte{0, 0, 6, 0, 8, 0x81, 0x6f, 1, 1} // a GenericCapability that says no more than {0 0 8 239 1 1}
	hash = V{"nestedcryptoToken": V{"cryptoHashedToken": V{"tokenOID": "0.0.8.235.0.2.1",
		"hashedVals": V{"tokenOID": "0.0.8.235.0.2.5", "timeStamp": 1700000000, "random": 7, "generalID": "keeper"},
		"token":      V{"algorithmOID": "0.0.8.235.0.2.6", "hash": []byte("123456789012")},
	}}}
)

// traversal is TraversalParameters of H.460.19.
func traversal(v V) []any {
	return []any{V{"messageIdentifier": V{"standard": "0.0.8.460.19.0.1"}, "messageContent": []any{V{
		"parameterIdentifier": V{"standard": 1},
		"parameterValue":      V{"octetString": encoded("TraversalParameters", v)},
	}}}}
}

// makers are messages with what makers put into them beside the addresses.
var makers = []struct {
	name, typ string
	value     V
	addresses int
}{
	{"a registration with Avaya's data, tokens and features", "RasMessage", V{"registrationRequest": V{
		"nonStandardData":   avaya,
		"callSignalAddress": []any{netip.MustParseAddrPort("192.0.2.1:1720")}, "rasAddress": []any{rtp},
		"terminalType":  V{"vendor": V{"vendor": V{"t35CountryCode": 181, "manufacturerCode": 21324}}, "terminal": V{"nonStandardData": avaya}},
		"terminalAlias": []any{V{"h323-ID": "alice"}, V{"dialledDigits": "1001"}, V{"url-ID": []byte{0, 'a'}}},
		"timeToLive":    300, "keepAlive": false, "tokens": one(encoded("ClearToken", V{"tokenOID": "1.2.840.113548.10.1.2.1", "timeStamp": 1})),
		"cryptoTokens":        []any{hash, V{"cryptoEPPwdHash": V{"alias": V{"h323-ID": "alice"}, "token": V{"hash": []byte("1234567890123456")}}}},
		"integrityCheckValue": encoded("ICV", V{"algorithmOID": "0.0.8.235.0.2.6", "icv": []byte("12")}),
		"featureSet": V{"supportedFeatures": []any{
			V{"id": V{"standard": 18}}, V{"id": V{"standard": 19}, "parameters": []any{V{"id": V{"standard": 1}}}}, V{"id": V{"standard": 23}},
		}},
	}}, 2},
	{"a call that comes in through a traversal server", "RasMessage", V{"serviceControlIndication": V{
		"serviceControl": []any{}, "genericData": []any{V{"id": V{"standard": 18}, "parameters": []any{V{
			"id": V{"standard": 1}, "content": V{"raw": encoded("IncomingCallIndication", V{
				"callSignallingAddress": netip.MustParseAddrPort("198.51.100.9:2776"), "callID": V{"guid": []byte("0123456789abcdef")},
			})},
		}}}},
	}}, 1},
	{"a Setup with Cisco's data, QSIG and supplementary services", "H323-UserInformation", V{"h323-uu-pdu": V{
		"h323-message-body": V{"setup": V{
			"protocolIdentifier": "0.0.8.2250.0.5", "sourceCallSignalAddress": netip.MustParseAddrPort("192.0.2.1:30000"),
			"sourceInfo":     V{"nonStandardData": cisco, "gateway": V{"protocol": []any{V{"voice": V{"supportedPrefixes": []any{}}}}}},
			"callIdentifier": V{"guid": []byte("0123456789abcdef")}, "cryptoTokens": []any{hash}, "endpointIdentifier": "1001",
			"fastStart":     []any{encoded("OpenLogicalChannel", channel(V{"audioData": V{"g729": 2}}, rtcp))},
			"multipleCalls": []byte{0}, "maintainConnection": []byte{0x80}, "symmetricOperationRequired": []byte{0},
			"supportedFeatures": []any{V{"id": V{"standard": 9}}, V{"id": V{"oid": "0.0.8.460.1"}}},
		}},
		"nonStandardData": cisco, "h245Tunnelling": true, "nonStandardControl": one(encoded("NonStandardParameter", cisco)),
		"h4501SupplementaryService": []byte{0}, "genericData": []any{V{"id": V{"nonStandard": []byte("0123456789abcdef")}}},
	}}, 2},
	{"capabilities with H.239 and non-standard ones", "MultimediaSystemControlMessage", V{"request": V{"terminalCapabilitySet": V{
		"protocolIdentifier": "0.0.8.245.0.13", "multiplexCapability": V{"h2250Capability": V{}},
		"capabilityTable": []any{
			V{"capabilityTableEntryNumber": 1, "capability": V{"receiveAudioCapability": V{"nonStandard": V{
				"nonStandardIdentifier": V{"h221NonStandard": V{"t35CountryCode": 181, "manufacturerCode": 9009}}, "data": []byte("Siren14")}}}},
			V{"capabilityTableEntryNumber": 2, "capability": V{"receiveVideoCapability": V{"h263VideoCapability": V{"cifMPI": 1}}}},
			V{"capabilityTableEntryNumber": 3, "capability": V{"receiveVideoCapability": V{"+0": h239}}},
			V{"capabilityTableEntryNumber": 4, "capability": V{"+6": h239}},
			V{"capabilityTableEntryNumber": 5, "capability": V{"receiveDataApplicationCapability": V{"application": V{"h224": V{"hdlcFrameTunnelling": nil}}}}},
		},
		"capabilityDescriptors": []any{V{"capabilityDescriptorNumber": 0, "simultaneousCapabilities": []any{[]any{1, 2}}}},
	}}}, 0},
	{"H.239's presentation token", "MultimediaSystemControlMessage", V{"request": V{"genericRequest": V{
		"messageIdentifier": V{"standard": "0.0.8.239.2"}, "subMessageIdentifier": 3, "messageContent": []any{
			V{"parameterIdentifier": V{"standard": 44}, "parameterValue": V{"unsignedMin": 1}},
			V{"parameterIdentifier": V{"standard": 42}, "parameterValue": V{"unsignedMin": 3}},
		},
	}}}, 0},
	{"a channel through a traversal server", "MultimediaSystemControlMessage", V{"request": V{"openLogicalChannel": with(
		channel(V{"videoData": V{"+0": h239}}, rtcp), traversal(V{
			"multiplexedMediaControlChannel": V{"unicastAddress": netip.MustParseAddrPort("198.51.100.9:2777")}, "multiplexID": 305419896,
			"keepAliveChannel": V{"unicastAddress": netip.MustParseAddrPort("198.51.100.9:2776")}, "keepAliveInterval": 30,
		}))}}, 3},
	{"a channel that is not understood", "MultimediaSystemControlMessage", V{"indication": V{"functionNotSupported": V{
		"cause": 2, "returnedFunction": V{"request": V{"openLogicalChannel": channel(V{"audioData": V{"g728": 1}}, rtcp)}},
	}}}, 1},
	{"its acceptance", "MultimediaSystemControlMessage", V{"response": V{"openLogicalChannelAck": V{
		"forwardLogicalChannelNumber": 3,
		"forwardMultiplexAckParameters": V{"h2250LogicalChannelAckParameters": V{
			"sessionID": 1, "mediaChannel": V{"unicastAddress": rtp}, "mediaControlChannel": V{"unicastAddress": rtcp},
		}},
		"genericInformation": traversal(V{"keepAlivePayloadType": 96, "multiplexedMediaChannel": V{
			"unicastAddress": netip.MustParseAddrPort("[2001:db8::9]:2776")}}),
	}}}, 3},
}

// channel opens one for data.
func channel(data V, control netip.AddrPort) V {
	return V{"forwardLogicalChannelNumber": 3, "forwardLogicalChannelParameters": V{
		"dataType": data, "multiplexParameters": V{"h2250LogicalChannelParameters": V{
			"sessionID": 1, "mediaGuaranteedDelivery": false, "mediaControlChannel": V{"unicastAddress": control},
			"mediaControlGuaranteedDelivery": false, "silenceSuppression": true, "dynamicRTPPayloadType": 101,
		}},
	}}
}

func with(olc V, information []any) V {
	olc["genericInformation"] = information
	return olc
}

// TestMakers reads messages as makers' end points send them, and has tshark judge.
func TestMakers(t *testing.T) {
	var frames []drawn
	for _, m := range makers {
		b, places := h323test.Encode(m.typ, m.value)
		frames = append(frames, drawn{typ: m.typ, b: b, places: places}.framed())
	}
	judged := map[int]shown{}
	if _, err := exec.LookPath("tshark"); err == nil || !testing.Short() {
		file := filepath.Join(t.TempDir(), "makers.pcap")
		if err := os.WriteFile(file, pcap(frames), 0o600); err != nil {
			t.Fatal(err)
		}
		judged = show(t, file)
	}
	for i, x := range frames {
		t.Run(makers[i].name, func(t *testing.T) {
			var m wire.Message
			if err := x.read(&m); err != nil || m.Skipped > 0 {
				t.Errorf("%d skipped, error %v", m.Skipped, err)
			}
			if len(m.Addresses) != makers[i].addresses {
				t.Errorf("read %+v, want %d addresses", m.Addresses, makers[i].addresses)
			}
			if got := addresses(&m, x.header()); len(judged) > 0 && (!slices.Equal(got, judged[i+1].addresses) || judged[i+1].bad != "") {
				t.Errorf("read %v, tshark shows %v\n%x", got, judged[i+1], x.b)
			}
		})
	}
}
