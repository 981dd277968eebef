// Package top shows the connection table live in a terminal.
package top

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"strings"
	"time"

	"github.com/cthelperd/cthelperd/cli/best"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/cli/where"
	"github.com/cthelperd/cthelperd/cli/why"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

// most is how many rows a sample has: the first ones in the order at hand.
const most = 500

// row is a flow and how fast it is.
type row struct {
	flows.Flow
	depth   int     // in the tree: 1 is announced by the row above
	bytes   float64 // a second; negative: not known yet
	packets float64
}

// Sample is the table at a moment.
type Sample struct {
	rows      []row
	at        time.Time
	whole     bool // the walk through the table has ended
	total     int  // flows that match
	related   int
	protocols map[helpers.Transport]int
	bytes     float64 // a second, of all that match; negative: not known yet
	packets   float64
	entries   uint32 // in the table
	limit     uint32
	err       error
}

// question is what a sample is wanted of.
type question struct {
	filter *flows.Filter
	sort   int // index of keys
	upward bool
	tree   bool
}

// key is what rows are sorted by.
type key struct {
	name    string
	compare func(a, b *row) int // negative: a comes first
}

// keys are all there are. The numbers begin with the highest.
func keys() []key {
	number := func(of func(*row) float64) func(a, b *row) int {
		return func(a, b *row) int { return cmp.Compare(of(b), of(a)) }
	}
	return []key{
		{"rate", number(func(r *row) float64 { return r.bytes })},
		{"bytes", number(func(r *row) float64 { return float64(r.Counters[0].Bytes + r.Counters[1].Bytes) })},
		{"packets", number(func(r *row) float64 { return float64(r.Counters[0].Packets + r.Counters[1].Packets) })},
		{"age", func(a, b *row) int { return a.Start.Compare(b.Start) }},
		{"timeout", number(func(r *row) float64 { return float64(r.Timeout) })},
		{"source", func(a, b *row) int { return a.Orig.Src.Compare(b.Orig.Src) }},
		{"destination", func(a, b *row) int { return a.Orig.Dst.Compare(b.Orig.Dst) }},
		{"proto", func(a, b *row) int {
			return strings.Compare(names.Protocol(uint8(a.Transport)), names.Protocol(uint8(b.Transport)))
		}},
		{"state", func(a, b *row) int { return strings.Compare(where.State(&a.Flow), where.State(&b.Flow)) }},
	}
}

// order is a question's, ties by the entry's number so that rows keep their places.
func (q *question) order() func(a, b *row) int {
	compare := keys()[q.sort].compare
	return func(a, b *row) int {
		n := compare(a, b)
		if q.upward {
			n = -n
		}
		return cmp.Or(n, cmp.Compare(a.ID, b.ID))
	}
}

// counted is a flow's counters at the last sample.
type counted struct{ bytes, packets uint64 }

// sampler takes samples, and keeps counters for the rates between two.
type sampler struct {
	list  func(*flows.Filter) iter.Seq2[*flows.Flow, error]
	count func() (entries, limit uint32, err error)
	stop  func() bool // the walk is not wanted any more
	now   func() time.Time
	last  map[uint32]counted
	next  map[uint32]counted
	at    time.Time
}

// early is how long the first walk goes on before what it has found is shown.
const early = 200 * time.Millisecond

