package helpertest

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
)

// Output is all that a session gave, in order. As the text of "=" lines:
//
//	expect data tcp orig 198.51.100.9:*>192.0.2.2:51201 group 1 "PORT"
//	cancel 1
//	note 1 "RETR pub/file"
//	error "at byte 5: number over 255"
//
// Parts of a group stand behind a slash (1/2); paired, permanent, reserve, relayed, lasting, a timeout and a helper behind the group.
type Output struct {
	Expect []helpers.Expectation
	Cancel []helpers.Group
	Notes  []helpers.Note
}

func (o *Output) equal(p *Output) bool {
	return slices.Equal(o.Expect, p.Expect) && slices.Equal(o.Cancel, p.Cancel) && slices.Equal(o.Notes, p.Notes)
}

func (o *Output) lines(h helpers.Helper) (l []string) {
	for _, g := range o.Cancel {
		l = append(l, "cancel "+group(g))
	}
	for _, e := range o.Expect {
		l = append(l, expectation(h, e))
	}
	for _, n := range o.Notes {
		l = append(l, fmt.Sprintf("note %s %q", group(n.Group), n.Text))
	}
	return l
}

func expectation(h helpers.Helper, e helpers.Expectation) string {
	class := fmt.Sprint(e.Class)
	if int(e.Class) < len(h.Classes) {
		class = h.Classes[e.Class].Name
	}
	l := fmt.Sprintf("expect %s %v %v %s>%v group %s", class, e.Transport, e.Owner, wild(e.From), e.To, group(e.Group))
	for _, f := range []struct {
		set  bool
		name string
	}{{e.Paired, "paired"}, {e.Permanent, "permanent"}, {e.Reserve, "reserve"}, {e.Relayed, "relayed"}, {e.Lasting, "lasting"},
		{e.Timeout != 0, e.Timeout.String()}, {e.Helper != "", "helper " + e.Helper}} {
		if f.set {
			l += " " + f.name
		}
	}
	return l + fmt.Sprintf(" %q", e.Note)
}

func group(g helpers.Group) string {
	if g.Part != 0 {
		return fmt.Sprintf("%d/%d", g.ID, g.Part)
	}
	return fmt.Sprint(g.ID)
}

// wild writes zero as a star.
func wild(a netip.AddrPort) string {
	host, port := "*", "*"
	if a.Addr().IsValid() && !a.Addr().IsUnspecified() {
		host = a.Addr().String()
		if a.Addr().Is6() {
			host = "[" + host + "]"
		}
	}
	if a.Port() != 0 {
		port = fmt.Sprint(a.Port())
	}
	return host + ":" + port
}

// A player drives one session as an engine does: in stream order, with unconsumed bytes kept, excess skipped, held
// bytes waiting, a foreign direction locked.
type player struct {
	h       helpers.Helper
	script  *Script
	session helpers.Session
	flow    *helpers.Flow
	nat     *nat // nil: no Rewrite
	dirs    [2]stream
	all     Output
	errs    []error // of the last segment
	known   map[uint64]bool
	out     helpers.Result
	edits   []helpers.Edit
	clock   time.Time
	given   int // bytes and calls, for the bound on steps
	played  []Say
	endless bool // keep no record: nothing but the session may grow
}

type stream struct {
	kept   []byte // not consumed
	left   int    // of kept: gone out already
	skip   int
	locked bool
	sent   []byte // behind the NAT
}

func newPlayer(h helpers.Helper, s *Script, n *nat) *player {
	return &player{
		h: h, script: s, session: h.New(), flow: s.flow(h, n), nat: n,
		known: map[uint64]bool{}, clock: time.Unix(1, 0),
	}
}

// broken is a violation in what was played so far.
func (p *player) broken(rule int, format string, args ...any) error {
	return &Violation{Rule: rule, What: fmt.Sprintf(format, args...), Script: p.script.with(slices.Clone(p.played))}
}

