package daemon

import (
	"testing"

	"github.com/cthelperd/cthelperd/queue"
)

// Packets that may be the first of an entry, before which it is asked what ended.
func TestBegins(t *testing.T) {
	told := func(info uint32) queue.Packet { return queue.Packet{Conntrack: []byte{0}, CtInfo: info} }
	tests := []struct {
		name   string
		packet queue.Packet
		want   bool
	}{
		{"nothing is told", queue.Packet{}, true},
		{"new, as conntrack says", told(2), true},
		{"established, as conntrack says", told(0), false},
		{"reply, as conntrack says", told(3), false},
	}
	other := told(0)
	for _, tt := range tests {
		for _, batch := range [][]queue.Packet{{tt.packet}, {other, tt.packet}, {tt.packet, other}} {
			if got := begins(batch); got != tt.want {
				t.Errorf("%s, in a batch of %d: %v, want %v", tt.name, len(batch), got, tt.want)
			}
		}
	}
}
