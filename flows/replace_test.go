package flows_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// oldRules translate connections to port 2100 in their sources and those to port 2101 in their destinations, and drop
// what conntrack does not know. Each connection has zone, mark and labels.
const oldRules = `table inet t {
	chain raw {
		type filter hook output priority -300;
		ct zone set 5
	}
	chain raw_in {
		type filter hook prerouting priority -300;
		ct zone set 5
	}
	chain mangle {
		type filter hook output priority -150;
		ct state new ct mark set 0x1234
		ct state new ct label set 3
	}
	chain destination {
		type nat hook output priority -100;
		ip daddr 192.0.2.9 dnat ip to 192.0.2.2
		ip6 daddr 2001:db8::9 dnat ip6 to 2001:db8::2
	}
	chain source {
		type nat hook postrouting priority 100;
		ip daddr 192.0.2.2 tcp dport 2100 snat ip to 192.0.2.3:40000
		ip6 daddr 2001:db8::2 tcp dport 2100 snat ip6 to [2001:db8::3]:40000
	}
	chain comes {
		type filter hook input priority 0; policy drop;
		ct state established accept
		meta l4proto ipv6-icmp accept
	}
	chain goes {
		type filter hook output priority 0; policy drop;
		ct state established accept
		tcp dport { 2100, 2101 } ct state new accept
		meta l4proto ipv6-icmp accept
	}
}
`

// TestReplace gives connections that a rule set without us has begun new entries: they go on, as they were, and the
// kernel can adjust their numbers.
func TestReplace(t *testing.T) {
	for _, tt := range []struct{ name, to, listen string }{
		{"source IPv4", "192.0.2.2:2100", "192.0.2.2:2100"},
		{"source IPv6", "[2001:db8::2]:2100", "[2001:db8::2]:2100"},
		{"destination IPv4", "192.0.2.9:2101", "192.0.2.2:2101"},
		{"destination IPv6", "[2001:db8::9]:2101", "[2001:db8::2]:2101"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := netnstest.New(t), netnstest.New(t)
			netnstest.Veth(a, "a", []string{"192.0.2.1/24", "192.0.2.3/24", "2001:db8::1/64", "2001:db8::3/64"},
				b, "b", []string{"192.0.2.2/24", "2001:db8::2/64"})
			a.Run("nft", oldRules)
			a.Sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0")
			a.Sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")
			one, two := connected(t, a, b, tt.to, tt.listen)
			echo := func(when string) {
				t.Helper()
				for range 3 {
					for _, c := range []struct{ from, to net.Conn }{{one, two}, {two, one}} {
						got := make([]byte, 5)
						c.from.Write([]byte("hello"))
						c.to.SetReadDeadline(time.Now().Add(5 * time.Second))
						if n, err := c.to.Read(got); err != nil || string(got[:n]) != "hello" {
							t.Fatalf("%s: %q, %v", when, got[:n], err)
						}
					}
				}
			}
			echo("before")
			var err error
			a.Do(func() { err = replaced(t, one, tt.to) })
			if err != nil {
				t.Fatal(err)
			}
			echo("after")
			one.(*net.TCPConn).CloseWrite()
			two.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := two.Read(make([]byte, 1)); err == nil || errors.Is(err, unix.ETIMEDOUT) {
				t.Errorf("the end does not arrive: %v", err)
			}
		})
	}
}

// replaced checks what the table says of a connection before and after Replace.
func replaced(t *testing.T, c net.Conn, to string) error {
	conn, err := nfnl.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	table, err := flows.Open()
	if err != nil {
		return err
	}
	defer table.Close()
	orig := helpers.Tuple{Src: c.LocalAddr().(*net.TCPAddr).AddrPort(), Dst: netip.MustParseAddrPort(to)}
	tuple := nfnl.Tuple{
		Src: orig.Src.Addr(), SrcPort: orig.Src.Port(), Dst: orig.Dst.Addr(), DstPort: orig.Dst.Port(), Proto: unix.IPPROTO_TCP,
	}
	const zone = 5
	before, err := conn.Get(tuple, zone)
	if err != nil {
		return err
	}
	f, err := table.Get(helpers.TCP, orig, zone)
	if err != nil {
		return err
	}
	if !f.Translated() {
		t.Errorf("%+v is not translated", f)
	}
	if ok, err := table.Adjustable(&f); err != nil || ok {
		t.Errorf("before: adjustable %v, %v: nothing is tested", ok, err)
	}
	if err := table.Replace(&f); err != nil {
		return err
	}
	after, err := conn.Get(tuple, zone)
	if err != nil {
		return err
	}
	const translated = nfnl.StatusSrcNAT | nfnl.StatusDstNAT
	switch {
	case after.Orig != before.Orig || after.Reply != before.Reply:
		t.Errorf("tuples %v %v, want %v %v", after.Orig, after.Reply, before.Orig, before.Reply)
	case after.Mark != before.Mark || before.Mark != 0x1234:
		t.Errorf("mark %#x, it was %#x", after.Mark, before.Mark)
	case after.Labels != before.Labels || before.Labels == [16]byte{}:
		t.Errorf("labels %x, they were %x", after.Labels, before.Labels)
	case after.Status&translated != before.Status&translated || before.Status&translated == 0:
		t.Errorf("status %#x, it was %#x", after.Status, before.Status)
	case after.TCPScale != before.TCPScale || before.TCPScale == [2]uint8{}:
		t.Errorf("window scales %v, they were %v", after.TCPScale, before.TCPScale)
	case after.State != before.State || after.Timeout+5 < before.Timeout:
		t.Errorf("state %d for %d s, it was %d for %d s", after.State, after.Timeout, before.State, before.Timeout)
	}
	if ok, err := table.Adjustable(&f); err != nil || !ok {
		t.Errorf("after: adjustable %v, %v", ok, err)
	}
	gone := f
	gone.Orig.Src = netip.AddrPortFrom(gone.Orig.Src.Addr(), 1)
	if err := table.Replace(&gone); !errors.Is(err, flows.ErrNotFound) {
		t.Errorf("one that is not there: %v, want ErrNotFound", err)
	}
	turned := f
	turned.Orig = f.Reply
	if err := table.Replace(&turned); !errors.Is(err, flows.ErrNotReplaceable) {
		t.Errorf("by its other tuple: %v, want ErrNotReplaceable", err)
	}
	return nil
}

// connected is a TCP connection from a to b.
func connected(t *testing.T, a, b *netnstest.NS, to, listen string) (one, two net.Conn) {
	t.Helper()
	var l net.Listener
	var err error
	b.Do(func() { l, err = net.Listen("tcp", listen) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a.Do(func() { one, err = net.DialTimeout("tcp", to, 5*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { one.Close() })
	l.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Second))
	if two, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { two.Close() })
	return one, two
}
