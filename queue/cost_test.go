package queue_test

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/queue"
)

// cost is a queue at the loopback device of a namespace, and a socket whose datagrams go through it.
type cost struct {
	tb   testing.TB
	q    driver
	send func()
}

func newCost(tb testing.TB, open func(queue.Config) (driver, error)) *cost {
	tb.Helper()
	n := netnstest.New(tb)
	n.Run("sh", "-c", `nft 'add table ip t; add chain ip t c { type filter hook input priority 0; }; add rule ip t c udp dport 7007 queue num 7 bypass' 2>/dev/null ||
		iptables -w -t mangle -A INPUT -p udp --dport 7007 -j NFQUEUE --queue-num 7 --queue-bypass`)
	c := &cost{tb: tb}
	var err error
	var server net.PacketConn
	var fd int
	n.Do(func() {
		if c.q, err = open(queue.Config{Number: 7, Length: 1 << 20, FailOpen: true, ReadBuffer: 64 << 20}); err != nil {
			return
		}
		if server, err = net.ListenPacket("udp", "127.0.0.1:7007"); err != nil {
			return
		}
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: 7007, Addr: [4]byte{127, 0, 0, 1}})
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.q.Close(); server.Close(); unix.Close(fd) })
	text := []byte("a line of a control connection, usual length\r\n")
	c.send = func() {
		if _, err := unix.Write(fd, text); err != nil {
			tb.Fatal(err)
		}
	}
	return c
}

// pass lets n packets go on; those for which change says so with their own content.
func (c *cost) pass(n int, change func(id uint32) bool) {
	for n > 0 {
		packets, err := c.q.Receive()
		if err != nil {
			c.tb.Fatal(err)
		}
		for i := range packets {
			p := &packets[i]
			var data []byte
			if change(p.ID) {
				data = p.Data
			}
			if err := c.q.Verdict(p.ID, data); err != nil {
				c.tb.Fatal(err)
			}
		}
		if err := c.q.Flush(); err != nil {
			c.tb.Fatal(err)
		}
		n -= len(packets)
	}
}

func TestQueueDoesNotAllocate(t *testing.T) {
	never := func(uint32) bool { return false }
	for _, tt := range []struct {
		name   string
		change func(uint32) bool
	}{
		{"accepted", never}, {"every third changed", func(id uint32) bool { return id%3 == 0 }},
	} {
		c := newCost(t, open)
		c.send()
		c.pass(1, tt.change)
		if n := testing.AllocsPerRun(100, func() {
			for range 100 {
				c.send()
			}
			c.pass(100, tt.change)
		}); n > 0 {
			t.Errorf("%s: %v allocations for 100 packets", tt.name, n)
		}
		if s, err := c.q.Stats(); err != nil || s.Verdicts != s.Received || s.Received < 10000 || s.Failed+s.Refused+s.Unknown > 0 {
			t.Errorf("%s: %+v, %v", tt.name, s, err)
		}
	}
}

// BenchmarkAccept is what a packet costs from Receive to Flush, the kernel's part included: the packets are there before
// the clock starts. cpu-ns/op counts all threads, which for the reference are several.
func BenchmarkAccept(b *testing.B) {
	for _, bb := range []struct {
		name string
		open func(queue.Config) (driver, error)
	}{{"own", open}, {"go-nfqueue", openReference}} {
		b.Run(bb.name, func(b *testing.B) {
			const most = 10000
			c := newCost(b, bb.open)
			var used time.Duration
			b.ReportAllocs()
			b.ResetTimer()
			for left := b.N; left > 0; {
				n := min(left, most)
				b.StopTimer()
				for range n {
					c.send()
				}
				before := cpu(b)
				b.StartTimer()
				c.pass(n, func(uint32) bool { return false })
				used += cpu(b) - before
				left -= n
			}
			b.ReportMetric(float64(used.Nanoseconds())/float64(b.N), "cpu-ns/op")
			s, err := c.q.Stats()
			if err != nil || s.Verdicts != uint64(b.N) || s.Overruns+s.Kernel.Dropped+s.Kernel.UserDropped+s.Unknown > 0 {
				b.Errorf("%+v, %v; want %d verdicts and no loss", s, err, b.N)
			}
		})
	}
}

// cpu is the processor time that this process has used.
func cpu(tb testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
