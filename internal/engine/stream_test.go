package engine_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// receiver puts together what arrives at one end, as TCP does.
type receiver struct {
	next   uint32
	stream []byte
	early  map[uint32][]byte
}

// take gives an error if bytes that arrived before arrive otherwise.
func (r *receiver) take(seq uint32, data []byte) error {
	behind := int(int32(r.next - seq))
	if behind < 0 {
		if len(r.early[seq]) < len(data) {
			r.early[seq] = data
		}
		return nil
	}
	old := min(behind, len(data))
	if behind <= len(r.stream) {
		if had := r.stream[len(r.stream)-behind:][:old]; string(had) != string(data[:old]) {
			return fmt.Errorf("%q arrived first, then %q", had, data[:old])
		}
	}
	r.stream = append(r.stream, data[old:]...)
	r.next += uint32(len(data) - old)
	for seq, data := range r.early {
		if int32(r.next-seq) >= 0 {
			delete(r.early, seq)
			return r.take(seq, data)
		}
	}
	return nil
}

// However a stream is cut, repeated and disordered, the announcements are the same, the receiver gets the same bytes,
// and the sender is told what has arrived.
func TestAnyCut(t *testing.T) {
	text := "hello\nopen tcp 10.0.0.1:4000 group 1\nmore\nopen tcp 10.0.0.1:60001 group 2\n" +
		"open tcp 10.0.0.1:4000 group 1\nopen udp 203.0.113.1:4444 group 3\nbye\n"
	tests := []struct {
		name string
		conn engine.Conn
		want string
	}{
		{"plain", plainConn(helpers.TCP), text},
		{"SNAT", snatConn(helpers.TCP), strings.ReplaceAll(text, "10.0.0.1", "203.0.113.1")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(600) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				isn := uint32(1000)
				if seed%2 == 1 {
					isn = -uint32(rnd.IntN(200))
				}
				if err := anyCut(t, tt.conn, text, tt.want, isn, rnd, int(seed)); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		})
	}
}

func anyCut(t *testing.T, c engine.Conn, text, want string, isn uint32, rnd *rand.Rand, seed int) error {
	b := newBed(t, func(cfg *engine.Config) {
		cfg.Limits.HoldSegs, cfg.Limits.HoldBytes = 10000, 1<<20
	})
	f := b.tcp(c, isn)
	var pieces [][2]int
	switch {
	case seed < 2*len(text): // in two
		pieces = [][2]int{{0, seed / 2}, {seed / 2, len(text)}}
	default:
		for at := 0; at < len(text); {
			n := 1 + rnd.IntN(40)
			pieces = append(pieces, [2]int{at, min(len(text), at+n)})
			at += n
		}
	}
	var queue [][2]int
	for _, p := range pieces {
		queue = append(queue, p)
		if rnd.IntN(4) == 0 && len(queue) > 1 { // disorder
			i := len(queue) - 1
			queue[i], queue[i-1] = queue[i-1], queue[i]
		}
		if rnd.IntN(4) == 0 { // another cut of bytes sent before
			from := rnd.IntN(p[1] + 1)
			queue = append(queue, [2]int{from, from + rnd.IntN(p[1]-from+1)})
		}
	}
	first := f.next[orig]
	rcv := &receiver{next: first, early: map[uint32][]byte{}}
	seen := map[uint64]bool{}
	arrive := func() error {
		for id := uint64(1); id <= b.last; id++ {
			data, ok := b.out[id]
			if !ok || seen[id] {
				continue
			}
			seen[id] = true
			var v packet.View
			if err := v.Decode(data); err != nil {
				return err
			}
			if v.Tuple().Dst == server && len(v.Payload()) > 0 {
				if err := rcv.take(v.Seq(), v.Payload()); err != nil {
					return err
				}
			}
		}
		return nil
	}
	acked := first
	for round := 0; acked != first+uint32(len(text)); round++ {
		if round > 1000 {
			return fmt.Errorf("only %q arrived", rcv.stream)
		}
		if len(queue) == 0 { // what was not acknowledged comes again, from the first such byte
			at := int(acked - first)
			queue = append(queue, [2]int{at, len(text)})
		}
		p := queue[0]
		queue = queue[1:]
		f.raw(orig, packet.ACK, first+uint32(p[0]), f.next[reply], text[p[0]:p[1]])
		if err := arrive(); err != nil {
			return err
		}
		id := f.raw(reply, packet.ACK, f.next[reply], rcv.next, "")
		_, ack := b.seqs(id)
		if int32(ack-acked) < 0 || int32(ack-first-uint32(len(text))) > 0 {
			return fmt.Errorf("the sender is told %d, last %d, of %d", ack-first, acked-first, len(text))
		}
		acked = ack
	}
	if string(rcv.stream) != want {
		return fmt.Errorf("arrived:\n%s\nwant:\n%s", rcv.stream, want)
	}
	if len(b.open) > 0 {
		return fmt.Errorf("%d packets wait", len(b.open))
	}
	// Without NAT the third one's address is foreign.
	if n := b.e.Stats().Announced; c.Reply.Dst == outside && n != 3 || c.Reply.Dst != outside && n != 2 {
		return fmt.Errorf("%d announced: %q", n, b.log)
	}
	return nil
}

