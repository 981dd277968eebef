package helpertest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"

	"github.com/cthelperd/cthelperd/helpers"
)

// Verify plays a script in all the ways that the contract speaks of, with cuts drawn from seed, and returns a
// *Violation or nil. What costs much (allocations, memory, a snapshot at each segment) is left to Check.
func Verify(h helpers.Helper, s *Script, seed uint64) error {
	rnd := rand.New(rand.NewPCG(seed, 0))
	whole := newPlayer(h, s, nil)
	if err := whole.play(s.Says); err != nil {
		return err
	}
	if h.Transport == helpers.UDP {
		if err := refresh(h, s); err != nil {
			return err
		}
	} else if err := cuts(h, s, rnd, whole); err != nil {
		return err
	}
	if err := gaps(h, s, rnd); err != nil {
		return err
	}
	if err := torn(h, s, rnd); err != nil {
		return err
	}
	if err := moved(h, s, rnd, whole); err != nil {
		return err
	}
	return natted(h, s, rnd, whole)
}

// maxName is the longest name of a helper: the kernel's 15 bytes less "cth-".
const maxName = 11

// declared checks what a helper says of itself.
func declared(h helpers.Helper) error {
	what := ""
	switch {
	case h.Name == "" || len(h.Name) > maxName:
		what = fmt.Sprintf("name %q has not 1 to %d bytes", h.Name, maxName)
	case h.Transport != helpers.TCP && h.Transport != helpers.UDP:
		what = fmt.Sprintf("transport %v", h.Transport)
	case len(h.Classes) < 1 || len(h.Classes) > 4:
		what = fmt.Sprintf("%d classes, want 1 to 4", len(h.Classes))
	case h.Backlog < 0:
		what = fmt.Sprintf("backlog %d", h.Backlog)
	case h.New == nil:
		what = "no New"
	}
	for _, c := range h.Classes {
		if c.Name == "" || c.Timeout <= 0 {
			what = fmt.Sprintf("class %q with timeout %v", c.Name, c.Timeout)
		}
	}
	if what != "" {
		return &Violation{Rule: Ranges, What: what, Script: &Script{}}
	}
	return nil
}

// maxBytewise bounds the scripts that are played byte by byte: the checks copy what is kept at each call.
const maxBytewise = 2 << 10

// bytewise cuts segments into single bytes, long scripts into a few hundred pieces.
func bytewise(s *Script, rnd *rand.Rand) []Say {
	if s.size() > maxBytewise {
		return cut(s.runs(), rnd)
	}
	return cut(s.runs(), nil)
}

// cut cuts segments: one byte each if rnd is nil.
func cut(says []Say, rnd *rand.Rand) []Say {
	var pieces []Say
	for _, say := range says {
		data := say.Data
		for first := true; first || len(data) > 0; first = false {
			n := min(1, len(data))
			if rnd != nil && n > 0 {
				n = 1 + rnd.IntN(len(data))
				if rnd.IntN(2) == 0 {
					n = min(n, 1+rnd.IntN(max(8, len(say.Data)/64)))
				}
			}
			pieces = append(pieces, Say{Dir: say.Dir, Data: data[:n:n], Gap: say.Gap && first, End: say.End && n == len(data)})
			data = data[n:]
		}
	}
	return pieces
}

// cuts compares other cuts of the same streams with whole.
func cuts(h helpers.Helper, s *Script, rnd *rand.Rand, whole *player) error {
	runs := s.runs()
	for _, pieces := range [][]Say{runs, bytewise(s, rnd), cut(runs, rnd), cut(runs, rnd)} {
		p := newPlayer(h, s, nil)
		if err := p.play(pieces); err != nil {
			return err
		}
		if !p.all.equal(&whole.all) {
			return p.broken(Cuts, "cut otherwise, the outputs differ (- as in the script, + as cut below)\n%s",
				diff(h, &whole.all, &p.all))
		}
	}
	return nil
}

