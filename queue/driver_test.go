package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nlsock"
)

// wire is a Queue whose kernel is the test: the other end of a pair of sockets.
type wire struct {
	t *testing.T
	q *Queue
	k int // the kernel's end
}

func newWire(t *testing.T) *wire {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
	return &wire{t, &Queue{number: 7, fd: pair[0], in: newInbox()}, pair[1]}
}

// tell sends a message of the kernel's.
func (w *wire) tell(b []byte) {
	w.t.Helper()
	if err := nlsock.Send(w.k, b); err != nil {
		w.t.Fatal(err)
	}
}

// queued is the message of a packet, with attributes behind its header.
func queued(id uint32, attributes ...[]byte) []byte {
	body := appendAttr(nil, attrPacketHeader, 7)
	body = append(binary.BigEndian.AppendUint32(body, id), 8, 0, HookInput, 0)
	for _, a := range attributes {
		body = append(body, a...)
	}
	return append(appendHeader(nil, msgPacket, 0, 0, 7, len(body)), body...)
}

func attribute(kind uint16, value ...byte) []byte {
	b := append(appendAttr(nil, kind, len(value)), value...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

// sent are the messages that have come to the kernel by one system call each, as text: "batch 9 (3)", "accept 5",
// "change 7 abc"; nil: none.
func (w *wire) sent() (calls [][]string) {
	w.t.Helper()
	buf := make([]byte, 1<<20)
	for {
		n, _, err := unix.Recvfrom(w.k, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return calls
		}
		if err != nil {
			w.t.Fatal(err)
		}
		var call []string
		for b := buf[:n]; len(b) > 0; {
			kind, packets, body, rest, ok := cut(b)
			if !ok || len(body) < familyLen+verdictLen || binary.BigEndian.Uint16(body[2:]) != 7 {
				w.t.Fatalf("message % x", b)
			}
			v := body[familyLen:]
			word := binary.BigEndian.Uint32(v[4:])
			if binary.NativeEndian.Uint16(v) != verdictLen || binary.NativeEndian.Uint16(v[2:]) != attrVerdictHeader {
				w.t.Fatalf("verdict % x", v)
			}
			id, more := binary.BigEndian.Uint32(v[8:]), v[verdictLen:]
			switch {
			case word == drop && kind == msgVerdict && packets == 1 && len(more) == 0:
				call = append(call, fmt.Sprintf("drop %d", id))
			case word != accept:
				w.t.Fatalf("verdict % x", v)
			case kind == msgBatch && len(more) == 0:
				call = append(call, fmt.Sprintf("batch %d (%d)", id, packets))
			case kind == msgVerdict && packets == 1 && len(more) == 0:
				call = append(call, fmt.Sprintf("accept %d", id))
			case kind == msgVerdict && packets == 1 && binary.NativeEndian.Uint16(more[2:]) == attrPayload:
				call = append(call, fmt.Sprintf("change %d %s", id, more[attrLen:binary.NativeEndian.Uint16(more)]))
			default:
				w.t.Fatalf("message of kind %#x: % x", kind, body)
			}
			b = rest
		}
		calls = append(calls, call)
	}
}

// Ids in these tests count from 1; base moves them, so that they wrap in the middle.
func TestFlush(t *testing.T) {
	type verdict struct {
		id   uint32
		data string
	}
	plain := func(ids ...uint32) (all []verdict) {
		for _, id := range ids {
			all = append(all, verdict{id: id})
		}
		return all
	}
	tests := []struct {
		name     string
		received []uint32
		verdicts []verdict
		want     []string
		left     []uint32
	}{
		{"none", []uint32{1, 2}, nil, nil, []uint32{1, 2}},
		{"one", []uint32{1}, plain(1), []string{"accept 1"}, nil},
		{"all", []uint32{1, 2, 3, 4}, plain(1, 2, 3, 4), []string{"batch 4 (4)"}, nil},
		{"the first ones", []uint32{1, 2, 3, 4}, plain(1, 2, 3), []string{"batch 3 (3)"}, []uint32{4}},
		{"ids that the kernel lost", []uint32{1, 5, 9}, plain(1, 5, 9), []string{"batch 9 (3)"}, nil},
		{"the first is held", []uint32{1, 2, 3}, plain(2, 3), []string{"accept 2", "accept 3"}, []uint32{1}},
		{"one in the middle is held", []uint32{1, 2, 3, 4, 5}, plain(1, 2, 4, 5), []string{"batch 2 (2)", "accept 4", "accept 5"}, []uint32{3}},
		{"the second is held", []uint32{1, 2, 3}, plain(1, 3), []string{"accept 1", "accept 3"}, []uint32{2}},
		{"the last is held", []uint32{1, 2, 3}, plain(1, 2), []string{"batch 2 (2)"}, []uint32{3}},
		{"descending", []uint32{1, 2, 3}, plain(3, 2, 1), []string{"accept 3", "accept 2", "accept 1"}, nil},
		{"the first at last", []uint32{1, 2, 3}, plain(2, 3, 1), []string{"accept 2", "accept 3", "accept 1"}, nil},
		{"two runs", []uint32{1, 2, 3, 4}, plain(3, 4, 1, 2), []string{"accept 3", "accept 4", "batch 2 (2)"}, nil},
		{"a change in the middle", []uint32{1, 2, 3, 4, 5},
			[]verdict{{1, ""}, {2, ""}, {3, "abc"}, {4, ""}, {5, ""}}, []string{"batch 2 (2)", "change 3 abc", "batch 5 (2)"}, nil},
		{"a change that comes later", []uint32{1, 2, 3},
			[]verdict{{2, ""}, {3, ""}, {1, "abcde"}}, []string{"accept 2", "accept 3", "change 1 abcde"}, nil},
		{"changes only", []uint32{1, 2}, []verdict{{1, "a"}, {2, "bcd"}}, []string{"change 1 a", "change 2 bcd"}, nil},
		{"a drop in the middle", []uint32{1, 2, 3, 4, 5}, []verdict{{1, ""}, {2, ""}, {3, "drop"}, {4, ""}, {5, ""}},
			[]string{"batch 2 (2)", "drop 3", "batch 5 (2)"}, nil},
		{"one that was never received", []uint32{1, 2, 3}, plain(1, 2, 8, 3), []string{"batch 2 (2)", "accept 8", "accept 3"}, nil},
		{"one twice", []uint32{1, 2}, plain(1, 1, 2), []string{"accept 1", "accept 1", "accept 2"}, nil},
	}
	for _, base := range []uint32{0, math.MaxUint32 - 3, math.MaxUint32, 1<<31 - 3} {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s, from %d on", tt.name, base+1), func(t *testing.T) {
				w := newWire(t)
				for _, id := range tt.received {
					w.tell(queued(base + id))
				}
				if got, err := w.q.Receive(); err != nil || len(got) != len(tt.received) {
					t.Fatalf("received %v, %v", got, err)
				}
				for _, v := range tt.verdicts {
					var data []byte
					if v.data != "" {
						data = []byte(v.data)
					}
					err := error(nil)
					if v.data == "drop" {
						err = w.q.Drop(base + v.id)
					} else {
						err = w.q.Verdict(base+v.id, data)
					}
					if err != nil {
						t.Error(err)
					}
					clear(data)
				}
				if calls := w.sent(); calls != nil {
					t.Errorf("%v was sent before Flush", calls)
				}
				if err := w.q.Flush(); err != nil {
					t.Error(err)
				}
				var want [][]string
				if tt.want != nil {
					want = [][]string{nil}
				}
				for _, s := range tt.want {
					var kind string
					var id uint32
					fmt.Sscanf(s, "%s %d", &kind, &id)
					rest := s[len(fmt.Sprintf("%s %d", kind, id)):]
					want[0] = append(want[0], fmt.Sprintf("%s %d%s", kind, base+id, rest))
				}
				if diff := cmp.Diff(want, w.sent()); diff != "" {
					t.Errorf("sent (-want +got):\n%s", diff)
				}
				var left []uint32
				for _, id := range tt.left {
					left = append(left, base+id)
				}
				if got := w.q.waiting.ids[w.q.waiting.from:]; !slices.Equal(left, got) {
					t.Errorf("%d wait, want %d", got, left)
				}
				if w.q.stats.Verdicts != uint64(len(tt.verdicts)) {
					t.Errorf("%d verdicts counted, want %d", w.q.stats.Verdicts, len(tt.verdicts))
				}
			})
		}
	}
}

