package helpertest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/helpertest"
)

// The toy protocol has lines: "OPEN addr:port" announces an end point of the sender, "NAME text" notes it, "CLOSE"
// takes it back; anything else means nothing. bug breaks one rule.
type toy struct {
	bug   string
	last  uint64
	lines int
	steps int
	kept  []byte // of bug "glues"
	leak  [][]byte
	sites [][2]int
	n     int // a bug's counter
}

var errToy = errors.New("malformed end point")

func helper(tr helpers.Transport, bug string) helpers.Helper {
	h := helpers.Helper{
		Name:      "toy",
		Transport: tr,
		Ports:     []uint16{9999},
		Classes:   []helpers.Class{{Name: "data", Max: 4, Timeout: time.Minute}},
		Backlog:   256,
		New:       func() helpers.Session { return &toy{bug: bug} },
	}
	if bug == "glues" {
		return h
	}
	h.Restore = func(b []byte) (helpers.Session, error) {
		body := len(b) - 4
		if bug == "damage" && len(b) > 4 {
			return &toy{bug: bug, last: binary.BigEndian.Uint64(append(b, make([]byte, 16)...)[1:])}, nil
		}
		if bug == "restore panics" && (len(b) != 21 || b[20] == 0) {
			panic("short")
		}
		if body < 17 || crc32.ChecksumIEEE(b[:body]) != binary.BigEndian.Uint32(b[body:]) {
			return nil, errors.New("damaged")
		}
		return &toy{
			bug: bug, last: binary.BigEndian.Uint64(b[1:]), lines: int(binary.BigEndian.Uint64(b[9:])),
		}, nil
	}
	return h
}

func (t *toy) AppendBinary(b []byte) ([]byte, error) {
	start := len(b)
	last := t.last
	if t.bug == "snapshot" {
		last = 0
	}
	b = append(b, 1)
	b = binary.BigEndian.AppendUint64(b, last)
	b = binary.BigEndian.AppendUint64(b, uint64(t.lines))
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[start:])), nil
}

func (t *toy) Steps() int { return t.steps }

func (t *toy) Close(_ helpers.FlowID, out *helpers.Result) {
	if t.bug == "close" {
		out.Cancel = append(out.Cancel, helpers.Group{ID: 77})
	}
}

func (t *toy) Inspect(seg *helpers.Segment, out *helpers.Result) (err error) {
	t.sites = t.sites[:0]
	data := seg.Data
	switch t.bug {
	case "writes":
		if len(data) > 0 {
			data[0] = 'x'
		}
	case "allocates":
		t.kept = bytes.Clone(data)
	case "glues":
		data = append(t.kept, data...)
	case "per segment":
		t.n++
	case "quadratic":
		t.steps += len(data) * len(data)
	case "error":
		return errToy
	case "offset":
		return &helpers.ParseError{Off: len(data) + 1, Err: errToy}
	case "hoards":
		if !bytes.Contains(data, []byte("\n")) {
			return nil
		}
	}
	off := 0
	for off < len(data) {
		n := bytes.IndexByte(data[off:], '\n')
		t.steps += len(data) - off
		if seg.Flow.Transport == helpers.UDP && n < 0 {
			n = len(data) - off - 1
		}
		if n < 0 && len(data)-off > 200 {
			n = len(data) - off - 1
		}
		if n < 0 {
			break
		}
		if e := t.line(seg, data, off, off+n+1, out); e != nil {
			err = e
		}
		off += n + 1
	}
	if t.bug == "glues" {
		t.kept = bytes.Clone(data[off:])
		off = len(seg.Data)
	}
	out.Consumed = off
	if off < len(seg.Data) && t.bug != "no hold" {
		out.Hold = len(seg.Data) - off
	}
	if t.bug == "hold" {
		out.Hold = len(seg.Data) + 1
	}
	return err
}

