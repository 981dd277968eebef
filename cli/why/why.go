// Package why finds what led to a RELATED connection: the master that conntrack names, the control connection that it
// stands for, and the announcement in the daemon's log.
package why

import (
	"iter"
	"math"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
)

// Reason is why a connection is RELATED.
type Reason struct {
	Related bool
	Helper  string       // of the master; empty: unknown
	Shadow  bool         // the master is an entry that no packet belongs to
	Master  *flows.Flow  // nil: it is not there any more
	Control []flows.Flow // the connections that the master may stand for; the master itself if it is none's shadow
}

// Find reads the table; masters are expected by conntrack's word, control connections by the addresses of their shadow.
func Find(f *flows.Flow, list func(*flows.Filter) iter.Seq2[*flows.Flow, error]) (Reason, error) {
	r := Reason{Related: f.Expected()}
	if !f.Master.Src.IsValid() {
		return r, nil
	}
	r.Shadow = f.Master.Dst.Port() == 0
	same := &flows.Filter{
		Orig: flows.Ends{Src: flows.Addr(f.Master.Src.Addr()), Dst: flows.Addr(f.Master.Dst.Addr())},
	}
	for m, err := range list(same) {
		if err != nil {
			return r, err
		}
		switch {
		case m.Transport == f.MasterTransport && m.Orig == f.Master:
			master := *m
			r.Master, r.Helper = &master, m.Helper
			if !r.Shadow {
				r.Control = append(r.Control, master)
			}
		case r.Shadow && m.Orig.Dst.Port() != 0:
			if _, ok := expect.Stands(f.Master.Src.Port(), m.Orig.Src.Port()); ok {
				r.Control = append(r.Control, *m)
			}
		}
	}
	r.Control = nearest(f.Master.Src.Port(), r.Control)
	return r, nil
}

// nearest leaves those with the port that is next to the shadow's: it begins with the control connection's own.
func nearest(shadow uint16, all []flows.Flow) []flows.Flow {
	distance := func(f *flows.Flow) uint16 {
		before, _ := expect.Stands(shadow, f.Orig.Src.Port())
		return before
	}
	best := uint16(math.MaxUint16)
	for i := range all {
		best = min(best, distance(&all[i]))
	}
	var left []flows.Flow
	for i := range all {
		if all[i].Orig.Dst.Port() != 0 && distance(&all[i]) == best || len(all) == 1 {
			left = append(left, all[i])
		}
	}
	return left
}
