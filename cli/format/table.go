package format

import (
	"bufio"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/cli/where"
	"github.com/cthelperd/cthelperd/flows"
)

// sample is after how many rows the columns' widths are fixed: what is behind them is written as it comes.
const sample = 500

// Column is one of the table's.
type Column struct {
	Name  string // as expressions call it, if they can
	Head  string
	Help  string
	right bool
	rank  int // the highest go first when there is no room
	text  func(*flows.Event, *Options, time.Time) string
}

// Columns are all that a table may have, in its order.
func Columns() []Column {
	flow := func(text func(*flows.Flow) string) func(*flows.Event, *Options, time.Time) string {
		return func(e *flows.Event, _ *Options, _ time.Time) string { return text(&e.Flow) }
	}
	return []Column{
		{"event", "EVENT", "NEW, UPDATE, DESTROY; OVERRUN: events were lost here", false, 0,
			func(e *flows.Event, _ *Options, _ time.Time) string { return e.Kind.String() }},
		{"proto", "PROTO", "protocol", false, 0, flow(func(f *flows.Flow) string {
			return names.Protocol(uint8(f.Transport))
		})},
		{"state", "STATE", "of TCP, SCTP, DCCP", false, 3, flow(where.State)},
		{"source", "SOURCE", "source of the original direction", false, 0, flow(func(f *flows.Flow) string {
			return End(f, f.Orig.Src)
		})},
		{"destination", "DESTINATION", "destination of the original direction; of ICMP type, code and number", false, 0,
			flow(Destination)},
		{"nat", "NAT", "what NAT makes of the source (s) and the destination (d)", false, 2, flow(NAT)},
		{"packets", "PACKETS", "of both directions", true, 6, flow(func(f *flows.Flow) string {
			return known(f, flows.HasCounters, strconv.FormatUint(f.Counters[0].Packets+f.Counters[1].Packets, 10))
		})},
		{"bytes", "BYTES", "of both directions", true, 2, flow(func(f *flows.Flow) string {
			return known(f, flows.HasCounters, strconv.FormatUint(f.Counters[0].Bytes+f.Counters[1].Bytes, 10))
		})},
		{"timeout", "TIMEOUT", "seconds until it ends", true, 4, flow(func(f *flows.Flow) string {
			return known(f, flows.HasTimeout, strconv.Itoa(int(f.Timeout)))
		})},
		{"age", "AGE", "seconds since it began", true, 7, func(e *flows.Event, _ *Options, now time.Time) string {
			if e.Flow.Start.IsZero() {
				return ""
			}
			return strconv.Itoa(int(where.Age(&e.Flow, now) / time.Second))
		}},
		{"mark", "MARK", "", true, 5, flow(func(f *flows.Flow) string { return nonzero(uint64(f.Mark)) })},
		{"zone", "ZONE", "of both directions, or of the original (o) or reply (r) one", true, 5, flow(zone)},
		{"labels", "LABELS", "", false, 8, func(e *flows.Event, o *Options, _ time.Time) string {
			return caret.Plain(strings.Join(o.Names.Names(&e.Flow.Labels), ","))
		}},
		{"helper", "HELPER", "", false, 4, flow(func(f *flows.Flow) string { return caret.Plain(f.Helper) })},
		{"flags", "FLAGS", "R related, U unreplied, A assured, F fixed timeout, O offloaded, D dying", false, 3, flow(Flags)},
		{"master", "MASTER", "the connection that announced it", false, 9, flow(func(f *flows.Flow) string {
			if !f.Master.Src.IsValid() {
				return ""
			}
			return f.Master.Src.String() + ">" + f.Master.Dst.String()
		})},
		{"id", "ID", "number of the entry", true, 10, nil},
	}
}

func known(f *flows.Flow, has flows.Fields, text string) string {
	if f.Has&has == 0 {
		return ""
	}
	return text
}