func (t *toy) line(seg *helpers.Segment, data []byte, off, end int, out *helpers.Result) error {
	line := bytes.TrimRight(data[off:end], "\r\n")
	t.lines++
	verb, arg, _ := bytes.Cut(line, []byte(" "))
	switch string(verb) {
	case "OPEN":
		to, err := netip.ParseAddrPort(string(arg))
		if err != nil || to.Port() == 0 {
			if t.bug == "panic" {
				panic("bad")
			}
			return &helpers.ParseError{Off: off, Err: errToy}
		}
		if t.bug != "refresh" || seg.Flow.Transport == helpers.TCP {
			t.last = uint64(to.Port())
		} else {
			t.last++
		}
		e := helpers.Expectation{
			Transport: helpers.TCP, Owner: seg.Dir, To: to, Group: helpers.Group{ID: t.last}, Note: "OPEN",
			From: netip.AddrPortFrom(seg.Flow.Peer(seg.Dir).Addr(), 0),
		}
		switch t.bug {
		case "class":
			e.Class = 1
		case "port":
			e.To = netip.AddrPortFrom(to.Addr(), 0)
		case "leak":
			t.leak = append(t.leak, bytes.Repeat([]byte{1}, 4096))
		case "per segment":
			e.Group.Part = uint64(t.n)
		case "fragment":
			if len(data)-off != end-off {
				e.Note = "several"
			}
		}
		out.Expect = append(out.Expect, e)
		t.sites = append(t.sites, [2]int{off + 5, off + 5 + len(arg)})
	case "NAME":
		out.Notes = append(out.Notes, helpers.Note{Group: helpers.Group{ID: t.last}, Text: string(arg)})
	case "CLOSE":
		id := t.last
		if t.bug == "cancel" {
			id++
		}
		if id != 0 {
			out.Cancel = append(out.Cancel, helpers.Group{ID: id})
		}
	case "HTTP":
		return helpers.ErrForeign
	}
	return nil
}

func (t *toy) Rewrite(seg *helpers.Segment, nat helpers.NAT, edits []helpers.Edit) []helpers.Edit {
	for i, s := range t.sites {
		if t.bug == "glues" {
			break
		}
		to, ok := nat.At(i)
		old := string(seg.Data[s[0]:s[1]])
		if was, err := netip.ParseAddrPort(old); t.bug != "identity" && (!ok || err != nil || was == to) {
			continue
		}
		e := helpers.Edit{Off: s[0], Len: s[1] - s[0], New: []byte(to.String())}
		switch t.bug {
		case "edit range":
			e.Len = len(seg.Data)
		case "inverse":
			e.New = []byte(netip.AddrPortFrom(to.Addr(), 4711).String())
		case "rewrite refresh":
			t.n++
			e.New = []byte(netip.AddrPortFrom(to.Addr(), uint16(4711+t.n)).String())
		case "rewrite writes":
			seg.Data[s[0]] = 'x'
		}
		edits = append(edits, e)
		if t.bug == "twice" {
			edits = append(edits, e)
		}
	}
	return edits
}

const dialogue = `C: hello world\r\nOPEN 192.0.2.2:4000\r\n
S: ok\r\n
C: NAME one\r\nNAME two\r\n
S: OPEN 198.51.100.9:5000\r\nCLOSE\r\n
C: OPEN 300.1.1.1:1\r\nOPEN 192.0.2.2:6000\r\nxyz\r\n
C: half a line
S: OPEN 198.51.100.9:5001\r\n
C: is whole\r\n
C: OPEN 192.0
C gap: .2.2:6001\r\nOPEN 192.0.2.2:7000\r\n
`

// rule is the rule that verify finds broken; 0: none.
func rule(h helpers.Helper, script string) (int, string) {
	rec := &recorder{TB: nil}
	helpertest.Check(rec, h, script)
	if rec.err == nil {
		return 0, ""
	}
	var v *helpertest.Violation
	if errors.As(rec.err, &v) {
		return v.Rule, v.Error()
	}
	return -1, rec.err.Error()
}