func TestHold(t *testing.T) {
	const head, tail = "open tcp 10.0.0.1", ":4000\n"
	want := "open tcp 203.0.113.1:4000\n"
	seqOf := func(f *peerflow) uint32 { return f.next[orig] }
	tests := []struct {
		name   string
		do     func(b *bed, f *peerflow, first uint64, seq uint32) []uint64 // packets that must have left
		text   string                                                       // together
		events []string
		held   uint64
	}{
		{"completed by the next segment", func(b *bed, f *peerflow, first uint64, _ uint32) []uint64 {
			return []uint64{first, f.say(orig, tail)}
		}, want, []string{"expect tcp *>10.0.0.1:4000 at 203.0.113.1:4000", `edit orig 0 "10.0.0.1:4000" "203.0.113.1:4000"`}, 0},
		{"completed by a copy with more", func(b *bed, f *peerflow, first uint64, seq uint32) []uint64 {
			f.raw(orig, packet.ACK, seq, f.next[reply], head+tail)
			return []uint64{first}
		}, want[:len(want)-1], []string{"expect tcp *>10.0.0.1:4000 at 203.0.113.1:4000", `edit orig 9 "10.0.0.1:4000" "203.0.113.1:4000"`}, 0},
		{"FIN", func(b *bed, f *peerflow, first uint64, _ uint32) []uint64 {
			return []uint64{first, f.send(orig, packet.ACK|packet.FIN, "")}
		}, head, nil, 1},
		{"RST", func(b *bed, f *peerflow, first uint64, _ uint32) []uint64 {
			return []uint64{first, f.send(orig, packet.RST, "")}
		}, head, nil, 1},
		{"2 s", func(b *bed, f *peerflow, first uint64, _ uint32) []uint64 {
			b.pass(1999 * time.Millisecond)
			if len(b.open) != 1 {
				b.t.Error("it left too early")
			}
			b.pass(time.Millisecond)
			return []uint64{first}
		}, head, nil, 1},
		{"2 s, then completed", func(b *bed, f *peerflow, first uint64, _ uint32) []uint64 {
			b.pass(2 * time.Second)
			return []uint64{first, f.say(orig, tail)}
		}, head + tail, []string{"refuse tcp *>10.0.0.1:4000 at 203.0.113.1:4000 held-out"}, 1},
		{"third copy", func(b *bed, f *peerflow, first uint64, seq uint32) []uint64 {
			a := f.raw(orig, packet.ACK, seq, f.next[reply], head)
			c := f.raw(orig, packet.ACK, seq, f.next[reply], head)
			if len(b.open) != 3 {
				b.t.Errorf("%d wait", len(b.open))
			}
			d := f.raw(orig, packet.ACK, seq, f.next[reply], head)
			return []uint64{first, a, c, d}
		}, strings.Repeat(head, 4), nil, 4},
		{"the clock of a sender with more under way", func(b *bed, f *peerflow, first uint64, seq uint32) []uint64 {
			more := f.say(orig, tail[:1])
			b.pass(20 * time.Millisecond)
			doubled := f.raw(orig, packet.ACK, seq, f.next[reply], head) // by the wire
			b.pass(180 * time.Millisecond)
			if len(b.open) != 3 {
				b.t.Errorf("%d wait", len(b.open))
			}
			ids := []uint64{first, more, doubled, f.raw(orig, packet.ACK, seq, f.next[reply], head), f.say(orig, tail[1:2])}
			if len(b.open) > 0 {
				b.t.Error("what follows is held again")
			}
			return append(ids, f.say(orig, tail[2:]))
		}, head + tail[:1] + head + head + tail[1:], []string{"refuse tcp *>10.0.0.1:4000 at 203.0.113.1:4000 held-out"}, 4},
		{"the clock of a sender whose next segment is lost", func(b *bed, f *peerflow, first uint64, seq uint32) []uint64 {
			lost := f.next[orig]
			f.next[orig]++
			f.say(orig, tail[1:])
			b.pass(200 * time.Millisecond)
			ids := []uint64{first, f.raw(orig, packet.ACK, seq, f.next[reply], head), f.raw(orig, packet.ACK, lost, f.next[reply], tail[:1])}
			if s := b.e.Stats(); s.Behind != 1 {
				b.t.Errorf("%d packets behind the hole were dropped, want the one that is there", s.Behind)
			}
			return ids
		}, head + head + tail[:1], []string{"refuse tcp *>10.0.0.1:4000 at 203.0.113.1:4000 held-out"}, 2},
		{"too many segments", func(b *bed, f *peerflow, first uint64, seq uint32) []uint64 {
			ids := []uint64{first}
			for _, s := range strings.Split(strings.Repeat("0", 46)+":", "") {
				ids = append(ids, f.say(orig, s))
			}
			if len(b.open) != 48 {
				b.t.Errorf("%d wait", len(b.open))
			}
			return append(ids, f.say(orig, "4"))
		}, head + strings.Repeat("0", 46) + ":4", nil, 49},
		{"released", func(b *bed, f *peerflow, first uint64, seq uint32) []uint64 {
			b.drive(b.e.Release())
			return []uint64{first}
		}, head, nil, 1},
		{"stopped", func(b *bed, f *peerflow, first uint64, seq uint32) []uint64 {
			b.drive(b.e.Stop(b.now))
			return []uint64{first}
		}, head, nil, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, nil)
			f := b.tcp(snatConn(helpers.TCP), 1000)
			seq := seqOf(f)
			first := f.say(orig, head)
			if len(b.open) != 1 {
				t.Fatal("what may become an announcement has left")
			}
			got := ""
			for _, id := range tt.do(b, f, first, seq) {
				got += b.payload(id)
			}
			if got != tt.text {
				t.Errorf("left: %q, want %q", got, tt.text)
			}
			b.events(tt.events...)
			if n := b.e.Stats().HeldOut; n != tt.held {
				t.Errorf("%d counted, want %d", n, tt.held)
			}
			if len(b.open) > 0 {
				t.Errorf("%d packets wait", len(b.open))
			}
		})
	}
}

