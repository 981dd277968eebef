package queue_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/queue"
)

// driver is what a daemon uses of a queue; every driver must pass conformance.
type driver interface {
	Receive() ([]queue.Packet, error)
	Verdict(id uint32, data []byte) error
	Drop(id uint32) error
	Flush() error
	Stats() (queue.Stats, error)
	Close() error
}

const (
	number = 7
	port   = 7007
)

func TestQueue(t *testing.T)     { conformance(t, open) }
func TestReference(t *testing.T) { conformance(t, openReference) }

func open(cfg queue.Config) (driver, error)          { return queue.Open(cfg) }
func openReference(cfg queue.Config) (driver, error) { return queue.OpenReference(cfg) }

// conformance checks a driver against a real kernel.
func conformance(t *testing.T, open func(queue.Config) (driver, error)) {
	families := []struct {
		name, client, server string
		header               int // of IP without options
	}{
		{"ipv4", "10.77.0.1", "10.77.0.2", 20},
		{"ipv6", "fd77::1", "fd77::2", 40},
	}
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			newBed := func(t *testing.T) *bed { return newBed(t, open, netip.MustParseAddr(f.server)) }

			t.Run("tcp exchange changed", func(t *testing.T) {
				b := newBed(t)
				b.rule("input", "tcp")
				b.rule("output", "tcp")
				q := b.open(queue.Config{Number: number})
				b.serve(q, func(p queue.Packet) []byte {
					if !bytes.Contains(p.Data, []byte("hello")) {
						return nil
					}
					copy(p.Data[bytes.Index(p.Data, []byte("hello")):], "HELLO")
					checksum(p.Data)
					return p.Data
				})
				// The server answers with what it read, so the change shows.
				bulk := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
				got := b.tcpEcho(append([]byte("hello"), bulk...))
				if want := append([]byte("HELLO"), bulk...); !bytes.Equal(got, want) {
					t.Errorf("echo of %d bytes is %d bytes that begin with %.10q, want %.10q", len(want), len(got), got, want)
				}
				s := b.settled(q)
				if s.Received < 20 || s.Received != s.Verdicts || s.Unknown+s.Refused+s.Failed+s.Overruns != 0 {
					t.Errorf("stats %+v: want as many verdicts as packets and no errors", s)
				}
			})

			t.Run("one is dropped", func(t *testing.T) {
				b := newBed(t)
				b.rule("input", "udp")
				q := b.open(queue.Config{Number: number})
				client, server := b.udp()
				packets := b.queued(q, client, 5)
				for i, p := range packets {
					if i != 2 {
						b.verdict(q, p.ID, nil)
					} else if err := q.Drop(p.ID); err != nil {
						t.Error(err)
					}
				}
				b.flush(q)
				for _, i := range []int{0, 1, 3, 4} {
					b.expect(server, text(i))
				}
				b.silent(server)
				if s := b.settled(q); s.Verdicts != 5 || s.Unknown+s.Refused+s.Failed != 0 {
					t.Errorf("stats %+v, want 5 verdicts", s)
				}
			})

			t.Run("10000 packets, verdicts in any order", func(t *testing.T) {
				b := newBed(t)
				b.rule("input", "udp")
				q := b.open(queue.Config{Number: number})
				const total, window = 10000, 50
				b.batches(q, func(batch []queue.Packet) {
					for i := len(batch) - 1; i >= 0; i-- {
						var data []byte
						if batch[i].ID%3 == 0 {
							data = batch[i].Data
						}
						b.verdict(q, batch[i].ID, data)
					}
				})
				seen := make(map[uint32]bool)
				client, server := b.udp()
				buf := make([]byte, 2048)
				for first := uint32(0); first < total; first += window {
					for i := first; i < first+window; i++ {
						if _, err := client.Write(binary.BigEndian.AppendUint32(nil, i)); err != nil {
							t.Fatal(err)
						}
					}
					for range window {
						n, err := server.Read(buf)
						if err != nil {
							t.Fatalf("after %d datagrams: %v", len(seen), err)
						}
						if n != 4 {
							t.Fatalf("datagram of %d bytes, want 4", n)
						}
						seen[binary.BigEndian.Uint32(buf)] = true
					}
				}
				if len(seen) != total {
					t.Errorf("%d different datagrams, want %d", len(seen), total)
				}
				s := b.settled(q)
				want := queue.Stats{Received: total, Verdicts: total, Kernel: queue.Kernel{PortID: s.Kernel.PortID, Sequence: total}}
				if s != want || s.Kernel.PortID == 0 {
					t.Errorf("stats %+v, want %+v and a port", s, want)
				}
			})

			t.Run("big packets", func(t *testing.T) {
				b := newBed(t)
				b.rule("input", "udp")
				q := b.open(queue.Config{Number: number})
				const udpHeader, copied = 8, 65531 // NFQNL_MAX_COPY_RANGE
				type seen struct {
					length    int
					truncated bool
				}
				packets := make(chan seen, 16)
				b.serve(q, func(p queue.Packet) []byte {
					packets <- seen{len(p.Data), p.Truncated}
					if p.Truncated {
						return nil
					}
					if len(p.Data) > f.header+udpHeader {
						p.Data[len(p.Data)-1] ^= 0xff
					}
					checksum(p.Data)
					return p.Data
				})
				client, server := b.udp()
				for _, payload := range []int{0, 1, 1473, 9000, 60000, 65500} {
					sent := bytes.Repeat([]byte{0x5a}, payload)
					if _, err := client.Write(sent); err != nil {
						t.Fatalf("send %d bytes: %v", payload, err)
					}
					buf := make([]byte, 1<<16)
					n, err := server.Read(buf)
					if err != nil {
						t.Fatalf("datagram of %d bytes: %v", payload, err)
					}
					want := seen{f.header + udpHeader + payload, false}
					if want.length > copied {
						want = seen{copied, true}
					}
					if got := <-packets; got != want {
						t.Errorf("datagram of %d bytes: packet %+v, want %+v", payload, got, want)
					}
					if payload > 0 && !want.truncated {
						sent[payload-1] ^= 0xff
					}
					if !bytes.Equal(buf[:n], sent) {
						t.Errorf("datagram of %d bytes came as %d bytes, or with other content than the verdict's", payload, n)
					}
				}
			})

			t.Run("packets wait for their verdict", func(t *testing.T) {
				b := newBed(t)
				b.rule("input", "udp")
				q := b.open(queue.Config{Number: number})
				client, server := b.udp()
				const total = 300
				var held []queue.Packet
				for i := range total {
					if _, err := fmt.Fprintf(client, "datagram %d", i); err != nil {
						t.Fatal(err)
					}
				}
				for len(held) < total {
					held = append(held, b.next(q)...)
				}
				if s := b.stats(q); s.Kernel.Waiting != total {
					t.Errorf("%d packets wait, want %d", s.Kernel.Waiting, total)
				}
				for i, p := range held {
					if want := fmt.Sprintf("datagram %d", i); !strings.HasSuffix(string(p.Data), want) {
						t.Fatalf("packet %d holds %q, want %q", i, p.Data, want)
					}
					if p.Hook != queue.HookInput {
						t.Errorf("packet %d at hook %d, want %d", i, p.Hook, queue.HookInput)
					}
				}
				server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				buf := make([]byte, 100)
				if n, err := server.Read(buf); err == nil {
					t.Fatalf("%q passed without a verdict", buf[:n])
				}
				server.SetReadDeadline(time.Now().Add(10 * time.Second))
				for _, p := range held {
					b.verdict(q, p.ID, nil)
				}
				b.flush(q)
				for i := range total {
					n, err := server.Read(buf)
					if err != nil {
						t.Fatal(err)
					}
					if want := fmt.Sprintf("datagram %d", i); string(buf[:n]) != want {
						t.Errorf("got %q, want %q", buf[:n], want)
					}
				}
			})

			t.Run("mark stays", func(t *testing.T) {
				b := newBed(t)
				b.nft(`table inet marks {
	chain before { type filter hook input priority mangle - 1; meta l4proto udp meta mark set 0x55; }
	chain behind { type filter hook input priority filter; meta l4proto udp meta mark != 0x55 drop; }
}`)
				b.rule("input", "udp")
				q := b.open(queue.Config{Number: number})
				marks := make(chan uint32, 2)
				changed := false
				b.serve(q, func(p queue.Packet) []byte {
					marks <- p.Mark
					changed = !changed
					if changed {
						return p.Data
					}
					return nil
				})
				client, server := b.udp()
				for range 2 {
					b.exchange(client, server, "x")
					if m := <-marks; m != 0x55 {
						t.Errorf("mark %#x, want 0x55", m)
					}
				}
			})

			t.Run("bypass after close", func(t *testing.T) {
				b := newBed(t)
				b.rule("input", "udp")
				client, server := b.udp()
				b.exchange(client, server, "before open")
				q := b.open(queue.Config{Number: number})
				b.exchangeHeld(client, server, q, "open")
				if err := q.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				if batch, err := q.Receive(); !errors.Is(err, queue.ErrClosed) || batch != nil {
					t.Errorf("packets %v, error %v after close", batch, err)
				}
				if err := q.Close(); err != nil {
					t.Errorf("second close: %v", err)
				}
				b.exchange(client, server, "after close")
				b.exchangeHeld(client, server, b.open(queue.Config{Number: number}), "open again")
			})
		})
	}

	newBed := func(t *testing.T) *bed { return newBed(t, open, netip.MustParseAddr("10.77.0.2")) }

	t.Run("close while packets wait", func(t *testing.T) {
		b := newBed(t)
		b.rule("input", "udp")
		q := b.open(queue.Config{Number: number})
		client, _ := b.udp()
		for range 500 {
			client.Write([]byte("x"))
		}
		b.next(q)
		done := make(chan error)
		go func() { done <- q.Close() }()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("close: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("close does not return")
		}
	})

	for _, failOpen := range []bool{false, true} {
		t.Run(fmt.Sprintf("queue full, fail open %v", failOpen), func(t *testing.T) {
			b := newBed(t)
			b.rule("input", "udp")
			const length, total = 8, 20
			q := b.open(queue.Config{Number: number, Length: length, FailOpen: failOpen})
			client, server := b.udp()
			for range total {
				client.Write([]byte("x"))
			}
			for n := 0; n < length; {
				n += len(b.next(q))
			}
			passed := count(server)
			s := b.stats(q)
			wantPassed, wantDropped := 0, uint64(total-length)
			if failOpen {
				wantPassed, wantDropped = total-length, 0
			}
			if passed != wantPassed || s.Kernel.Dropped != wantDropped || s.Kernel.Waiting != length {
				t.Errorf("%d passed, kernel %+v; want %d passed, %d dropped, %d waiting", passed, s.Kernel, wantPassed, wantDropped, length)
			}
			// What waited leaves, and all is as before.
			for id := uint32(1); id <= length; id++ {
				b.verdict(q, id, nil)
			}
			b.flush(q)
			if n := count(server); n != length {
				t.Errorf("%d of the %d that waited have come", n, length)
			}
			b.exchangeHeld(client, server, q, "still there")
		})
		t.Run(fmt.Sprintf("read buffer full, fail open %v", failOpen), func(t *testing.T) {
			b := newBed(t)
			b.rule("input", "udp")
			const total = 4000
			q := b.open(queue.Config{Number: number, Length: 2 * total, FailOpen: failOpen, ReadBuffer: 1 << 14})
			client, server := b.udp()
			for range total {
				client.Write(make([]byte, 1000))
			}
			// Nobody takes the packets: the driver's own buffers fill, then the socket's.
			passed := count(server)
			s := b.stats(q)
			if s.Overruns == 0 || s.Overruns > total {
				t.Fatalf("%d overruns of %d packets, want some", s.Overruns, total)
			}
			if failOpen && (passed == 0 || s.Kernel.UserDropped != 0) {
				t.Errorf("%d passed, %d dropped by the kernel; want some and none", passed, s.Kernel.UserDropped)
			}
			if !failOpen && (passed != 0 || s.Kernel.UserDropped != s.Overruns) {
				t.Errorf("%d passed, %d dropped by the kernel; want none and %d", passed, s.Kernel.UserDropped, s.Overruns)
			}
			// Losses do not end the queue.
			b.serve(q, func(queue.Packet) []byte { return nil })
			deadline := time.Now().Add(10 * time.Second)
			for s = b.stats(q); s.Kernel.Waiting > 0 && time.Now().Before(deadline); s = b.stats(q) {
				time.Sleep(time.Millisecond)
			}
			count(server)
			b.exchange(client, server, "still there")
		})
	}

	t.Run("verdicts for packets that are gone", func(t *testing.T) {
		b := newBed(t)
		b.rule("input", "udp")
		q := b.open(queue.Config{Number: number})
		client, server := b.udp()
		for _, id := range []uint32{123456, 0} {
			b.verdict(q, id, nil)
		}
		b.flush(q)
		b.exchangeHeld(client, server, q, "a")
		deadline := time.Now().Add(5 * time.Second)
		for b.stats(q).Unknown < 2 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if s := b.stats(q); s.Unknown != 2 || s.Refused != 0 {
			t.Errorf("stats %+v, want 2 unknown", s)
		}
		b.exchangeHeld(client, server, q, "b")
	})

	t.Run("queue taken", func(t *testing.T) {
		b := newBed(t)
		q := b.open(queue.Config{Number: number})
		var err error
		b.server.Do(func() { _, err = open(queue.Config{Number: number}) })
		var taken *queue.TakenError
		if !errors.As(err, &taken) {
			t.Fatalf("second open: %v, want a TakenError", err)
		}
		if want := b.stats(q).Kernel.PortID; taken.PortID != want || taken.Number != number {
			t.Errorf("taken %+v, want number %d and port %d", taken, number, want)
		}
		b.open(queue.Config{Number: number + 1})
	})

	t.Run("not permitted", func(t *testing.T) {
		b := newBed(t)
		var err error
		b.server.Do(func() {
			// This thread alone becomes nobody, and ends with its goroutine.
			done := make(chan struct{})
			go func() {
				defer close(done)
				runtime.LockOSThread()
				const nobody = 65534
				if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); e != 0 {
					err = e
					return
				}
				_, err = open(queue.Config{Number: number})
			}()
			<-done
		})
		if !errors.Is(err, queue.ErrPermission) {
			t.Errorf("open as nobody: %v, want ErrPermission", err)
		}
	})

	t.Run("conntrack", func(t *testing.T) {
		b := newBed(t)
		b.rule("input", "udp")
		var q driver
		var err error
		b.server.Do(func() { q, err = open(queue.Config{Number: number, Conntrack: true}) })
		if errors.Is(err, queue.ErrNoConntrack) {
			t.Skip("the kernel lacks NFQA_CT (CONFIG_NETFILTER_NETLINK_GLUE_CT)")
		}
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		client, _ := b.udp()
		client.Write([]byte("x"))
		p := b.next(q)[0]
		const ctaTupleOrig, nested = 1, 0x8000
		if len(p.Conntrack) < 8 || binary.NativeEndian.Uint16(p.Conntrack[2:])&^uint16(nested) != ctaTupleOrig {
			t.Errorf("conntrack % x, want attributes that begin with CTA_TUPLE_ORIG", p.Conntrack)
		}
		const ipCtNew = 2
		if p.CtInfo != ipCtNew {
			t.Errorf("ctinfo %d, want %d", p.CtInfo, ipCtNew)
		}
		b.verdict(q, p.ID, nil)
		b.flush(q)
	})

	t.Run("a batch leaves older packets alone", func(t *testing.T) {
		b := newBed(t)
		b.rule("input", "udp")
		q := b.open(queue.Config{Number: number})
		client, server := b.udp()
		packets := b.queued(q, client, 20)
		held := map[int]bool{0: true, 7: true, 19: true}
		for i, p := range packets {
			if !held[i] {
				b.verdict(q, p.ID, nil)
			}
		}
		b.flush(q)
		for i := range packets {
			if !held[i] {
				b.expect(server, text(i))
			}
		}
		b.silent(server)
		if s := b.stats(q); s.Kernel.Waiting != uint32(len(held)) {
			t.Errorf("%d wait, want %d", s.Kernel.Waiting, len(held))
		}
		for _, i := range []int{7, 19, 0} {
			b.verdict(q, packets[i].ID, nil)
			b.flush(q)
			b.expect(server, text(i))
		}
		if s := b.stats(q); s.Unknown+s.Refused+s.Failed != 0 || s.Kernel.Waiting != 0 {
			t.Errorf("stats %+v, want no error and nothing that waits", s)
		}
	})

	t.Run("packets leave in the order of their verdicts", func(t *testing.T) {
		b := newBed(t)
		b.rule("input", "udp")
		q := b.open(queue.Config{Number: number})
		client, server := b.udp()
		packets := b.queued(q, client, 12)
		order := []int{0, 1, 2, 6, 5, 4, 3, 8, 9, 7, 10, 11}
		for _, i := range order {
			var data []byte
			if i == 4 || i == 5 || i == 9 {
				data = packets[i].Data
				copy(data[len(data)-len(text(i)):], "DATA")
				checksum(data)
			}
			b.verdict(q, packets[i].ID, data)
			clear(data) // what is given is not needed any more
		}
		b.flush(q)
		for _, i := range order {
			want := text(i)
			if i == 4 || i == 5 || i == 9 {
				want = "DATA" + want[4:]
			}
			b.expect(server, want)
		}
	})

	t.Run("nothing to flush", func(t *testing.T) {
		b := newBed(t)
		b.rule("input", "udp")
		q := b.open(queue.Config{Number: number})
		b.flush(q)
		client, server := b.udp()
		b.exchangeHeld(client, server, q, "a")
		b.flush(q)
		if s := b.stats(q); s.Verdicts != 1 || s.Unknown+s.Refused+s.Failed != 0 {
			t.Errorf("stats %+v, want one verdict and no error", s)
		}
		b.exchangeHeld(client, server, q, "b")
	})

	t.Run("more changes than fit into one message", func(t *testing.T) {
		b := newBed(t)
		b.rule("input", "udp")
		q := b.open(queue.Config{Number: number})
		client, server := b.udp()
		const total, size = 20, 30000
		for i := range total {
			if _, err := client.Write(bytes.Repeat([]byte{byte(i)}, size)); err != nil {
				t.Fatal(err)
			}
		}
		var packets []queue.Packet
		for len(packets) < total {
			packets = append(packets, b.next(q)...)
		}
		got := make(chan error, 1)
		go func() { // meanwhile, as all together do not fit into the server's buffer
			buf := make([]byte, 1<<16)
			for i := range total {
				n, err := server.Read(buf)
				if err == nil && (n != size || buf[0] != byte(i) || buf[size-1] != byte(i)^0xff) {
					err = fmt.Errorf("%d bytes from %x to %x", n, buf[0], buf[n-1])
				}
				if err != nil {
					got <- fmt.Errorf("datagram %d: %w", i, err)
					return
				}
			}
			got <- nil
		}()
		for _, p := range packets {
			p.Data[len(p.Data)-1] ^= 0xff
			checksum(p.Data)
			b.verdict(q, p.ID, p.Data)
		}
		b.flush(q)
		if err := <-got; err != nil {
			t.Error(err)
		}
		if s := b.stats(q); s.Verdicts != total || s.Unknown+s.Refused+s.Failed != 0 {
			t.Errorf("stats %+v, want %d verdicts and no error", s, total)
		}
	})

	t.Run("close while Receive waits", func(t *testing.T) {
		b := newBed(t)
		b.rule("input", "udp")
		q := b.open(queue.Config{Number: number})
		client, server := b.udp()
		b.exchangeHeld(client, server, q, "a")
		ended := make(chan error, 2)
		go func() {
			_, err := q.Receive()
			ended <- err
		}()
		time.Sleep(20 * time.Millisecond) // usually it waits in the kernel then
		go func() { ended <- q.Close() }()
		closed := 0
		for range 2 {
			select {
			case err := <-ended:
				if errors.Is(err, queue.ErrClosed) {
					closed++
				} else if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("Receive or Close does not return")
			}
		}
		if closed != 1 {
			t.Errorf("Receive said %d times that the queue is closed, want once", closed)
		}
		b.exchange(client, server, "after close")
	})

	t.Run("a reader that pauses", func(t *testing.T) {
		b := newBed(t)
		b.rule("input", "udp")
		const length, total = 64, 200
		q := b.open(queue.Config{Number: number, Length: length, FailOpen: true})
		resume := make(chan struct{})
		first := make(chan struct{}, 1)
		b.batches(q, func(batch []queue.Packet) {
			select {
			case first <- struct{}{}:
				<-resume
			default:
			}
			for _, p := range batch {
				b.verdict(q, p.ID, nil)
			}
		})
		client, server := b.udp()
		client.Write([]byte("x"))
		<-first // from now on nobody reads
		for range total {
			client.Write([]byte("x"))
		}
		if n := count(server); n < total-length {
			t.Errorf("%d of %d passed while nobody read, want all but %d", n, total, length)
		}
		close(resume)
		if n := count(server); n == 0 || n > length+1 {
			t.Errorf("%d came when the reader went on, want those that waited", n)
		}
		b.exchange(client, server, "as before")
	})
}