// diff lists two outputs' lines where they differ.
func diff(h helpers.Helper, a, b *Output) string {
	var w strings.Builder
	la, lb := a.lines(h), b.lines(h)
	for i := range max(len(la), len(lb)) {
		switch {
		case i < len(la) && i < len(lb) && la[i] == lb[i]:
			fmt.Fprintf(&w, "  %s\n", la[i])
			continue
		case i < len(la):
			fmt.Fprintf(&w, "- %s\n", la[i])
		}
		if i < len(lb) {
			fmt.Fprintf(&w, "+ %s\n", lb[i])
		}
	}
	return w.String()
}

// gaps loses bytes: what a session gives afterwards must not depend on the unconsumed bytes before the gap.
func gaps(h helpers.Helper, s *Script, rnd *rand.Rand) error {
	if h.Transport == helpers.UDP || len(s.Says) == 0 {
		return nil
	}
	pieces := cut(s.Says, rnd)
	i := rnd.IntN(len(pieces))
	dir := pieces[i].Dir
	a := newPlayer(h, s, nil)
	for _, say := range pieces[:i] {
		if err := a.feed(say); err != nil {
			return err
		}
	}
	// In b the bytes that a has given and not seen consumed are lost already.
	tail := len(a.dirs[dir].kept)
	before := slices.Clone(pieces[:i])
	for j := i - 1; j >= 0 && tail > 0; j-- {
		if before[j].Dir != dir {
			continue
		}
		n := min(tail, len(before[j].Data))
		before[j].Data = before[j].Data[:len(before[j].Data)-n]
		tail -= n
	}
	b := newPlayer(h, s, nil)
	for _, say := range before {
		if err := b.feed(say); err != nil {
			return err
		}
	}
	same := a.all.equal(&b.all)
	a.all, b.all = Output{}, Output{}
	for j, say := range pieces[i:] {
		say.Gap = say.Gap || j == 0
		if err := a.feed(say); err != nil {
			return err
		}
		if err := b.feed(say); err != nil {
			return err
		}
	}
	if same && !a.all.equal(&b.all) {
		return a.broken(Gaps, "the outputs after a gap depend on lost bytes (- without, + with them before the gap)\n%s",
			diff(h, &b.all, &a.all))
	}
	return nil
}

// torn loses something just before the byte that makes an announcement whole: that byte alone cannot announce it.
func torn(h helpers.Helper, s *Script, rnd *rand.Rand) error {
	if h.Transport == helpers.UDP || s.size() > maxBytewise {
		return nil
	}
	pieces := cut(s.runs(), nil)
	p := newPlayer(h, s, nil)
	var whole []int
	for i, say := range pieces {
		n := len(p.all.Expect)
		if err := p.feed(say); err != nil {
			return err
		}
		if len(p.all.Expect) > n && !say.Gap {
			whole = append(whole, i)
		}
	}
	if len(whole) == 0 {
		return nil
	}
	last := whole[rnd.IntN(len(whole))]
	p = newPlayer(h, s, nil)
	for _, say := range pieces[:last] {
		if err := p.feed(say); err != nil {
			return err
		}
	}
	p.all = Output{}
	say := pieces[last]
	say.Gap = true
	if err := p.feed(say); err != nil {
		return err
	}
	if len(p.all.Expect) > 0 {
		return p.broken(Gaps, "announced from bytes on both sides of a gap\n+ %s", expectation(h, p.all.Expect[0]))
	}
	return nil
}

// moved restores the session from its snapshot after every segment.
func moved(h helpers.Helper, s *Script, rnd *rand.Rand, whole *player) error {
	if _, ok := h.New().(helpers.Snapshotter); !ok || h.Restore == nil {
		return nil
	}
	says := s.Says
	if h.Transport == helpers.TCP {
		says = cut(s.runs(), rnd)
	}
	p := newPlayer(h, s, nil)
	for _, say := range says {
		if err := p.feed(say); err != nil {
			return err
		}
		if err := p.move(rnd); err != nil {
			return err
		}
	}
	if err := p.close(); err != nil {
		return err
	}
	if !p.all.equal(&whole.all) {
		return p.broken(Snapshot, "restored after every segment, the outputs differ (- not restored, + restored)\n%s",
			diff(h, &whole.all, &p.all))
	}
	return nil
}

