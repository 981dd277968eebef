package replay

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/cthelperd/cthelperd/internal/capture"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// Table writes records as lines for people: frame, time of day, event, helper, flow and what there is to say, and
// at the end how many frames there were. What came from the wire is quoted, so that it cannot drive the terminal.
type Table struct {
	w      io.Writer
	file   string
	events int
}

// NewTable writes the events of one capture to w.
func NewTable(w io.Writer, file string) *Table { return &Table{w: w, file: file} }

func (t *Table) heading() error {
	_, err := fmt.Fprintf(t.w, "%s\n", graphic(t.file))
	if err == nil && t.events > 0 {
		_, err = fmt.Fprintf(t.w, "%6s  %-15s  %-7s  %-11s  %s\n", "FRAME", "TIME", "EVENT", "HELPER", "FLOW, WHAT")
	}
	return err
}

// Write prints one record.
func (t *Table) Write(r *Record) error {
	if t.events++; t.events == 1 {
		if err := t.heading(); err != nil {
			return err
		}
	}
	clock := strings.TrimSuffix(r.Time[strings.IndexByte(r.Time, 'T')+1:], "Z")
	_, err := fmt.Fprintf(t.w, "%6d  %-15s  %-7s  %-11s  %s: %s\n", r.Frame, clock, r.Event, r.Helper, r.Flow, r.what())
	return err
}

// Close prints what was read.
func (t *Table) Close(s capture.Stats) error {
	if t.events == 0 {
		if err := t.heading(); err != nil {
			return err
		}
	}
	line := fmt.Sprintf("%d frames, %d events", s.Frames, t.events)
	for _, n := range []struct {
		count uint64
		what  string
	}{
		{s.Foreign, "without IP"},
		{s.Cut, "cut short by the snap length"},
		{s.Dropped, "fragments of no whole packet"},
	} {
		if n.count > 0 {
			line += fmt.Sprintf(", %d %s", n.count, n.what)
		}
	}
	_, err := fmt.Fprintf(t.w, "%s\n", line)
	return err
}

// graphic makes s harmless to a terminal.
func graphic(s string) string { return strings.Trim(strconv.QuoteToGraphic(s), `"`) }

// what is the part of a line that differs between events.
func (r *Record) what() string {
	var b strings.Builder
	word := func(format string, a ...any) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, format, a...)
	}
	switch r.Event {
	case engine.EventExpect, engine.EventRefuse, engine.EventCancel, engine.EventRelated:
		word("%s %s %s>%s", r.Class, r.Transport, r.From, r.To)
	case engine.EventEdit:
		word("%s byte %d: %q becomes %q", r.Dir, *r.Offset, *r.Old, *r.New)
	case engine.EventError:
		word("%s byte %d:", r.Dir, *r.Offset)
	}
	if r.At != "" && r.At != r.To {
		word("seen at %s", r.At)
	}
	if r.Permanent {
		word("permanent")
	}
	if r.Timeout != 0 {
		word("for %gs", r.Timeout)
	}
	if r.Announced != 0 {
		word("announced in frame %d", r.Announced)
	}
	if r.Note != "" {
		word("%q", r.Note)
	}
	if r.Text != "" {
		word("%s", graphic(r.Text))
	}
	if r.Reason != "" {
		word("(%s)", r.Reason)
	}
	return b.String()
}
