package rules_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/rules"
	"github.com/cthelperd/cthelperd/queue"
)

const number = 9

// bed is client, firewall and server, joined by veth.
type bed struct {
	t                  *testing.T
	client, fw, server *netnstest.NS
}

var (
	clientAddr  = family{netip.MustParseAddr("10.78.1.2"), netip.MustParseAddr("fd78:1::2")}
	insideAddr  = family{netip.MustParseAddr("10.78.1.1"), netip.MustParseAddr("fd78:1::1")}
	outsideAddr = family{netip.MustParseAddr("10.78.2.1"), netip.MustParseAddr("fd78:2::1")}
	serverAddr  = family{netip.MustParseAddr("10.78.2.2"), netip.MustParseAddr("fd78:2::2")}
)

type family struct{ v4, v6 netip.Addr }

func (f family) of(v6 bool) netip.Addr {
	if v6 {
		return f.v6
	}
	return f.v4
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t, netnstest.New(t), netnstest.New(t), netnstest.New(t)}
	netnstest.Veth(b.client, "c", []string{"10.78.1.2/24", "fd78:1::2/64"}, b.fw, "inside", []string{"10.78.1.1/24", "fd78:1::1/64"})
	netnstest.Veth(b.server, "s", []string{"10.78.2.2/24", "fd78:2::2/64"}, b.fw, "outside", []string{"10.78.2.1/24", "fd78:2::1/64"})
	for _, v6 := range []bool{false, true} {
		b.client.Route(insideAddr.of(v6).String())
		b.server.Route(outsideAddr.of(v6).String())
	}
	b.fw.Sysctl("net.ipv4.ip_forward", "1")
	b.fw.Sysctl("net.ipv6.conf.all.forwarding", "1")
	return b
}

// nft loads a script at the firewall.
func (b *bed) nft(script string) {
	b.t.Helper()
	b.fw.Run("sh", "-c", "nft -f - <<'END'\n"+script+"\nEND")
}

const masquerade = `
table inet admin { chain nat { type nat hook postrouting priority 100; oifname "outside" masquerade; }; }`

const redirectToServer = `
table inet admin { chain nat { type nat hook prerouting priority -100;
	iifname "inside" meta nfproto ipv4 fib daddr type local dnat ip to 10.78.2.2
	iifname "inside" meta nfproto ipv6 fib daddr type local dnat ip6 to fd78:2::2
}; }`

