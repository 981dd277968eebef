package engine_test

import (
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// traffic is a dialogue without announcements, as a function that handles the next of its packets.
func traffic(tb testing.TB, c engine.Conn, edited bool) func() {
	b := newBed(tb, nil)
	var f *peerflow
	if c.Transport == helpers.TCP {
		f = b.tcp(c, 1000)
		if edited {
			f.say(orig, "open tcp 10.0.0.1:4000\n")
		}
	} else {
		b.udp(c, orig, "hello\n")
	}
	const text = "hello, this is a line of a usual length\n"
	tuples := [2]helpers.Tuple{c.Reply.Turned(), c.Orig.Turned()}
	var packets [][]byte
	for i := range 1000 {
		dir := helpers.Dir(i % 2)
		switch {
		case c.Transport == helpers.UDP:
			packets = append(packets, udpPacket(tuples[dir], text))
		case i%4 < 2:
			packets = append(packets, tcpPacket(tuples[dir], packet.ACK, f.next[dir], f.acked(dir.Other()), text))
			f.next[dir] += uint32(len(text))
		default:
			packets = append(packets, tcpPacket(tuples[dir], packet.ACK, f.next[dir], f.acked(dir.Other()), ""))
		}
	}
	i := uint64(0)
	return func() {
		s := b.e.Handle(engine.Packet{ID: i, Time: b.now, Data: packets[i%1000], Conn: &c})
		if i++; len(s.Verdicts) != 1 || s.Ticket != 0 {
			tb.Fatalf("packet %d: %+v", i, s)
		}
	}
}

func TestHandleDoesNotAllocate(t *testing.T) {
	for name, c := range map[string]engine.Conn{
		"TCP": plainConn(helpers.TCP), "TCP, NAT": snatConn(helpers.TCP),
		"UDP": plainConn(helpers.UDP), "UDP, NAT": snatConn(helpers.UDP),
	} {
		for _, edited := range []bool{false, true} {
			next := traffic(t, c, edited)
			next()
			if n := testing.AllocsPerRun(900, next); n > 0 {
				t.Errorf("%s, edited before %v: %v allocations a packet", name, edited, n)
			}
		}
	}
}

func BenchmarkHandle(b *testing.B) {
	for _, bb := range []struct {
		name   string
		conn   engine.Conn
		edited bool
	}{
		{"TCP", plainConn(helpers.TCP), false}, {"UDP", plainConn(helpers.UDP), false},
		{"TCP/NAT", snatConn(helpers.TCP), false}, {"TCP/NAT/edited", snatConn(helpers.TCP), true},
	} {
		b.Run(bb.name, func(b *testing.B) {
			next := traffic(b, bb.conn, bb.edited)
			b.ReportAllocs()
			for b.Loop() {
				next()
			}
		})
	}
}