// play feeds all segments.
func (p *player) play(says []Say) error {
	for _, say := range says {
		if err := p.feed(say); err != nil {
			return err
		}
	}
	return p.close()
}

func (p *player) close() error {
	p.out.Reset()
	if err := p.guard(func() { p.session.Close(p.flow.ID, &p.out) }); err != nil {
		return err
	}
	if err := p.take(helpers.Original, nil); err != nil {
		return err
	}
	for i := range p.dirs {
		d := &p.dirs[i]
		d.sent = append(d.sent, d.kept[d.left:]...)
		d.kept, d.left = nil, 0
	}
	return nil
}

// guard turns a panic into a violation.
func (p *player) guard(call func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = p.broken(Work, "panic: %v\n%s", r, debug.Stack())
		}
	}()
	call()
	return nil
}

// feed gives one segment.
func (p *player) feed(say Say) error {
	if p.endless {
		p.played, p.all, p.given = nil, Output{}, 0
		p.dirs[0].sent, p.dirs[1].sent = nil, nil
	}
	p.played = append(p.played, Say{Dir: say.Dir, Data: say.Data, Gap: say.Gap, End: say.End})
	p.clock = p.clock.Add(time.Millisecond)
	p.errs = p.errs[:0]
	d := &p.dirs[say.Dir]
	if p.h.Transport == helpers.UDP {
		return p.datagram(d, say)
	}
	if d.locked {
		d.sent = append(d.sent, say.Data...)
		return nil
	}
	gap := say.Gap
	if gap {
		d.sent = append(d.sent, d.kept[d.left:]...)
		d.kept, d.left, d.skip = nil, 0, 0
	}
	data := say.Data
	if n := min(d.skip, len(data)); n > 0 {
		d.sent = append(d.sent, data[:n]...)
		data = data[n:]
		d.skip -= n
	}
	if len(data) == 0 && !gap && !say.End {
		return nil
	}
	d.kept = append(slices.Clip(d.kept), data...)
	seg := &helpers.Segment{Flow: p.flow, Dir: say.Dir, Data: d.kept, Gap: gap, End: say.End, Time: p.clock}
	ierr, err := p.inspect(seg, len(data))
	if err != nil {
		return err
	}
	n := len(seg.Data)
	if p.out.Consumed < 0 || p.out.Hold < 0 || p.out.Hold > max(0, n-p.out.Consumed) {
		return p.broken(Ranges, "Consumed %d and Hold %d of %d bytes", p.out.Consumed, p.out.Hold, n)
	}
	consumed := min(p.out.Consumed, n)
	edits, err := p.rewrite(seg, consumed, d.left)
	if err != nil {
		return err
	}
	released := max(n-p.out.Hold, d.left) // what is gone cannot be held back
	d.sent = append(d.sent, apply(seg.Data, d.left, released, edits)...)
	d.skip = p.out.Consumed - consumed
	d.kept, d.left = seg.Data[consumed:], released-consumed
	if errors.Is(ierr, helpers.ErrForeign) {
		d.locked = true
		d.sent = append(d.sent, d.kept[d.left:]...)
		d.kept, d.left, d.skip = nil, 0, 0
	} else if backlog := cmpOr(p.h.Backlog, 4096); len(d.kept) > backlog {
		return p.broken(Work, "%d bytes not consumed, Backlog is %d: refuse or skip the message", len(d.kept), backlog)
	}
	return nil
}

func cmpOr(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}

func (p *player) datagram(d *stream, say Say) error {
	if d.locked {
		return nil
	}
	seg := &helpers.Segment{Flow: p.flow, Dir: say.Dir, Data: say.Data, Time: p.clock}
	ierr, err := p.inspect(seg, len(say.Data))
	if err != nil {
		return err
	}
	edits, err := p.rewrite(seg, len(seg.Data), 0)
	if err != nil {
		return err
	}
	d.sent = append(d.sent, apply(seg.Data, 0, len(seg.Data), edits)...)
	d.locked = errors.Is(ierr, helpers.ErrForeign)
	return nil
}

