package daemon

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// gate is a writer that waits until it is opened.
type gate struct {
	open    chan struct{}
	written bytes.Buffer
}

func (g *gate) Write(b []byte) (int, error) {
	<-g.open
	return g.written.Write(b)
}

func TestLogNeverWaits(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	w := newLogWriter(g, config.Log{Level: slog.LevelInfo})
	log := newLogger(w, config.Log{Level: slog.LevelInfo})
	const lines = 3 * logLines
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range lines {
			log.Info("line", "n", i)
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("writing to a log that nobody reads waits")
	}
	dropped := w.dropped.Load()
	// One line may be with the writer already.
	if want := uint64(lines - logLines); dropped != want && dropped != want-1 {
		t.Errorf("%d lines dropped, want %d or one less", dropped, want)
	}
	close(g.open)
	w.close()
	out := g.written.String()
	if !strings.Contains(out, "log lines were dropped") || !strings.Contains(out, "lines=") {
		t.Errorf("the log does not say that lines are missing:\n%.400s", out)
	}
	if n := strings.Count(out, "msg=line "); uint64(n)+dropped != lines {
		t.Errorf("%d lines written and %d dropped of %d", n, dropped, lines)
	}
}

func TestLogCloseGivesUp(t *testing.T) {
	t.Parallel()
	g := &gate{open: make(chan struct{})}
	defer close(g.open)
	w := newLogWriter(g, config.Log{})
	newLogger(w, config.Log{}).Info("never read")
	begin := time.Now()
	w.close()
	if d := time.Since(begin); d < logFlush || d > logFlush+5*time.Second {
		t.Errorf("close took %v, want %v", d, logFlush)
	}
}

func TestPrintable(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"plain", "RETR pub/file", "RETR pub/file"},
		{"other scripts", "RETR grüße-日本", "RETR grüße-日本"},
		{"line end", "a\r\nlevel=ERROR", `a\r\nlevel=ERROR`},
		{"escape sequence", "\x1b[2J", `\x1b[2J`},
		{"nul and broken utf-8", "\x00\xff", `\x00\xff`},
		{"right to left", "a\u202eb", `a\u202eb`},
		{"what looks escaped", `\x00`, `\\x00`},
		{"quotes", `"a"`, `"a"`},
		{"quotes with a nul", "\"\x00", `"\x00`},
		{"long", strings.Repeat("a", maxLogText+1), strings.Repeat("a", maxLogText) + "…"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := printable(tt.in); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestEventAttrs(t *testing.T) {
	client, server := netip.MustParseAddrPort("10.0.0.1:50000"), netip.MustParseAddrPort("192.0.2.1:21")
	base := engine.Event{
		Helper: "ftp", Flow: helpers.Tuple{Src: client, Dst: server}, FlowProto: helpers.TCP,
		Class: "data", Transport: helpers.TCP, Dir: helpers.Original,
		From:    netip.AddrPortFrom(server.Addr(), 0),
		To:      netip.MustParseAddrPort("10.0.0.1:40001"),
		At:      netip.MustParseAddrPort("10.0.0.1:40001"),
		Timeout: 5 * time.Minute,
	}
	tests := []struct {
		name  string
		event func(*engine.Event)
		want  map[string]any
	}{
		{"expect", func(e *engine.Event) { e.Kind = engine.EventExpect; e.Note = "PORT" }, map[string]any{
			"level": "INFO", "msg": "expect", "helper": "ftp", "flow": "tcp 10.0.0.1:50000>192.0.2.1:21", "class": "data", "transport": "tcp",
			"from": "192.0.2.1:*", "to": "10.0.0.1:40001", "dir": "orig", "timeout": float64(300), "note": "PORT",
		}},
		{"expect under NAT", func(e *engine.Event) {
			e.Kind, e.At, e.Permanent = engine.EventExpect, netip.MustParseAddrPort("198.51.100.7:40001"), true
		}, map[string]any{
			"level": "INFO", "msg": "expect", "helper": "ftp", "flow": "tcp 10.0.0.1:50000>192.0.2.1:21", "class": "data", "transport": "tcp",
			"from": "192.0.2.1:*", "to": "10.0.0.1:40001", "at": "198.51.100.7:40001", "dir": "orig", "timeout": float64(300), "permanent": true,
		}},
		{"refuse", func(e *engine.Event) { e.Kind, e.Reason = engine.EventRefuse, engine.RefuseLowPort }, map[string]any{
			"level": "WARN", "msg": "refuse", "helper": "ftp", "flow": "tcp 10.0.0.1:50000>192.0.2.1:21", "class": "data", "transport": "tcp",
			"from": "192.0.2.1:*", "to": "10.0.0.1:40001", "dir": "orig", "timeout": float64(300), "reason": "low-port",
		}},
		{"related", func(e *engine.Event) { e.Kind, e.From = engine.EventRelated, server }, map[string]any{
			"level": "INFO", "msg": "related", "helper": "ftp", "flow": "tcp 10.0.0.1:50000>192.0.2.1:21", "class": "data", "transport": "tcp",
			"from": "192.0.2.1:21", "to": "10.0.0.1:40001",
		}},
		{"note", func(e *engine.Event) { e.Kind, e.Note = engine.EventNote, "RETR \x1b" }, map[string]any{
			"level": "INFO", "msg": "note", "helper": "ftp", "flow": "tcp 10.0.0.1:50000>192.0.2.1:21", "note": `RETR \x1b`,
		}},
		{"edit", func(e *engine.Event) {
			e.Kind, e.Offset, e.Old, e.New = engine.EventEdit, 5, []byte("10,0\r"), []byte("1\xff")
		}, map[string]any{
			"level": "INFO", "msg": "edit", "helper": "ftp", "flow": "tcp 10.0.0.1:50000>192.0.2.1:21", "dir": "orig", "offset": float64(5),
			"old": `10,0\r`, "new": `1\xff`,
		}},
		{"error", func(e *engine.Event) { e.Kind, e.Reason, e.Text = engine.EventError, "parse", "bad" }, map[string]any{
			"level": "WARN", "msg": "error", "helper": "ftp", "flow": "tcp 10.0.0.1:50000>192.0.2.1:21", "dir": "orig", "offset": float64(0),
			"reason": "parse", "text": "bad",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ev := base
			tt.event(&ev)
			var out bytes.Buffer
			logEvent(newLogger(&out, config.Log{JSON: true}), &ev)
			got := map[string]any{}
			if err := json.Unmarshal(out.Bytes(), &got); err != nil {
				t.Fatalf("%v: %s", err, out.Bytes())
			}
			delete(got, "time")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("line (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("cancel is for debugging", func(t *testing.T) {
		ev := base
		ev.Kind, ev.Reason = engine.EventCancel, engine.CancelExpired
		var out bytes.Buffer
		logEvent(newLogger(&out, config.Log{Level: slog.LevelInfo}), &ev)
		if out.Len() > 0 {
			t.Errorf("at level info: %s", out.Bytes())
		}
		logEvent(newLogger(&out, config.Log{Level: slog.LevelDebug}), &ev)
		if !strings.Contains(out.String(), "reason=expired") {
			t.Errorf("at level debug: %s", out.Bytes())
		}
	})
}