// do runs f in the firewall's namespace; an error ends the test.
func (b *bed) do(what string, f func() error) {
	b.t.Helper()
	var err error
	b.fw.Do(func() { err = f() })
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

func (b *bed) install(cfg rules.Config) {
	b.t.Helper()
	b.do("install", func() error { return rules.Install(cfg) })
}

func (b *bed) open(f rules.Features) *queue.Queue {
	b.t.Helper()
	var q *queue.Queue
	b.do("open", func() error {
		var err error
		q, err = queue.Open(queue.Config{Number: number, Conntrack: f.Conntrack})
		return err
	})
	b.t.Cleanup(func() { q.Close() })
	return q
}

// record lets every packet go and keeps it.
func record(q *queue.Queue) <-chan queue.Packet {
	packets := make(chan queue.Packet, 1000)
	go func() {
		for {
			batch, err := q.Receive()
			if err != nil {
				return
			}
			for _, p := range batch {
				id := p.ID
				p.Data, p.Conntrack = bytes.Clone(p.Data), bytes.Clone(p.Conntrack)
				packets <- p
				q.Verdict(id, nil)
			}
			q.Flush()
		}
	}()
	return packets
}

func drain(packets <-chan queue.Packet) []queue.Packet {
	var all []queue.Packet
	for {
		select {
		case p := <-packets:
			all = append(all, p)
		case <-time.After(100 * time.Millisecond):
			return all
		}
	}
}

// echo serves an address at a namespace until the test ends.
func (b *bed) echo(n *netnstest.NS, at netip.AddrPort) {
	b.t.Helper()
	var l net.Listener
	var err error
	n.Do(func() { l, err = net.Listen("tcp", at.String()) })
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
}

// dial connects from a namespace and sends a line to and fro.
func dial(n *netnstest.NS, to netip.AddrPort) (c net.Conn, err error) {
	n.Do(func() { c, err = net.DialTimeout("tcp", to.String(), 2*time.Second) })
	if err != nil {
		return nil, err
	}
	return c, talk(c)
}

func talk(c net.Conn) error {
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	buf := make([]byte, 5)
	_, err := io.ReadFull(c, buf)
	return err
}

func (b *bed) connect(n *netnstest.NS, to netip.AddrPort) net.Conn {
	b.t.Helper()
	c, err := dial(n, to)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c
}

// seen is what the test looks at in a queued packet.
type seen struct {
	src, dst string
	syn, ack bool
}

func look(p queue.Packet) seen {
	var s seen
	at := 20
	if p.Data[0]>>4 == 4 {
		src, dst := netip.AddrFrom4([4]byte(p.Data[12:16])), netip.AddrFrom4([4]byte(p.Data[16:20]))
		s.src, s.dst = src.String(), dst.String()
	} else {
		at = 40
		src, dst := netip.AddrFrom16([16]byte(p.Data[8:24])), netip.AddrFrom16([16]byte(p.Data[24:40]))
		s.src, s.dst = src.String(), dst.String()
	}
	s.syn, s.ack = p.Data[at+13]&2 != 0, p.Data[at+13]&16 != 0
	return s
}

func probed(t *testing.T) rules.Features {
	t.Helper()
	netnstest.New(t) // fails or skips without root
	f, err := rules.Probe()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func ftp(f rules.Features) rules.Config {
	return rules.Config{
		Queue:    number,
		Helpers:  []rules.Helper{{Name: "ftp", Transport: helpers.TCP, Ports: []uint16{21, 2121}, Label: "cth-ftp"}},
		Features: f,
	}
}

func TestProbe(t *testing.T) {
	netnstest.New(t)
	home := func() string {
		s, err := os.Readlink("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := home()
	f, err := rules.Probe()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", f)
	if home() != before {
		t.Errorf("the process was in %s and is in %s", before, home())
	}
	// What was found must be what the kernel then accepts.
	for _, tt := range []struct {
		name string
		f    rules.Features
		want bool
	}{
		{"nft queue", rules.Features{NFTQueue: true}, f.NFTQueue},
		{"xt queue", rules.Features{XTQueue: true}, f.XTQueue},
		{"object", rules.Features{NFTQueue: f.NFTQueue, XTQueue: f.XTQueue, ExpectObject: true}, f.ExpectObject},
	} {
		netnstest.New(t).Do(func() { err = rules.Install(ftp(tt.f)) })
		if (err == nil) != tt.want {
			t.Errorf("%s: install says %v, Probe says %v", tt.name, err, tt.want)
		}
	}
	netnstest.New(t).Do(func() {
		q, err := queue.Open(queue.Config{Conntrack: true})
		if (err == nil) != f.Conntrack {
			t.Errorf("open with conntrack says %v, Probe says %v", err, f.Conntrack)
		}
		if err == nil {
			q.Close()
		}
	})
}

func TestNotPermitted(t *testing.T) {
	t.Parallel()
	f := probed(t)
	netnstest.New(t).Do(func() {
		done := make(chan struct{})
		go func() { // this thread alone becomes nobody, and ends with its goroutine
			defer close(done)
			runtime.LockOSThread()
			const nobody = 65534
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); e != 0 {
				t.Error(e)
				return
			}
			for name, do := range map[string]func() error{
				"install": func() error { return rules.Install(ftp(f)) },
				"remove":  rules.Remove,
				"clear":   rules.Clear,
				"look":    func() error { _, err := rules.Installed(); return err },
			} {
				if err := do(); !errors.Is(err, rules.ErrPermission) {
					t.Errorf("%s: %v, want ErrPermission", name, err)
				}
			}
		}()
		<-done
	})
}

// Behind NAT, in both directions: the packet's addresses are those of the far side.
func TestSeenBehindNAT(t *testing.T) {
	t.Parallel()
	f := probed(t)
	for _, tt := range []struct {
		name, script string
		to           family // whom the client addresses
		origSrc      family // what the queue sees
		origDst      family
		replySrc     family
		replyDst     family
	}{
		{"routed", "", serverAddr, clientAddr, serverAddr, serverAddr, clientAddr},
		{"masquerade", masquerade, serverAddr, outsideAddr, serverAddr, serverAddr, clientAddr},
		{"dnat", redirectToServer, insideAddr, clientAddr, serverAddr, insideAddr, clientAddr},
	} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, IPv6 %v", tt.name, v6), func(t *testing.T) {
				t.Parallel()
				b := newBed(t)
				if tt.script != "" {
					b.nft(tt.script)
				}
				b.install(ftp(f))
				packets := record(b.open(f))
				b.echo(b.server, netip.AddrPortFrom(serverAddr.of(v6), 21))
				b.connect(b.client, netip.AddrPortFrom(tt.to.of(v6), 21))
				var orig, reply int
				for i, p := range drain(packets) {
					s := look(p)
					if i == 0 && !(s.syn && s.ack) {
						t.Errorf("the first packet is %+v, want the SYN-ACK", s)
					}
					switch {
					case s.src == tt.origSrc.of(v6).String() && s.dst == tt.origDst.of(v6).String():
						orig++
					case s.src == tt.replySrc.of(v6).String() && s.dst == tt.replyDst.of(v6).String():
						reply++
					default:
						t.Errorf("packet %d is %+v", i, s)
					}
					if p.Hook != queue.HookPostrouting {
						t.Errorf("packet %d at hook %d", i, p.Hook)
					}
				}
				if orig < 2 || reply < 2 {
					t.Errorf("%d packets to the server, %d to the client, want 2 at least", orig, reply)
				}
			})
		}
	}
}