func nonzero(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func zone(f *flows.Flow) string {
	return nonzero(uint64(f.Zone)) + [...]string{flows.ZoneBoth: "", flows.ZoneOrig: "o", flows.ZoneReply: "r"}[f.ZoneDir]
}

// End is an end of a flow: with its port, or GRE's key, if it has one.
func End(f *flows.Flow, a netip.AddrPort) string {
	if HasPorts(f) {
		return a.String()
	}
	return a.Addr().String()
}

// Name is protocol, source and destination of a flow, as the daemon's log has them.
func Name(f *flows.Flow) string {
	return names.Protocol(uint8(f.Transport)) + " " + End(f, f.Orig.Src) + ">" + End(f, f.Orig.Dst)
}

// Destination is where a flow goes to; of ICMP with type, code and number.
func Destination(f *flows.Flow) string {
	if !where.IsICMP(f) {
		return End(f, f.Orig.Dst)
	}
	typ, code, id := flows.ICMP(f.Orig)
	return fmt.Sprintf("%s type %d code %d id %d", f.Orig.Dst.Addr(), typ, code, id)
}

// NAT is what is translated.
func NAT(f *flows.Flow) string {
	var parts []string
	if f.Reply.Dst != f.Orig.Src {
		parts = append(parts, "s "+End(f, f.Reply.Dst))
	}
	if f.Reply.Src != f.Orig.Dst {
		parts = append(parts, "d "+End(f, f.Reply.Src))
	}
	if where.IsICMP(f) && f.Reply.Src.Addr() == f.Orig.Dst.Addr() && f.Reply.Dst.Addr() == f.Orig.Src.Addr() {
		return ""
	}
	return strings.Join(parts, " ")
}

// Flags are letters for bits of the status.
func Flags(f *flows.Flow) string {
	if f.Has&flows.HasStatus == 0 {
		return ""
	}
	var b []byte
	for _, x := range []struct {
		bit    flows.Status
		letter byte
	}{
		{flows.StatusExpected, 'R'}, {flows.StatusAssured, 'A'}, {flows.StatusFixedTimeout, 'F'},
		{flows.StatusOffload | flows.StatusHWOffload, 'O'}, {flows.StatusDying, 'D'},
	} {
		if f.Status&x.bit != 0 {
			b = append(b, x.letter)
		}
	}
	if f.Status&flows.StatusSeenReply == 0 {
		b = append(b, 'U')
	}
	return string(b)
}

// table gathers rows until it knows how wide the columns are.
type table struct {
	o       *Options
	all     []Column
	columns []Column // nil: not chosen yet
	widths  []int
	waiting [][]string // cells by all, before the choice
	cells   []string   // of a row behind it
}

func newTable(o *Options) (*table, error) {
	t := &table{o: o, all: Columns()}
	for i := range t.all {
		if t.all[i].Name == "id" {
			t.all[i].text = func(e *flows.Event, _ *Options, _ time.Time) string {
				return known(&e.Flow, flows.HasID, strconv.FormatUint(uint64(e.Flow.ID), 10))
			}
		}
	}
	if len(o.Columns) == 0 {
		t.all = t.all[:len(t.all)-1] // who wants ids says so
		return t, nil
	}
	var chosen []Column
	for _, name := range o.Columns {
		i := 0
		for ; i < len(t.all) && t.all[i].Name != name; i++ {
		}
		if i == len(t.all) {
			var known []string
			for _, c := range t.all {
				known = append(known, c.Name)
			}
			return nil, &caret.Error{Text: name, Message: "unknown column. Known are " + strings.Join(known, " ")}
		}
		c := t.all[i]
		c.rank = 0
		chosen = append(chosen, c)
	}
	t.all = chosen
	return t, nil
}

func (t *table) add(w *bufio.Writer, e *flows.Event, now time.Time) error {
	if e.Kind == flows.Overrun || e.Kind == flows.Synced {
		if err := t.flush(w); err != nil {
			return err
		}
		return t.aside(w, e)
	}
	if t.columns != nil {
		for i := range t.columns {
			if t.widths[i] > 0 {
				t.cells[i] = t.columns[i].text(e, t.o, now)
			}
		}
		return t.row(w, t.cells)
	}
	cells := make([]string, len(t.all))
	for i := range t.all {
		cells[i] = t.all[i].text(e, t.o, now)
	}
	t.waiting = append(t.waiting, cells)
	if len(t.waiting) < sample {
		return nil
	}
	return t.flush(w)
}

func (t *table) aside(w *bufio.Writer, e *flows.Event) error {
	text := "-- in step again --\n"
	if e.Kind == flows.Overrun {
		about := "at least "
		if e.Exact {
			about = ""
		}
		text = fmt.Sprintf("-- overrun: %s%d events lost; the table follows --\n", about, e.Lost)
	}
	_, err := w.WriteString(text)
	return err
}

// flush chooses the columns by the rows that wait, and writes these.
func (t *table) flush(w *bufio.Writer) error {
	if t.columns == nil && len(t.waiting) > 0 {
		t.choose()
		if err := t.head(w); err != nil {
			return err
		}
	}
	for _, cells := range t.waiting {
		if err := t.row(w, cells); err != nil {
			return err
		}
	}
	t.waiting = t.waiting[:0]
	return nil
}

func (t *table) choose() {
	widths := make([]int, len(t.all))
	total := 0
	for i := range t.all {
		for _, cells := range t.waiting {
			widths[i] = max(widths[i], utf8.RuneCountInString(cells[i]))
		}
		if widths[i] > 0 || len(t.o.Columns) > 0 {
			widths[i] = max(widths[i], len(t.all[i].Head))
			total += widths[i] + 1
		}
	}
	for t.o.Width > 0 && total-1 > t.o.Width {
		drop := -1
		for i := range t.all {
			if widths[i] > 0 && t.all[i].rank > 0 && (drop < 0 || t.all[i].rank >= t.all[drop].rank) {
				drop = i
			}
		}
		if drop < 0 {
			break
		}
		total -= widths[drop] + 1
		widths[drop] = 0
	}
	t.columns, t.widths, t.cells = t.all, widths, make([]string, len(t.all))
}

func (t *table) head(w *bufio.Writer) error {
	heads := make([]string, len(t.columns))
	for i := range t.columns {
		heads[i] = t.columns[i].Head
	}
	return t.row(w, heads)
}

func (t *table) row(w *bufio.Writer, cells []string) error {
	pending := 0 // spaces that wait for something behind them
	for i, cell := range cells {
		if t.widths[i] == 0 {
			continue
		}
		room := max(0, t.widths[i]-utf8.RuneCountInString(cell))
		if t.columns[i].right {
			pending += room
			room = 0
		}
		if cell != "" {
			writeSpaces(w, pending)
			w.WriteString(cell)
			pending = 0
		}
		pending += room + 1
	}
	return w.WriteByte('\n')
}

func writeSpaces(w *bufio.Writer, n int) {
	for range n {
		w.WriteByte(' ')
	}
}