// text is what datagram i of queued says.
func text(i int) string { return fmt.Sprintf("text of datagram %d", i) }

// queued sends datagrams and returns them as they were queued.
func (b *bed) queued(q driver, client *net.UDPConn, n int) (packets []queue.Packet) {
	b.t.Helper()
	for i := range n {
		if _, err := client.Write([]byte(text(i))); err != nil {
			b.t.Fatal(err)
		}
	}
	for len(packets) < n {
		packets = append(packets, b.next(q)...)
	}
	return packets
}

// silent checks that nothing comes.
func (b *bed) silent(server *net.UDPConn) {
	b.t.Helper()
	if n := count(server); n > 0 {
		b.t.Errorf("%d datagrams that should wait have come", n)
	}
}

// bed is a client and a server in namespaces of their own, and queues at the server's.
type bed struct {
	t              *testing.T
	openDriver     func(queue.Config) (driver, error)
	addr           netip.Addr
	client, server *netnstest.NS
}

func newBed(t *testing.T, open func(queue.Config) (driver, error), addr netip.Addr) *bed {
	b := &bed{t: t, openDriver: open, addr: addr, client: netnstest.New(t), server: netnstest.New(t)}
	netnstest.Veth(b.client, "c", []string{"10.77.0.1/24", "fd77::1/64"}, b.server, "s", []string{"10.77.0.2/24", "fd77::2/64"})
	// Conntrack puts fragments together, and the first burst finds the neighbour known.
	b.nft("table inet conntrack { chain input { type filter hook input priority 0; ct state invalid drop; }; }")
	b.client.Do(func() {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(b.addr, 1).String(), 10*time.Second)
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("first connection: %v, want it refused", err)
		}
	})
	return b
}

