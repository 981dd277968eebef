package queue_test

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/packet"
	"github.com/cthelperd/cthelperd/queue"
)

// A datagram that has become longer than the next link takes it arrives over IPv4, in fragments, though its sender had
// forbidden to make them. Over IPv6 nobody may: that is why the engine leaves such a one as it is.
func TestGrown(t *testing.T) {
	client, router, server := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	netnstest.Veth(client, "c0", []string{"10.1.0.2/24", "fd01::2/64"}, router, "r0", []string{"10.1.0.1/24", "fd01::1/64"})
	netnstest.Veth(server, "s0", []string{"10.2.0.2/24", "fd02::2/64"}, router, "r1", []string{"10.2.0.1/24", "fd02::1/64"})
	router.Sysctl("net.ipv4.ip_forward", "1")
	router.Sysctl("net.ipv6.conf.all.forwarding", "1")
	client.Run("ip", "route", "add", "default", "via", "10.1.0.1")
	client.Run("ip", "-6", "route", "add", "default", "via", "fd01::1")
	for _, command := range []string{"iptables", "ip6tables"} {
		router.Run(command, "-t", "mangle", "-A", "POSTROUTING", "-p", "udp", "-j", "NFQUEUE", "--queue-num", "7")
	}
	var q driver
	var err error
	router.Do(func() { q, err = open(queue.Config{Number: number}) })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			packets, err := q.Receive()
			if err != nil {
				return
			}
			for _, p := range packets {
				var v packet.View
				var data []byte
				if v.Decode(p.Data) == nil {
					data, _ = v.Append(nil, packet.Change{Payload: append(bytes.Clone(v.Payload()), make([]byte, 200)...)})
				}
				if err := q.Verdict(p.ID, data); err != nil {
					t.Error(err)
				}
			}
			if err := q.Flush(); err != nil {
				t.Error(err)
			}
		}
	}()
	for _, tt := range []struct {
		name, to string
		size     int
		arrives  bool
	}{
		{"IPv4, it fits", "10.2.0.2:7007", 1000, true},
		{"IPv4", "10.2.0.2:7007", 1400, true},
		{"IPv6, it fits", "[fd02::2]:7007", 1000, true},
		{"IPv6", "[fd02::2]:7007", 1400, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(tt.to))
			var s *net.UDPConn
			var err error
			server.Do(func() { s, err = net.ListenUDP("udp", to) })
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			client.Do(func() {
				c, derr := net.DialUDP("udp", nil, to)
				if err = derr; err != nil {
					return
				}
				defer c.Close()
				if raw, rerr := c.SyscallConn(); rerr == nil && to.IP.To4() != nil {
					rerr = raw.Control(func(fd uintptr) {
						err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
					})
					if err == nil {
						err = rerr
					}
				}
				if err == nil {
					_, err = c.Write(bytes.Repeat([]byte("x"), tt.size))
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			wait := 5 * time.Second
			if !tt.arrives {
				wait = 300 * time.Millisecond
			}
			if err := s.SetReadDeadline(time.Now().Add(wait)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 9000)
			n, err := s.Read(b)
			if (err == nil) != tt.arrives || err == nil && n != tt.size+200 {
				t.Errorf("%d bytes arrive, error %v", n, err)
			}
		})
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	<-done
}