// Under NAT both ends keep their segments short; without they are as long as the wire allows.
func TestShortSegments(t *testing.T) {
	t.Parallel()
	f := probed(t)
	const short, header, most = 1000, 60, 1500 // header: of IPv6 and TCP
	for _, tt := range []struct {
		name, script string
		to           family
		nat          bool
	}{{"routed", "", serverAddr, false}, {"masquerade", masquerade, serverAddr, true}, {"dnat", redirectToServer, insideAddr, true}} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, IPv6 %v", tt.name, v6), func(t *testing.T) {
				t.Parallel()
				b := newBed(t)
				if tt.nat {
					b.nft(tt.script)
				}
				b.install(ftp(f))
				packets := record(b.open(f))
				b.echo(b.server, netip.AddrPortFrom(serverAddr.of(v6), 21))
				c := b.connect(b.client, netip.AddrPortFrom(tt.to.of(v6), 21))
				if _, err := c.Write(make([]byte, 20000)); err != nil {
					t.Fatal(err)
				}
				longest := map[bool]int{} // to the client
				for _, p := range drain(packets) {
					to := look(p).dst == clientAddr.of(v6).String()
					longest[to] = max(longest[to], len(p.Data))
				}
				for _, n := range longest {
					if tt.nat && n > short+header || !tt.nat && n < most {
						t.Errorf("the longest packets to and from the server have %v bytes", longest)
						break
					}
				}
			})
		}
	}
}