// A verdict that is given later sees what was held before.
func TestFlushTwice(t *testing.T) {
	w := newWire(t)
	for id := range uint32(6) {
		w.tell(queued(math.MaxUint32 - 2 + id))
	}
	w.q.Receive()
	steps := []struct {
		id   uint32
		want string
	}{
		{math.MaxUint32 - 1, "accept 4294967294"}, {1, "accept 1"}, {math.MaxUint32 - 2, "accept 4294967293"},
	}
	for _, s := range steps {
		w.q.Verdict(s.id, nil)
		w.q.Flush()
		if got := w.sent(); len(got) != 1 || !slices.Equal(got[0], []string{s.want}) {
			t.Errorf("sent %v, want %s", got, s.want)
		}
	}
	for _, id := range []uint32{math.MaxUint32, 0, 2} {
		w.q.Verdict(id, nil)
	}
	w.q.Flush()
	if got := w.sent(); len(got) != 1 || !slices.Equal(got[0], []string{"batch 2 (3)"}) {
		t.Errorf("sent %v, want one batch", got)
	}
}

func TestReadPacket(t *testing.T) {
	mark := attribute(attrMark, 0, 0, 0, 9)
	payload := attribute(attrPayload, 'a', 'b', 'c')
	all := queued(5, mark, attribute(attrCT, 1, 2, 3, 4), attribute(attrCTInfo, 0, 0, 0, 2), attribute(19, 0, 0, 0, 0),
		attribute(14, 0, 0, 0, 4), attribute(attrCapLen, 0, 0, 0, 3), payload)
	whole := Packet{ID: 5, Hook: HookInput, Mark: 9, Data: []byte("abc"), Conntrack: []byte{1, 2, 3, 4}, CtInfo: 2}
	nested := attribute(attrCT|0x8000, 1, 2, 3, 4)
	tests := []struct {
		name         string
		message      []byte
		named, whole bool
		want         Packet
	}{
		{"all that there is", all, true, true, whole},
		{"nested flag", queued(5, nested), true, true, Packet{ID: 5, Hook: HookInput, Conntrack: []byte{1, 2, 3, 4}}},
		{"no padding at the end", queued(5, mark, payload)[:len(queued(5, mark, payload))-1], true, true,
			Packet{ID: 5, Hook: HookInput, Mark: 9, Data: []byte("abc")}},
		{"no payload", queued(5), true, true, Packet{ID: 5, Hook: HookInput}},
		{"truncated", queued(5, attribute(attrCapLen, 0, 0, 0, 4), payload), true, true,
			Packet{ID: 5, Hook: HookInput, Data: []byte("abc"), Truncated: true}},
		{"payload cut off", all[:len(all)-3], true, false, Packet{}},
		{"mark of a wrong length", queued(5, attribute(attrMark, 1)), true, false, Packet{}},
		{"attribute shorter than itself", queued(5, []byte{3, 0, 10, 0}), true, false, Packet{}},
		{"attribute longer than the message", queued(5, []byte{9, 0, 10, 0}), true, false, Packet{}},
		{"no header", appendHeader(nil, msgPacket, 0, 0, 7, 0), false, false, Packet{}},
		{"header too short", append(appendHeader(nil, msgPacket, 0, 0, 7, 8), attribute(attrPacketHeader, 1, 2, 3, 4)...), false, false, Packet{}},
		{"nothing", nil, false, false, Packet{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t)
			var p Packet
			_, _, body, _, _ := cut(tt.message)
			named, whole := readPacket(body, &p)
			if named != tt.named || whole != tt.whole {
				t.Errorf("named %v, whole %v, want %v, %v", named, whole, tt.named, tt.whole)
			}
			if whole {
				if diff := cmp.Diff(tt.want, p); diff != "" {
					t.Errorf("packet (-want +got):\n%s", diff)
				}
				return
			}
			if tt.message == nil {
				return
			}
			// What cannot be read passes at once, and the next packet comes.
			w.tell(tt.message)
			w.tell(queued(6))
			got, err := w.q.Receive()
			if err != nil || len(got) != 1 || got[0].ID != 6 {
				t.Fatalf("received %v, %v; want packet 6", got, err)
			}
			var sent [][]string
			stats := Stats{Received: 1, Unreadable: 1, Unnamed: 1}
			if tt.named {
				sent = [][]string{{"accept 5"}}
				stats = Stats{Received: 1, Unreadable: 1, Verdicts: 1}
			}
			if diff := cmp.Diff(sent, w.sent()); diff != "" {
				t.Errorf("sent (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(stats, w.q.stats); diff != "" {
				t.Errorf("stats (-want +got):\n%s", diff)
			}
		})
	}
}

