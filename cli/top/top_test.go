package top

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gdamore/tcell/v2"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

// table is a connection table in memory.
type table struct {
	mu  sync.Mutex
	all []flows.Flow
	err error
}

func (t *table) list(f *flows.Filter) iter.Seq2[*flows.Flow, error] {
	return func(yield func(*flows.Flow, error) bool) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.err != nil {
			yield(nil, t.err)
			return
		}
		for i := range t.all {
			if (f == nil || f.Match(&t.all[i])) && !yield(&t.all[i], nil) {
				return
			}
		}
	}
}

func (t *table) count() (entries, limit uint32, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return uint32(len(t.all)), 1000, nil
}

func (t *table) delete(f *flows.Flow) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.all)
	t.all = slices.DeleteFunc(t.all, func(g flows.Flow) bool { return g.ID == f.ID })
	if len(t.all) == n {
		return flows.ErrNotFound
	}
	return nil
}

func flow(id uint32, port uint16, bytes uint64) flows.Flow {
	f := flows.Flow{
		Transport: helpers.TCP, ID: id, State: 3, Has: flows.HasID | flows.HasCounters | flows.HasState | flows.HasStatus,
		Orig: helpers.Tuple{
			Src: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port), Dst: netip.MustParseAddrPort("10.0.0.2:80"),
		},
		Counters: [2]flows.Counter{{Packets: 1, Bytes: bytes}}, Timeout: 1000 - id,
	}
	f.Reply = f.Orig.Turned()
	return f
}

// bed shows a table on a screen in memory.
type bed struct {
	t      *testing.T
	table  *table
	screen *screen
	done   chan error
	leave  context.CancelFunc
	stops  atomic.Int32 // how often the process was stopped
}

// screen keeps what was shown last, for other goroutines.
type screen struct {
	tcell.SimulationScreen
	mu   sync.Mutex
	last string
}