func (b *bed) nft(script string) {
	b.t.Helper()
	b.server.Run("nft", script)
}

// rule queues what comes in at the test's port, or what goes out from it: by nft where the kernel can, else by xtables.
func (b *bed) rule(hook, protocol string) {
	b.t.Helper()
	side := map[string]string{"input": "dport", "output": "sport"}[hook]
	script := fmt.Sprintf("table inet queue { chain %s { type filter hook %[1]s priority mangle; %s %s %d queue num %d bypass; }; }",
		hook, protocol, side, port, number)
	var failed error
	b.server.Do(func() { failed = exec.Command("nft", script).Run() })
	if failed == nil {
		return
	}
	command := "iptables"
	if b.addr.Is6() {
		command = "ip6tables"
	}
	b.server.Run(command, "-w", "-t", "mangle", "-A", strings.ToUpper(hook), "-p", protocol, "--"+side, fmt.Sprint(port),
		"-j", "NFQUEUE", "--queue-num", fmt.Sprint(number), "--queue-bypass")
}

func (b *bed) open(cfg queue.Config) driver {
	b.t.Helper()
	var q driver
	var err error
	b.server.Do(func() { q, err = b.openDriver(cfg) })
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { q.Close() })
	return q
}

func (b *bed) stats(q driver) queue.Stats {
	b.t.Helper()
	s, err := q.Stats()
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// settled are the counters when all packets that were read have their verdict: a packet can arrive before its verdict
// is counted.
func (b *bed) settled(q driver) queue.Stats {
	b.t.Helper()
	s := b.stats(q)
	for deadline := time.Now().Add(5 * time.Second); s.Received != s.Verdicts && time.Now().Before(deadline); s = b.stats(q) {
		time.Sleep(time.Millisecond)
	}
	return s
}

// next are copies of the packets that come next.
func (b *bed) next(q driver) []queue.Packet {
	b.t.Helper()
	type received struct {
		packets []queue.Packet
		err     error
	}
	got := make(chan received, 1)
	go func() {
		packets, err := q.Receive()
		packets = slices.Clone(packets)
		for i := range packets {
			p := &packets[i]
			p.Data, p.Conntrack = bytes.Clone(p.Data), bytes.Clone(p.Conntrack)
		}
		got <- received{packets, err}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			b.t.Fatalf("queue ended: %v", r.err)
		}
		return r.packets
	case <-time.After(10 * time.Second):
		b.t.Fatal("no packet")
	}
	return nil
}

