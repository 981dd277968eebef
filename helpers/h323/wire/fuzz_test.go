package wire_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// FuzzPER reads as each type of the tables that others are made of: the first byte says which.
func FuzzPER(f *testing.F) {
	types := []string{
		"EndpointType", "AliasAddress", "GenericData", "CryptoH323Token", "ClearToken", "Capability", "DataType",
		"H2250LogicalChannelParameters", "TerminalCapabilitySet", "CommunicationModeCommand", "InfoRequestResponse",
		"GenericMessage", "RequestMode", "MultiplexEntrySend",
	}
	for i, typ := range types {
		rnd := &h323test.Random{Rand: rand.New(rand.NewPCG(uint64(i), 0))}
		for range 4 {
			b, _ := h323test.Encode(typ, rnd.Value(typ, nil))
			f.Add(append([]byte{byte(i)}, b...))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		typ := types[int(b[0])%len(types)]
		check(t, typ, b[1:], func(b []byte, m *wire.Message) error {
			_, err := wire.Steps(typ, b, m)
			return err
		}, b[1:])
	})
}

// FuzzRAS reads datagrams.
func FuzzRAS(f *testing.F) {
	seed(f, "RasMessage")
	f.Fuzz(func(t *testing.T, b []byte) { check(t, "RasMessage", b, wire.ReadRAS, b) })
}

// FuzzQ931 reads messages of call signalling.
func FuzzQ931(f *testing.F) {
	seed(f, "H323-UserInformation")
	f.Fuzz(func(t *testing.T, b []byte) {
		check(t, "H323-UserInformation", b[min(9, len(b)):], wire.ReadSignalling, b)
	})
}

// FuzzH245 reads the contents of frames of H.245.
func FuzzH245(f *testing.F) {
	seed(f, "MultimediaSystemControlMessage")
	f.Fuzz(func(t *testing.T, b []byte) { check(t, "MultimediaSystemControlMessage", b, wire.ReadControl, b) })
}

// seed adds messages of a type, one of each kind and some more.
func seed(f *testing.F, typ string) {
	rnd := &h323test.Random{Rand: rand.New(rand.NewPCG(1, 2))}
	for i, path := range h323test.Paths(typ) {
		if len(path) < 4 || i%16 == 0 {
			f.Add(write(rnd, typ, path).b)
		}
	}
}

// fragment is what fragments are multiples of (X.691, 11.9.3.8.3).
const fragment = 16384

// check holds what is true of all input: as a value of typ encoded it takes no more steps than its length pays for; and
// read by read, its addresses are where they are said to be, and reading it again does the same and allocates nothing.
func check(t *testing.T, typ string, encoded []byte, read func([]byte, *wire.Message) error, b []byte) {
	var m, again wire.Message
	if steps, err := wire.Steps(typ, encoded, &m); errors.Is(err, wire.ErrWork) {
		t.Errorf("%d steps for %d bytes", steps, len(encoded))
	}
	before := bytes.Clone(b)
	err := read(b, &m)
	if 7*len(m.Addresses) > len(b) || len(m.Controls) > len(b) {
		t.Errorf("%d addresses and %d messages in %d bytes", len(m.Addresses), len(m.Controls), len(b))
	}
	last := 0
	for _, a := range m.Addresses {
		ip := a.Addr.Addr().AsSlice()
		end := a.Off + len(ip)
		switch {
		case a.Off < last || end+2 > len(b) || !bytes.Equal(b[a.Off:end], ip) || a.Field == 0:
			t.Errorf("%+v is not there", a)
		case b[end] != byte(a.Addr.Port()>>8) || b[end+1] != byte(a.Addr.Port()):
			t.Errorf("port of %+v is not there", a)
		case a.Control < -1 || a.Control >= len(m.Controls):
			t.Errorf("%+v is in no message", a)
		}
		last = end
	}
	allowed := 0.0
	if err != nil {
		allowed = 1 // the error
	}
	if len(b) > fragment {
		allowed = 40 // what is put together
	}
	if n := testing.AllocsPerRun(1, func() { _ = read(b, &m) }); n > allowed {
		t.Errorf("%v allocations", n)
	}
	if e := read(b, &again); (e == nil) != (err == nil) || !slices.Equal(again.Addresses, m.Addresses) {
		t.Errorf("read again: %v and %v, before %v and %v", e, again.Addresses, err, m.Addresses)
	}
	if !bytes.Equal(b, before) {
		t.Error("the message was changed")
	}
}
