package replay

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
)

func TestConnections(t *testing.T) {
	const c, s = "192.0.2.2:50000", "198.51.100.9:21"
	type packet struct {
		src, dst string
		flags    byte
		seq, ack uint32
		after    time.Duration
	}
	tcp, udp := helpers.TCP, helpers.UDP
	syn := packet{c, s, synFlag, 100, 0, 0}
	synAck := packet{s, c, synFlag | ackFlag, 900, 101, 0}
	data := packet{c, s, ackFlag, 101, 901, 0}
	answer := packet{s, c, ackFlag, 901, 101, 0}
	tests := []struct {
		name      string
		transport helpers.Transport
		packets   []packet
		want      []string // one for each packet: flow, direction, and what is new; "ended" where one ended before it
	}{
		{"handshake", tcp, []packet{syn, synAck, data}, []string{"1 orig new", "1 reply", "1 orig"}},
		{"SYN again", tcp, []packet{syn, syn, synAck}, []string{"1 orig new", "1 orig", "1 reply"}},
		{"SYN with another number", tcp, []packet{syn, synAck, {c, s, synFlag, 5000, 0, 0}}, []string{"1 orig new", "1 reply", "ended 1; 2 orig new"}},
		{"from the second packet on", tcp, []packet{synAck, data, syn}, []string{"1 reply new", "1 orig", "1 orig"}},
		{"without a beginning", tcp, []packet{data, answer}, []string{"1 orig new existing", "1 reply"}},
		{"without a beginning, server first", tcp, []packet{answer, data}, []string{"1 reply new existing", "1 orig"}},
		{"without a beginning, then a new one", tcp, []packet{data, syn}, []string{"1 orig new existing", "ended 1; 2 orig new"}},
		{"without a beginning, no server port", tcp, []packet{{"192.0.2.2:1", "192.0.2.3:2", ackFlag, 1, 1, 0}}, []string{"1 orig new existing"}},
		{"a reset out of nowhere", tcp, []packet{{c, s, rstFlag, 1, 0, 0}, syn}, []string{"none", "1 orig new"}},
		{"both ended, then one from the other side", tcp, []packet{
			syn, {c, s, finFlag | ackFlag, 101, 1, 0}, {s, c, finFlag | ackFlag, 901, 102, 0}, {s, c, synFlag, 7, 0, 0},
		}, []string{"1 orig new", "1 orig", "1 reply", "ended 1; 2 orig new"}},
		{"open from both sides at once", tcp, []packet{syn, {s, c, synFlag, 900, 0, 0}}, []string{"1 orig new", "1 reply"}},
		{"ended and forgotten", tcp, []packet{
			syn, {c, s, rstFlag, 101, 0, 0}, {c, s, ackFlag, 101, 901, 121 * time.Second},
		}, []string{"1 orig new", "1 orig", "ended 1; 2 orig new existing"}},
		{"silent for days", tcp, []packet{syn, {c, s, ackFlag, 101, 901, 4 * 24 * time.Hour}, {c, s, ackFlag, 101, 901, 6 * 24 * time.Hour}},
			[]string{"1 orig new", "1 orig", "ended 1; 2 orig new existing"}},
		{"UDP: who sends first", udp, []packet{{s, c, 0, 0, 0, 0}, {c, s, 0, 0, 0, 0}}, []string{"1 orig new", "1 reply"}},
		{"UDP without answer", udp, []packet{{c, s, 0, 0, 0, 0}, {c, s, 0, 0, 0, 31 * time.Second}}, []string{"1 orig new", "ended 1; 2 orig new"}},
		{"UDP with answer", udp, []packet{{c, s, 0, 0, 0, 0}, {s, c, 0, 0, 0, 0}, {c, s, 0, 0, 0, 119 * time.Second}, {c, s, 0, 0, 0, 121 * time.Second}},
			[]string{"1 orig new", "1 reply", "1 orig", "ended 1; 2 orig new"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			names := map[*connection]int{}
			var ended string
			server := func(_ helpers.Transport, p uint16) bool { return p == 21 }
			table := newConnections(server, newTranslator(nil), func(c *connection) {
				ended += fmt.Sprintf("ended %d; ", names[c])
			})
			now := time.Unix(1e9, 0)
			var got []string
			for _, p := range tt.packets {
				ended = ""
				now = now.Add(p.after)
				table.expire(now)
				h := header{transport: tt.transport, tuple: tuple(p.src, p.dst), flags: p.flags, seq: p.seq, ack: p.ack}
				conn, dir, fresh := table.packet(&h, now)
				if conn == nil {
					got = append(got, ended+"none")
					continue
				}
				if names[conn] == 0 {
					names[conn] = len(names) + 1
				}
				word := fmt.Sprintf("%s%d %v", ended, names[conn], dir)
				if fresh {
					word += " new"
				}
				if fresh && conn.Existing {
					word += " existing"
				}
				got = append(got, word)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

// An acknowledgement of rewritten bytes is that of the original ones, moved by the change that was in force there.
func TestAcknowledged(t *testing.T) {
	c := &connection{}
	if got := c.acknowledged(helpers.Original, 100); got != 100 {
		t.Errorf("unchanged: %d", got)
	}
	c.adjust(helpers.Original, engine.SeqAdjust{Pos: 1000, Before: 0, After: 5})
	c.adjust(helpers.Original, engine.SeqAdjust{Pos: 2000, Before: 5, After: -3})
	tests := map[uint32]uint32{900: 900, 1000: 1000, 1001: 1006, 2000: 2005, 2001: 1998}
	for ack, want := range tests {
		if got := c.acknowledged(helpers.Original, ack); got != want {
			t.Errorf("%d became %d, want %d", ack, got, want)
		}
		if got := c.acknowledged(helpers.Reply, ack); got != ack {
			t.Errorf("other direction: %d became %d", ack, got)
		}
	}
	if c.Adjust[helpers.Original].After != -3 {
		t.Errorf("the kernel's state is %+v", c.Adjust[helpers.Original])
	}
	wrap := &connection{}
	wrap.adjust(helpers.Reply, engine.SeqAdjust{Pos: 0xfffffff0, After: 4})
	if got := wrap.acknowledged(helpers.Reply, 5); got != 9 {
		t.Errorf("behind the wrap: %d", got)
	}
	for i := range uint32(1000) {
		wrap.adjust(helpers.Reply, engine.SeqAdjust{Pos: i})
	}
	if n := len(wrap.shifts[helpers.Reply]); n > maxShifts {
		t.Errorf("%d changes are remembered", n)
	}
}

// However many connections a capture has, only so many are remembered, and the closed ones go first.
func TestConnectionsAreBounded(t *testing.T) {
	n := 0
	table := newConnections(func(helpers.Transport, uint16) bool { return false }, newTranslator(nil), func(*connection) { n++ })
	now := time.Unix(1e9, 0)
	first := tuple("10.0.0.1:1", "10.0.0.2:2")
	closed := tuple("10.0.0.1:3", "10.0.0.2:2")
	table.packet(&header{transport: helpers.TCP, tuple: first, flags: synFlag}, now)
	table.packet(&header{transport: helpers.TCP, tuple: closed, flags: synFlag}, now)
	table.packet(&header{transport: helpers.TCP, tuple: closed, flags: rstFlag}, now)
	for i := range maxConnections - 1 {
		tu := tuple(fmt.Sprintf("11.%d.%d.%d:1", i>>16, i>>8&255, i&255), "10.0.0.2:2")
		table.packet(&header{transport: helpers.TCP, tuple: tu, flags: synFlag}, now)
	}
	if n != 1 || table.len() != maxConnections {
		t.Fatalf("%d ended, %d remembered", n, table.len())
	}
	if table.packets[connKey{helpers.TCP, first}] == nil || table.packets[connKey{helpers.TCP, closed}] != nil {
		t.Error("the closed one should have gone first")
	}
}