// The kernel's answers to verdicts are counted by what they speak for; an acknowledgement is none.
func TestAnswers(t *testing.T) {
	w := newWire(t)
	answer := func(errno unix.Errno, packets uint32) []byte {
		b := appendHeader(nil, msgError, 0, packets, 0, 0)[:headerLen]
		b = binary.NativeEndian.AppendUint32(b, uint32(-int32(errno)))
		b = append(b, make([]byte, headerLen)...) // of the message that is answered
		binary.NativeEndian.PutUint32(b, uint32(len(b)))
		return b
	}
	w.tell(answer(unix.ENOENT, 5))
	w.tell(answer(0, 3))
	w.tell(answer(unix.EPERM, 2))
	w.tell([]byte{1, 2, 3})
	w.tell(queued(1))
	if got, err := w.q.Receive(); err != nil || len(got) != 1 {
		t.Fatalf("received %v, %v", got, err)
	}
	if diff := cmp.Diff(Stats{Received: 1, Unknown: 5, Refused: 2}, w.q.stats); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

// A change that no attribute can hold does not leave its packet behind.
func TestChangeTooLong(t *testing.T) {
	w := newWire(t)
	w.tell(queued(1))
	w.q.Receive()
	if err := w.q.Verdict(1, make([]byte, maxChange+1)); err == nil {
		t.Error("no error")
	}
	w.q.Flush()
	if diff := cmp.Diff([][]string{{"accept 1"}}, w.sent()); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
	if w.q.stats.Failed != 1 {
		t.Errorf("%d failed, want 1", w.q.stats.Failed)
	}
}

// What does not go all at once goes one by one.
func TestSendFails(t *testing.T) {
	w := newWire(t)
	if err := unix.SetsockoptInt(w.q.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4096); err != nil {
		t.Fatal(err)
	}
	for id := range uint32(3) {
		w.tell(queued(id + 1))
	}
	w.q.Receive()
	w.q.Verdict(1, []byte("abc"))
	w.q.Verdict(2, make([]byte, 50000)) // more than the socket takes
	w.q.Verdict(3, []byte("def"))
	if err := w.q.Flush(); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("flush: %v, want EMSGSIZE", err)
	}
	if diff := cmp.Diff([][]string{{"change 1 abc"}, {"change 3 def"}}, w.sent()); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
	if w.q.stats.Failed != 1 || w.q.stats.Verdicts != 2 {
		t.Errorf("stats %+v, want 1 failed and 2 verdicts", w.q.stats)
	}
}