func (b *bed) verdict(q driver, id uint32, data []byte) {
	b.t.Helper()
	if err := q.Verdict(id, data); err != nil {
		b.t.Errorf("verdict on packet %d: %v", id, err)
	}
}

func (b *bed) flush(q driver) {
	b.t.Helper()
	if err := q.Flush(); err != nil {
		b.t.Errorf("flush: %v", err)
	}
}

// batches gives each batch to f, and then sends the verdicts, until the queue is closed.
func (b *bed) batches(q driver, f func([]queue.Packet)) {
	go func() {
		for {
			batch, err := q.Receive()
			if err != nil {
				if !errors.Is(err, queue.ErrClosed) {
					b.t.Errorf("receive: %v", err)
				}
				return
			}
			f(batch)
			if err := q.Flush(); err != nil && !errors.Is(err, queue.ErrClosed) {
				b.t.Errorf("flush: %v", err)
			}
		}
	}()
}

// serve gives each packet the verdict that f returns, until the queue is closed.
func (b *bed) serve(q driver, f func(queue.Packet) []byte) {
	b.batches(q, func(batch []queue.Packet) {
		for _, p := range batch {
			b.verdict(q, p.ID, f(p))
		}
	})
}

func (b *bed) udp() (client, server *net.UDPConn) {
	b.t.Helper()
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.addr, port))
	var err error
	b.server.Do(func() { server, err = net.ListenUDP("udp", to) })
	if err != nil {
		b.t.Fatal(err)
	}
	b.client.Do(func() { client, err = net.DialUDP("udp", nil, to) })
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range []*net.UDPConn{client, server} {
		b.t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		c.SetWriteBuffer(1 << 20)
		raw, err := c.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { // more than net.core.rmem_max
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
			})
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
	return client, server
}

