package daemon

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// TestLogLimit: one client's refusals have so many lines, another one's have theirs, what is opened always has one.
func TestLogLimit(t *testing.T) {
	l := newLogLimit()
	now := time.Now()
	lines := func(kind engine.EventKind, client string, n int) (allowed int) {
		ev := engine.Event{Kind: kind, Time: now, Flow: helpers.Tuple{Src: netip.AddrPortFrom(netip.MustParseAddr(client), 50000)}}
		for range n {
			if l.allows(&ev) {
				allowed++
			}
		}
		return allowed
	}
	const many = 10000
	if got := lines(engine.EventRefuse, "192.0.2.1", many); got != lineBurst {
		t.Errorf("%d lines at once, want %d", got, lineBurst)
	}
	if got := lines(engine.EventExpect, "192.0.2.1", many); got != many {
		t.Errorf("%d lines of what was opened, want all", got)
	}
	others := 0
	for _, client := range []string{"192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "2001:db8::1", "2001:db8::2", "2001:db8::3", "::1"} {
		others += lines(engine.EventError, client, 1)
	}
	if others == 0 { // some may share a counter
		t.Error("no other client has a line")
	}
	if n := l.unsaid(); n < many-lineBurst || l.unsaid() != 0 {
		t.Errorf("%d lines were left out, want %d or a few more, once", n, many-lineBurst)
	}
	now = now.Add(time.Second)
	if got := lines(engine.EventRefuse, "192.0.2.1", many); got != linePerSec {
		t.Errorf("%d lines a second later, want %d", got, linePerSec)
	}
	if got := lines(engine.EventNote, "192.0.2.1", many); got != lineBurst {
		t.Errorf("%d lines of notes, want %d", got, lineBurst)
	}
	now = now.Add(-time.Hour) // as Tick's times may be a little behind
	if got := lines(engine.EventEdit, "192.0.2.1", many); got != 0 {
		t.Errorf("%d lines when time goes back, want none", got)
	}
}