// Whatever comes, nothing is read beyond the message, and a packet with an id is given or accepted.
func FuzzReadPacket(f *testing.F) {
	f.Add(queued(5, attribute(attrMark, 0, 0, 0, 9), attribute(attrPayload, 'a', 'b', 'c')))
	f.Add(queued(5, attribute(attrCT, 1, 2, 3, 4), attribute(attrCTInfo, 0, 0, 0, 2), attribute(attrCapLen, 0, 1, 0, 0)))
	f.Add(queued(5, attribute(attrPayload, make([]byte, 100)...))[:60])
	f.Add(append(queued(1), queued(2)...))
	f.Add([]byte{20, 0, 0, 0, 2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for n := 0; len(b) > 0; n++ {
			_, _, body, rest, ok := cut(b)
			if !ok {
				return
			}
			if len(rest) >= len(b) {
				t.Fatalf("%d bytes are left of %d", len(rest), len(b))
			}
			var p Packet
			named, whole := readPacket(body, &p)
			if whole && !named {
				t.Error("whole, but without an id")
			}
			for _, v := range [][]byte{p.Data, p.Conntrack} {
				if cap(v) > len(body) || len(v) != cap(v) {
					t.Errorf("%d bytes with room for %d in a message of %d", len(v), cap(v), len(body))
				}
			}
			b = rest
		}
	})
}

// Packets that wait are not taken along by a verdict that leaves at once, and no packet is too long to leave.
func TestVerdictAfter(t *testing.T) {
	for _, tt := range []struct {
		name string
		data []byte
		want string
		fail bool
	}{
		{"fits", []byte("abc"), "change 3 abc", false},
		{"too long", make([]byte, maxChange+1), "accept 3", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t)
			for id := range uint32(4) {
				w.tell(queued(id+1, attribute(attrPayload, 0x45)))
			}
			for read := 0; read < 4; {
				got, err := w.q.Receive()
				if err != nil {
					t.Fatal(err)
				}
				read += len(got)
			}
			for id := range uint32(2) {
				if err := w.q.Verdict(id+1, nil); err != nil {
					t.Fatal(err)
				}
			}
			before := appendVerdict(nil, msgVerdict, 7, 77, 1) // any whole message
			if err := w.q.VerdictAfter(before, 3, tt.data); (err != nil) != tt.fail {
				t.Errorf("error %v", err)
			}
			if err := w.q.Verdict(4, nil); err != nil {
				t.Fatal(err)
			}
			if err := w.q.Flush(); err != nil {
				t.Fatal(err)
			}
			want := [][]string{{"batch 2 (2)"}, {"accept 77", tt.want}, {"accept 4"}}
			if diff := cmp.Diff(want, w.sent()); diff != "" {
				t.Errorf("sent (-want +got):\n%s", diff)
			}
		})
	}
}