// move snapshots and restores the session, and looks that damage is found.
func (p *player) move(rnd *rand.Rand) error {
	var state []byte
	var restored helpers.Session
	err := p.guard(func() {
		prefix := []byte("prefix")
		b, aerr := p.session.(helpers.Snapshotter).AppendBinary(prefix)
		if aerr != nil || !bytes.HasPrefix(b, prefix) {
			panic(fmt.Sprintf("AppendBinary gave %q, %v", b, aerr))
		}
		state = b[len(prefix):]
		var rerr error
		if restored, rerr = p.h.Restore(bytes.Clone(state)); rerr != nil {
			panic(fmt.Sprintf("Restore of %x: %v", state, rerr))
		}
	})
	if err != nil {
		return p.broken(Snapshot, "%s", err.(*Violation).What)
	}
	bad := bytes.Clone(state)
	switch {
	case len(bad) == 0:
		return p.broken(Snapshot, "an empty state has no version")
	case rnd.IntN(2) == 0:
		bad = bad[:rnd.IntN(len(bad))]
	default:
		bad[rnd.IntN(len(bad))] ^= byte(1 + rnd.IntN(255))
	}
	if err := p.damaged(bad); err != nil {
		return err
	}
	// A Stepper counts anew, and may look again at what it has not consumed.
	p.session, p.given = restored, len(p.dirs[0].kept)+len(p.dirs[1].kept)
	return nil
}

func (p *player) damaged(bad []byte) error {
	var derr error
	if err := p.guard(func() { _, derr = p.h.Restore(bad) }); err != nil {
		return p.broken(Snapshot, "Restore of damaged state %x: %s", bad, err.(*Violation).What)
	}
	if derr == nil {
		return p.broken(Snapshot, "Restore takes damaged state %x", bad)
	}
	return nil
}

// natted plays the script under NATs: one that changes nothing, one that changes all, and the way back.
func natted(h helpers.Helper, s *Script, rnd *rand.Rand, whole *player) error {
	if _, ok := h.New().(helpers.Rewriter); !ok {
		return nil
	}
	same := newPlayer(h, s, &nat{})
	if err := same.play(s.Says); err != nil {
		return err
	}
	n := swapping(s.flow(h, nil))
	there := newPlayer(h, s, n)
	if err := there.play(s.Says); err != nil {
		return err
	}
	var others [][]Say
	if h.Transport == helpers.TCP {
		others = [][]Say{bytewise(s, rnd), cut(s.runs(), rnd)}
	}
	for _, pieces := range others {
		p := newPlayer(h, s, n)
		if err := p.play(pieces); err != nil {
			return err
		}
		for dir := range p.dirs {
			if a, b := there.dirs[dir].sent, p.dirs[dir].sent; !bytes.Equal(a, b) {
				return p.broken(Cuts, "under NAT, cut otherwise, the bytes sent differ\n- %s\n+ %s", escape(a), escape(b))
			}
		}
	}
	return inverse(h, s, n, there)
}

// inverse plays what a NAT made, under the same NAT the other way round.
func inverse(h helpers.Helper, s *Script, n *nat, there *player) error {
	back, err := through(h, s, n, n)
	if err != nil || back == nil {
		return err
	}
	first := newPlayer(h, s, n)
	if err := first.play(s.Says); err != nil {
		return err
	}
	again := newPlayer(h, s, n)
	if err := again.play(back.Says); err != nil {
		return err
	}
	if !again.all.equal(&first.all) {
		return first.broken(Inverse, "through a NAT and back, the outputs differ (- before, + after)\n%s",
			diff(h, &first.all, &again.all))
	}
	return nil
}

