package replay

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// Record is one line of the JSON Lines: an event of the engine, in the words that users rely on. Keys that an event
// does not have are left out; consumers ignore those that they do not know.
type Record struct {
	File      string           `json:"file"`
	Frame     uint64           `json:"frame"` // from 1; of an expiry the first frame behind it
	Time      string           `json:"time"`
	Event     engine.EventKind `json:"event"`
	Helper    string           `json:"helper"`
	Flow      string           `json:"flow"` // original direction
	Dir       string           `json:"dir,omitempty"`
	Class     string           `json:"class,omitempty"`
	Transport string           `json:"transport,omitempty"`
	From      string           `json:"from,omitempty"` // "*" where anybody matches
	To        string           `json:"to,omitempty"`
	Permanent bool             `json:"permanent,omitempty"`
	Timeout   float64          `json:"timeout,omitempty"` // seconds
	Announced uint64           `json:"announced,omitempty"`
	Group     string           `json:"group,omitempty"` // ID, or ID/Part
	Note      string           `json:"note,omitempty"`
	Offset    *int             `json:"offset,omitempty"`
	Old       *string          `json:"old,omitempty"`
	New       *string          `json:"new,omitempty"`
	Reason    string           `json:"reason,omitempty"`
	Text      string           `json:"text,omitempty"` // of an error: what was wrong
	At        string           `json:"at,omitempty"`   // where the other side sees To
}

// timeLayout is RFC 3339 in UTC with microseconds.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// newRecord puts ev in words. nat says whether addresses are translated: then `at` is told.
func newRecord(file string, frame uint64, when time.Time, ev *engine.Event, nat bool) *Record {
	r := &Record{
		File: file, Frame: frame, Time: when.UTC().Format(timeLayout), Event: ev.Kind, Helper: ev.Helper,
		Flow: ev.FlowProto.String() + " " + ev.Flow.String(),
	}
	switch ev.Kind {
	case engine.EventExpect, engine.EventRefuse:
		r.Dir = ev.Dir.String()
		r.expectation(ev)
		r.Permanent, r.Timeout, r.Note = ev.Permanent, ev.Timeout.Seconds(), text(ev.Note)
		r.Reason = string(ev.Reason)
		if nat && ev.At.IsValid() {
			r.At = ev.At.String()
		}
	case engine.EventCancel:
		r.expectation(ev)
		r.Reason = string(ev.Reason)
	case engine.EventRelated:
		r.expectation(ev)
		r.Announced, r.Note = ev.Announced, text(ev.Note)
	case engine.EventNote:
		r.Group, r.Note = group(ev.Group), text(ev.Note)
	case engine.EventEdit:
		r.Dir = ev.Dir.String()
		before, after := text(string(ev.Old)), text(string(ev.New))
		r.Offset, r.Old, r.New = &ev.Offset, &before, &after
	case engine.EventError:
		r.Dir, r.Reason, r.Text = ev.Dir.String(), string(ev.Reason), text(ev.Text)
		offset := ev.Offset
		r.Offset = &offset
	}
	return r
}

func (r *Record) expectation(ev *engine.Event) {
	r.Class, r.Transport = ev.Class, ev.Transport.String()
	r.From, r.To = wild(ev.From), ev.To.String()
	r.Group = group(ev.Group)
}

// wild writes an end point that may be any address or any port.
func wild(a netip.AddrPort) string {
	host, port := "*", "*"
	if ip := a.Addr(); ip.IsValid() && !ip.IsUnspecified() {
		if host = ip.String(); ip.Is6() {
			host = "[" + host + "]"
		}
	}
	if a.Port() != 0 {
		port = strconv.Itoa(int(a.Port()))
	}
	return host + ":" + port
}

func group(g helpers.Group) string {
	switch {
	case g == helpers.Group{}:
		return ""
	case g.Part == 0:
		return strconv.FormatUint(g.ID, 10)
	}
	return fmt.Sprintf("%d/%d", g.ID, g.Part)
}

// text makes a code point U+0000 to U+00FF of each byte.
func text(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

// JSONLines writes each record as a line of JSON.
func JSONLines(w io.Writer) func(*Record) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return func(r *Record) error { return e.Encode(r) }
}