// A retransmission leaves as the packet did, even when it is cut otherwise and the flow is closed.
func TestRetransmissionIsTheSame(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(snatConn(helpers.TCP), 1000)
	seq := f.next[orig]
	text := "open tcp 10.0.0.1:4000\n"
	ack := f.next[reply]
	first := f.raw(orig, packet.ACK|packet.PSH, seq, ack, text)
	f.next[orig] += uint32(len(text))
	f.say(orig, "open tcp 10.0.0.1:4001\n")
	again := func() {
		t.Helper()
		id := f.raw(orig, packet.ACK|packet.PSH, seq, ack, text)
		if string(b.out[id]) != string(b.out[first]) {
			t.Errorf("a copy left as\n%x\nthe first as\n%x", b.out[id], b.out[first])
		}
	}
	again()
	for cut := 1; cut < len(text); cut++ {
		p := f.raw(orig, packet.ACK, seq, ack, text[:cut])
		q := f.raw(orig, packet.ACK, seq+uint32(cut), ack, text[cut:])
		pseq, _ := b.seqs(p)
		qseq, _ := b.seqs(q)
		if got := b.payload(p) + b.payload(q); got != b.payload(first) || qseq-pseq != uint32(len(b.payload(p))) {
			t.Errorf("cut at %d: %q at %d, %q at %d", cut, b.payload(p), pseq, b.payload(q), qseq)
		}
	}
	f.send(orig, packet.ACK|packet.FIN, "")
	f.send(reply, packet.ACK|packet.FIN, "")
	again()
	if n := b.e.Stats().Announced; n != 2 {
		t.Errorf("%d announced", n)
	}
}

// The other direction's acknowledgements, selective ones too, name the bytes that their receiver knows.
func TestAcknowledgements(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(snatConn(helpers.TCP), 1000)
	start := f.next[orig]
	f.say(orig, "open tcp 10.0.0.1:4000\nopen tcp 10.0.0.1:4001\n") // both in one segment
	f.say(orig, "open tcp 10.0.0.1:4002\n")
	// Behind each announcement the receiver is 3 bytes further.
	for _, at := range []struct{ seen, want uint32 }{{0, 0}, {9, 9}, {26, 23}, {52, 46}, {78, 69}, {20, 9}, {46, 32}} {
		id := f.raw(reply, packet.ACK, f.next[reply], start+at.seen, "")
		if _, ack := b.seqs(id); ack != start+at.want {
			t.Errorf("%d became %d, want %d", at.seen, ack-start, at.want)
		}
	}
}

