package wire_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// TestEveryPlace writes an address in each form in each row of the tables that can hold one, and finds it: in a message
// of what the tables know, and in one with additions that they do not.
func TestEveryPlace(t *testing.T) {
	places, forms := 0, 0
	for _, top := range tops {
		for _, path := range h323test.Paths(top) {
			address := path[len(path)-1].Type
			for ; address.Of != nil; address = address.Of {
			}
			if address.Name != "TransportAddress" && address.Name != "H.245 TransportAddress" {
				continue
			}
			places++
			for _, form := range h323test.Paths(address.Name) {
				if last := form[len(form)-1].Name; last != "ip" && last != "network" {
					continue
				}
				forms++
				for seed, strict := range []bool{true, false} {
					rnd := &h323test.Random{Rand: rand.New(rand.NewPCG(*first, uint64(seed))), Strict: strict}
					find(t, write(rnd, top, slices.Concat(path, form)), slices.Concat(path, form[:len(form)-1]))
				}
			}
		}
	}
	t.Logf("%d places, %d with their forms", places, forms)
	if places < 50 || forms < 3*places {
		t.Error("too few")
	}
}

// find finds the address that was written along a path.
func find(t *testing.T, x drawn, path []*wire.Row) {
	t.Helper()
	var names []string
	for _, row := range path {
		names = append(names, row.Name)
	}
	way := strings.Join(names, ".")
	i := slices.IndexFunc(x.places, func(p h323test.Place) bool { return p.Path == way })
	if i < 0 {
		t.Fatalf("%s: not written", way)
	}
	var m wire.Message
	if err := x.read(&m); err != nil {
		t.Errorf("%s: %v", way, err)
	}
	want := x.places[i]
	if !slices.ContainsFunc(m.Addresses, func(a wire.Address) bool { return a.Off == want.Off && a.Addr == want.Addr }) {
		t.Errorf("%s: no %v at %d\n%x", way, want.Addr, want.Off, x.b)
	}
}

// TestFragments moves addresses over the ends of fragments, byte by byte: of those of an addition, and of an OCTET STRING
// in it that contains a message. An address is found unless the end of a fragment is in it.
func TestFragments(t *testing.T) {
	four, six := netip.MustParseAddrPort("192.0.2.1:5000"), netip.MustParseAddrPort("[2001:db8::1]:5001")
	padding := func(n int) []byte { return bytes.Repeat([]byte{0xaa}, n) }
	tests := []struct {
		name    string
		message func(n int) V // with n bytes of padding before the addresses
	}{
		{"addition", func(n int) V {
			parameter := func(content V) V { return V{"id": V{"standard": 1}, "content": content} }
			return V{"h323-message-body": V{"setup": V{"supportedFeatures": []any{V{
				"id": V{"standard": 1}, "parameters": []any{
					parameter(V{"raw": padding(n)}),
					parameter(V{"transport": four}), parameter(V{"transport": six}),
				},
			}}}}}
		}},
		{"open type in an OCTET STRING in an addition", func(n int) V {
			return V{"h323-message-body": V{"facility": V{}}, "h245Control": []any{V{
				"request": V{"openLogicalChannel": V{"forwardLogicalChannelParameters": V{"multiplexParameters": V{
					"h2250LogicalChannelParameters": V{
						"nonStandard": []any{V{
							"nonStandardIdentifier": V{"object": "0.0.8.245"}, "data": padding(n),
						}},
						"mediaChannel": four, "mediaControlChannel": six,
					},
				}}}},
			}}}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			found, cut := 0, 0
			var m wire.Message
			for n := 16384 - 160; n < 16384; n++ {
				b, _ := h323test.Encode("H323-UserInformation", V{"h323-uu-pdu": tt.message(n)})
				x := drawn{typ: "H323-UserInformation", b: b}.framed()
				if err := x.read(&m); err != nil {
					t.Fatal(err)
				}
				for _, addr := range []netip.AddrPort{four, six} {
					at := bytes.Index(x.b, binary.BigEndian.AppendUint16(addr.Addr().AsSlice(), addr.Port()))
					i := slices.IndexFunc(m.Addresses, func(a wire.Address) bool { return a.Addr == addr })
					switch {
					case i < 0 && at < 0:
						cut++
					case i < 0 || m.Addresses[i].Off != at:
						t.Errorf("%d bytes before: %v is at %d, read %+v", n, addr, at, m.Addresses)
					default:
						found++
					}
				}
				if len(m.Addresses)+m.Skipped != 2 {
					t.Errorf("%d bytes before: %d addresses, %d skipped", n, len(m.Addresses), m.Skipped)
				}
			}
			if found == 0 || cut < 5+17 {
				t.Errorf("found %d times, cut %d times", found, cut)
			}
		})
	}
}
