package wire_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// TestFrame finds the size of frames.
func TestFrame(t *testing.T) {
	tests := []struct {
		name string
		b    string
		size int
		err  error
	}{
		{"nothing yet", "", 0, nil},
		{"part of a header", "\x03\x00\x01", 0, nil},
		{"a header", "\x03\x00\x01\x02", 0x102, nil},
		{"no contents", "\x03\x00\x00\x04", 4, nil},
		{"longest", "\x03\x00\xff\xff....", 65535, nil},
		{"shorter than its header", "\x03\x00\x00\x03", 0, wire.ErrFrame},
		{"another version", "\x02", 0, wire.ErrFrame},
		{"reserved byte", "\x03\x01", 0, wire.ErrFrame},
		{"HTTP", "POST / HTTP/1.1", 0, wire.ErrFrame},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			size, err := wire.Frame([]byte(tt.b))
			if size != tt.size || !errors.Is(err, tt.err) {
				t.Errorf("Frame = %d, %v, want %d, %v", size, err, tt.size, tt.err)
			}
		})
	}
}

// TestElements finds the User-user element among others (Q.931, clause 4.5).
func TestElements(t *testing.T) {
	h245 := netip.MustParseAddrPort("192.0.2.1:2000")
	in, places := h323test.Encode("H323-UserInformation", V{"h323-uu-pdu": V{
		"h323-message-body": V{"connect": V{"h245Address": h245}}, "h245Tunnelling": true,
	}})
	user := string(append([]byte{0x7e, 0, byte(len(in) + 1), 5}, in...))
	tests := []struct {
		name string
		b    string
		at   int // of the contents of the element; 0: not found
		err  error
	}{
		{"alone", "\x08\x02\x12\x34\x07" + user, 9, nil},
		{"a reference of one byte", "\x08\x01\x12\x07" + user, 8, nil},
		{"no reference", "\x08\x00\x07" + user, 7, nil},
		{"behind others", "\x08\x02\x12\x34\x07\x28\x03abc\xa1\x04\x00" + user, 17, nil},
		{"in front of others", "\x08\x02\x12\x34\x07" + user + "\x28\x03abc", 9, nil},
		{"behind an element of another codeset", "\x08\x02\x12\x34\x07\x9e\x7e\x02ab" + user, 14, nil},
		{"behind elements of another codeset", "\x08\x02\x12\x34\x07\x96\x7e\x02ab\x7e\x00\x90" + user, 17, nil},
		{"of another codeset", "\x08\x02\x12\x34\x07\x96\x7e\x02\x05\x20", 0, nil},
		{"none", "\x08\x02\x12\x34\x07\x28\x03abc", 0, nil},
		{"text", "\x08\x02\x12\x34\x07\x7e\x00\x04\x04abc", 0, nil},
		{"longer than the message", "\x08\x02\x12\x34\x07\x7e\x01\x00\x05abc", 0, wire.ErrShort},
		{"of no length", "\x08\x02\x12\x34\x07\x7e\x00\x00", 0, wire.ErrShort},
		{"cut", "\x08\x02\x12\x34\x07\x7e\x00", 0, wire.ErrShort},
		{"an element longer than the message", "\x08\x02\x12\x34\x07\x28\x04abc", 0, wire.ErrShort},
		{"another protocol", "\x03\x02\x12\x34\x07", 0, wire.ErrProtocol},
		{"a reference of 15 bytes", "\x08\x0f012345678901234\x07", 0, wire.ErrProtocol},
		{"cut in the reference", "\x08\x02\x12", 0, wire.ErrProtocol},
		{"no message type", "\x08\x02\x12\x34", 0, wire.ErrProtocol},
		{"nothing", "", 0, wire.ErrProtocol},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var m wire.Message
			if err := wire.ReadSignalling([]byte(tt.b), &m); !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if tt.at == 0 {
				if m.Kind != 0 || len(m.Addresses) != 0 {
					t.Errorf("read %+v", m)
				}
				return
			}
			want := wire.Address{Off: tt.at + places[0].Off, Addr: h245, Field: wire.H245Address, Control: -1}
			if m.Type != 7 || m.Kind != wire.Connect || !m.Tunnelling || len(m.Addresses) != 1 || m.Addresses[0] != want {
				t.Errorf("read %+v, want %+v", m, want)
			}
		})
	}
}

// TestReference reads call references and their flag.
func TestReference(t *testing.T) {
	var m wire.Message
	for _, flag := range []bool{false, true} {
		if err := wire.ReadSignalling(h323test.Signalling(0x5a, 0x7ffe, flag, nil), &m); err != nil {
			t.Fatal(err)
		}
		if m.Reference != 0x7ffe || m.Flag != flag || m.Type != 0x5a || m.Kind != 0 {
			t.Errorf("read %+v, want reference 0x7ffe, flag %v", m, flag)
		}
	}
}