// inspect calls Inspect and takes what it gives.
func (p *player) inspect(seg *helpers.Segment, fresh int) (ierr, err error) {
	p.given += fresh + 1
	before := bytes.Clone(seg.Data)
	p.out.Reset()
	if err := p.guard(func() { ierr = p.session.Inspect(seg, &p.out) }); err != nil {
		return nil, err
	}
	if !bytes.Equal(before, seg.Data) {
		return nil, p.broken(ReadOnly, "Inspect changed Segment.Data: %q is now %q", before, seg.Data)
	}
	var perr *helpers.ParseError
	if ierr != nil {
		p.errs = append(p.errs, ierr)
		switch {
		case errors.Is(ierr, helpers.ErrForeign):
		case !errors.As(ierr, &perr):
			return nil, p.broken(Ranges, "error %v is neither a *ParseError nor ErrForeign", ierr)
		case perr.Off < 0 || perr.Off > len(seg.Data):
			return nil, p.broken(Ranges, "ParseError at %d of %d bytes", perr.Off, len(seg.Data))
		}
	}
	if s, ok := p.session.(Stepper); ok && !p.endless {
		if most := stepsPerByte * (p.given + 1); s.Steps() > most {
			return nil, p.broken(Work, "%d steps for %d bytes and calls, at most %d are allowed", s.Steps(), p.given, most)
		}
	}
	return ierr, p.take(seg.Dir, seg)
}

// A Stepper is a Session that counts the bytes that it looked at, again and again if it looks again. Its work is then
// checked.
type Stepper interface{ Steps() int }

// stepsPerByte is the c of "work is at most c times the bytes".
const stepsPerByte = 640

// take checks what the session gave, and adds it to all.
func (p *player) take(dir helpers.Dir, seg *helpers.Segment) error {
	for i, e := range p.out.Expect {
		switch {
		case seg == nil:
			return p.broken(Ranges, "Close announced %v", e.To)
		case int(e.Class) >= len(p.h.Classes):
			return p.broken(Ranges, "Expect[%d]: class %d of %d", i, e.Class, len(p.h.Classes))
		case e.Transport != helpers.TCP && e.Transport != helpers.UDP:
			return p.broken(Ranges, "Expect[%d]: transport %v", i, e.Transport)
		case e.Owner > helpers.Reply:
			return p.broken(Ranges, "Expect[%d]: owner %d", i, e.Owner)
		case !e.To.IsValid() || e.To.Port() == 0:
			return p.broken(Ranges, "Expect[%d]: end point %v", i, e.To)
		case e.Timeout < 0:
			return p.broken(Ranges, "Expect[%d]: timeout %v", i, e.Timeout)
		}
		if e.Group.ID != 0 && !p.endless {
			p.known[e.Group.ID] = true
		}
	}
	for _, g := range p.out.Cancel {
		if !p.endless && !p.known[g.ID] {
			return p.broken(Cancels, "cancel of group %s, which was not announced", group(g))
		}
	}
	for _, n := range p.out.Notes {
		if !p.endless && n.Group.ID != 0 && !p.known[n.Group.ID] {
			return p.broken(Cancels, "note %q of group %s, which was not announced", n.Text, group(n.Group))
		}
	}
	p.all.Expect = append(p.all.Expect, p.out.Expect...)
	p.all.Cancel = append(p.all.Cancel, p.out.Cancel...)
	p.all.Notes = append(p.all.Notes, p.out.Notes...)
	return nil
}

