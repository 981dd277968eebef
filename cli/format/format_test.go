package format

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

// hostile is a flow with names that nobody gives.
func hostile() *flows.Event {
	f := flows.Flow{
		Transport: helpers.TCP, Helper: "a\x1b[31m\"<&>,\n\xff", Secctx: "\x00\x9b\u2028", Mark: 1, ID: 7, Timeout: 9, State: 3,
		Orig: helpers.Tuple{Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("10.0.0.2:2")},
		Has:  flows.HasStatus | flows.HasMark | flows.HasID | flows.HasTimeout | flows.HasState | flows.HasSecctx | flows.HasCounters,
	}
	f.Reply = f.Orig.Turned()
	return &flows.Event{Flow: f}
}

func written(t testing.TB, o Options, events ...*flows.Event) string {
	var out bytes.Buffer
	if o.Now == nil {
		o.Now = func() time.Time { return time.Unix(1000, 0) }
	}
	p, err := New(&out, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if err := p.Event(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.End(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// acts says whether something in text acts on a terminal.
func acts(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && (r < 0x20 || r >= 0x7f && r < 0xa0) })
}

// TestNothingActs: nothing that is written to a terminal acts on it; what is for programs can be read by them.
func TestNothingActs(t *testing.T) {
	for _, kind := range append(Kinds(), Conntrack+","+Save) {
		text := written(t, Options{Output: Output{Kind: kind}, Plain: true}, hostile())
		if acts(text) {
			t.Errorf("%s: %q", kind, text)
		}
		if !strings.Contains(text, "10.0.0.1") {
			t.Errorf("%s: %q", kind, text)
		}
	}
	var o struct{ Helper, Secctx string }
	if err := json.Unmarshal([]byte(written(t, Options{Output: Output{Kind: JSON}}, hostile())), &o); err != nil {
		t.Error(err)
	} else if o.Helper != "a\x1b[31m\"<&>,\n\ufffd" || o.Secctx != "\x00\u009b\u2028" && o.Secctx != "\x00\ufffd\u2028" {
		t.Errorf("JSON: %+q", o)
	}
	rows, err := csv.NewReader(strings.NewReader(written(t, Options{Output: Output{Kind: CSV}}, hostile()))).ReadAll()
	if err != nil || len(rows) != 2 || len(rows[0]) != len(rows[1]) {
		t.Errorf("CSV: %q, %v", rows, err)
	}
	e := hostile()
	e.Flow.Helper, e.Flow.Secctx = "<&>", "s\x00\xff"
	var x struct {
		Flow struct {
			Helper string `xml:"helper"`
		} `xml:"flow"`
	}
	if err := xml.Unmarshal([]byte(written(t, Options{Output: Output{Kind: XML}}, e)), &x); err != nil || x.Flow.Helper != "<&>" {
		t.Errorf("XML: %+v, %v", x, err)
	}
	values := map[string]string{}
	for name, value := range Values(hostile(), nil, time.Now()) {
		values[name] = value
	}
	if values["helper"] != hostile().Flow.Helper || values["mark"] != "1" || values["orig.dport"] != "2" {
		t.Errorf("values: %q", values)
	}
}

// TestTable fits the table to a width: columns that say nothing, then those of less use, are left out.
func TestTable(t *testing.T) {
	e := hostile()
	e.Flow.Helper, e.Flow.Secctx = "ftp", ""
	for width, want := range map[int]string{
		0:  "PROTO STATE       SOURCE     DESTINATION PACKETS BYTES TIMEOUT MARK HELPER FLAGS",
		70: "PROTO STATE       SOURCE     DESTINATION BYTES TIMEOUT HELPER FLAGS",
		40: "PROTO SOURCE     DESTINATION BYTES FLAGS",
		10: "PROTO SOURCE     DESTINATION", // what cannot be left out
	} {
		head, row, _ := strings.Cut(written(t, Options{Output: Output{Kind: Table}, Width: width}, e), "\n")
		if head != want && !(width == 40 && len(head) <= 40) {
			t.Errorf("%d: %q, want %q", width, head, want)
		}
		if !strings.Contains(row, "10.0.0.1:1 10.0.0.2:2") {
			t.Errorf("%d: %q", width, row)
		}
	}
	// What comes behind the sample is written as it comes.
	var all []*flows.Event
	for i := range sample + 10 {
		x := *e
		x.Flow.ID = uint32(i)
		x.Flow.Orig.Src = netip.MustParseAddrPort(fmt.Sprintf("10.0.%d.%d:1", i/256, i%256))
		all = append(all, &x)
	}
	all[len(all)-1].Flow.Orig.Src = netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:6666]:65535")
	text := written(t, Options{Output: Output{Kind: Table}, Width: 80}, all...)
	if strings.Count(text, "\n") != sample+11 || !strings.Contains(text, "[2001:db8:1111:2222:3333:4444:5555:6666]:65535 10.0.0.2:2") {
		t.Errorf("%d lines", strings.Count(text, "\n"))
	}
	if text := written(t, Options{Output: Output{Kind: Table}}); text != "" {
		t.Errorf("nothing is %q", text)
	}
}

// TestOverrun: losses are shown as such in every kind that can.
func TestOverrun(t *testing.T) {
	lost, synced := &flows.Event{Kind: flows.Overrun, Lost: 5, Exact: true}, &flows.Event{Kind: flows.Synced}
	for kind, want := range map[string]string{
		Table: "-- overrun: 5 events lost; the table follows --\n-- in step again --\n",
		JSON:  `{"event":"OVERRUN","time":"1970-01-01T00:16:40.000000Z","lost":5,"exact":true}`,
		CSV:   "OVERRUN,1970-01-01T00:16:40.000000Z,5,,",
	} {
		if got := written(t, Options{Output: Output{Kind: kind}, Events: true}, lost, synced); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
	}
}

func TestOutput(t *testing.T) {
	for text, want := range map[string]string{
		"table": "table", "extended": "conntrack,extended", "xml,id": "xml,id", "conntrack,save": "conntrack,save",
		"id,conntrack,labels": "conntrack,id,labels", "save": "save",
	} {
		var o Output
		if err := o.UnmarshalText([]byte(text)); err != nil || o.String() != want {
			t.Errorf("%s: %s, %v", text, o, err)
		}
	}
	for _, text := range []string{"", "nothing", "json,csv", "json,id", "save,labels", "xml,"} {
		if err := new(Output).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// TestExpectation: of an expectation conntrack(8) shows the time too, and nothing in a name acts on a terminal.
func TestExpectation(t *testing.T) {
	e := &expect.Event{Kind: flows.New, Expectation: expect.Expectation{
		Transport: helpers.TCP, MasterTransport: helpers.TCP, Helper: "a\x1b\u202e\xff", Function: "\x9b\u202e", Timeout: 9,
		Tuple: hostile().Flow.Orig, Mask: hostile().Flow.Orig, Master: hostile().Flow.Orig,
	}}
	now := time.Unix(1000, 42_000).UTC()
	for kind, want := range map[string]string{
		Table: `a\x1b\u202e\xff`, Conntrack: "[1000.42    ]\t    [NEW] 9 proto=6 ", JSON: `"function":"`, CSV: "NEW,1970",
		XML: "<class>0</class><when><hour>0</hour><min>16</min><sec>40</sec>",
	} {
		line := string(AppendExpect(nil, &Output{Kind: kind, Timestamp: kind == Conntrack || kind == XML}, e, now, true))
		if !strings.Contains(line, want) {
			t.Errorf("%s: %q, want %q", kind, line, want)
		}
		if shown := string(Escaped([]byte(strings.TrimSuffix(line, "\n")))); strings.ContainsAny(shown, "\x1b\u009b\u202e\n") {
			t.Errorf("%s on a terminal: %q", kind, shown)
		}
		if err := xml.Unmarshal([]byte(line), new(struct{})); kind == XML && err != nil {
			t.Error(err)
		}
		if kind == JSON && !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
}

func BenchmarkConntrack(b *testing.B) {
	e := hostile()
	p, err := New(discard{}, Options{Output: Output{Kind: Conntrack}, Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Event(e); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
