package engine_test

import (
	"reflect"
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

// Commands, replies and acknowledgements that announce nothing cost no allocation, with the packet's connection and
// without, under NAT and not, one by one and in batches.
func TestChatDoesNotAllocate(t *testing.T) {
	const flows = 5000 // enough for Prepare to do something
	for _, nat := range []bool{false, true} {
		for _, conn := range []bool{false, true} {
			h := newChat(t, nat, flows)
			var who [burst]int
			var data [burst][]byte
			var memory [burst][64]byte
			n := 0
			round := func() {
				for i := range who {
					who[i] = n % 500 // a client's packets come again and again
					n++
					data[i] = h.make(memory[i][:], who[i])
				}
				h.e.Prepare(data[:])
				for i := range who {
					h.handle(who[i], data[i], conn)
				}
			}
			for range 100 {
				round() // sessions have grown
			}
			if n := testing.AllocsPerRun(200, round); n > 0 {
				t.Errorf("NAT %v, with connection %v: %v allocations for %d packets", nat, conn, n, burst)
			}
			if s := h.e.Stats(); s.Flows != flows || s.Unknown+s.Errors["ftp"]+s.Gaps > 0 {
				t.Errorf("NAT %v, with connection %v: %+v", nat, conn, s)
			}
		}
	}
}

// Prepare takes anything, and changes nothing.
func TestPrepare(t *testing.T) {
	h := newChat(t, false, 5000)
	before := h.e.Stats()
	other := h.of(1 << 20)
	packets := [][]byte{
		nil, {0x45}, make([]byte, 40), h.clients.packets[0].data, udpPacket(other.Orig, "x"),
		tcpPacket(other.Orig, packet.ACK, 1, 1, "x"),
	}
	for range 40 { // more than a batch
		packets = append(packets, h.make(make([]byte, 64), 7))
	}
	h.e.Prepare(packets)
	h.e.Prepare(nil)
	if after := h.e.Stats(); !reflect.DeepEqual(before, after) {
		t.Errorf("%+v, before %+v", after, before)
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
