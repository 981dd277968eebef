package flows_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// TestReplaceBeforeLateSegment: the first that comes after Replace ends below what was sent and acknowledged long ago. The
// answer acknowledges what the new entry has not seen. It must be translated all the same: else it reaches the host that
// translates, which knows of no such connection and resets it.
func TestReplaceBeforeLateSegment(t *testing.T) {
	for _, tt := range []struct {
		name string
		late func(a, b *netnstest.NS, orig helpers.Tuple, next, comes uint32) error
	}{
		{"a copy", func(a, _ *netnstest.NS, orig helpers.Tuple, next, comes uint32) (err error) {
			a.Do(func() { err = sendSegment(orig, next-10, comes, "hello") })
			return err
		}},
		// Both ends have been silent for as long, so their timers fire at the same time. The server's answer is first.
		{"keep-alives of both ends", func(a, b *netnstest.NS, orig helpers.Tuple, next, comes uint32) (err error) {
			a.Run("nft", `table ip answers {
	chain output {
		type filter hook output priority -400;
		tcp dport 2100 meta mark != 1 drop
	}
}`)
			defer a.Run("nft", "delete table ip answers")
			back := helpers.Tuple{Src: orig.Dst, Dst: netip.MustParseAddrPort("192.0.2.3:40000")}
			b.Do(func() { err = sendSegment(back, comes-1, next, "") })
			if err == nil {
				a.Do(func() { err = sendSegment(orig, next-1, comes, "") })
			}
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := netnstest.New(t), netnstest.New(t)
			netnstest.Veth(a, "a", []string{"192.0.2.1/24", "192.0.2.3/24"}, b, "b", []string{"192.0.2.2/24"})
			a.Run("nft", `table ip t {
	chain source {
		type nat hook postrouting priority 100;
		tcp dport 2100 snat to 192.0.2.3:40000
	}
}`)
			a.Sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0")
			one, two := connected(t, a, b, "192.0.2.2:2100", "192.0.2.2:2100")
			said := func(when string) {
				t.Helper()
				got := make([]byte, 10)
				_, err := one.Write([]byte("hellohello"))
				two.SetReadDeadline(time.Now().Add(5 * time.Second))
				if n, e := io.ReadFull(two, got); err != nil || string(got[:n]) != "hellohello" {
					t.Fatalf("%s: %q, %v, %v", when, got[:n], err, e)
				}
			}
			said("before")
			next, comes := numbers(t, one)
			before := resets(t, a)
			orig := helpers.Tuple{Src: one.LocalAddr().(*net.TCPAddr).AddrPort(), Dst: one.RemoteAddr().(*net.TCPAddr).AddrPort()}
			var err error
			a.Do(func() { err = replace(orig) })
			if err == nil {
				err = tt.late(a, b, orig, next, comes)
			}
			if err != nil {
				t.Fatal(err)
			}
			two.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			if n, err := two.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the other end reads %d bytes, %v", n, err)
			}
			if n := resets(t, a) - before; n != 0 {
				t.Errorf("the host that translates sent %d RST", n)
			}
			said("after")
		})
	}
}

func replace(orig helpers.Tuple) error {
	table, err := flows.Open()
	if err != nil {
		return err
	}
	defer table.Close()
	f, err := table.Get(helpers.TCP, orig, 0)
	if err != nil {
		return err
	}
	return table.Replace(&f)
}

// numbers are the sequence number of c's next byte, and of the next one that comes (tcp(7), TCP_REPAIR).
func numbers(t *testing.T, c net.Conn) (next, comes uint32) {
	t.Helper()
	const (
		repairOn, repairOff = 1, -1 // no probe of the window at the end
		recvQueue           = 1
		sendQueue           = 2
	)
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	set := func(fd uintptr, option, value int) {
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option, value); err != nil && failed == nil {
			failed = err
		}
	}
	get := func(fd uintptr, queue int) uint32 {
		set(fd, unix.TCP_REPAIR_QUEUE, queue)
		n, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
		if err != nil && failed == nil {
			failed = err
		}
		return uint32(n)
	}
	err = raw.Control(func(fd uintptr) {
		set(fd, unix.TCP_REPAIR, repairOn)
		next, comes = get(fd, sendQueue), get(fd, recvQueue)
		set(fd, unix.TCP_REPAIR, repairOff)
	})
	if err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return next, comes
}

// sendSegment sends a segment with ACK as if the connection's own socket did, with mark 1.
func sendSegment(orig helpers.Tuple, seq, ack uint32, data string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1); err != nil {
		return err
	}
	const ip, tcp, ackFlag = 20, 20, 0x10
	p := make([]byte, ip+tcp, ip+tcp+len(data)+1)
	src, dst := orig.Src.Addr().As4(), orig.Dst.Addr().As4()
	p[0], p[8], p[9] = 4<<4|ip/4, 64, unix.IPPROTO_TCP // the kernel fills in length and checksum
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	s := p[ip:]
	binary.BigEndian.PutUint16(s, orig.Src.Port())
	binary.BigEndian.PutUint16(s[2:], orig.Dst.Port())
	binary.BigEndian.PutUint32(s[4:], seq)
	binary.BigEndian.PutUint32(s[8:], ack)
	s[12], s[13] = tcp/4<<4, ackFlag
	binary.BigEndian.PutUint16(s[14:], 0x100) // a window
	p = append(p, data...)
	sum := uint32(unix.IPPROTO_TCP) + uint32(len(p)-ip)
	for i, c := range p[12:] { // addresses and segment
		sum += uint32(c) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(s[16:], ^uint16(sum))
	return unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: dst})
}

// resets is how many RST the namespace has sent (RFC 4022, tcpOutRsts).
func resets(t *testing.T, n *netnstest.NS) (sent int) {
	t.Helper()
	var names, values []string
	for line := range strings.Lines(n.Run("cat", "/proc/thread-self/net/snmp")) {
		if strings.HasPrefix(line, "Tcp:") {
			names, values = values, strings.Fields(line)
		}
	}
	i := slices.Index(names, "OutRsts")
	if i < 0 || i >= len(values) {
		t.Fatalf("no counter of RST in %v %v", names, values)
	}
	sent, err := strconv.Atoi(values[i])
	if err != nil {
		t.Fatal(err)
	}
	return sent
}
