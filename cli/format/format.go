// Package format writes connections and events: as conntrack(8) does, for programs, and as a table for people.
package format

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/flows"
)

// Output is what -o says: KIND and what of conntrack(8)'s lines is wanted: table, or extended,id.
type Output struct {
	Kind       string // of Kinds
	Extended   bool   // layer 3
	ID         bool
	Timestamp  bool // of an event
	KTimestamp bool // the kernel's
	Labels     bool
	Userspace  bool   // say which events a program caused
	text       string // as it was given
}

// Kinds of output.
const (
	Table     = "table"
	Conntrack = "conntrack"
	XML       = "xml"
	Save      = "save"
	JSON      = "json"
	CSV       = "csv"
)

// Kinds are all kinds of output.
func Kinds() []string { return []string{Table, Conntrack, XML, Save, JSON, CSV} }

// Modifiers say what conntrack(8)'s lines show, with its names.
func Modifiers() []string {
	return []string{"extended", "id", "timestamp", "ktimestamp", "labels", "userspace"}
}

// UnmarshalText reads an option's value. It may come several times. Modifiers without a kind mean conntrack(8)'s lines.
func (o *Output) UnmarshalText(b []byte) error {
	text, whole := string(b), string(b)
	if o.text != "" {
		whole = o.text + "," + text
	}
	*o = Output{}
	bad := func(rest, message string) error {
		return &caret.Error{Text: text, At: max(len(text)-len(rest), 0), Message: message}
	}
	kind := ""
	for rest := whole; ; {
		word, tail, more := strings.Cut(rest, ",")
		switch {
		case word == Save && kind == Conntrack && *o == Output{}: // exactly as conntrack(8) saves
			kind = Conntrack + "," + Save
		case slices.Contains(Kinds(), word):
			if kind != "" {
				return bad(rest, "there is a kind of output already: "+kind)
			}
			kind = word
		case !o.modify(word):
			return bad(rest, "want one of "+strings.Join(Kinds(), " ")+", and any of "+strings.Join(Modifiers(), " "))
		}
		if !more {
			break
		}
		rest = tail
	}
	modified := *o != Output{}
	switch {
	case kind == "":
		kind = Conntrack
	case kind != Conntrack && kind != XML && modified:
		return bad(text, kind+" goes with nothing else")
	}
	o.Kind, o.text = kind, whole
	return nil
}

func (o *Output) modify(word string) bool {
	switch word {
	case "extended":
		o.Extended = true
	case "id":
		o.ID = true
	case "timestamp":
		o.Timestamp = true
	case "ktimestamp":
		o.KTimestamp = true
	case "labels":
		o.Labels = true
	case "userspace":
		o.Userspace = true
	default:
		return false
	}
	return true
}

// String is what UnmarshalText reads.
func (o Output) String() string {
	all := []string{o.Kind}
	for i, on := range []bool{o.Extended, o.ID, o.Timestamp, o.KTimestamp, o.Labels, o.Userspace} {
		if on {
			all = append(all, Modifiers()[i])
		}
	}
	return strings.Join(all, ",")
}

// Options are what a Printer needs to know.
type Options struct {
	Output
	Names   *names.Labels
	Width   int      // of the terminal, for the table; 0: as wide as it gets
	Plain   bool     // what acts on a terminal is escaped in lines for programs too
	Columns []string // of the table; none: those that have something to say
	Events  bool     // rows are events
	Now     func() time.Time
}

// Printer writes flows, one after the other. It is for one goroutine.
type Printer struct {
	o     Options
	w     *bufio.Writer
	line  []byte
	event flows.Event // of Flow
	table *table
	cause cause
}

// New begins an output. End must be called.
func New(w io.Writer, o Options) (*Printer, error) {
	p := &Printer{o: o, w: bufio.NewWriterSize(w, 64<<10)}
	switch o.Kind {
	case Table:
		t, err := newTable(&p.o)
		if err != nil {
			return nil, err
		}
		p.table = t
	case XML:
		p.w.WriteString(xmlHead)
	case CSV:
		p.w.WriteString(csvHead(csvColumns, o.Events))
	}
	return p, nil
}

// Flow writes an entry of the table.
func (p *Printer) Flow(f *flows.Flow) error {
	p.event.Flow = *f
	return p.Event(&p.event)
}

// Event writes an event, or an entry if it has no kind.
func (p *Printer) Event(e *flows.Event) error {
	now := p.o.Now()
	b := p.line[:0]
	switch p.o.Kind {
	case Table:
		return p.table.add(p.w, e, now)
	case Conntrack:
		b = p.caused(p.conntrack(b, e, now), e)
	case XML:
		b = p.caused(p.appendXML(b, e, now), e)
	case Save:
		b = save(b, e, p.o.Names, true)
	case Conntrack + "," + Save:
		b = save(b, e, p.o.Names, false)
	case JSON:
		b = JSONEvent(b, e, p.o.Names, now)
	case CSV:
		b = appendCSV(b, e, p.o.Names, now, p.o.Events)
	}
	p.line = b
	if len(b) == 0 {
		return nil
	}
	if p.o.Plain {
		b = Escaped(b)
	}
	_, err := p.w.Write(append(b, '\n'))
	return err
}

// Flush sends what waits: at the end of a burst of events.
func (p *Printer) Flush() error {
	if p.table != nil {
		if err := p.table.flush(p.w); err != nil {
			return err
		}
	}
	return p.w.Flush()
}

// End ends the output.
func (p *Printer) End() error {
	if p.o.Kind == XML {
		p.w.WriteString(xmlTail)
	}
	return p.Flush()
}

func (p *Printer) conntrack(b []byte, e *flows.Event, now time.Time) []byte {
	if p.o.Timestamp && p.o.Events {
		b = stamp(b, now)
	}
	o := &flows.TextOptions{Layer3: p.o.Extended, ID: p.o.ID, Timestamps: p.o.KTimestamp, Now: now, Event: e.Kind}
	if p.o.Labels {
		o.Labels = p.label
	}
	return e.Flow.AppendFormat(b, o)
}

// stamp begins a line with the time.
func stamp(b []byte, now time.Time) []byte {
	return fmt.Appendf(b, "[%d.%-6d]\t", now.Unix(), now.Nanosecond()/1000)
}

// Escaped is a line without what acts on a terminal.
func Escaped(line []byte) []byte {
	return []byte(caret.Plain(strings.ReplaceAll(string(line), "\t", " ")))
}

// label is the name that conntrack(8) shows: none for a label without a name.
func (p *Printer) label(bit int) string {
	if !p.o.Names.Known(bit) {
		return ""
	}
	return p.o.Names.Name(bit)
}