// recorder is a testing.TB that keeps the first failure.
type recorder struct {
	testing.TB
	err error
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(_ string, args ...any) {
	if err, ok := args[len(args)-1].(error); ok && r.err == nil {
		r.err = err
	}
}

func TestBugs(t *testing.T) {
	for _, tt := range []struct {
		bug  string
		tr   helpers.Transport
		want int
	}{
		{"", helpers.TCP, 0},
		{"", helpers.UDP, 0},
		{"hold", helpers.TCP, helpertest.Ranges},
		{"class", helpers.TCP, helpertest.Ranges},
		{"port", helpers.UDP, helpertest.Ranges},
		{"error", helpers.TCP, helpertest.Ranges},
		{"offset", helpers.TCP, helpertest.Ranges},
		{"edit range", helpers.TCP, helpertest.Ranges},
		{"twice", helpers.TCP, helpertest.Ranges},
		{"per segment", helpers.TCP, helpertest.Cuts},
		{"fragment", helpers.TCP, helpertest.Cuts},
		{"no hold", helpers.TCP, helpertest.Cuts},
		{"panic", helpers.TCP, helpertest.Work},
		{"leak", helpers.TCP, helpertest.Work},
		{"quadratic", helpers.TCP, helpertest.Work},
		{"hoards", helpers.TCP, helpertest.Work},
		{"writes", helpers.TCP, helpertest.ReadOnly},
		{"rewrite writes", helpers.TCP, helpertest.ReadOnly},
		{"glues", helpers.TCP, helpertest.Gaps},
		{"identity", helpers.TCP, helpertest.Identity},
		{"inverse", helpers.TCP, helpertest.Inverse},
		{"inverse", helpers.UDP, helpertest.Inverse},
		{"allocates", helpers.TCP, helpertest.Allocation},
		{"snapshot", helpers.TCP, helpertest.Snapshot},
		{"damage", helpers.TCP, helpertest.Snapshot},
		{"restore panics", helpers.TCP, helpertest.Snapshot},
		{"refresh", helpers.UDP, helpertest.Refresh},
		{"rewrite refresh", helpers.UDP, helpertest.Refresh},
		{"cancel", helpers.TCP, helpertest.Cancels},
		{"close", helpers.TCP, helpertest.Cancels},
	} {
		t.Run(tt.bug+" "+tt.tr.String(), func(t *testing.T) {
			script := dialogue
			if tt.bug == "hoards" {
				script += "S: " + strings.Repeat("a", 300) + "\n"
			}
			if tt.bug == "quadratic" {
				script = "S: " + strings.Repeat("a", 2000) + `\n` + "\n"
			}
			got, text := rule(helper(tt.tr, tt.bug), script)
			if got != tt.want {
				t.Errorf("broken rule %d, want %d\n%s", got, tt.want, text)
			}
		})
	}
}

func TestDeclared(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(*helpers.Helper)
	}{
		{"long name", func(h *helpers.Helper) { h.Name = "twelve-bytes" }},
		{"no name", func(h *helpers.Helper) { h.Name = "" }},
		{"transport", func(h *helpers.Helper) { h.Transport = 1 }},
		{"no class", func(h *helpers.Helper) { h.Classes = nil }},
		{"five classes", func(h *helpers.Helper) { h.Classes = append(h.Classes, make([]helpers.Class, 4)...) }},
		{"no timeout", func(h *helpers.Helper) { h.Classes[0].Timeout = 0 }},
		{"backlog", func(h *helpers.Helper) { h.Backlog = -1 }},
		{"no constructor", func(h *helpers.Helper) { h.New = nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := helper(helpers.TCP, "")
			tt.spoil(&h)
			if got, text := rule(h, dialogue); got != helpertest.Ranges {
				t.Errorf("broken rule %d, want %d\n%s", got, helpertest.Ranges, text)
			}
		})
	}
}