func (b *bed) exchange(client, server *net.UDPConn, text string) {
	b.t.Helper()
	if _, err := client.Write([]byte(text)); err != nil {
		b.t.Fatal(err)
	}
	b.expect(server, text)
}

func (b *bed) exchangeHeld(client, server *net.UDPConn, q driver, text string) {
	b.t.Helper()
	if _, err := client.Write([]byte(text)); err != nil {
		b.t.Fatal(err)
	}
	for _, p := range b.next(q) {
		b.verdict(q, p.ID, nil)
	}
	b.flush(q)
	b.expect(server, text)
}

func (b *bed) expect(server *net.UDPConn, text string) {
	b.t.Helper()
	buf := make([]byte, 100)
	n, err := server.Read(buf)
	if err != nil || string(buf[:n]) != text {
		b.t.Fatalf("read %q, %v; want %q", buf[:n], err, text)
	}
}

// count is how many datagrams have come.
func count(server *net.UDPConn) int {
	buf := make([]byte, 2048)
	for n := 0; ; n++ {
		server.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := server.Read(buf); err != nil {
			server.SetReadDeadline(time.Now().Add(20 * time.Second))
			return n
		}
	}
}

// tcpEcho sends data to a server that sends it back, and returns what came.
func (b *bed) tcpEcho(data []byte) []byte {
	b.t.Helper()
	at := netip.AddrPortFrom(b.addr, port).String()
	var l net.Listener
	var c net.Conn
	var err error
	b.server.Do(func() { l, err = net.Listen("tcp", at) })
	if err != nil {
		b.t.Fatal(err)
	}
	defer l.Close()
	go func() {
		s, err := l.Accept()
		if err != nil {
			return
		}
		defer s.Close()
		io.Copy(s, s)
	}()
	b.client.Do(func() { c, err = net.DialTimeout("tcp", at, 10*time.Second) })
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(60 * time.Second))
	go func() {
		c.Write(data)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil {
		b.t.Fatalf("after %d bytes: %v", len(got), err)
	}
	return got
}

// checksum puts the checksum of a TCP or UDP packet without IP options or extension headers right (RFC 9293 3.1,
// RFC 768, RFC 8200 8.1).
func checksum(p []byte) {
	header, proto, addrs := 20, p[9], p[12:20]
	if p[0]>>4 == 6 {
		header, proto, addrs = 40, p[6], p[8:40]
	}
	at := header + 16
	if proto == unix.IPPROTO_UDP {
		at = header + 6
	}
	p[at], p[at+1] = 0, 0
	sum := uint32(proto) + uint32(len(p)-header)
	for _, part := range [][]byte{addrs, p[header:]} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(part[i]) << 8
			if i+1 < len(part) {
				sum += uint32(part[i+1])
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(p[at:], ^uint16(sum))
}
