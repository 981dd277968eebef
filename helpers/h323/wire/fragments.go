package wire

import "slices"

// piece is n bytes of the reader's b, put at from another place there.
type piece struct{ at, from, n int }

// contents reads a length in bytes and what it counts: an open type, or an OCTET STRING of no certain length. It says
// where that is. What comes in fragments is put together behind the message first.
func (w *walker) contents() (at, size int) {
	n, more := w.length()
	at = w.octets(n)
	if !more || w.err != nil {
		return at, n
	}
	if len(w.pieces) == 0 {
		w.b = slices.Clip(w.b) // the message is the caller's
	}
	start := len(w.b)
	for {
		w.pieces = append(w.pieces, piece{len(w.b), at, n})
		w.b = append(w.b, w.b[at:at+n]...)
		w.steps -= n
		if !more || !w.step() {
			return start, len(w.b) - start
		}
		n, more = w.length()
		at = w.octets(n)
		if w.err != nil {
			return 0, 0
		}
	}
}

// source is where n bytes of b stand in the message; false: a fragment ends among them.
func (w *walker) source(at, n int) (int, bool) {
	for at >= w.size && len(w.pieces) > 0 {
		i := len(w.pieces) - 1
		for w.pieces[i].at > at {
			i--
		}
		p := &w.pieces[i]
		if at+n > p.at+p.n {
			return at, false
		}
		at += p.from - p.at
	}
	return at, true
}

// skipOpen passes over a length in bytes and what it counts.
func (w *walker) skipOpen() {
	n, more := w.length()
	w.octets(n)
	for more && w.step() {
		n, more = w.length()
		w.octets(n)
	}
}
