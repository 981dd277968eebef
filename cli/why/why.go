// Package why finds what led to a RELATED connection: the master that conntrack names, the control connection that it
// stands for, and the announcement in the daemon's log.
package why

import (
	"iter"
	"strings"

	"github.com/cthelperd/cthelperd/flows"
)

// shadows is how far a shadow's port may be from the control connection's: the daemon counts up for each that it needs
// (package expect).
const shadows = 128

// reading is the bit that differs in the ports of shadows for connections that are to be read themselves.
const reading = 1 << 15

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
		case r.Shadow && m.Orig.Dst.Port() != 0 && standsFor(f.Master.Src.Port(), m.Orig.Src.Port()):
			r.Control = append(r.Control, *m)
		}
	}
	r.Control = nearest(f.Master.Src.Port(), r.Control)
	return r, nil
}

// standsFor says whether a shadow with the port may be one of the connection's with that port.
func standsFor(shadow, port uint16) bool {
	return shadow-port < shadows || shadow^reading-port < shadows
}

// nearest leaves those with the port that is next to the shadow's: it begins with the control connection's own.
func nearest(shadow uint16, all []flows.Flow) []flows.Flow {
	distance := func(f *flows.Flow) uint16 {
		return min(shadow-f.Orig.Src.Port(), (shadow^reading)-f.Orig.Src.Port())
	}
	best := uint16(shadows)
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

// Protocol is the daemon's helper that a kernel helper's name is a label of; empty if it is none.
func Protocol(helper string) string {
	for _, prefix := range []string{"cth-", "ctc-"} {
		if name, ok := strings.CutPrefix(helper, prefix); ok {
			return name
		}
	}
	return ""
}
