package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSamePort: two clients behind one address announce the same port, and both get what they asked for.
func TestSamePort(t *testing.T) {
	t.Parallel()
	s := newSite(t, masquerade)
	s.serve(serverKinds[0], 21, false)
	second := netip.MustParseAddr("10.1.0.3")
	s.client.Run("ip", "addr", "add", second.String()+"/24", "dev", "c")
	s.firewall.Run("ip", "neigh", "replace", second.String(), "lladdr", "02:00:00:00:01:02", "dev", "inside", "nud", "permanent")
	d := s.daemon()
	const port = 40001
	one, two := s.login(t, ipv4.client(), 21), s.login(t, second, 21)
	l1, l2 := one.listen(port), two.listen(port)
	one.ask(200, strings.TrimSpace(portCommand(endPoint(l1))))
	two.ask(200, strings.TrimSpace(portCommand(endPoint(l2)))) // both are announced before one is used
	d.says(fmt.Sprintf("at=%s:%d ", ipv4.outside(), port), 1)
	d.says(fmt.Sprintf("at=%s:%d ", ipv4.outside(), port+1), 1)
	if err := two.fetch(l2); err != nil {
		t.Errorf("the second client: %v", err)
	}
	if err := one.fetch(l1); err != nil {
		t.Errorf("the first client: %v", err)
	}
	d.stop()
}

// TestLengths: rewrites in one connection, longer in one direction, shorter in the other, in turn.
func TestLengths(t *testing.T) {
	t.Parallel()
	s := newSite(t, bothWays)
	s.serve(serverKinds[0], 21, false)
	d := s.daemon()
	c := s.login(t, ipv4.client(), 21)
	for i := range 6 {
		l := c.listen(uint16(40000 + 7*i))
		c.ask(200, strings.TrimSpace(portCommand(endPoint(l))))
		if err := c.fetch(l); err != nil {
			t.Fatalf("active, %d: %v", i, err)
		}
		if err := c.fetchPassive(); err != nil {
			t.Fatalf("passive, %d: %v", i, err)
		}
	}
	d.stop() // all is written then
	for _, dir := range []string{"orig", "reply"} {
		n := 0
		for line := range strings.Lines(d.out.String()) {
			if strings.Contains(line, "msg=edit ") && strings.Contains(line, " dir="+dir) {
				n++
			}
		}
		if n < 6 {
			t.Errorf("%d edits of direction %s, want 6", n, dir)
		}
	}
}

// TestCut: the announcement cut at every byte, and into many pieces, each a segment of its own.
func TestCut(t *testing.T) {
	for _, n := range []nat{routed, masquerade} {
		t.Run(string(n), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, n)
			s.serve(serverKinds[0], 21, false)
			d := s.daemon()
			c := s.login(t, ipv4.client(), 21)
			l := c.listen(40123)
			line := portCommand(endPoint(l))
			const pause = 2 * time.Millisecond // so that the first part is on its way alone
			for at := 1; at < len(line); at++ {
				c.write(line[:at])
				time.Sleep(pause)
				c.write(line[at:])
				c.expect(200)
				if err := c.fetch(l); err != nil {
					t.Fatalf("cut at %d: %v", at, err)
				}
			}
			piece := 1
			if n != routed { // nothing is acknowledged before it is whole: ten segments leave without (RFC 6928)
				piece = 3
			}
			for at := 0; at < len(line); at += piece {
				c.write(line[at:min(at+piece, len(line))])
				time.Sleep(pause)
			}
			c.expect(200)
			if err := c.fetch(l); err != nil {
				t.Fatalf("many pieces: %v", err)
			}
			d.stop() // all is written then
			if n := announced(d, modePORT); n != len(line) {
				t.Errorf("%d announcements, want %d", n, len(line))
			}
		})
	}
}

// TestBadWire: packets between client and firewall are lost, doubled and overtaken.
func TestBadWire(t *testing.T) {
	t.Parallel()
	for _, n := range []nat{routed, bothWays} {
		t.Run(string(n), func(t *testing.T) {
			t.Parallel()
			w := &wire{lose: 2, double: 20, delay: 20}
			s := newSiteWith(t, n, "tcp dport 21", w)
			// What comes too late is INVALID: NAT leaves it alone, and a RST in answer would end the connection.
			s.firewall.Run("nft", "insert rule inet filter input ct state invalid drop\ninsert rule inet filter forward ct state invalid drop")
			s.serve(serverKinds[0], 21, false)
			d := s.daemon()
			c := s.login(t, ipv4.client(), 21)
			for i := range 4 {
				l := c.listen(uint16(40200 + i))
				command := portCommand(endPoint(l))
				for part := range slices.Chunk([]byte(command), len(command)/3+1) {
					c.write(string(part))
				}
				c.expect(200)
				if err := c.fetch(l); err != nil {
					t.Fatalf("active, %d: %v", i, err)
				}
				if err := c.fetchPassive(); err != nil {
					t.Fatalf("passive, %d: %v", i, err)
				}
			}
			w.mu.Lock()
			t.Logf("lost %d, doubled %d, overtaken %d", w.lost, w.doubled, w.late)
			if w.lost == 0 || w.doubled == 0 || w.late == 0 {
				t.Error("the wire was too good")
			}
			w.mu.Unlock()
			d.stop() // all is written then
			if n := announced(d, modePORT) + announced(d, modePASV); n != 8 {
				t.Errorf("%d announcements, want 8: copies count once", n)
			}
		})
	}
}