func (s *screen) Show() {
	s.SimulationScreen.Show()
	cells, width, height := s.GetContents()
	var text strings.Builder
	for y := range height {
		for x := range width {
			if r := cells[y*width+x].Runes; len(r) > 0 {
				text.WriteRune(r[0])
			}
		}
		text.WriteByte('\n')
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = text.String()
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func open(t *testing.T, all ...flows.Flow) *bed {
	b := &bed{t: t, table: &table{all: all}, screen: &screen{SimulationScreen: tcell.NewSimulationScreen("UTF-8")}, done: make(chan error, 1)}
	until, leave := context.WithCancel(t.Context())
	b.leave = leave
	go func() {
		b.done <- Run(Options{
			Screen: b.screen, List: b.table.list, Count: b.table.count, Delete: b.table.delete, Now: time.Now,
			Every: 20 * time.Millisecond, Sort: "bytes", Ageless: "ages are not known", Until: until, Stop: func() { b.stops.Add(1) },
			Why: func(f *flows.Flow) (string, error) {
				if f.ID == 1 {
					return "", errors.New("no answer")
				}
				return "yes:\n  of " + f.Orig.Src.String(), nil
			},
			Compile: func(text string) (*flows.Filter, error) {
				if strings.Contains(text, "foo") {
					return nil, &caret.Error{Text: text, At: strings.Index(text, "foo"), Message: "unknown: foo"}
				}
				port := uint16(1002)
				return &flows.Filter{Orig: flows.Ends{SrcPort: flows.Port(port)}}, nil
			},
		})
	}()
	b.shows("bytes")
	b.screen.SetSize(110, 18)
	return b
}

// shows waits until all parts are on the screen, in this order.
func (b *bed) shows(parts ...string) {
	b.t.Helper()
	var text string
	for range 500 {
		text = b.screen.text()
		rest, ok := text, true
		for _, p := range parts {
			var found bool
			_, rest, found = strings.Cut(rest, p)
			ok = ok && found
		}
		if ok {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatalf("no %q on the screen:\n%s", parts, text)
}

func (b *bed) keys(text string) {
	for _, r := range text {
		switch r {
		case '\n':
			b.screen.InjectKey(tcell.KeyEnter, 0, tcell.ModNone)
		case '\x1b':
			b.screen.InjectKey(tcell.KeyEscape, 0, tcell.ModNone)
		case '\x1a':
			b.screen.InjectKey(tcell.KeyCtrlZ, 0, tcell.ModNone)
		case '↓':
			b.screen.InjectKey(tcell.KeyDown, 0, tcell.ModNone)
		default:
			b.screen.InjectKey(tcell.KeyRune, r, tcell.ModNone)
		}
	}
}

func TestView(t *testing.T) {
	related := flow(4, 1004, 40)
	related.Status |= flows.StatusExpected
	related.Master, related.MasterTransport = flow(1, 1001, 0).Orig, helpers.TCP
	related.Helper = "cth-\x1b[31m"
	b := open(t, flow(1, 1001, 10), flow(2, 1002, 20), flow(3, 1003, 3_000_000), related)
	b.shows("4 connections", "tcp 4", "related 1", "sorted by bytes", "PROTO", "10.0.0.1:1003", "3.0M", "10.0.0.1:1004", "10.0.0.1:1002", "q leave")
	b.shows(`cth-\x1b[31m`)
	b.keys("r")
	b.shows("sorted upward by bytes", ":1001", ":1002", ":1004", ":1003")
	b.keys("S")
	b.shows("sorted by rate")
	b.keys("sssss")
	b.shows("sorted by source", ":1001", ":1002", ":1003", ":1004")
	b.keys("t")
	b.shows("tree", "tcp", ":1001", "  tcp", ":1004")
	b.keys("th")
	b.shows("choose a connection", "any key goes back")
	b.keys(" w")
	b.shows("no answer")
	b.keys("↓↓↓w")
	b.shows("yes:", "  of 10.0.0.1:1004", "any key goes back")
	b.keys(" f")
	b.shows("filter: ")
	b.keys("foo\n")
	b.shows("filter: foo   unknown: foo")
	b.keys("\x1bfx\n")
	b.shows("1 connections", "filter: x", ":1002")
	b.keys("k")
	b.shows("Kill tcp 10.0.0.1:1002>10.0.0.2:80? [y/N]")
	b.keys("n")
	b.shows("nothing was killed")
	b.keys("ky")
	b.shows("killed tcp 10.0.0.1:1002>10.0.0.2:80")
	b.shows("0 connections of 3 in the table")
	b.keys("p")
	b.shows("HELD")
	b.keys("pq")
	select {
	case err := <-b.done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("does not end")
	}
	if len(b.table.all) != 3 {
		t.Errorf("%d connections are left", len(b.table.all))
	}
}

// TestSmall: on a screen that is too small what is read and what is typed can be scrolled, and what is wrong is seen.
func TestSmall(t *testing.T) {
	b := open(t, flow(1, 1001, 30))
	b.shows(":1001")
	b.screen.SetSize(30, 5)
	b.keys("h")
	b.shows("cthelper top")
	b.keys("↓↓↓↓↓↓↓↓↓↓↓↓↓↓↓↓↓↓↓↓")
	b.shows("any key goes back")
	b.keys(" f1234567890123456789012345 foo\n")
	b.shows("unknown: foo", "345 f")
	b.keys("\x1bss\x1a")
	b.shows("ages are not known")
	b.leave()
	if err := <-b.done; err != nil || b.stops.Load() != 1 {
		t.Errorf("%v, stopped %d times", err, b.stops.Load())
	}
}

// TestSelection: the chosen row stays chosen when others come and go.
func TestSelection(t *testing.T) {
	b := open(t, flow(1, 1001, 30), flow(2, 1002, 20), flow(3, 1003, 10))
	b.shows(":1001", ":1002", ":1003")
	b.keys("↓")
	b.table.mu.Lock()
	b.table.all = append(b.table.all, flow(4, 1004, 40), flow(5, 1005, 50))
	b.table.mu.Unlock()
	b.shows(":1005", ":1004", ":1001", ":1002")
	b.keys("k")
	b.shows("Kill tcp 10.0.0.1:1002>")
	b.table.mu.Lock()
	b.table.err = errors.New("the kernel \x1b refuses")
	b.table.mu.Unlock()
	b.keys("n")
	b.shows(`the kernel \x1b refuses`)
	b.keys("q")
	<-b.done
}

// TestRates: what has passed between two samples, a second.
func TestRates(t *testing.T) {
	now := time.Unix(1000, 0)
	tab := &table{all: []flows.Flow{flow(1, 1001, 1000), flow(2, 1002, 500)}}
	s := &sampler{list: tab.list, count: tab.count, now: func() time.Time { return now }, stop: func() bool { return false }}
	first := s.take(&question{}, func(*Sample) {})
	if first.bytes != -1 || first.rows[0].bytes != -1 {
		t.Errorf("a rate at the first sample: %v", first.bytes)
	}
	tab.all[0].Counters[0].Bytes += 4000
	tab.all[1].Counters[1].Bytes += 100
	tab.all = append(tab.all, flow(3, 1003, 600))
	now = now.Add(2 * time.Second)
	second := s.take(&question{}, func(*Sample) {})
	got := ""
	for _, r := range second.rows {
		got += fmt.Sprintf("%d:%v ", r.ID, r.bytes)
	}
	if want := "1:2000 3:300 2:50 "; got != want || second.bytes != 2350 {
		t.Errorf("%sand %v in all, want %s", got, second.bytes, want)
	}
}

// TestTree: what was announced is below what announced it, whatever the level, by way of the shadows that the daemon makes.
func TestTree(t *testing.T) {
	between := func(id uint32, tr helpers.Transport, src, dst, master string, bytes uint64) flows.Flow {
		tuple := func(src, dst string) helpers.Tuple {
			return helpers.Tuple{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)}
		}
		f := flow(id, 1, bytes)
		f.Transport, f.Orig = tr, tuple(src, dst)
		f.Reply = f.Orig.Turned()
		if master != "" {
			f.Status |= flows.StatusExpected
			f.Master, f.MasterTransport = tuple(master, "192.0.2.1:0"), helpers.TCP
		}
		return f
	}
	const far = 32768 // apart are shadows of connections that are read
	ras := between(1, helpers.UDP, "10.0.0.1:4000", "192.0.2.1:1719", "", 1)
	call := between(2, helpers.TCP, "10.0.0.1:5000", "192.0.2.1:1730", fmt.Sprintf("10.0.0.1:%d", 4000+far), 2)
	control := between(3, helpers.TCP, "10.0.0.1:6000", "192.0.2.1:40000", fmt.Sprintf("10.0.0.1:%d", 5000+far), 3)
	audio := between(4, helpers.UDP, "10.0.0.1:20000", "192.0.2.1:30000", "10.0.0.1:6000", 400)
	video := between(5, helpers.UDP, "10.0.0.1:20002", "192.0.2.1:30002", "10.0.0.1:6001", 500) // of a second shadow
	lost := between(6, helpers.TCP, "10.0.0.9:1", "192.0.2.1:2", "10.0.0.9:7000", 6)
	ftp := between(7, helpers.TCP, "10.0.0.1:7100", "192.0.2.1:21", "", 7)
	data := between(8, helpers.TCP, "192.0.2.1:20", "10.0.0.1:9000", "10.0.0.1:7100", 1000)
	other := between(9, helpers.TCP, "10.0.0.1:8100", "192.0.2.1:80", "", 1e6)
	shadow := between(10, helpers.TCP, "10.0.0.1:7100", "192.0.2.1:0", "", 0)
	now := time.Unix(1000, 0)
	tab := &table{all: []flows.Flow{other, shadow, lost, video, data, audio, ras, control, ftp, call}}
	s := &sampler{list: tab.list, count: tab.count, now: func() time.Time { return now }, stop: func() bool { return false }}
	want := "0:7 1:8 0:1 1:2 2:3 3:5 3:4 0:6 "
	for range 2 {
		sample := s.take(&question{sort: 1, tree: true}, func(*Sample) {})
		got := ""
		for _, r := range sample.rows {
			got += fmt.Sprintf("%d:%d ", r.depth, r.ID)
		}
		if got != want || sample.err != nil {
			t.Errorf("%v, %v, want %v", got, sample.err, want)
		}
		if now != time.Unix(1000, 0) && sample.rows[0].bytes != 50 {
			t.Errorf("%v bytes a second on the control connection, want 50", sample.rows[0].bytes)
		}
		tab.all[8].Counters[0].Bytes += 100
		now = now.Add(2 * time.Second)
	}
	tab.all[9].Master.Src = netip.MustParseAddrPort(fmt.Sprintf("10.0.0.1:%d", 6000+far)) // in a circle
	if sample := s.take(&question{sort: 1, tree: true}, func(*Sample) {}); len(sample.rows) != 7 {
		t.Errorf("%d rows of a circle", len(sample.rows))
	}
}

// TestPartial: what is shown while the first walk goes on changes no more.
func TestPartial(t *testing.T) {
	tab := &table{}
	for id := range uint32(8192) {
		tab.all = append(tab.all, flow(id+1, uint16(id), 1))
	}
	now := time.Unix(1000, 0)
	tick := func() time.Time { now = now.Add(2 * early); return now }
	s := &sampler{list: tab.list, count: tab.count, now: tick, stop: func() bool { return false }}
	var parts []*Sample
	s.take(&question{}, func(part *Sample) { parts = append(parts, part) })
	if len(parts) != 2 {
		t.Fatalf("%d parts", len(parts))
	}
	for _, part := range parts {
		if n := part.protocols[helpers.TCP]; n != part.total {
			t.Errorf("%d of TCP among %d", n, part.total)
		}
	}
}

// TestBounded: only the first rows are kept.
func TestBounded(t *testing.T) {
	tab := &table{}
	for id := range uint32(3 * most) {
		tab.all = append(tab.all, flow(id+1, uint16(id), uint64(id*7919%(3*most))))
	}
	s := &sampler{list: tab.list, count: tab.count, now: time.Now, stop: func() bool { return false }}
	sample := s.take(&question{sort: 1}, func(*Sample) {})
	if len(sample.rows) != most || sample.total != 3*most {
		t.Fatalf("%d rows of %d", len(sample.rows), sample.total)
	}
	for i, r := range sample.rows {
		if want := uint64(3*most - 1 - i); r.Counters[0].Bytes != want {
			t.Fatalf("row %d has %d bytes, want %d", i, r.Counters[0].Bytes, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 999: "999", 1000: "1.0k", 12345: "12k", 3.2e6: "3.2M", 5e9: "5.0G", 7e15: "7P"} {
		if got := size(n); got != want {
			t.Errorf("%v: %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		59 * time.Second: "59s", 61 * time.Second: "1m01s", 3700 * time.Second: "1h01m", 432000 * time.Second: "5d00h",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := grouped(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
