package daemon_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// exact has the server say what it gets: all bytes arrive, and no others, in both directions.
func (c *ftpClient) exact(text string) error {
	c.t.Helper()
	c.say("%s", text)
	return c.hears(fmt.Sprintf("500 what is %q?\r\n", text))
}

func (c *ftpClient) hears(want string) error {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(patience))
	line, err := c.in.ReadString('\n')
	if err == nil && line != want {
		err = fmt.Errorf("the server says %q, want %q", line, want)
	}
	return err
}

// pasv gets the file by PASV, whose answer has an address.
func (c *ftpClient) pasv() error {
	c.t.Helper()
	c.say("PASV")
	_, rest, _ := strings.Cut(c.expect("227"), "(")
	list, _, _ := strings.Cut(rest, ")")
	n := strings.Split(list, ",")
	var high, low int
	if _, err := fmt.Sscanf(strings.Join(n[4:], " "), "%d %d", &high, &low); err != nil {
		c.t.Fatal(err)
	}
	return c.read(fmt.Sprintf("%s:%d", strings.Join(n[:4], "."), high<<8+low))
}

// flushBeds are the kinds of firewall in which the connection table is emptied.
var flushBeds = []struct {
	name string
	bed  func(t *testing.T) *bed
	// address that the client connects to
	server string
	// what is announced is rewritten, with another length
	longer string
}{
	{"routed", func(t *testing.T) *bed { return newBed(t, false) }, control, ""},
	{"masquerade", func(t *testing.T) *bed { return newBed(t, true) }, control, "the client's"},
	{"masquerade, equal lengths", func(t *testing.T) *bed { return newBedAt(t, true, "10.2.0.1") }, control, ""},
	{"dnat", newPublishedBed, published, "the server's"},
	{"masquerade, IPv6", newBed6, control6, "the client's"},
}

const published = "10.1.0.101:21"

// newPublishedBed has the server behind an address of the firewall's that is longer than its own.
func newPublishedBed(t *testing.T) *bed {
	b := newBed(t, false)
	b.firewall.Run("ip", "address", "add", "10.1.0.101/24", "dev", "inside")
	b.firewall.Run("nft", `table ip nat {
	chain prerouting {
		type nat hook prerouting priority -100
		ip daddr 10.1.0.101 tcp dport 21 dnat to 10.2.0.2
	}
}`)
	return b
}

const control6 = "[fd02::2]:21"

// newBed6 masquerades IPv6 by an address that is longer than the client's.
func newBed6(t *testing.T) *bed {
	b := newBed(t, true)
	b.firewall.Sysctl("net.ipv6.conf.all.forwarding", "1")
	b.client.Run("ip", "address", "add", "fd01::2/64", "dev", "c", "nodad")
	b.firewall.Run("ip", "address", "add", "fd01::1/64", "dev", "inside", "nodad")
	b.firewall.Run("ip", "address", "add", "fd02::1234:5678/64", "dev", "outside", "nodad")
	b.server.Run("ip", "address", "add", "fd02::2/64", "dev", "s", "nodad")
	b.client.Run("ip", "route", "add", "fd02::/64", "via", "fd01::1")
	b.firewall.Run("nft", `table ip6 nat { chain postrouting { type nat hook postrouting priority 100; oif "outside" masquerade; }; }`)
	b.ftp = newFTPServer(t, b.server, control6)
	return b
}

// Somebody empties the connection table in the middle of a session, again and again. What conntrack then takes for a new
// connection goes on with every byte in its place, also if the lengths of announcements were changed before: neither the
// next line nor the next announcement tells a difference.
func TestConntrackFlushed(t *testing.T) {
	t.Parallel()
	for _, tt := range flushBeds {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := tt.bed(t)
			d := b.run()
			connect := func() *ftpClient { return newFTPClient(t, b.client, tt.server) }
			c, idle, busy := connect(), connect(), connect()
			passive, active := c.passive, c.active
			if tt.longer == "the server's" {
				passive = c.pasv
			}
			for range 2 { // two lengths change
				b.works("passive before", passive)
				b.works("active before", active)
				b.works("active before, on another connection", busy.active)
			}
			if tt.longer != "" {
				b.adjusted(true)
			}
			pending := c.epsv()
			b.firewall.Run("conntrack", "-F")
			b.fails("what was announced before", func() error { return c.read(pending) })
			for i, first := range []func() error{
				nil, func() error { return c.exact("NOOQ") }, active, passive, func() error { return c.exact("a longer line") }, active,
			} {
				if first != nil {
					b.firewall.Run("conntrack", "-F")
					b.works(fmt.Sprintf("the first line after flush %d", i), first)
				}
				b.works(fmt.Sprintf("a line after flush %d", i), func() error { return c.exact(fmt.Sprintf("line %d", i)) })
				if tt.longer != "" {
					b.adjusted(false)
				}
				b.works(fmt.Sprintf("passive after flush %d", i), passive)
				b.works(fmt.Sprintf("active after flush %d", i), active)
			}
			b.works("a line on one that was silent during all flushes", func() error { return busy.exact("NOOQ") })
			b.works("active on it", busy.active)
			b.works("passive on one that has said nothing yet", idle.passive)
			b.works("active on one that has said nothing yet", idle.active)
			b.works("passive on a new connection", connect().passive)
			d.stop()
			b.wants("after the end", left{})
		})
	}
}