// The port that the server really has counts too.
func TestPortTranslation(t *testing.T) {
	t.Parallel()
	f := probed(t)
	for _, tt := range []struct {
		name       string
		dial, real uint16
	}{
		{"client's port is listed", 21, 3000},
		{"server's port is listed", 3000, 21},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.nft(fmt.Sprintf(`table ip admin { chain nat { type nat hook prerouting priority -100; tcp dport %d dnat to 10.78.2.2:%d; }; }`, tt.dial, tt.real))
			b.install(ftp(f))
			packets := record(b.open(f))
			b.echo(b.server, netip.AddrPortFrom(serverAddr.v4, tt.real))
			b.connect(b.client, netip.AddrPortFrom(serverAddr.v4, tt.dial))
			directions := map[string]int{}
			for _, p := range drain(packets) {
				directions[look(p).src]++
			}
			if directions["10.78.1.2"] < 2 || directions["10.78.2.2"] < 2 {
				t.Errorf("packets by source %v, want both directions", directions)
			}
		})
	}
}

func TestLocal(t *testing.T) {
	t.Parallel()
	f := probed(t)
	b := newBed(t)
	b.install(ftp(f))
	packets := record(b.open(f))
	t.Run("server at the firewall", func(t *testing.T) {
		b.echo(b.fw, netip.AddrPortFrom(insideAddr.v4, 21))
		b.connect(b.client, netip.AddrPortFrom(insideAddr.v4, 21))
		hooks := map[uint8]int{}
		for _, p := range drain(packets) {
			hooks[p.Hook]++
		}
		if hooks[queue.HookInput] < 2 || hooks[queue.HookPostrouting] < 2 {
			t.Errorf("packets by hook %v, want both directions", hooks)
		}
	})
	t.Run("over lo", func(t *testing.T) {
		to := netip.MustParseAddrPort("127.0.0.1:2121")
		b.echo(b.fw, to)
		b.connect(b.fw, to)
		for _, p := range drain(packets) {
			if p.Hook != queue.HookInput {
				t.Errorf("packet %+v at hook %d, want each once, in input", look(p), p.Hook)
			}
		}
	})
	t.Run("another port", func(t *testing.T) {
		b.echo(b.server, netip.AddrPortFrom(serverAddr.v4, 22))
		b.connect(b.client, netip.AddrPortFrom(serverAddr.v4, 22))
		if all := drain(packets); len(all) != 0 {
			t.Errorf("%d packets were queued, want none", len(all))
		}
	})
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	f := probed(t)
	for _, closed := range []bool{false, true} {
		t.Run(fmt.Sprintf("fail closed %v", closed), func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			cfg := ftp(f)
			cfg.FailClosed = closed
			b.install(cfg)
			b.echo(b.server, netip.AddrPortFrom(serverAddr.v4, 21))
			b.echo(b.server, netip.AddrPortFrom(serverAddr.v4, 22))
			b.connect(b.client, netip.AddrPortFrom(serverAddr.v4, 22))
			c, err := dial(b.client, netip.AddrPortFrom(serverAddr.v4, 21))
			if err == nil {
				c.Close()
			}
			if (err == nil) == closed {
				t.Errorf("connection: %v", err)
			}
		})
	}
}

func TestUDPFirstPacket(t *testing.T) {
	t.Parallel()
	f := probed(t)
	for _, tt := range []struct{ name, script string }{{"routed", ""}, {"masquerade", masquerade}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			if tt.script != "" {
				b.nft(tt.script)
			}
			b.install(rules.Config{
				Queue:    number,
				Helpers:  []rules.Helper{{Name: "sip", Transport: helpers.UDP, Ports: []uint16{5060}}},
				Features: f,
			})
			packets := record(b.open(f))
			at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(serverAddr.v4, 5060))
			var server, client *net.UDPConn
			var err error
			b.server.Do(func() { server, err = net.ListenUDP("udp", at) })
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			b.client.Do(func() { client, err = net.DialUDP("udp", nil, at) })
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			buf := make([]byte, 10)
			for range 2 {
				server.SetDeadline(time.Now().Add(2 * time.Second))
				client.SetDeadline(time.Now().Add(2 * time.Second))
				client.Write([]byte("x"))
				_, from, err := server.ReadFromUDPAddrPort(buf)
				if err != nil {
					t.Fatal(err)
				}
				server.WriteToUDPAddrPort([]byte("y"), from)
				if _, err := client.Read(buf); err != nil {
					t.Fatal(err)
				}
			}
			if got := len(drain(packets)); got != 4 {
				t.Errorf("%d datagrams queued, want 4", got)
			}
		})
	}
}

