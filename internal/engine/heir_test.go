package engine_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// What several calls announce is open as long as one of them does, and for nobody else.
func TestHeirs(t *testing.T) {
	const any, anybody, peer, other = "*", "198.51.100.55:0", "198.51.100.9:0", "198.51.100.77:0"
	const wide, close, third = "open udp 10.0.0.1:4000 group %d\n", "open udp 10.0.0.1:4000 group %d peer\n",
		"open udp 10.0.0.1:4000 group %d from 198.51.100.77+0\n"
	expects := func(from string) string { return "expect udp " + from + ">10.0.0.1:4000" }
	cancels := func(from, why string) string { return "cancel udp " + from + ">10.0.0.1:4000 " + why }
	say := func(text string, group int) string { return fmt.Sprintf(text, group) }
	tests := []struct {
		name   string
		said   []string
		events []string
		open   []string // for whom in the end
	}{
		{"the newer call ends", []string{say(wide, 1), say(wide, 2), "cancel 2\n"}, []string{expects(any)}, []string{anybody}},
		{"the older call ends", []string{say(wide, 1), say(wide, 2), "cancel 1\n"},
			[]string{expects(any), cancels(any, "ended"), expects(any)}, []string{anybody}},
		{"both end", []string{say(wide, 1), say(wide, 2), "cancel 2\n", "cancel 1\n"},
			[]string{expects(any), cancels(any, "ended")}, nil},
		{"the newer call allows more", []string{say(close, 1), say(wide, 2)},
			[]string{expects(peer), cancels(peer, "replaced"), expects(any)}, []string{anybody}},
		{"and ends", []string{say(close, 1), say(wide, 2), "cancel 2\n"},
			[]string{expects(peer), cancels(peer, "replaced"), expects(any), cancels(any, "ended"), expects(peer)}, []string{peer}},
		{"and is answered", []string{say(close, 1), say(wide, 2), say(close, 2), "cancel 2\n"},
			[]string{expects(peer), cancels(peer, "replaced"), expects(any), cancels(peer, "ended"), expects(peer)}, []string{peer}},
		{"the older call allows more", []string{say(wide, 1), say(close, 2), say(third, 3), "cancel 1\n"},
			[]string{expects(any), cancels(any, "ended"), expects(peer), expects(other)}, []string{peer, other}},
		{"the older call is answered, the newer one not", []string{say(wide, 1), say(wide, 2), say(close, 1)},
			[]string{expects(any), cancels(any, "replaced"), expects(any)}, []string{anybody}},
		{"both are answered", []string{say(wide, 1), say(wide, 2), say(close, 1), say(third, 2)},
			[]string{expects(any), cancels(any, "replaced"), expects(any), cancels(any, "replaced"), expects(peer), expects(other)},
			[]string{peer, other}},
		{"copies", []string{say(wide, 1), say(wide, 2), say(wide, 1), say(wide, 2), say(wide, 2), "cancel 1\n", say(wide, 2)},
			[]string{expects(any), cancels(any, "ended"), expects(any)}, []string{anybody}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, nil)
			c := plainConn(helpers.UDP)
			for _, text := range tt.said {
				b.udp(c, orig, text)
			}
			b.events(tt.events...)
			meets := func(from string) bool {
				src := addPort(netip.MustParseAddrPort(from), 6000)
				_, ok := b.table.Match(helpers.UDP, helpers.Tuple{Src: src, Dst: netip.MustParseAddrPort("10.0.0.1:4000")})
				return ok
			}
			for _, from := range tt.open {
				if !meets(from) {
					t.Errorf("not open for %s", from)
				}
			}
			for _, from := range []string{peer, other, anybody} {
				if meets(from) {
					t.Errorf("open for %s", from)
				}
			}
		})
	}
}

// So it is for the calls of two sessions, as when a proxy forks.
func TestHeirsOfTwoSessions(t *testing.T) {
	b := newBed(t, nil)
	c, d := plainConn(helpers.UDP), plainConn(helpers.UDP)
	d.Orig.Dst = netip.MustParseAddrPort("198.51.100.8:2100")
	d.Reply = d.Orig.Turned()
	b.udp(c, orig, "open udp 10.0.0.1:4000 group 1\n")
	b.udp(d, orig, "open udp 10.0.0.1:4000 group 1\n")
	b.events("expect udp *>10.0.0.1:4000")
	b.move(nil) // they are remembered
	b.udp(c, orig, "cancel 1\n")
	b.events("cancel udp *>10.0.0.1:4000 ended", "expect udp *>10.0.0.1:4000")
	if s := b.e.Stats(); s.Pending != 1 {
		t.Errorf("%d are pending", s.Pending)
	}
	b.pass(2 * time.Minute)
	b.events("cancel udp *>10.0.0.1:4000 expired")
}

// One connection uses up one call's.
func TestHeirOfUsed(t *testing.T) {
	b := newBed(t, nil)
	c := plainConn(helpers.UDP)
	b.udp(c, orig, "open udp 10.0.0.1:4000 group 1\n")
	b.pass(20 * time.Second)
	b.udp(c, orig, "open udp 10.0.0.1:4000 group 2\n")
	for port := range uint16(2) {
		met := helpers.Tuple{Src: netip.AddrPortFrom(server.Addr(), 7000+port), Dst: netip.MustParseAddrPort("10.0.0.1:4000")}
		if _, ok := b.table.Match(helpers.UDP, met); !ok {
			t.Errorf("port %d does not get in", 7000+port)
		}
		b.drive(b.e.Related(engine.Conn{Transport: helpers.UDP, Orig: met, Reply: met.Turned()}, 0, b.now))
	}
	b.events("expect udp *>10.0.0.1:4000", `related udp *>10.0.0.1:4000 "open"`, "expect udp *>10.0.0.1:4000",
		`related udp *>10.0.0.1:4000 "open"`)
}

// Each waits no longer than its own time, and no more wait than are bounded.
func TestHeirsEnd(t *testing.T) {
	b := newBed(t, func(c *engine.Config) { c.Helpers[1].Classes[0].Max = 0 })
	c := plainConn(helpers.UDP)
	for i := range 200 {
		b.udp(c, orig, fmt.Sprintf("open udp 10.0.0.1:4000 group %d\n", i+1))
		b.pass(time.Second / 10)
	}
	b.events("expect udp *>10.0.0.1:4000")
	opened := 1
	for i := range 200 {
		b.udp(c, orig, fmt.Sprintf("cancel %d\n", i+1))
		opened += len(b.log) / 2
		b.log = nil
	}
	if opened > 66 || opened < 33 { // of a helper without pairs, fewer are kept
		t.Errorf("%d were opened", opened)
	}
	b.udp(c, orig, "open udp 10.0.0.1:4000 group 1\n")
	b.pass(30 * time.Second)
	b.udp(c, orig, "open udp 10.0.0.1:4000 group 2\n")
	b.pass(40 * time.Second)
	b.events("expect udp *>10.0.0.1:4000", "cancel udp *>10.0.0.1:4000 expired", "expect udp *>10.0.0.1:4000")
	b.pass(30 * time.Second)
	b.events("cancel udp *>10.0.0.1:4000 expired")
	if s := b.e.Stats(); s.Pending != 0 {
		t.Errorf("%d are pending", s.Pending)
	}
}
