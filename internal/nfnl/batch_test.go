package nfnl

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// TestBatch sends messages of which some fail: each has its own answer, the ones behind it are carried out.
func TestBatch(t *testing.T) {
	c := dial(t)
	s := sides()[0]
	master := s.carrier(t, c, 50000)
	e := s.expectation(master.Orig, 40001)
	var entry Connection
	b := c.Begin()
	b.CreateConnection(&master)
	b.CreateExpectation(&e)
	b.Prolong(&master.Orig, 0, 700, 11)
	b.CreateExpectation(&e)
	b.Get(&master.Orig, 0, &entry)
	b.DeleteExpectation(&e.Tuple, 0)
	b.DeleteConnection(&master.Reply, 5)
	want := []unix.Errno{unix.EEXIST, 0, 0, unix.EEXIST, 0, 0, unix.ENOENT}
	err := b.Do()
	var first *Error
	if !errors.As(err, &first) || first.Errno != unix.EEXIST || first.Op != "create a connection" {
		t.Errorf("error %v, want the first message's", err)
	}
	if b.Len() != len(want) {
		t.Fatalf("%d messages, want %d", b.Len(), len(want))
	}
	for i, w := range want {
		if b.Errno(i) != w || (b.Err(i) == nil) != (w == 0) {
			t.Errorf("message %d: %v, %v, want %v", i, b.Errno(i), b.Err(i), w)
		}
	}
	if entry.Orig != master.Orig || entry.Mark != 11 || entry.Timeout <= 600 {
		t.Errorf("read %+v, want it prolonged, with mark 11", entry)
	}
	if all := list(t, c, s.family); len(all) != 0 {
		t.Errorf("left: %+v", all)
	}
}

// TestLongBatch sends more messages than one system call takes.
func TestLongBatch(t *testing.T) {
	c := dial(t)
	s := sides()[1]
	b := c.Begin()
	const n = 3*slots + 5
	for i := range uint16(n) {
		e := s.shadow("", unix.IPPROTO_TCP, i+1)
		b.DeleteConnection(&e.Orig, 0)
	}
	if err := b.Do(); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	for i := range n {
		if b.Errno(i) != unix.ENOENT {
			t.Errorf("message %d: %v", i, b.Err(i))
		}
	}
}

// TestLostAnswers has a buffer that is too small for the answers: what is missing is said to be missing, and the next
// batch does not take late answers for its own.
func TestLostAnswers(t *testing.T) {
	c := dial(t)
	s := sides()[0]
	if err := unix.SetsockoptInt(c.s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	b := c.Begin()
	for i := range uint16(slots) {
		e := s.shadow("", unix.IPPROTO_TCP, i+1)
		b.DeleteConnection(&e.Orig, 0)
	}
	if err := b.Do(); err == nil {
		t.Error("no error")
	}
	answered, missing := 0, 0
	for i := range b.Len() {
		switch {
		case b.Errno(i) == unix.ENOENT:
			answered++
		case errors.Is(b.Err(i), ErrUnanswered):
			missing++
		default:
			t.Errorf("message %d: %v", i, b.Err(i))
		}
	}
	if answered == 0 || missing == 0 {
		t.Errorf("%d answered, %d missing, want both", answered, missing)
	}
	if _, err := c.Get(s.shadow("", unix.IPPROTO_TCP, 1).Orig, 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("the next: %v, want ENOENT", err)
	}
}

// TestForeignSender has another process send what looks like an answer. The kernel refuses it; what is not the kernel's
// would be passed over.
func TestForeignSender(t *testing.T) {
	netnstest.New(t).Do(func() {
		c, err := Dial()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		name, err := unix.Getsockname(c.s.fd)
		if err != nil {
			t.Error(err)
			return
		}
		other, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(other)
		b := c.Begin()
		e := sides()[0].shadow("", unix.IPPROTO_TCP, 1)
		b.DeleteConnection(&e.Orig, 0)
		forged := appendHeader(nil, unix.NLMSG_ERROR, 0, 0) // "done"
		forged[0] = byte(len(forged))
		forged[8] = byte(c.seq + 1)
		forged[9] = byte((c.seq + 1) >> 8)
		forged[10] = byte((c.seq + 1) >> 16)
		err = unix.Sendto(other, forged, 0, name)
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("sent from another socket: %v, want ECONNREFUSED", err)
		}
		c.s.names[0].Pid = uint32(os.Getpid())
		c.s.headers[0].Namelen = unix.SizeofSockaddrNetlink
		if data, _ := c.s.datagram(0); data != nil {
			t.Error("a datagram of another process is read")
		}
		if err := b.Do(); !errors.Is(err, unix.ENOENT) {
			t.Errorf("%v, want the kernel's ENOENT", err)
		}
	})
}

// TestTruncated has an answer that does not fit: it is noticed, and there is an end to waiting.
func TestTruncated(t *testing.T) {
	c := dial(t)
	s := sides()[0]
	master := s.carrier(t, c, 50000)
	for i := range c.s.vectors {
		c.s.vectors[i].SetLen(40)
	}
	if _, err := c.Get(master.Orig, 0); !errors.Is(err, errTruncated) {
		t.Errorf("error %v, want that the answer is too long", err)
	}
}