// rewrite calls Rewrite and checks its edits: in [0, consumed), and none in the left bytes that are gone.
func (p *player) rewrite(seg *helpers.Segment, consumed, left int) ([]helpers.Edit, error) {
	w, ok := p.session.(helpers.Rewriter)
	if !ok || p.nat == nil {
		return nil, nil
	}
	p.nat.expect = p.out.Expect
	before := bytes.Clone(seg.Data)
	p.edits = p.edits[:0]
	if err := p.guard(func() { p.edits = w.Rewrite(seg, p.nat, p.edits) }); err != nil {
		return nil, err
	}
	if !bytes.Equal(before, seg.Data) {
		return nil, p.broken(ReadOnly, "Rewrite changed Segment.Data: %q is now %q", before, seg.Data)
	}
	at := 0
	for i, e := range p.edits {
		switch {
		case e.Off < at || e.Len < 0 || e.Off+e.Len > consumed:
			return nil, p.broken(Ranges, "edit %d at %d+%d: before %d or behind the consumed %d bytes",
				i, e.Off, e.Len, at, consumed)
		case e.Off < left:
			return nil, p.broken(Cuts, "edit %d at %d changes bytes that were not held (%d are gone)", i, e.Off, left)
		case p.nat.swap == nil:
			return nil, p.broken(Identity, "a NAT that changes nothing makes an edit of %q to %q",
				seg.Data[e.Off:e.Off+e.Len], e.New)
		}
		at = e.Off + e.Len
	}
	return p.edits, nil
}

// apply is data[from:to] with the edits in it.
func apply(data []byte, from, to int, edits []helpers.Edit) []byte {
	var b []byte
	for _, e := range edits {
		b = append(append(b, data[from:e.Off]...), e.New...)
		from = e.Off + e.Len
	}
	return append(b, data[from:to]...)
}

// nat is a fake: it swaps addresses, so that it is its own inverse. What it does to an end point does not depend on what
// was announced before.
type nat struct {
	swap   map[netip.Addr]netip.Addr // nil: the NAT changes nothing
	ports  []uint16                  // of the flow, which are kept while others are changed; nil: all are kept
	expect []helpers.Expectation     // of the segment at hand
}

// outside is an end point of the flow as the other side sees it.
func (n *nat) outside(a netip.AddrPort) netip.AddrPort {
	if n == nil {
		return a
	}
	if b, ok := n.swap[a.Addr()]; ok {
		return netip.AddrPortFrom(b, a.Port())
	}
	return a
}

// At implements helpers.NAT.
func (n *nat) At(i int) (netip.AddrPort, bool) {
	if i < 0 || i >= len(n.expect) {
		panic(fmt.Sprintf("NAT.At(%d) of %d expectations", i, len(n.expect)))
	}
	to, _ := n.Translate(n.expect[i].To)
	return to, true
}

// Translate implements helpers.NAT.
func (n *nat) Translate(a netip.AddrPort) (netip.AddrPort, bool) {
	b := n.outside(a)
	// Its own inverse; odd stays odd, and neighbours stay neighbours.
	if p := a.Port() ^ 1<<14; b != a && n.ports != nil && a.Port() >= 1024 && p >= 1024 &&
		!slices.Contains(n.ports, a.Port()) && !slices.Contains(n.ports, p) {
		b = netip.AddrPortFrom(b.Addr(), p)
	}
	return b, b != a
}

// swapping makes the NAT of a flow: both ends have other addresses on the other side, and ports change.
func swapping(f *helpers.Flow) *nat {
	n := &nat{swap: map[netip.Addr]netip.Addr{}, ports: []uint16{f.Orig.Src.Port(), f.Reply.Src.Port()}}
	out := [2]string{"203.0.113.5", "203.0.113.177"}
	if f.Orig.Src.Addr().Is6() {
		out = [2]string{"2001:db8:ffff:aaaa:bbbb::5", "2001:db8:f::7"}
	}
	ends := []netip.Addr{f.Orig.Src.Addr(), f.Reply.Src.Addr()}
	for i, a := range ends {
		b := netip.MustParseAddr(out[i])
		for slices.Contains(ends, b) {
			b = b.Next()
		}
		n.swap[a], n.swap[b] = b, a
	}
	return n
}