// Without the extension of the kernel lengths must not change.
func TestNotAdjustable(t *testing.T) {
	tests := []struct {
		name, text, want string
		refuse           bool // Adjust
		adjustable       bool
		events           []string
		done             []string
	}{
		{"no extension", "open tcp 10.0.0.1:4000\n", "open tcp 10.0.0.1:4000\n", false, false,
			[]string{"refuse tcp *>10.0.0.1:4000 at 203.0.113.1:4000 no-adjust"},
			[]string{"place 203.0.113.1:4000", "remove 1", "verdict 4"}},
		{"adjusting fails", "open tcp 10.0.0.1:4000\n", "open tcp 10.0.0.1:4000\n", true, true,
			[]string{"refuse tcp *>10.0.0.1:4000 at 203.0.113.1:4000 no-adjust"},
			[]string{"place 203.0.113.1:4000", "adjust orig 0/3 refused", "remove 1", "verdict 4"}},
		{"same length", "open tcp 10.0.0.1:4000\n", "open tcp 20.0.0.1:4000\n", false, false,
			[]string{"expect tcp *>10.0.0.1:4000 at 20.0.0.1:4000", `edit orig 9 "10.0.0.1:4000" "20.0.0.1:4000"`},
			[]string{"place 20.0.0.1:4000", "verdict 4"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, nil)
			c := snatConn(helpers.TCP)
			c.Adjustable = tt.adjustable
			if strings.Contains(tt.want, "20.0.0.1") {
				c.Reply.Dst = netip.MustParseAddrPort("20.0.0.1:50000")
			}
			b.refuse = func(r engine.Request) error {
				if r.Adjust != nil && tt.refuse {
					return errors.New("no")
				}
				return nil
			}
			f := b.tcp(c, 1000)
			b.done = nil
			if got := b.payload(f.say(orig, tt.text)); got != tt.want {
				t.Errorf("left: %q", got)
			}
			b.events(tt.events...)
			if !slices.Equal(b.done, tt.done) {
				t.Errorf("done: %q, want %q", b.done, tt.done)
			}
			if s := b.e.Stats(); s.Pending != int(s.Announced) || (tt.want == tt.text) != (s.Pending == 0) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// An answer never comes before its question: what it acknowledges and was not seen is told as lost first.
func TestCausality(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(plainConn(helpers.TCP), 1000)
	f.next[orig] += 7 // a question that was not seen
	f.say(reply, "open tcp 198.51.100.9:4000\n")
	if s := b.e.Stats(); s.Gaps != 7 {
		t.Errorf("%d bytes are lost, want 7", s.Gaps)
	}
	// What comes late is not looked at, and what follows is.
	f.raw(orig, packet.ACK, f.next[orig]-7, f.next[reply], "cancel1")
	b.events("expect tcp *>198.51.100.9:4000")
	f.say(orig, "\nopen tcp 10.0.0.1:4002\n")
	b.events("expect tcp *>10.0.0.1:4002")
}

func TestDisorder(t *testing.T) {
	const a, c = "open tcp 10.0.", "0.1:4000\n"
	for _, conn := range []engine.Conn{plainConn(helpers.TCP), snatConn(helpers.TCP)} {
		b := newBed(t, nil)
		f := b.tcp(conn, 1000)
		seq := f.next[orig]
		late := f.raw(orig, packet.ACK, seq+uint32(len(a)), f.next[reply], c)
		_, left := b.out[late]
		if nat := conn.Reply.Dst == outside; left == nat {
			t.Errorf("NAT %v: left %v", nat, left)
		}
		f.raw(orig, packet.ACK, seq, f.next[reply], a)
		if n := b.e.Stats().Announced; n != 1 || len(b.open) > 0 {
			t.Errorf("%d announced, %d wait", n, len(b.open))
		}
	}
}

// A hole that is never filled does not keep packets, and bounds what is kept.
func TestHoleIsGivenUp(t *testing.T) {
	t.Run("time", func(t *testing.T) {
		b := newBed(t, nil)
		f := b.tcp(snatConn(helpers.TCP), 1000)
		f.next[orig] += 10
		id := f.say(orig, "open tcp 203.0.113.1:4000\nopen tcp 10.0.0.1:4001\n")
		b.pass(2 * time.Second)
		if got := b.payload(id); got != "open tcp 203.0.113.1:4000\nopen tcp 10.0.0.1:4001\n" {
			t.Errorf("left: %q", got)
		}
		// Filled after all, the stream is read; what left cannot be changed any more.
		f.raw(orig, packet.ACK, f.next[orig]-59, f.next[reply], "123456789\n")
		b.events("expect tcp *>10.0.0.1:4000 at 203.0.113.1:4000", "refuse tcp *>10.0.0.1:4001 at 203.0.113.1:4001 held-out")
	})
	t.Run("bytes", func(t *testing.T) {
		b := newBed(t, func(c *engine.Config) { c.Limits.Ahead = 1000 })
		f := b.tcp(snatConn(helpers.TCP), 1000)
		f.next[orig] += 10
		for range 11 {
			f.say(orig, strings.Repeat("x", 99)+"\n")
		}
		if s := b.e.Stats(); len(b.open) != 10 || s.Behind != 1 || s.Gaps != 0 {
			t.Errorf("%d packets wait, %d were dropped, %d bytes lost", len(b.open), s.Behind, s.Gaps)
		}
		b.pass(2 * time.Second)
		f.next[orig] -= 100
		f.say(orig, strings.Repeat("x", 99)+"\n") // the one that was dropped
		if s := b.e.Stats(); len(b.open) > 0 || s.Behind != 1 || s.Gaps == 0 {
			t.Errorf("after 2 s %d packets wait, %d were dropped, %d bytes lost", len(b.open), s.Behind, s.Gaps)
		}
	})
	t.Run("pieces", func(t *testing.T) {
		b := newBed(t, nil)
		f := b.tcp(plainConn(helpers.TCP), 1000)
		f.next[orig] += 10
		for range 200 {
			f.say(orig, "x")
		}
		if n := b.e.Stats().Gaps; n != 10 {
			t.Errorf("%d bytes are lost", n)
		}
	})
	t.Run("far ahead", func(t *testing.T) {
		b := newBed(t, nil)
		f := b.tcp(snatConn(helpers.TCP), 1000)
		id := f.raw(orig, packet.ACK, f.next[orig]+2<<20, f.next[reply], "open tcp 10.0.0.1:4000\n")
		if got := b.payload(id); got != "open tcp 10.0.0.1:4000\n" {
			t.Errorf("left: %q", got)
		}
		f.say(orig, "open tcp 10.0.0.1:4001\n")
		if n := b.e.Stats().Announced; n != 1 {
			t.Errorf("%d announced", n)
		}
	})
	t.Run("memory", func(t *testing.T) {
		b := newBed(t, func(c *engine.Config) { c.Limits.Memory = 250 })
		f := b.tcp(plainConn(helpers.TCP), 1000)
		f.raw(orig, packet.ACK, f.next[orig]+10, f.next[reply], strings.Repeat("y", 100))
		f.raw(orig, packet.ACK, f.next[orig]+200, f.next[reply], strings.Repeat("y", 100))
		if len(b.open) > 0 {
			t.Errorf("%d packets wait", len(b.open))
		}
	})
}

func TestFlowsAreBounded(t *testing.T) {
	b := newBed(t, func(c *engine.Config) { c.Limits.Flows = 10 })
	c := plainConn(helpers.UDP)
	for i := range 100 {
		c.Orig.Src = client
		c.Reply.Dst = client
		d := c
		d.Orig.Src = addPort(client, i)
		d.Reply.Dst = d.Orig.Src
		b.udp(d, orig, "open udp 10.0.0.1:4000\n")
	}
	if s := b.e.Stats(); s.Flows != 10 {
		t.Errorf("%d flows", s.Flows)
	}
}

// Many connections of one host cannot fill the kernel's queue with packets that wait.
func TestHoldAll(t *testing.T) {
	const most = 50
	b := newBed(t, func(c *engine.Config) { c.Limits.HoldAll = most })
	for i := range 40 {
		c := snatConn(helpers.TCP)
		c.Orig.Src, c.Reply.Dst = addPort(c.Orig.Src, i), addPort(c.Reply.Dst, i)
		f := b.tcp(c, 1000)
		f.say(orig, "open tcp 10.0.0.1:40")
		f.next[orig] += 10 // a hole
		for range 10 {
			f.say(orig, "x")
		}
		if n := b.e.Held(); n != len(b.open) || n > most {
			t.Fatalf("%d packets wait, and %d are counted", len(b.open), n)
		}
	}
	if b.e.Held() < most/2 {
		t.Errorf("only %d packets wait", b.e.Held())
	}
	b.pass(3 * time.Second)
	if n := b.e.Held(); n != 0 || len(b.open) != 0 {
		t.Errorf("%d packets still wait, %d are counted", len(b.open), n)
	}
	// What is whole is read and rewritten all the same.
	f := b.tcp(snatConn(helpers.TCP), 9000)
	if got := b.payload(f.say(orig, "open tcp 10.0.0.1:4000\n")); got != "open tcp 203.0.113.1:4000\n" {
		t.Errorf("left: %q", got)
	}
}

// The wire has lost a segment of a connection under NAT, and very many follow before it comes again: what there is no room
// for comes again too, and all of it is rewritten. But if the lost one does not come, that ends.
func TestMuchBehindHole(t *testing.T) {
	const text, want, many = "open tcp 10.0.0.1:4000 peer\n", "open tcp 203.0.113.1:4000 peer\n", 300
	for _, filled := range []bool{true, false} {
		b := newBed(t, nil)
		f := b.tcp(snatConn(helpers.TCP), 1000)
		lost := f.next[orig]
		f.next[orig] += uint32(len(text))
		seqs := map[uint64]uint32{}
		for range many {
			seq := f.next[orig]
			seqs[f.say(orig, text)] = seq
		}
		if len(b.open) > 64 || len(b.out) > 3 {
			t.Fatalf("%d packets wait, %d have left", len(b.open), len(b.out))
		}
		if !filled {
			b.pass(2 * time.Second)
			if id := f.say(orig, text); len(b.open) > 1 || len(b.out) < 60 || b.out[id] != nil {
				t.Errorf("after 2 s %d packets wait, %d have left", len(b.open), len(b.out))
			}
			continue
		}
		again := slices.Sorted(maps.Values(seqs))
		for id := range b.open {
			again = slices.DeleteFunc(again, func(seq uint32) bool { return seq == seqs[id] })
		}
		ids := slices.Collect(maps.Keys(b.open))
		for _, seq := range append([]uint32{lost}, again...) {
			ids = append(ids, f.raw(orig, packet.ACK|packet.PSH, seq, f.acked(reply), text))
		}
		got := map[uint32]string{}
		for _, id := range ids {
			seq, _ := b.seqs(id)
			got[seq] = b.payload(id)
		}
		for i := range uint32(many + 1) {
			if got[lost+i*uint32(len(want))] != want {
				t.Fatalf("segment %d left as %q", i, got[lost+i*uint32(len(want))])
			}
		}
		if s := b.e.Stats(); s.HeldOut > 0 || s.Gaps > 0 || int(s.Behind) != len(again) {
			t.Errorf("%+v", s)
		}
	}
}

// Bytes of both directions passed unseen: each direction's next bytes wait for the other's. Word of the loss ends it.
func TestHolesOfBothDirections(t *testing.T) {
	for _, conn := range []engine.Conn{plainConn(helpers.TCP), snatConn(helpers.TCP)} {
		missed := uint64(0)
		b := newBed(t, func(c *engine.Config) { c.Missed = func() uint64 { return missed } })
		f := b.tcp(conn, 1000)
		f.say(orig, "hello\n")
		f.next[orig] += 10
		f.next[reply] += 20
		for range 3 {
			f.say(orig, "\nopen tcp 10.0.0.1:4000\n")
			f.say(reply, "\nopen tcp 198.51.100.9:4000\n")
			b.pass(time.Second)
		}
		if s := b.e.Stats(); s.Announced != 0 {
			t.Fatalf("%d announced: the holes do not wait for each other, and the test shows nothing", s.Announced)
		}
		missed = 2
		f.say(reply, "hello\n")
		f.say(orig, "\nopen tcp 10.0.0.1:4001\n")
		if s := b.e.Stats(); s.Announced < 2 || s.Gaps < 30 {
			t.Errorf("%d announced, %d bytes lost, want two at least, and 30", s.Announced, s.Gaps)
		}
		if b.pass(time.Minute); len(b.open) > 0 {
			t.Errorf("%d packets wait", len(b.open))
		}
		// What is in order afterwards needs no more word.
		before := b.e.Stats().Announced
		f.say(orig, "open tcp 10.0.0.1:4002\n")
		if n := b.e.Stats().Announced; n != before+1 {
			t.Errorf("%d announced, want one more than %d", n, before)
		}
	}
}

// What is kept is counted as long as it is kept, and no longer.
func TestMemoryIsGivenBack(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(plainConn(helpers.TCP), 1000)
	for range 3 {
		seq := f.next[orig]
		f.next[orig] += 6
		f.say(orig, "wor")
		f.say(orig, "ld\nthe rest")
		if b.e.Memory() < len("world\nthe rest") {
			t.Errorf("%d bytes are counted", b.e.Memory())
		}
		f.raw(orig, packet.ACK, seq, f.next[reply], "hello\n")
		f.say(orig, "\n")
		if n := b.e.Memory(); n != 0 {
			t.Errorf("%d bytes are still counted", n)
		}
	}
}

// Packets were lost in the queue, but what is missing here was lost on the wire, and comes again.
func TestHoleOfTheWire(t *testing.T) {
	for _, conn := range []engine.Conn{plainConn(helpers.TCP), snatConn(helpers.TCP)} {
		b := newBed(t, nil)
		f := b.tcp(conn, 1000)
		b.e.Overflowed(b.now)
		const text = "open tcp 10.0.0.1:4000\n"
		seq := f.next[orig]
		f.next[orig] += uint32(len(text))
		f.send(orig, packet.ACK, "")
		if conn == plainConn(helpers.TCP) {
			f.say(orig, "hello\n")
		}
		f.send(orig, packet.ACK|packet.FIN, "")
		f.raw(orig, packet.ACK, seq, f.next[reply], text)
		if n := b.e.Stats().Announced; n != 1 {
			t.Errorf("%d announced: the copy was not read", n)
		}
	}
}

// A hole is one of the wire though packets were lost in the queue, if others have come in their places since.
func TestHoleLongAfterOverflow(t *testing.T) {
	for _, since := range []bool{true, false} {
		b := newBed(t, nil)
		f := b.tcp(snatConn(helpers.TCP), 1000)
		b.e.Overflowed(b.now)
		f.say(orig, "hello\n") // it may have been in the queue already
		b.pass(3 * time.Second)
		if since {
			f.say(orig, "hello\n")
		}
		const text = "open tcp 10.0.0.1:4000\n"
		seq := f.next[orig]
		f.next[orig] += uint32(len(text))
		f.say(orig, "hello\n")
		f.raw(orig, packet.ACK, seq, f.acked(reply), text)
		want := map[bool]uint64{true: 1}[since]
		if s := b.e.Stats(); s.Announced != want || (s.Gaps == 0) != since {
			t.Errorf("in its place since %v: %d announced, %d bytes lost", since, s.Announced, s.Gaps)
		}
	}
}

// Somebody deletes the entry of a connection that goes on: its session does too, and the kernel is told again what it
// has to adjust. What was pending is taken back.
func TestVanished(t *testing.T) {
	for name, conn := range map[string]engine.Conn{"routed": plainConn(helpers.TCP), "nat": snatConn(helpers.TCP)} {
		t.Run(name, func(t *testing.T) {
			for _, edited := range []bool{false, true} {
				b := newBed(t, nil)
				f := b.tcp(conn, 1000)
				f.say(orig, "hello\n")
				if edited {
					f.say(orig, "open tcp 10.0.0.1:4000\n")
				}
				before := *b.adjust(conn.Orig)
				b.drive(b.e.Vanished(helpers.TCP, conn.Orig, 0, b.now))
				if s := b.e.Stats(); s.Flows != 1 || s.Sessions != 1 || s.Pending != 0 {
					t.Errorf("edited %v: %d flows, %d sessions, %d pending", edited, s.Flows, s.Sessions, s.Pending)
				}
				*b.adjust(conn.Orig) = [2]engine.SeqAdjust{}
				seq, ack := f.next[orig], f.next[reply]
				f.next[orig] += uint32(len("hello\n"))
				id := f.raw(orig, packet.ACK, seq, ack, "hello\n")
				if got := *b.adjust(conn.Orig); got[0].After != before[0].After {
					t.Errorf("edited %v: the kernel adjusts by %d, want %d again", edited, got[0].After, before[0].After)
				}
				if got, _ := b.seqs(id); got != seq+uint32(before[0].After) {
					t.Errorf("edited %v: the next segment leaves with the number %d, want %d", edited, got, seq+uint32(before[0].After))
				}
				n := b.e.Stats().Announced
				f.say(orig, "open tcp 10.0.0.1:4001\n")
				if s := b.e.Stats(); s.Announced != n+1 || s.Gaps > 0 {
					t.Errorf("edited %v: %d announced, %d lost, want one more than %d, and none", edited, s.Announced, s.Gaps, n)
				}
				// It does not come back: it is forgotten, by another process, too.
				b.drive(b.e.Vanished(helpers.TCP, conn.Orig, 0, b.now))
				if edited {
					b.move(nil)
				}
				b.pass(time.Hour)
				if s := b.e.Stats(); s.Flows != 0 || s.Sessions != 0 || len(b.open) != 0 {
					t.Errorf("edited %v: %d flows, %d sessions are left, %d packets wait", edited, s.Flows, s.Sessions, len(b.open))
				}
			}
			// What nobody answered does not either.
			single := newBed(t, nil)
			single.late(conn, 1000).raw(orig, packet.SYN, 1000, 0, "")
			single.drive(single.e.Vanished(helpers.TCP, conn.Orig, 0, single.now))
			if s := single.e.Stats(); s.Flows != 0 {
				t.Errorf("%d flows that nobody answered are left", s.Flows)
			}
			// An end that both sides know of is one.
			b := newBed(t, nil)
			f := b.tcp(conn, 1000)
			f.send(orig, packet.FIN|packet.ACK, "")
			b.drive(b.e.Vanished(helpers.TCP, conn.Orig, 0, b.now))
			if s := b.e.Stats(); s.Flows != 0 {
				t.Errorf("%d flows are left", s.Flows)
			}
		})
	}
}

// The first packet after somebody has deleted a connection's entry is in no table yet, so nobody but the journal moves its
// numbers, also if it is changed itself. The kernel is told with the next one, when it knows the connection again.
func TestUnconfirmed(t *testing.T) {
	for _, told := range []bool{false, true} { // by NFQA_CT
		for _, text := range []string{"hello\n", "open tcp 10.0.0.1:4001\n", "half a line"} {
			tracked := true
			conn := snatConn(helpers.TCP)
			conn.Adjustable = false // only Complete knows
			b := newBed(t, func(cfg *engine.Config) {
				cfg.Complete = func(c *engine.Conn) { c.Adjustable = !c.Unconfirmed }
				cfg.Lookup = func(helpers.Transport, helpers.Tuple) (engine.Conn, error) {
					if tracked {
						return conn, nil
					}
					return engine.Conn{}, engine.ErrNotTracked
				}
			})
			b.blind = !told
			f := b.tcp(conn, 1000)
			f.say(orig, "open tcp 10.0.0.1:4000\n")
			grown := f.acked(orig) - f.next[orig]
			if grown == 0 {
				t.Fatal("the length does not change")
			}
			acks := f.acked(orig)
			b.drive(b.e.Vanished(helpers.TCP, conn.Orig, 0, b.now))
			*b.adjust(conn.Orig), b.done = [2]engine.SeqAdjust{}, nil
			tracked, f.conn.Unconfirmed = false, told
			seq := f.next[orig]
			f.next[orig] += uint32(len(text))
			id := f.raw(orig, packet.ACK, seq, f.next[reply], text)
			b.pass(3 * time.Second) // half a line is not kept for ever, and not forgotten
			if got, _ := b.seqs(id); got != seq+grown {
				t.Errorf("told %v: %q leaves with number %d, want %d", told, text, got, seq+grown)
			}
			if strings.Contains(strings.Join(b.done, "\n"), "adjust") {
				t.Errorf("told %v: the kernel is told of a connection that it does not know: %q", told, b.done)
			}
			tracked, f.conn = true, conn
			out := uint32(len(b.payload(id)))
			id = f.raw(reply, packet.ACK, f.next[reply], acks+out, "")
			if _, got := b.seqs(id); got != f.next[orig] {
				t.Errorf("told %v: %q is acknowledged by %d, want %d", told, text, got, f.next[orig])
			}
			if got := b.adjust(conn.Orig)[0].After; uint32(got) != acks+out-f.next[orig] {
				t.Errorf("told %v: behind %q the kernel moves numbers by %d, want %d", told, text, got, acks+out-f.next[orig])
			}
			n := b.e.Stats().Announced
			f.say(orig, "\nopen tcp 10.0.0.1:4002\n")
			if s := b.e.Stats(); s.Announced != n+1 || s.Flows != 1 || s.Gaps > 0 {
				t.Errorf("told %v, %q: %d announced of %d flows, %d gaps", told, text, s.Announced-n, s.Flows, s.Gaps)
			}
		}
	}
}

// A packet was queued before its connection's entry went, and is met after that was told. The kernel moves its numbers as
// that entry says. If the packet brings the entry, the engine reckons with it, and with none for the next packet; else the
// packet is dropped.
func TestQueuedBefore(t *testing.T) {
	conn := snatConn(helpers.TCP)
	for _, told := range []bool{false, true} {
		b := newBed(t, func(cfg *engine.Config) {
			cfg.Complete = func(c *engine.Conn) { c.Adjustable = true }
			cfg.Lookup = func(helpers.Transport, helpers.Tuple) (engine.Conn, error) { return conn, nil }
		})
		f := b.tcp(conn, 1000)
		f.say(orig, "open tcp 10.0.0.1:4000\n")
		grown, seq, ack := f.acked(orig)-f.next[orig], f.next[orig], f.next[reply]
		if grown == 0 {
			t.Fatal("the length does not change")
		}
		b.drive(b.e.Vanished(helpers.TCP, conn.Orig, 0, b.now))
		if b.e.Cuts() != 1 {
			t.Errorf("%d connections lost their entry, want one", b.e.Cuts())
		}
		const text = "hello\n"
		f.next[orig] += uint32(len(text))
		if !told {
			p := engine.Packet{ID: 100, Time: b.now, Doubtful: true, Data: tcpPacket(conn.Reply.Turned(), packet.ACK, seq, ack, text)}
			if s := b.e.Handle(p); len(s.Verdicts) != 1 || !s.Verdicts[0].Drop {
				t.Errorf("verdicts %+v, want it dropped", s.Verdicts)
			}
			continue
		}
		f.conn.Adjust = *b.adjust(conn.Orig)
		if got, _ := b.seqs(f.raw(orig, packet.ACK, seq, ack, text)); got != seq+grown {
			t.Errorf("a packet of the entry that is gone leaves with number %d, want %d", got, seq+grown)
		}
		*b.adjust(conn.Orig) = [2]engine.SeqAdjust{}
		f.conn.Adjust, f.conn.Unconfirmed = [2]engine.SeqAdjust{}, true
		if got, _ := b.seqs(f.raw(orig, packet.ACK, f.next[orig], ack, text)); got != f.next[orig]+grown {
			t.Errorf("the first packet of the next entry leaves with number %d, want %d", got, f.next[orig]+grown)
		}
	}
}

// An answer that is not translated any more, as conntrack has lost its connection, is dropped. Nothing else is.
func TestStray(t *testing.T) {
	for _, told := range []bool{false, true} {
		for name, conn := range map[string]engine.Conn{
			"routed": plainConn(helpers.TCP), "snat": snatConn(helpers.TCP), "dnat": dnatConn(helpers.TCP),
		} {
			back := helpers.Tuple{Src: conn.Reply.Src, Dst: conn.Reply.Dst} // as the server sends it
			other := helpers.Tuple{Src: back.Src, Dst: addPort(back.Dst, 1)}
			for _, tt := range []struct {
				name    string
				tuple   helpers.Tuple
				flags   byte
				tracked bool
				want    bool
			}{
				{"answer", back, packet.ACK, false, name != "routed"},
				{"beginning", back, packet.SYN, false, false},
				{"of a connection the other way", back, packet.ACK, true, false},
				{"another port", other, packet.ACK, false, false},
				{"of the connection, queued before NAT", back, packet.ACK, true, false},
			} {
				there, known := conn, true
				b := newBed(t, func(cfg *engine.Config) {
					cfg.Lookup = func(_ helpers.Transport, seen helpers.Tuple) (engine.Conn, error) {
						if known && (seen == there.Orig.Turned() || seen == there.Reply.Turned()) {
							return there, nil
						}
						return engine.Conn{}, engine.ErrNotTracked
					}
				})
				b.tcp(conn, 1000)
				b.drive(b.e.Vanished(helpers.TCP, conn.Orig, 0, b.now))
				known = tt.tracked
				if !strings.Contains(tt.name, "before NAT") {
					there = engine.Conn{Transport: helpers.TCP, Orig: tt.tuple, Reply: tt.tuple.Turned(), Unconfirmed: !known}
				}
				p := engine.Packet{ID: 100, Time: b.now, Data: tcpPacket(tt.tuple, tt.flags, 6001, 1001, "200 fine\n")}
				if told {
					p.Conn = &there
				}
				s := b.e.Handle(p)
				if len(s.Verdicts) != 1 || s.Verdicts[0].ID != 100 || s.Verdicts[0].Drop != tt.want {
					t.Errorf("%s, told %v, %s: verdicts %+v, want it dropped: %v", name, told, tt.name, s.Verdicts, tt.want)
				}
			}
		}
	}
}

// Without a table to ask nothing is known to be stray, and nothing is dropped.
func TestStrayWithoutLookup(t *testing.T) {
	b := newBed(t, nil)
	conn := snatConn(helpers.TCP)
	b.tcp(conn, 1000)
	s := b.e.Handle(engine.Packet{ID: 100, Time: b.now, Data: tcpPacket(conn.Reply, packet.ACK, 6001, 1001, "200 fine\n")})
	if len(s.Verdicts) != 1 || s.Verdicts[0].Drop {
		t.Errorf("verdicts %+v", s.Verdicts)
	}
}

// What waited behind a hole of the wire until its sender's clock filled that is not let go, but its copies are: else their
// acknowledgements would set the clock to ever more. What was only disordered leaves.
func TestRepeatedBehindHole(t *testing.T) {
	const text, want = "open tcp 10.0.0.1:4000 peer\n", "open tcp 203.0.113.1:4000 peer\n"
	for _, tt := range []struct {
		name   string
		after  time.Duration
		behind uint64
	}{
		{"disordered", 50 * time.Millisecond, 0},
		{"filled by a clock", 200 * time.Millisecond, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, nil)
			f := b.tcp(snatConn(helpers.TCP), 1000)
			lost := f.next[orig]
			f.next[orig] += uint32(len(text))
			ids := []uint64{f.say(orig, text), f.say(orig, text)}
			b.pass(tt.after)
			f.raw(orig, packet.ACK, lost, f.acked(reply), text)
			if len(b.open) > 0 {
				t.Fatalf("%d packets wait", len(b.open))
			}
			if got := b.e.Stats().Behind; got != tt.behind {
				t.Fatalf("%d packets were dropped, want %d", got, tt.behind)
			}
			for i, id := range ids {
				if tt.behind > 0 {
					id = f.raw(orig, packet.ACK, lost+uint32((i+1)*len(text)), f.acked(reply), text)
				}
				if seq, _ := b.seqs(id); seq != lost+uint32((i+1)*len(want)) || b.payload(id) != want {
					t.Errorf("segment %d left as %q at %d", i, b.payload(id), seq-lost)
				}
			}
		})
	}
}

// What comes back, asked for by its tuple, is the connection that was cut off, or another one behind the same NAT. As
// long as the table has none, nobody but the journal moves numbers.
func TestVanishedAndLookedUp(t *testing.T) {
	conn, other := snatConn(helpers.TCP), snatConn(helpers.TCP)
	other.Orig.Src = netip.MustParseAddrPort("10.0.0.77:5000")
	for _, tt := range []struct {
		name  string
		conn  engine.Conn
		err   error
		from  string
		want  string
		moved bool
	}{
		{"the same", conn, nil, "10.0.0.1", "expect tcp *>10.0.0.1:4001 at 203.0.113.1:4001", true},
		{"none yet", engine.Conn{}, engine.ErrNotTracked, "10.0.0.1", "expect tcp *>10.0.0.1:4001 at 203.0.113.1:4001", true},
		{"another", other, nil, "10.0.0.77", "refuse tcp *>10.0.0.77:4001 at 203.0.113.1:4001 late", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, func(c *engine.Config) {
				c.Lookup = func(helpers.Transport, helpers.Tuple) (engine.Conn, error) { return tt.conn, tt.err }
			})
			f := b.tcp(conn, 1000)
			f.say(orig, "open tcp 10.0.0.1:4000\n")
			after := uint32(b.adjust(conn.Orig)[0].After)
			if after == 0 {
				t.Fatal("the length does not change")
			}
			b.drive(b.e.Vanished(helpers.TCP, conn.Orig, 0, b.now))
			*b.adjust(conn.Orig) = [2]engine.SeqAdjust{}
			b.log = nil
			seen := conn.Reply.Turned()
			handle := func(seq uint32, text string) uint64 {
				b.last++
				data := tcpPacket(seen, packet.ACK, seq, f.next[reply], text)
				b.open[b.last] = sent{slices.Clone(data), conn.Orig, orig}
				b.drive(b.e.Handle(engine.Packet{ID: b.last, Time: b.now, Data: data}))
				return b.last
			}
			id := handle(f.next[orig], "hello\n")
			want := f.next[orig]
			if tt.moved {
				want += after
			}
			if got, _ := b.seqs(id); got != want {
				t.Errorf("the next segment leaves with number %d, want %d", got, want)
			}
			handle(f.next[orig]+6, "open tcp "+tt.from+":4001\n")
			if len(b.log) == 0 || b.log[0] != tt.want {
				t.Errorf("events %q, want %q first", b.log, tt.want)
			}
		})
	}
}

