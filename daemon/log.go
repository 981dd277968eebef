package daemon

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/engine"
)

const (
	logLines   = 1024            // that wait for a slow reader of the log; more are dropped and counted
	logFlush   = 2 * time.Second // how long the end of the daemon waits for him
	maxLogText = 512             // bytes of a peer's text in one attribute
)

// logWriter takes lines and never waits: a log that blocks must not block packets. Another goroutine writes them.
type logWriter struct {
	lines   chan []byte
	dropped atomic.Uint64
	done    chan struct{}
}

// newLogWriter writes to w. How many lines were dropped it says there too, in the form of cfg.
func newLogWriter(w io.Writer, cfg config.Log) *logWriter {
	l := &logWriter{lines: make(chan []byte, logLines), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		said := uint64(0)
		for line := range l.lines {
			w.Write(line) // nobody is left to tell of an error
			if n := l.dropped.Load(); n != said {
				newLogger(w, cfg).Warn("log lines were dropped: the log is read too slowly", "lines", n-said)
				said = n
			}
		}
	}()
	return l
}

// Write is one whole line, as slog's handlers write. It never fails.
func (l *logWriter) Write(line []byte) (int, error) {
	select {
	case l.lines <- append([]byte(nil), line...):
	default:
		l.dropped.Add(1)
	}
	return len(line), nil
}

// close waits until all lines are written, or too long. No line may be written afterwards.
func (l *logWriter) close() {
	close(l.lines)
	select {
	case <-l.done:
	case <-time.After(logFlush):
	}
}

// newLogger is a log of the wanted form and level on w.
func newLogger(w io.Writer, cfg config.Log) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.Level}
	if cfg.JSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// eventLevel is how much an event matters: what was opened, used and rewritten is what a firewall's administrator wants to
// see, what was refused he may have to act on.
func eventLevel(kind engine.EventKind) slog.Level {
	switch kind {
	case engine.EventCancel:
		return slog.LevelDebug
	case engine.EventRefuse, engine.EventError:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// logEvent writes one line.
func logEvent(log *slog.Logger, ev *engine.Event) {
	if level := eventLevel(ev.Kind); log.Enabled(context.Background(), level) {
		log.LogAttrs(context.Background(), level, string(ev.Kind), eventAttrs(ev)...)
	}
}

// eventAttrs are an event's attributes, with the names that replay's JSON Lines have.
func eventAttrs(ev *engine.Event) []slog.Attr {
	a := []slog.Attr{
		slog.String("helper", ev.Helper),
		slog.String("flow", ev.FlowProto.String()+" "+ev.Flow.String()),
	}
	text := func(key, value string) {
		if value != "" {
			a = append(a, slog.String(key, printable(value)))
		}
	}
	switch ev.Kind {
	case engine.EventNote:
		text("note", ev.Note)
		return a
	case engine.EventEdit:
		return append(a, slog.String("dir", ev.Dir.String()), slog.Int("offset", ev.Offset),
			slog.String("old", printable(string(ev.Old))), slog.String("new", printable(string(ev.New))))
	case engine.EventError:
		a = append(a, slog.String("dir", ev.Dir.String()), slog.Int("offset", ev.Offset))
		text("reason", string(ev.Reason))
		text("text", ev.Text)
		return a
	}
	a = append(a,
		slog.String("class", ev.Class),
		slog.String("transport", ev.Transport.String()),
		slog.String("from", pattern(ev.From)),
		slog.String("to", ev.To.String()),
	)
	if ev.At.IsValid() && ev.At != ev.To {
		a = append(a, slog.String("at", ev.At.String()))
	}
	if ev.Kind == engine.EventExpect || ev.Kind == engine.EventRefuse {
		a = append(a, slog.String("dir", ev.Dir.String()))
		if ev.Timeout > 0 {
			a = append(a, slog.Float64("timeout", ev.Timeout.Seconds()))
		}
		if ev.Permanent {
			a = append(a, slog.Bool("permanent", true))
		}
	}
	text("reason", string(ev.Reason))
	text("text", ev.Text)
	text("note", ev.Note)
	return a
}

// pattern is an end point of which address or port may be open.
func pattern(a netip.AddrPort) string {
	host, port := "*", "*"
	if a.Addr().IsValid() && !a.Addr().IsUnspecified() {
		host = a.Addr().String()
		if a.Addr().Is6() {
			host = "[" + host + "]"
		}
	}
	if a.Port() != 0 {
		port = strconv.Itoa(int(a.Port()))
	}
	return host + ":" + port
}

// printable is a peer's text without anything that a terminal, or a reader of the log, could take for something else. It
// is cut to a length that no line of a log needs.
func printable(s string) string {
	cut := len(s) > maxLogText
	if cut {
		s = s[:maxLogText]
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == '\\' }) {
		s = strconv.Quote(s)
		s = strings.ReplaceAll(s[1:len(s)-1], `\"`, `"`)
	}
	if cut {
		s += "…"
	}
	return s
}