// What a script says is compared, and a wrong script is an error that names the line.
func TestSaid(t *testing.T) {
	const open = `C: OPEN 192.0.2.2:4000\r\n` + "\n"
	const expect = `= expect data tcp orig 198.51.100.9:*>192.0.2.2:4000 group 4000 "OPEN"` + "\n"
	const nat = "nat 192.0.2.2=203.0.113.1\n"
	for _, tt := range []struct {
		name, script string
		want         int // -1: not a script
	}{
		{"right", open + expect + `C: OPEN x\n` + "\n" + `= error "at byte 0: malformed end point"` + "\n", 0},
		{"wrong", open + strings.Replace(expect, "4000", "4001", 1), helpertest.Said},
		{"left out", open + expect + open, helpertest.Said},
		{"too much", open + expect + "C: x\n" + expect, helpertest.Said},
		{"right under NAT", nat + open + `~ OPEN 203.0.113.1:4000\r\n` + "\n", 0},
		{"held under NAT", nat + "C: OPEN 192.0\n~ \n" + `C: .2.2:4000\r\n` + "\n" + `~ OPEN 203.0.113.1:4000\r\n` + "\n", 0},
		{"wrong under NAT", nat + open + `~ OPEN 203.0.113.2:4000\r\n` + "\n", helpertest.Said},
		{"unknown entry", "X: hello\n", -1},
		{"no colon", "C hello\n", -1},
		{"bad escape", `C: \q` + "\n", -1},
		{"bad hex", `C: \x1` + "\n", -1},
		{"lone backslash", `C: \` + "\n", -1},
		{"output first", expect, -1},
		{"flow of two families", "flow 192.0.2.2:1>[2001:db8::1]:2\n", -1},
		{"flow without port", "flow 192.0.2.2>192.0.2.3:2\n", -1},
		{"nat without address", "nat 192.0.2.2\n", -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, text := rule(helper(helpers.TCP, ""), tt.script); got != tt.want {
				t.Errorf("broken rule %d, want %d\n%s", got, tt.want, text)
			}
		})
	}
}

// A violation's script breaks the same rule again.
func TestReplay(t *testing.T) {
	h := helper(helpers.TCP, "fragment")
	s, err := helpertest.Parse(dialogue)
	if err != nil {
		t.Fatal(err)
	}
	var v *helpertest.Violation
	if err := helpertest.Verify(h, s, 1); !errors.As(err, &v) {
		t.Fatalf("error %v, want a violation", err)
	}
	again, err := helpertest.Parse(v.Script.String())
	if err != nil {
		t.Fatal(err)
	}
	if again.String() != v.Script.String() {
		t.Errorf("the script is now\n%s, it was\n%s", again, v.Script)
	}
	if err := helpertest.Verify(h, again, 1); !errors.As(err, &v) || v.Rule != helpertest.Cuts {
		t.Errorf("played again: %v, want rule %d", err, helpertest.Cuts)
	}
}

// TestAnnotate: the lines of a helper are put where they belong, in place of others.
func TestAnnotate(t *testing.T) {
	h := helper(helpers.TCP, "")
	right, err := helpertest.Annotate(h, "# a comment\nlate\n"+dialogue)
	if err != nil || !strings.Contains(right, "= expect data tcp orig ") {
		t.Fatalf("%s, error %v", right, err)
	}
	wrong := strings.Replace(right, "\n= ", "\n= no such thing\n= ", 1)
	if again, err := helpertest.Annotate(h, wrong); err != nil || again != right {
		t.Errorf("%s, error %v, want\n%s", again, err, right)
	}
	helpertest.Check(t, h, right)
	if _, err := helpertest.Annotate(h, "what?"); err == nil {
		t.Error("no script is annotated")
	}
}

func FuzzToy(f *testing.F) { helpertest.Fuzz(f, helper(helpers.TCP, ""), dialogue) }
