package snapshot_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/snapshot"
)

// written is a state of version 3: a number, flags, bytes, and two bytes without their length.
func written(before []byte) []byte {
	start := len(before)
	b := binary.AppendUvarint(append(before, 3), 300)
	b = append(b, snapshot.Flags(true, false, true))
	b = snapshot.AppendBytes(b, []byte("abc"))
	return snapshot.Seal(append(b, "de"...), start)
}

func TestReader(t *testing.T) {
	r, err := snapshot.Open(written([]byte("before"))[6:], 3)
	if err != nil {
		t.Fatal(err)
	}
	n := r.Number(300)
	var one, two, three bool
	r.Flags(&one, &two, &three)
	text, tail := string(r.Bytes(3)), string(r.Take(2))
	if n != 300 || !one || two || !three || text != "abc" || tail != "de" || r.End() != nil {
		t.Errorf("read %d %v %v %v %q %q, end %v", n, one, two, three, text, tail, r.End())
	}
}

func TestDamage(t *testing.T) {
	state := written(nil)
	for i := range state {
		b := append([]byte(nil), state...)
		b[i] ^= 1
		if _, err := snapshot.Open(b, 3); err == nil {
			t.Errorf("byte %d changed, and it was opened", i)
		}
	}
	for n := range len(state) {
		if _, err := snapshot.Open(state[:n], 3); err == nil {
			t.Errorf("%d bytes of %d were opened", n, len(state))
		}
	}
	for what, read := range map[string]func(*snapshot.Reader){
		"a number that is too large": func(r *snapshot.Reader) { r.Number(299) },
		"a flag that nobody knows":   func(r *snapshot.Reader) { r.Number(300); r.Flags(new(bool)) },
		"more bytes than allowed":    func(r *snapshot.Reader) { r.Number(300); r.Number(7); r.Bytes(2) },
		"more bytes than there are":  func(r *snapshot.Reader) { r.Take(100) },
		"what makes no sense":        func(r *snapshot.Reader) { r.Check(false) },
		"something that is left":     func(r *snapshot.Reader) { r.Number(300) },
	} {
		r, err := snapshot.Open(state, 3)
		if err != nil {
			t.Fatal(err)
		}
		if read(r); !errors.Is(r.End(), snapshot.ErrDamaged) {
			t.Errorf("%s: %v", what, r.End())
		}
		if what != "something that is left" && (!r.Bad() || r.Number(1<<63) != 0 || len(r.Take(1)) != 0) {
			t.Errorf("%s: read on", what)
		}
	}
}