// What the object is for: a flow under NAT takes a sequence adjustment, and does not without it.
func TestSequenceAdjustment(t *testing.T) {
	t.Parallel()
	f := probed(t)
	if !f.ExpectObject {
		t.Skip("the kernel lacks ct expectation objects of size 0")
	}
	for _, object := range []bool{true, false} {
		for _, tt := range []struct {
			name, script string
			to           family
			local        bool
		}{
			{"masquerade", masquerade, serverAddr, false},
			{"dnat", redirectToServer, insideAddr, false},
			{"masquerade of a local client", `
table inet admin { chain nat { type nat hook postrouting priority 100;
	meta l4proto tcp meta nfproto ipv4 oifname "outside" snat ip to 10.78.2.1:4000-5000
	meta l4proto tcp meta nfproto ipv6 oifname "outside" snat ip6 to [fd78:2::1]:4000-5000
}; }`, serverAddr, true},
		} {
			for _, v6 := range []bool{false, true} {
				t.Run(fmt.Sprintf("object %v, %s, IPv6 %v", object, tt.name, v6), func(t *testing.T) {
					t.Parallel()
					b := newBed(t)
					b.nft(tt.script)
					cfg := ftp(f)
					cfg.Features.ExpectObject = object
					b.install(cfg)
					b.echo(b.server, netip.AddrPortFrom(serverAddr.of(v6), 21))
					n := b.client
					if tt.local {
						n = b.fw
					}
					c := b.connect(n, netip.AddrPortFrom(tt.to.of(v6), 21))
					local := c.LocalAddr().(*net.TCPAddr).AddrPort()
					orig := conntrack.Tuple{
						IP:    conntrack.IPTuple{SourceAddress: local.Addr(), DestinationAddress: tt.to.of(v6)},
						Proto: conntrack.ProtoTuple{Protocol: unix.IPPROTO_TCP, SourcePort: local.Port(), DestinationPort: 21},
					}
					var got conntrack.SequenceAdjust
					b.do("adjust", func() error {
						if err := adjust(orig); err != nil {
							return err
						}
						ct, err := conntrack.Dial(nil)
						if err != nil {
							return err
						}
						defer ct.Close()
						flow, err := ct.Get(conntrack.Flow{TupleOrig: orig})
						got = flow.SeqAdjOrig
						return err
					})
					if is := got.OffsetAfter == 8; is != object {
						t.Errorf("adjustment %+v is there: %v, want %v", got, is, object)
					}
				})
			}
		}
	}
}

// adjust sets a sequence adjustment of +8 in the original direction (CTA_SEQ_ADJ_ORIG).
func adjust(orig conntrack.Tuple) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	src, dst := uint16(1), uint16(2) // CTA_IP_V4_SRC, CTA_IP_V4_DST
	family := byte(unix.AF_INET)
	if orig.IP.SourceAddress.Is6() {
		src, dst, family = 3, 4, unix.AF_INET6
	}
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Nested(1, func(tuple *netlink.AttributeEncoder) error { // CTA_TUPLE_ORIG
		tuple.Nested(1, func(ip *netlink.AttributeEncoder) error {
			ip.Bytes(src, orig.IP.SourceAddress.AsSlice())
			ip.Bytes(dst, orig.IP.DestinationAddress.AsSlice())
			return nil
		})
		tuple.Nested(2, func(proto *netlink.AttributeEncoder) error {
			proto.Uint8(1, orig.Proto.Protocol)
			proto.Uint16(2, orig.Proto.SourcePort)
			proto.Uint16(3, orig.Proto.DestinationPort)
			return nil
		})
		return nil
	})
	ae.Nested(15, func(adj *netlink.AttributeEncoder) error { // CTA_SEQ_ADJ_ORIG
		adj.Uint32(1, 1000)
		adj.Uint32(2, 0)
		adj.Uint32(3, 8)
		return nil
	})
	data, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_CTNETLINK << 8, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append([]byte{family, 0, 0, 0}, data...),
	})
	return err
}

