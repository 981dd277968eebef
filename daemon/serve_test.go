package daemon

import (
	"testing"

	"github.com/cthelperd/cthelperd/queue"
)

// Packets that may be the first of a connection, before which it is asked what ended.
func TestBegins(t *testing.T) {
	v4 := func(options int, protocol, flags byte) []byte {
		b := make([]byte, 20+options+20)
		b[0], b[9], b[20+options+13] = byte(0x45+options/4), protocol, flags
		return b
	}
	v6 := func(next, flags byte) []byte {
		b := make([]byte, 60)
		b[0], b[6], b[53] = 0x60, next, flags
		return b
	}
	const tcp, udp, hopByHop, syn, ack = 6, 17, 0, 0x02, 0x10
	told := func(info uint32) queue.Packet {
		return queue.Packet{Data: v4(0, tcp, syn), Conntrack: []byte{0}, CtInfo: info}
	}
	seen := func(b []byte) queue.Packet { return queue.Packet{Data: b} }
	tests := []struct {
		name   string
		packet queue.Packet
		want   bool
	}{
		{"SYN", seen(v4(0, tcp, syn)), true},
		{"SYN and ACK", seen(v4(0, tcp, syn|ack)), true},
		{"ACK", seen(v4(0, tcp, ack)), false},
		{"ACK behind options", seen(v4(8, tcp, ack)), false},
		{"SYN behind options", seen(v4(8, tcp, syn)), true},
		{"datagram", seen(v4(0, udp, 0)), true},
		{"SYN, IPv6", seen(v6(tcp, syn)), true},
		{"ACK, IPv6", seen(v6(tcp, ack)), false},
		{"extension header", seen(v6(hopByHop, 0)), true},
		{"cut off", seen(v4(0, tcp, ack)[:30]), true},
		{"nothing", seen(nil), true},
		{"new, as conntrack says", told(2), true},
		{"established, as conntrack says", told(0), false},
		{"reply, as conntrack says", told(3), false},
	}
	other := seen(v4(0, tcp, ack))
	for _, tt := range tests {
		for _, batch := range [][]queue.Packet{{tt.packet}, {other, tt.packet}, {tt.packet, other}} {
			if got := begins(batch); got != tt.want {
				t.Errorf("%s, in a batch of %d: %v, want %v", tt.name, len(batch), got, tt.want)
			}
		}
	}
}
