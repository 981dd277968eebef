package where

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

func labelsOf(t testing.TB) *names.Labels {
	l, err := names.ReadLabels(strings.NewReader("1 one # first\n5\tfive\n"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// expressions are some of each form, with the part that is left to the interpreter.
var expressions = []struct{ text, rest string }{
	{`bytes > 10e6 && orig.dst.in("10.0.0.0/8") && helper == "cth-ftp"`, `bytes > 1e+07`},
	{`proto == "tcp" && orig.dport == 22`, ``},
	{`state == "ESTABLISHED" && proto == "TCP"`, ``},
	{`state == "ESTABLISHED"`, `state == "ESTABLISHED"`}, // SCTP has one of that name
	{`22 == orig.dport`, ``},
	{`orig.dport == 22 || orig.dport == 80`, `orig.dport == 22 || orig.dport == 80`},
	{`orig.dport >= 20 && orig.dport < 23 && (mark == 0 || mark == 3)`, `mark == 0 || mark == 3`},
	{`orig.dport >= 20 && orig.dport <= 10`, `orig.dport <= 10`},
	{`orig.sport == 0`, `orig.sport == 0`},
	{`(orig.src == "10.0.0.1" ? mark == 1 : mark == 2) && assured`, `(orig.src == "10.0.0.1") ? (mark == 1) : (mark == 2)`},
	{`orig.src.in(["10.0.0.0/8","fd00::/8"])`, `orig.src.in(["10.0.0.0/8", "fd00::/8"])`},
	{`orig.src.in("10.0.0.1-10.0.0.9")`, `orig.src.in("10.0.0.1-10.0.0.9")`},
	{`orig.src.in("10.0.0.1/255.0.0.255")`, `orig.src.in("10.0.0.1/255.0.0.255")`},
	{`orig.src.in("10.9.9.9/255.0.0.0") && reply.dst . in ( "10.0.0.0/8" )`, ``},
	{`orig.src == "2001:DB8:0::1"`, ``},
	{`orig.src == "10.0.0.1" && orig.src == "10.0.0.2"`, `orig.src == "10.0.0.2"`},
	{`orig.src != "10.0.0.1"`, `orig.src != "10.0.0.1"`},
	{`"ASSURED" in status && !replied && "one" in labels && mark.masked(0xff) == 0x1`, ``},
	{`!("ASSURED" in status) && "5" in labels`, ``},
	{`mark.masked(0xf0) == 1`, `mark.masked(240) == 1`}, // never
	{`assured && !assured`, `!assured`},
	{`zone == 3 && zonedir == "both"`, ``},
	{`zone == 3 || zonedir == "reply"`, `zone == 3 || zonedir == "reply"`},
	{`proto in ["tcp", "udp"] && family == "ipv6"`, `proto in ["tcp", "udp"]`},
	{`icmp.type == 8 && icmp.id > 3`, `icmp.type == 8 && icmp.id > 3`},
	{`helper.startsWith("cth-") && timeout < 100`, `helper.startsWith("cth-") && timeout < 100`},
	{`helper == '.in("x")' && age >= 0`, `age >= 0`},
	{`100 / mark > 3`, `100 / mark > 3`},
	{`related && master.dport == 21`, `master.dport == 21`},
	{`true`, `true`},
}

func TestRest(t *testing.T) {
	for _, x := range expressions {
		e, err := Compile(x.text, labelsOf(t))
		if err != nil {
			t.Errorf("%s: %v", x.text, err)
		} else if e.Rest() != x.rest {
			t.Errorf("%s: %q is left, want %q", x.text, e.Rest(), x.rest)
		}
	}
}

// TestPushed compares what is split between the filter and the interpreter with the interpreter alone.
func TestPushed(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	random := rand.New(rand.NewPCG(1, 2))
	all := make([]flows.Flow, 3000)
	for i := range all {
		all[i] = randomFlow(random, now)
	}
	for _, x := range expressions {
		e, err := Compile(x.text, labelsOf(t))
		if err != nil {
			t.Fatal(err)
		}
		filter := e.Filter(now)
		whole := interpreted(t, x.text, now)
		matched := 0
		for i := range all {
			want := whole(&all[i])
			if got := filter.Match(&all[i]); got != want || e.Match(&all[i], now) != want {
				t.Fatalf("%s: %v, want %v, of %+v", x.text, got, want, all[i])
			}
			if want {
				matched++
			}
		}
		never := strings.Contains(x.text, "!assured") && strings.HasPrefix(x.text, "assured") || strings.Contains(x.text, "<= 10") ||
			strings.Contains(x.text, "0xf0") || strings.Contains(x.text, `"10.0.0.1" && orig`) || strings.Contains(x.text, ".in(\"x\")")
		if (matched == 0) != never {
			t.Errorf("%s: %d of %d matched", x.text, matched, len(all))
		}
	}
}

// interpreted evaluates text with nothing pushed.
func interpreted(t *testing.T, text string, now time.Time) func(*flows.Flow) bool {
	e, err := Compile(text, labelsOf(t))
	if err != nil {
		t.Fatal(err)
	}
	c := &compiler{Expr: e, sets: map[string]addresses{}, text: text}
	env, err := c.env()
	if err != nil {
		t.Fatal(err)
	}
	checked, err := c.check(env, text)
	if err != nil {
		t.Fatal(err)
	}
	c.info = checked.NativeRep().SourceInfo()
	if err := c.words(checked.NativeRep().Expr()); err != nil {
		t.Fatal(err)
	}
	program, err := env.Program(checked, cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		t.Fatal(err)
	}
	return func(f *flows.Flow) bool {
		e.entry.Flow, e.entry.now = f, now
		v, _, err := program.Eval(activation{e})
		return err == nil && v == types.True
	}
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// randomFlow is one of which the expressions are true now and then.
func randomFlow(r *rand.Rand, now time.Time) flows.Flow {
	src, dst := pick(r, "10.0.0.1", "10.7.7.1", "192.0.2.7"), pick(r, "10.0.0.2", "198.51.100.9")
	if r.IntN(4) == 0 {
		src, dst = pick(r, "fd00::1", "2001:db8::1"), "fd00::2"
	}
	f := flows.Flow{
		Transport: pick[helpers.Transport](r, 6, 6, 6, 17, 1, 132, 33, 50),
		Orig: helpers.Tuple{
			Src: netip.AddrPortFrom(netip.MustParseAddr(src), pick[uint16](r, 0, 1000, 65535)),
			Dst: netip.AddrPortFrom(netip.MustParseAddr(dst), pick[uint16](r, 21, 22, 80, 8<<8)),
		},
		Mark: pick[uint32](r, 0, 1, 2, 3, 0x101), Zone: pick[uint16](r, 0, 3), ZoneDir: pick(r, flows.ZoneBoth, flows.ZoneOrig, flows.ZoneReply),
		State: uint8(r.IntN(10)), Helper: pick(r, "", "cth-ftp", "cth-sip", "ftp"), Timeout: r.Uint32N(200),
		Status: flows.Status(r.Uint32N(16)), Start: now.Add(-time.Second),
		Counters: [2]flows.Counter{{Bytes: r.Uint64N(20e6)}, {Bytes: r.Uint64N(20e6)}},
	}
	f.Reply = f.Orig.Turned()
	if r.IntN(2) == 0 {
		f.Labels.Set(pick(r, 1, 5, 100))
	}
	if f.Expected() {
		f.Master = helpers.Tuple{Src: f.Orig.Src, Dst: netip.AddrPortFrom(f.Orig.Dst.Addr(), 21)}
	}
	return f
}

// TestErrors checks what is said, and the place.
func TestErrors(t *testing.T) {
	for _, x := range []struct {
		text, part string // the error is where part begins
		message    string
	}{
		{`bytes > 10 && foo`, `foo`, "unknown: foo. Known are proto"},
		{`orig.foo == 1`, `orig`, "unknown: orig.foo"},
		{`has(bytes)`, `(`, "unknown function: has"},
		{`[1].exists(x, x == 1)`, `(x,`, "unknown function: exists"},
		{"bytes > 1\n && orig.src == 3", `== 3`, "== does not go with (string, int)"},
		{`bytes`, `bytes`, "want a condition, this is a number"},
		{`helper`, `helper`, "want a condition, this is a text"},
		{`bytes >`, ``, "Syntax error"},
		{`"ä" == helper && x`, `x`, "unknown: x"},
		{`orig.src.in("10.0.0.0/33")`, `"10`, "want at most 32 bits"},
		{`orig.src.in("10.0.0.9-10.0.0.1")`, `"10`, "in order"},
		{`orig.src.in(helper)`, `helper`, "want a text"},
		{`orig.src.in(["10.0.0.1", "x"])`, `"x"`, "want an address"},
		{`helper.in("10.0.0.0/8")`, `helper`, "want an address: orig.src"},
		{`orig.src == "10.0.0.0/8"`, `"10`, "for prefixes and ranges"},
		{`"x" in labels`, `"x"`, "unknown label"},
		{`proto == "tpc"`, `"tpc"`, "unknown protocol"},
		{`proto in ["tcp", "tpc"]`, `"tpc"`, "unknown protocol"},
		{`state == "established"`, `"est`, "unknown state"},
		{`"assured" in status`, `"ass`, "unknown status"},
		{`family == "IPv4"`, `"IPv4"`, "want ipv4 or ipv6"},
		{`zonedir == "x"`, `"x"`, "want both"},
		{`[1, 2].exists(x, x == 1)`, `(x,`, ""}, // no loops
		{strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100), "", "recursion"},
		{`helper == "` + strings.Repeat("x", 5000) + `"`, "", "longer than"},
		{"helper.matches('" + strings.Repeat("a", 3900) + "')", "", "costs up to"},
	} {
		_, err := Compile(x.text, labelsOf(t))
		var at *caret.Error
		if !errors.As(err, &at) {
			t.Errorf("%.60s: %v", x.text, err)
			continue
		}
		if !strings.Contains(at.Message, x.message) || at.Text != x.text {
			t.Errorf("%.60s: %q, want %q", x.text, at.Message, x.message)
		}
		if want := strings.Index(x.text, x.part); x.part != "" && at.At != want {
			t.Errorf("%s: at %d, want %d", x.text, at.At, want)
		}
	}
}

// TestFailed counts flows for which there is no value.
func TestFailed(t *testing.T) {
	e, err := Compile("10 / mark == 5", nil)
	if err != nil {
		t.Fatal(err)
	}
	filter := e.Filter(time.Now())
	for mark := range uint32(3) {
		f := flows.Flow{Mark: mark}
		if got := filter.Match(&f); got != (mark == 2) {
			t.Errorf("mark %d: %v", mark, got)
		}
	}
	if n, why := e.Failed(); n != 1 || why == nil || !strings.Contains(why.Error(), "zero") {
		t.Errorf("%d failed: %v", n, why)
	}
}

// FuzzCompile: any text gives an expression that runs, or an error with a place in it.
func FuzzCompile(f *testing.F) {
	for _, x := range expressions {
		f.Add(x.text)
	}
	f.Add("orig.src.in([\"\xff\"])")
	now := time.Unix(1_700_000_000, 0)
	random := rand.New(rand.NewPCG(3, 4))
	all := make([]flows.Flow, 20)
	for i := range all {
		all[i] = randomFlow(random, now)
	}
	labels := labelsOf(f)
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Compile(text, labels)
		if err != nil {
			var at *caret.Error
			if !errors.As(err, &at) || at.At < 0 || at.At > len(text) {
				t.Fatalf("%q: %#v", text, err)
			}
			caret.Show(at.Text, at.At)
			return
		}
		filter := e.Filter(now)
		for i := range all {
			if filter.Match(&all[i]) != e.Match(&all[i], now) {
				t.Fatalf("%q: two answers", text)
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	e, err := Compile(`bytes > 10e6 || helper == "x"`, nil)
	if err != nil {
		b.Fatal(err)
	}
	f := randomFlow(rand.New(rand.NewPCG(1, 2)), time.Now())
	filter := e.Filter(time.Now())
	b.ReportAllocs()
	for b.Loop() {
		filter.Match(&f)
	}
}