// The server is the first to speak after somebody has emptied the connection table. Its line is in no connection: under NAT
// nobody translates it, it must not make the firewall or the client answer by a RST, nor an entry that is in the way. It is
// repeated, and arrives when the client has spoken.
func TestConntrackFlushedServerFirst(t *testing.T) {
	t.Parallel()
	for _, tt := range flushBeds {
		for _, open := range []bool{false, true} {
			if open && tt.longer == "" {
				continue // see THREATS.md
			}
			t.Run(fmt.Sprintf("%s, the server may connect: %v", tt.name, open), func(t *testing.T) {
				t.Parallel()
				b := tt.bed(t)
				b.firewall.Run("nft", "insert rule inet filter forward tcp flags & (syn|rst) == 0 ct state new tcp sport 21 "+
					map[bool]string{false: "drop", true: "accept"}[open])
				d := b.run()
				c := newFTPClient(t, b.client, tt.server)
				active, passive := c.active, c.passive
				if tt.longer == "the server's" {
					passive = c.pasv
				}
				b.works("active before", active)
				b.works("passive before", passive)
				for range 2 {
					c.say("LATE")
					c.acknowledged()
					b.firewall.Run("conntrack", "-F")
					b.ftp.late <- struct{}{}
					c.conn.SetReadDeadline(time.Now().Add(time.Second))
					if line, err := c.in.ReadString('\n'); err == nil {
						t.Errorf("the server's line %q arrives", line)
					}
					c.say("NOOQ")
					b.works("the server's line", func() error { return c.hears("200 late\r\n") })
					b.works("the answer", func() error { return c.hears("500 what is \"NOOQ\"?\r\n") })
					b.works("a line", func() error { return c.exact("XYZ") })
					b.works("active", active)
					b.works("passive", passive)
				}
				stray := d.counters()["stray"]
				if untranslated := open || strings.HasPrefix(tt.name, "masquerade"); stray > 0 != untranslated {
					t.Errorf("%d packets were dropped, want some: %v", stray, untranslated)
				}
				d.stop()
			})
		}
	}
}

// Packets wait in the queue while somebody empties the connection table: the kernel goes on moving the numbers of those that
// belong to an entry that is gone, and of no others. No byte gets lost, or into a wrong place.
func TestConntrackFlushedWhileQueued(t *testing.T) {
	t.Parallel()
	for _, tt := range flushBeds {
		if tt.longer == "" {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := tt.bed(t)
			d := b.run()
			c := newFTPClient(t, b.client, tt.server)
			active, passive := c.active, c.passive
			if tt.longer == "the server's" {
				passive = c.pasv
			}
			for i := range 3 {
				b.works("active", active)
				b.works("passive", passive)
				c.acknowledged()
				d.pause()
				c.say("line %d", i)
				for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
					if waiting, _ := b.queue(); waiting > 0 {
						break
					}
					if time.Now().After(deadline) {
						t.Fatal("nothing is queued")
					}
				}
				b.firewall.Run("conntrack", "-F")
				d.signal(unix.SIGCONT)
				b.works("the line", func() error { return c.hears(fmt.Sprintf("500 what is \"line %d\"?\r\n", i)) })
				b.works("another", func() error { return c.exact("another") })
			}
			b.works("active", active)
			b.works("passive", passive)
			d.stop()
		})
	}
}

// acknowledged waits until the server has acknowledged all.
func (c *ftpClient) acknowledged() {
	c.t.Helper()
	raw, err := c.conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		c.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		var info *unix.TCPInfo
		e := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		switch {
		case e != nil || err != nil:
			c.t.Fatal(e, err)
		case info.Unacked == 0:
			return
		case time.Now().After(deadline):
			c.t.Fatal("the server does not acknowledge")
		}
	}
}

// adjusted checks that the kernel adjusts numbers of a control connection; unless it is to do so now, it may take a while.
func (b *bed) adjusted(now bool) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		n := 0
		b.nfnl(func(c *nfnl.Conn) error {
			return c.Connections(unix.AF_UNSPEC, func(f *nfnl.Connection) {
				if f.Adjust != [2]nfnl.SeqAdj{} {
					n++
				}
			})
		})
		if n > 0 {
			return
		}
		if now || time.Now().After(deadline) {
			b.t.Fatal("the kernel adjusts no numbers")
		}
	}
}
