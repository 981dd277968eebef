// Package why finds what led to a RELATED connection: the master that conntrack names, the control connection that it
// stands for, and the announcement in the daemon's log.
package why

import (
	"iter"
	"math"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
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
	r.Shadow = isShadow(f.Master)
	same := &flows.Filter{
		Orig: flows.Ends{Src: flows.Addr(f.Master.Src.Addr()), Dst: flows.Addr(f.Master.Dst.Addr())},
	}
	best := uint16(math.MaxUint16)
	for m, err := range list(same) {
		if err != nil {
			return r, err
		}
		if m.Transport == f.MasterTransport && m.Orig == f.Master {
			master := *m
			r.Master, r.Helper = &master, m.Helper
		}
		far, ok := Stands(f, m)
		if !ok || far > best {
			continue
		}
		if far < best {
			best, r.Control = far, nil
		}
		r.Control = append(r.Control, *m)
	}
	return r, nil
}

// isShadow tells a master that no packet belongs to.
func isShadow(master helpers.Tuple) bool { return master.Dst.Port() == 0 }

// Stands tells whether m may be the connection that announced f, and how far its port is from that of f's master: the
// nearest one is it. Masters that are no shadows are it themselves. What has the same master as f was announced beside it.
func Stands(f, m *flows.Flow) (far uint16, ok bool) {
	if !isShadow(f.Master) {
		return 0, m.Transport == f.MasterTransport && m.Orig == f.Master
	}
	if isShadow(m.Orig) || m.Master == f.Master || m.Orig.Src.Addr() != f.Master.Src.Addr() || m.Orig.Dst.Addr() != f.Master.Dst.Addr() {
		return 0, false
	}
	return expect.Stands(f.Master.Src.Port(), m.Orig.Src.Port())
}