// through is the script behind the NAT, and back.
func through(h helpers.Helper, s *Script, there, back *nat) (*Script, error) {
	mid, err := behind(h, s, there, false)
	if err != nil {
		return nil, err
	}
	return behind(h, mid, back, true)
}

// behind is the script as the NAT n makes it. turned: it is one that n has made, so its flow is the outside one.
func behind(h helpers.Helper, s *Script, n *nat, turned bool) (*Script, error) {
	p := newPlayer(h, s, n)
	if turned {
		f := p.flow
		f.Orig = helpers.Tuple{Src: n.outside(f.Orig.Src), Dst: n.outside(f.Orig.Dst)}
		f.Reply = helpers.Tuple{Src: n.outside(f.Reply.Src), Dst: n.outside(f.Reply.Dst)}
	}
	made := s.with(nil)
	for _, say := range s.Says {
		d := &p.dirs[say.Dir]
		if held := d.kept[d.left:]; say.Gap && len(held) > 0 { // they leave before the gap
			made.Says = append(made.Says, Say{Dir: say.Dir, Data: bytes.Clone(held)})
			d.left = len(d.kept)
		}
		from := len(d.sent)
		if err := p.feed(say); err != nil {
			return nil, err
		}
		say.Data = bytes.Clone(d.sent[from:])
		made.Says = append(made.Says, say)
	}
	for i := range p.dirs { // what was held to the end
		if d := &p.dirs[i]; len(d.kept) > d.left {
			made.Says = append(made.Says, Say{Dir: helpers.Dir(i), Data: bytes.Clone(d.kept[d.left:])})
		}
	}
	return made, nil
}

// refresh gives every datagram twice.
func refresh(h helpers.Helper, s *Script) error {
	p := newPlayer(h, s, nil)
	if _, ok := p.session.(helpers.Rewriter); ok {
		p = newPlayer(h, s, swapping(s.flow(h, nil)))
	}
	for _, say := range s.Says {
		d := &p.dirs[say.Dir]
		if d.locked {
			continue
		}
		from := len(d.sent)
		if err := p.feed(say); err != nil {
			return err
		}
		expect, sent := slices.Clone(p.out.Expect), bytes.Clone(d.sent[from:])
		if d.locked {
			continue
		}
		from = len(d.sent)
		if err := p.feed(say); err != nil {
			return err
		}
		if a, b := (&Output{Expect: expect}), (&Output{Expect: p.out.Expect}); !a.equal(b) {
			return p.broken(Refresh, "a repeated datagram announces something else\n%s", diff(h, a, b))
		}
		if !bytes.Equal(sent, d.sent[from:]) {
			return p.broken(Refresh, "a repeated datagram leaves as %q, first it was %q", d.sent[from:], sent)
		}
	}
	return nil
}

// said compares a script with its "=" and "~" lines.
func said(h helpers.Helper, s *Script) error {
	outputs := slices.ContainsFunc(s.Says, func(say Say) bool { return len(say.Want) > 0 })
	changes := slices.ContainsFunc(s.Says, func(say Say) bool { return say.Changed })
	if !outputs && !changes {
		return nil
	}
	var n *nat
	if changes {
		n = &nat{swap: s.NAT}
		if n.swap == nil {
			n.swap = map[netip.Addr]netip.Addr{}
		}
	}
	p := newPlayer(h, s, n)
	for _, say := range s.Says {
		d := &p.dirs[say.Dir]
		from := len(d.sent)
		p.all = Output{}
		if err := p.feed(say); err != nil {
			return err
		}
		got := p.said()
		if outputs && !slices.Equal(got, say.Want) {
			return p.broken(Said, "the last segment gave\n\t= %s\nthe script says\n\t= %s",
				strings.Join(got, "\n\t= "), strings.Join(say.Want, "\n\t= "))
		}
		want := say.Behind
		if !say.Changed {
			want = say.Data
		}
		if sent := d.sent[from:]; changes && !bytes.Equal(sent, want) {
			return p.broken(Said, "the last segment left as\n\t~ %s\nthe script says\n\t~ %s", escape(sent), escape(want))
		}
	}
	return nil
}