func TestPortZero(t *testing.T) {
	t.Parallel()
	f := probed(t)
	b := newBed(t)
	to := netip.AddrPortFrom(serverAddr.v4, 0)
	if _, err := dial(b.client, to); !errors.Is(err, unix.ECONNREFUSED) {
		t.Skipf("no way to send to port 0 from here: %v", err)
	}
	b.install(ftp(f))
	if _, err := dial(b.client, to); err == nil || errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connection to port 0: %v, want no answer", err)
	}
	entries := ""
	b.fw.Do(func() {
		ct, err := conntrack.Dial(nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ct.Close()
		flows, err := ct.Dump(nil)
		if err != nil {
			t.Error(err)
		}
		for _, fl := range flows {
			if fl.TupleOrig.Proto.Protocol == unix.IPPROTO_TCP && fl.Timeout > 20 {
				entries += fmt.Sprintln(fl.TupleOrig, fl.Timeout)
			}
		}
	})
	if entries != "" {
		t.Errorf("conntrack saw it:\n%s", entries)
	}
}

// A reload keeps what waits in the queue; Clear does too and stops the queueing; Remove takes all away.
func TestReload(t *testing.T) {
	t.Parallel()
	f := probed(t)
	b := newBed(t)
	b.install(ftp(f))
	q := b.open(f)
	b.echo(b.server, netip.AddrPortFrom(serverAddr.v4, 21))
	held := make(chan queue.Packet, 100)
	var hold, loose = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(loose)
		for {
			batch, err := q.Receive()
			if err != nil {
				return
			}
			for _, p := range batch {
				select {
				case <-hold:
					held <- p
				default:
					q.Verdict(p.ID, nil)
				}
			}
			q.Flush()
		}
	}()
	c := b.connect(b.client, netip.AddrPortFrom(serverAddr.v4, 21))
	close(hold)
	c.SetDeadline(time.Now().Add(5 * time.Second))
	for i, change := range []func() error{
		func() error { return rules.Install(ftp(f)) },
		func() error {
			cfg := ftp(f)
			cfg.Helpers = append(cfg.Helpers, rules.Helper{Name: "sip", Transport: helpers.UDP, Ports: []uint16{5060}})
			return rules.Install(cfg)
		},
		rules.Clear,
	} {
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		p := <-held
		b.do("change", change)
		if s, err := q.Stats(); err != nil || s.Kernel.Waiting == 0 {
			t.Errorf("change %d: %+v, %v: the packet does not wait any more", i, s, err)
		}
		pass := func(p queue.Packet) error { return errors.Join(q.Verdict(p.ID, nil), q.Flush()) }
		if err := pass(p); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 5)
		read := make(chan error)
		go func() { _, err := io.ReadFull(c, buf); read <- err }()
		for done := false; !done; { // what else belongs to this exchange: acknowledgements, the echo
			select {
			case p := <-held:
				pass(p)
			case err := <-read:
				if err != nil {
					t.Fatalf("change %d: %v", i, err)
				}
				done = true
			}
		}
		// One more acknowledgement may be on its way to the reader.
		s, err := q.Stats()
		for deadline := time.Now().Add(5 * time.Second); ; s, err = q.Stats() {
			for _, p := range drain(held) {
				pass(p)
			}
			if err != nil || s.Kernel.Waiting == 0 || time.Now().After(deadline) {
				break
			}
		}
		if err != nil || s.Unknown != 0 || s.Kernel.Waiting != 0 {
			t.Errorf("change %d: %+v, %v", i, s, err)
		}
	}
	if err := talk(c); err != nil {
		t.Errorf("after Clear: %v", err)
	}
	if all := drain(held); len(all) > 0 {
		t.Errorf("after Clear %d packets were queued", len(all))
	}
	q.Close()
	<-loose
}