// TestAdjustIsLiberal: what acknowledges adjusted numbers must not be INVALID, and that alone.
func TestAdjustIsLiberal(t *testing.T) {
	c := dial(t)
	for _, s := range sides() {
		for dir, want := range [2][2]uint8{{0, liberalTCP}, {liberalTCP, 0}} {
			var e Connection
			for _, helper := range []string{"Q.931", "sane", "ftp", ""} {
				if helper == "" {
					t.Skip("no conntrack helper for TCP: CONFIG_NF_CONNTRACK_H323, _SANE or _FTP")
				}
				if e = s.shadow(helper, unix.IPPROTO_TCP, uint16(51000+dir)); c.CreateConnection(&e) == nil {
					break
				}
			}
			b := c.Begin()
			b.SetAdjust(&e.Orig, 0, uint8(dir), SeqAdj{Pos: 5, After: 3})
			if err := b.Do(); err != nil {
				t.Fatal(err)
			}
			got, err := c.Get(e.Orig, 0)
			if err != nil || got.Adjust[dir].After != 3 {
				t.Fatalf("%s: read %+v, error %v", s.name, got, err)
			}
			for i := range want {
				if got.TCPFlags[i]&liberalTCP != want[i] {
					t.Errorf("%s: direction %d is adjusted, the flags are %#x, want %#x", s.name, dir, got.TCPFlags, want)
				}
			}
		}
	}
}

// TestBatchAllocates asks that no operation that succeeds allocates, against the kernel.
func TestBatchAllocates(t *testing.T) {
	c := dial(t)
	for _, s := range sides() {
		master := s.carrier(t, c, 50000)
		other := s.shadow(master.Helper, master.Orig.Proto, 50001)
		e := s.expectation(master.Orig, 40001)
		e.Timeout = 100
		var entry Connection
		n := testing.AllocsPerRun(200, func() {
			b := c.Begin()
			b.CreateConnection(&other)
			b.CreateExpectation(&e)
			b.ChangeExpectation(&e)
			b.Get(&master.Orig, 0, &entry)
			b.SetAdjust(&master.Orig, 0, 1, SeqAdj{Pos: 5, After: 3})
			b.Prolong(&master.Orig, 0, 600, 9)
			b.DeleteExpectation(&e.Tuple, 0)
			b.DeleteConnection(&other.Orig, 0)
			if err := b.Do(); err != nil {
				t.Error(err)
			}
		})
		if n != 0 || entry.Orig != master.Orig || !entry.Adjusted {
			t.Errorf("%s: %v allocations, want 0; read %+v", s.name, n, entry)
		}
	}
}

// TestEventsAllocate asks the same of reading events.
func TestEventsAllocate(t *testing.T) {
	netnstest.New(t).Do(func() {
		c, err := Dial()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		w, err := Watch(0, GroupCTNew, GroupCTDestroy)
		if err != nil {
			t.Error(err)
			return
		}
		defer w.Close()
		s := sides()[0]
		master := s.carrierOrNone(c, 50000)
		if master.Helper == "" {
			t.Log("the kernel has no conntrack helper: entries cannot be made")
			return
		}
		other := s.shadow(master.Helper, master.Orig.Proto, 50001)
		var events []Event
		seen := 0
		n := testing.AllocsPerRun(200, func() {
			b := c.Begin()
			for range 5 {
				b.CreateConnection(&other)
				b.DeleteConnection(&other.Orig, 0)
			}
			err := b.Do()
			if err == nil {
				err = w.Wait()
			}
			if err == nil {
				events, _, err = w.Receive(events[:0])
			}
			if err != nil {
				t.Error(err)
			}
			for i := range events {
				if ev := &events[i]; ev.Kind == EventDestroy && ev.Connection.Orig == other.Orig {
					seen++
				}
			}
		})
		if n != 0 || seen < 1000 {
			t.Errorf("%v allocations, %d entries seen to end, want 0 and at least 1000", n, seen)
		}
	})
}

func TestParseAllocates(t *testing.T) {
	wire := connection(t, everything())
	var c Connection
	if n := testing.AllocsPerRun(100, func() {
		if err := c.Parse(wire); err != nil {
			t.Error(err)
		}
	}); n != 0 || c.Zone != 3 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkParse(b *testing.B) {
	wire := connection(b, everything())
	var c Connection
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Parse(wire); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAnsweredOnce: of two answers to a message the first counts.
func TestAnsweredOnce(t *testing.T) {
	var answers []byte
	for _, code := range []int32{-int32(unix.EBUSY), 0} {
		m := binary.NativeEndian.AppendUint32(nil, 20)
		m = binary.NativeEndian.AppendUint16(m, unix.NLMSG_ERROR)
		m = append(m, make([]byte, 10)...) // flags, sequence number 0, port
		answers = append(answers, binary.NativeEndian.AppendUint32(m, uint32(code))...)
	}
	b := Batch{ops: []op{{name: "ask"}}}
	b.take(b.ops, 0, answers, true)
	if b.Errno(0) != unix.EBUSY {
		t.Errorf("answer %v, want EBUSY", b.Errno(0))
	}
}