// take walks through the table. partial is given what was found so far, now and then, in the first walk. Nil: it was
// stopped.
func (s *sampler) take(q *question, partial func(*Sample)) *Sample {
	begin := s.now()
	first := s.at.IsZero()
	sample := &Sample{at: begin, protocols: map[helpers.Transport]int{}}
	rows := best.List[row]{Compare: q.order(), Most: most}
	seconds := begin.Sub(s.at).Seconds()
	shown := begin
	if s.next == nil {
		s.next = map[uint32]counted{}
	}
	clear(s.next)
	for f, err := range s.list(q.filter) {
		if err != nil {
			sample.err = err
			break
		}
		r := row{bytes: -1, packets: -1}
		s.rate(&r, f, seconds)
		sample.add(f, &r)
		if !q.tree || f.Expected() {
			r.Flow = *f
			rows.Offer(r, nil)
		}
		if sample.total%1024 == 0 && s.stop() {
			return nil
		}
		if sample.total%4096 == 0 && first && s.now().Sub(shown) > early {
			shown = s.now()
			part := *sample
			part.rows, part.protocols = rows.Sorted(), maps.Clone(sample.protocols)
			partial(&part)
		}
	}
	sample.rows, sample.whole = rows.Sorted(), true
	if first {
		sample.bytes, sample.packets = -1, -1
	}
	if q.tree && sample.err == nil {
		sample.rows, sample.err = s.tree(sample.rows, seconds)
	}
	if entries, limit, err := s.count(); err == nil {
		sample.entries, sample.limit = entries, limit
	}
	s.last, s.next, s.at = s.next, s.last, begin
	return sample
}

func (s *sampler) rate(r *row, f *flows.Flow, seconds float64) {
	is := counted{f.Counters[0].Bytes + f.Counters[1].Bytes, f.Counters[0].Packets + f.Counters[1].Packets}
	s.next[f.ID] = is
	if s.at.IsZero() || f.Has&flows.HasCounters == 0 || seconds <= 0 {
		return
	}
	was, known := s.last[f.ID]
	if !known || is.bytes < was.bytes { // new, or another flow with the number
		was = counted{}
	}
	r.bytes, r.packets = float64(is.bytes-was.bytes)/seconds, float64(is.packets-min(was.packets, is.packets))/seconds
}

func (s *Sample) add(f *flows.Flow, r *row) {
	s.total++
	s.protocols[f.Transport]++
	if f.Expected() {
		s.related++
	}
	if r.bytes > 0 {
		s.bytes += r.bytes
		s.packets += r.packets
	}
}

// branch is a row of the tree.
type branch struct {
	row
	parent int // index of another branch; -1: none that is there
	far    uint16
	below  []int
	drawn  bool
}

// tree puts announced connections below the ones that announced them, as far as these are there, and those below theirs.
// The group of the first row comes first.
func (s *sampler) tree(related []row, seconds float64) ([]row, error) {
	type pair struct{ src, dst netip.Addr }
	all := make([]branch, len(related))
	place := map[uint32]int{}   // of all, by id
	masters := map[pair][]int{} // of related, by the addresses of the master
	for i, r := range related {
		all[i] = branch{row: r, parent: -1}
		place[r.ID] = i
		if r.Master.Src.IsValid() {
			p := pair{r.Master.Src.Addr(), r.Master.Dst.Addr()}
			masters[p] = append(masters[p], i)
		}
	}
	for f, err := range s.list(nil) {
		if err != nil {
			return nil, err
		}
		for _, i := range masters[pair{f.Orig.Src.Addr(), f.Orig.Dst.Addr()}] {
			far, ok := why.Stands(&all[i].Flow, f)
			if !ok || all[i].parent >= 0 && all[i].far <= far {
				continue
			}
			at, known := place[f.ID]
			if !known {
				at = len(all)
				place[f.ID] = at
				r := row{Flow: *f, bytes: -1, packets: -1}
				if _, known := s.last[f.ID]; known {
					s.rate(&r, f, seconds)
				}
				all = append(all, branch{row: r, parent: -1})
			}
			all[i].parent, all[i].far = at, far
		}
	}
	for i := range related {
		if p := all[i].parent; p >= 0 {
			all[p].below = append(all[p].below, i)
		}
	}
	var rows []row
	var draw func(i, depth int)
	draw = func(i, depth int) {
		if all[i].drawn {
			return
		}
		b := &all[i]
		b.depth, b.drawn = depth, true
		rows = append(rows, b.row)
		for _, k := range b.below {
			draw(k, depth+1)
		}
	}
	for i := range related {
		root := i
		for range deepest {
			if p := all[root].parent; p >= 0 {
				root = p
			}
		}
		draw(root, 0)
	}
	return rows, nil
}

// deepest is how many levels of announcements are followed: the daemon makes fewer.
const deepest = 8