// checkSnapshots restores at each segment alone, and damages the last state in every byte.
func checkSnapshots(h helpers.Helper, s *Script) error {
	if _, ok := h.New().(helpers.Snapshotter); !ok || h.Restore == nil {
		return nil
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	whole := newPlayer(h, s, nil)
	if err := whole.play(s.Says); err != nil {
		return err
	}
	for at := range s.Says {
		p := newPlayer(h, s, nil)
		for i, say := range s.Says {
			if err := p.feed(say); err != nil {
				return err
			}
			if i == at {
				if err := p.move(rnd); err != nil {
					return err
				}
			}
		}
		if err := p.close(); err != nil {
			return err
		}
		if !p.all.equal(&whole.all) {
			return p.broken(Snapshot, "restored after segment %d, the outputs differ (- not restored, + restored)\n%s",
				at+1, diff(h, &whole.all, &p.all))
		}
	}
	state, err := whole.session.(helpers.Snapshotter).AppendBinary(nil)
	if err != nil {
		return whole.broken(Snapshot, "AppendBinary: %v", err)
	}
	for i := range state {
		bad := bytes.Clone(state)
		bad[i] ^= 0xff
		for _, b := range [][]byte{bad, state[:i:i]} {
			if err := whole.damaged(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkAllocation plays the script again and again on one session. A segment that never gives anything must, at least
// once its session has grown, be inspected without an allocation.
func checkAllocation(h helpers.Helper, s *Script) error {
	const rounds = 12
	p := newPlayer(h, s, nil)
	least := make([]uint64, len(s.Says))
	for i := range least {
		least[i] = 1 << 62
	}
	var before, after runtime.MemStats
	for range rounds {
		for i, say := range s.Says {
			d := &p.dirs[say.Dir]
			if d.locked || say.Gap || say.End || d.skip > 0 {
				least[i] = 0
				continue
			}
			d.kept = append(d.kept, say.Data...)
			seg := &helpers.Segment{Flow: p.flow, Dir: say.Dir, Data: d.kept, Time: p.clock}
			p.out.Reset()
			var err error
			inspect := func() {
				runtime.ReadMemStats(&before)
				err = p.session.Inspect(seg, &p.out)
				runtime.ReadMemStats(&after)
			}
			if err := p.guard(inspect); err != nil {
				return err
			}
			n := after.Mallocs - before.Mallocs
			if err != nil || len(p.out.Expect)+len(p.out.Cancel)+len(p.out.Notes) > 0 {
				n = 0
			}
			least[i] = min(least[i], n)
			consumed := min(max(p.out.Consumed, 0), len(d.kept))
			d.skip = max(0, p.out.Consumed-len(d.kept))
			d.kept = slices.Clone(d.kept[consumed:])
			if h.Transport == helpers.UDP {
				d.kept, d.skip = nil, 0
			}
		}
	}
	for i, n := range least {
		if n > 0 {
			p.played = s.Says
			return p.broken(Allocation, "segment %d announces nothing and allocates %d times: %q", i+1, n, s.Says[i].Data)
		}
	}
	return nil
}

// checkMemory plays the script for long on one session, which must not grow.
func checkMemory(h helpers.Helper, s *Script) error {
	const (
		rounds = 2000
		most   = 256 << 10
	)
	if s.size() == 0 {
		return nil
	}
	p := newPlayer(h, s, nil)
	p.endless = true
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	fed := 0
	for round := 0; round < rounds && fed < 8<<20; round++ {
		for _, say := range s.Says {
			say.End = false
			if err := p.feed(say); err != nil {
				return err
			}
			fed += len(say.Data)
		}
	}
	grown := heap() - before
	runtime.KeepAlive(p)
	if grown > most {
		p.played = s.Says
		return p.broken(Work, "after %d bytes, the script again and again, the session has grown by %d bytes", fed, grown)
	}
	return nil
}