// A daemon was killed just after it had sent a changed segment. The copy of that segment, which the next daemon sees
// first, leaves with the same bytes, and its change is not counted twice.
func TestCopyForTheNextDaemon(t *testing.T) {
	const text = "open tcp 10.0.0.1:4000\n"
	conn := snatConn(helpers.TCP)
	old := newBed(t, nil)
	f := old.tcp(conn, 1000)
	seq := f.next[orig]
	first := old.payload(f.say(orig, text))
	conn.Adjust, conn.Existing = *old.adjust(conn.Orig), true
	if conn.Adjust[0].After == 0 {
		t.Fatal("the length does not change")
	}
	b := newBed(t, nil)
	*b.adjust(conn.Orig) = conn.Adjust
	g := b.late(conn, 1000)
	g.next[orig] = seq
	id := g.say(orig, text)
	if got := b.payload(id); got != first {
		t.Errorf("the copy leaves as %q, the first one left as %q", got, first)
	}
	if got, _ := b.seqs(id); got != seq {
		t.Errorf("the copy leaves with number %d, want %d", got, seq)
	}
	if got := *b.adjust(conn.Orig); got != conn.Adjust {
		t.Errorf("the kernel adjusts by %+v, want as before %+v", got, conn.Adjust)
	}
	next := g.next[orig]
	id = g.say(orig, "hello\n")
	if got, _ := b.seqs(id); got != next+uint32(conn.Adjust[0].After) {
		t.Errorf("the next segment leaves with number %d, want %d", got, next+uint32(conn.Adjust[0].After))
	}
}
