package daemon

import (
	"math"
	"testing"
)

// TestDoubt: what was queued up to a packet is in doubt, what comes behind it is not, also when ids wrap.
func TestDoubt(t *testing.T) {
	for _, last := range []uint32{10, math.MaxUint32, 1} {
		d := doubt{true, last}
		for i, want := range []bool{true, true, false, false} {
			if got := d.covers(last - 1 + uint32(i)); got != want {
				t.Errorf("up to %d, packet %d is in doubt: %v", last, last-1+uint32(i), got)
			}
		}
		if d.covers(last) {
			t.Error("doubt comes back")
		}
	}
}