// Only the own table is touched, and it is found, replaced and removed as a whole.
func TestBesideOthers(t *testing.T) {
	t.Parallel()
	f := probed(t)
	b := newBed(t)
	b.nft(masquerade + "\ntable ip cthelperd { chain mine { counter; }; }")
	others := func() string {
		return b.fw.Run("sh", "-c", "nft list table inet admin; nft list table ip cthelperd")
	}
	before := others()
	installed := func(want bool) {
		t.Helper()
		b.do("look", func() error {
			got, err := rules.Installed()
			if got != want {
				t.Errorf("installed %v, want %v", got, want)
			}
			return err
		})
	}
	installed(false)
	b.do("clear without a table", rules.Clear)
	b.do("remove without a table", rules.Remove)
	installed(false)
	b.install(ftp(f))
	installed(true)
	list := func() string { return b.fw.Run("sh", "-c", "nft list table inet cthelperd 2>/dev/null") }
	first := list()
	b.install(ftp(f))
	if diff := cmp.Diff(first, list()); diff != "" {
		t.Errorf("the second install made another table:\n%s", diff)
	}
	cfg := ftp(f)
	cfg.Features.NFTQueue, cfg.Features.XTQueue = !f.NFTQueue, !f.XTQueue
	if !f.NFTQueue || !f.XTQueue { // one of the two is missing here: the transaction fails as a whole
		b.fw.Do(func() {
			if err := rules.Install(cfg); err == nil {
				t.Error("a rule that the kernel does not have was installed")
			}
		})
		if diff := cmp.Diff(first, list()); diff != "" {
			t.Errorf("a failed install changed the table:\n%s", diff)
		}
	}
	b.fw.Run("sh", "-c", "nft delete table inet cthelperd; nft 'table inet cthelperd { chain input { type filter hook input priority 0; }; }'")
	b.install(ftp(f)) // a table with other hooks is replaced
	if diff := cmp.Diff(first, list()); diff != "" {
		t.Errorf("an older version's table was not replaced:\n%s", diff)
	}
	b.do("remove", rules.Remove)
	installed(false)
	if diff := cmp.Diff(before, others()); diff != "" {
		t.Errorf("other tables changed:\n%s", diff)
	}
}

func TestCounters(t *testing.T) {
	t.Parallel()
	f := probed(t)
	b := newBed(t)
	b.install(ftp(f))
	packets := record(b.open(f))
	b.echo(b.server, netip.AddrPortFrom(serverAddr.v4, 21))
	b.connect(b.client, netip.AddrPortFrom(serverAddr.v4, 21))
	n := uint64(len(drain(packets)))
	var queued uint64
	b.do("count", func() (err error) { queued, err = rules.Queued(); return err })
	if n == 0 || queued != n {
		t.Errorf("%d packets were counted, %d were queued", queued, n)
	}
	list := b.fw.Run("sh", "-c", "nft list chain inet cthelperd control 2>/dev/null")
	for line := range strings.Lines(list) {
		if strings.Contains(line, "ct original proto-dst") && strings.Contains(line, "counter packets 0 ") {
			t.Errorf("nothing was counted: %s", line)
		}
	}
	b.fw.Run("nft", "list", "ruleset") // whatever the target is, nft goes on working
	if !strings.Contains(list, `comment "ftp"`) {
		t.Errorf("no rule of ftp:\n%s", list)
	}
}

// Connections that an announcement led to are known by the helper of their master.
func TestAnnounced(t *testing.T) {
	t.Parallel()
	f := probed(t)
	const label = "RAS" // a helper of the kernel's own, as it has on a shadow master where there are no others
	for _, tt := range []struct {
		name  string
		label string
		want  bool
	}{
		{"this helper's", label, true},
		{"another's", "cth-other", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.install(rules.Config{
				Queue: number,
				Helpers: []rules.Helper{
					{Name: "child", Transport: helpers.TCP, Announced: tt.label},
					{Name: "unlike", Transport: helpers.TCP, Announced: "no such"},
				},
				Features: f,
			})
			packets := record(b.open(f))
			child := netip.AddrPortFrom(serverAddr.v4, 4711)
			b.do("expect", func() error {
				ct, err := conntrack.Dial(nil)
				if err != nil {
					return err
				}
				defer ct.Close()
				tuple := func(src, dst netip.Addr, proto uint8, sport, dport uint16) conntrack.Tuple {
					return conntrack.Tuple{
						IP:    conntrack.IPTuple{SourceAddress: src, DestinationAddress: dst},
						Proto: conntrack.ProtoTuple{Protocol: proto, SourcePort: sport, DestinationPort: dport},
					}
				}
				master := conntrack.Flow{
					TupleOrig:  tuple(clientAddr.v4, serverAddr.v4, unix.IPPROTO_UDP, 1719, 0),
					TupleReply: tuple(serverAddr.v4, clientAddr.v4, unix.IPPROTO_UDP, 0, 1719),
					Timeout:    60,
					Status:     conntrack.StatusConfirmed | conntrack.StatusSeenReply | conntrack.StatusAssured,
					Helper:     conntrack.Helper{Name: label + "\x00"},
				}
				if err := ct.Create(master); err != nil {
					return fmt.Errorf("shadow master: %w", err)
				}
				all := netip.MustParseAddr("255.255.255.255")
				return ct.CreateExpect(conntrack.Expect{
					Timeout:     60,
					TupleMaster: master.TupleOrig,
					Tuple:       tuple(clientAddr.v4, serverAddr.v4, unix.IPPROTO_TCP, 0, child.Port()),
					Mask:        tuple(all, all, unix.IPPROTO_TCP, 0, 65535),
				})
			})
			b.echo(b.server, child)
			b.connect(b.client, child)
			if n := len(drain(packets)); (n >= 4) != tt.want || (n > 0) != tt.want {
				t.Errorf("%d packets were queued, want them queued: %v", n, tt.want)
			}
			b.connect(b.client, child) // the expectation is used up: an ordinary connection
			if n := len(drain(packets)); n > 0 {
				t.Errorf("%d packets of a connection that nobody announced were queued", n)
			}
		})
	}
}

// Packets of other connections, announced ones among them, are let go by the first rules that see them.
func TestGate(t *testing.T) {
	t.Parallel()
	f := probed(t)
	b := newBed(t)
	b.install(several(f))
	record(b.open(f))
	b.fw.Run("nft", "insert rule inet cthelperd control counter comment \"reached\"")
	reached := func() bool {
		list := b.fw.Run("sh", "-c", "nft list chain inet cthelperd control 2>/dev/null")
		for line := range strings.Lines(list) {
			if strings.Contains(line, `comment "reached"`) {
				return !strings.Contains(line, "packets 0 ")
			}
		}
		t.Fatalf("no counter:\n%s", list)
		return false
	}
	for _, tt := range []struct {
		port    uint16
		reached bool
	}{{22, false}, {30000, false}, {2121, true}} {
		at := netip.AddrPortFrom(serverAddr.v4, tt.port)
		b.echo(b.server, at)
		b.connect(b.client, at)
		if reached() != tt.reached {
			t.Errorf("port %d: packets came to chain control: %v", tt.port, !tt.reached)
		}
	}
}
