package wire

// Bounds of a walk. An encoding of n bytes takes at most stepsPerByte*n + stepsPerMessage steps: each row of the
// table that is looked at and each element of a list is one.
const (
	stepsPerByte    = 32
	stepsPerMessage = 64
	maxDepth        = 64 // types within types; a real message has up to 25
)

// fragment is the unit in which long values are cut (X.691, 11.9.3.8.3).
const fragment = 16384

// reader reads the aligned variant of PER (X.691) of what lies between two bits of b. Errors stick: behind the first
// one everything reads as zero, and nothing moves.
type reader struct {
	b        []byte
	pos, end int // in bits
	steps    int // left
	depth    int
	err      error
	errAt    int // byte
}

// fail keeps the first error.
func (r *reader) fail(err error) {
	if r.err == nil {
		r.err, r.errAt = err, r.pos/8
	}
	r.pos = r.end
}

// step pays for a row or an element.
func (r *reader) step() bool {
	r.steps--
	if r.steps < 0 && r.err == nil {
		r.fail(errWork)
	}
	return r.err == nil
}

// take moves n bits on and says whether they were there.
func (r *reader) take(n int) bool {
	if n > r.end-r.pos || r.err != nil {
		r.fail(errShort)
		return false
	}
	r.pos += n
	return true
}

// bit reads one bit.
func (r *reader) bit() bool {
	at := r.pos
	return r.take(1) && r.b[at>>3]>>(7-at&7)&1 != 0
}

// bits reads up to 32 bits.
func (r *reader) bits(n int) uint32 {
	at := r.pos
	if !r.take(n) {
		return 0
	}
	var v uint64
	for i := at >> 3; i < (at+n+7)>>3; i++ {
		v = v<<8 | uint64(r.b[i])
	}
	return uint32(v >> (-(at + n) & 7) & (1<<n - 1))
}

// align moves to the next whole byte.
func (r *reader) align() {
	if r.pos&7 != 0 {
		r.take(-r.pos & 7)
	}
}

// octets moves n whole bytes on and returns where they start.
func (r *reader) octets(n int) (at int) {
	r.align()
	at = r.pos / 8
	r.take(8 * n)
	return at
}

// within reads a constrained whole number less its lower bound; span is the upper less the lower bound (X.691, 11.5.7).
func (r *reader) within(span uint32) uint32 {
	switch {
	case span < 255:
		return r.bits(bitsFor(span))
	case span == 255:
		r.align()
		return r.bits(8)
	case span <= 65535:
		r.align()
		return r.bits(16)
	}
	n := int(r.bits(bitsFor(uint32(octetsFor(span)-1)))) + 1
	if n > 4 {
		r.fail(errBounds)
		return 0
	}
	r.align()
	return r.bits(8 * n)
}

// small reads a normally small non-negative whole number (X.691, 11.6).
func (r *reader) small() int {
	if !r.bit() {
		return int(r.bits(6))
	}
	n, more := r.length()
	if more || n > 4 {
		r.fail(errBounds) // more than 2^32 of whatever is counted
		return 0
	}
	return int(r.bits(8 * n))
}

// smallLength reads a normally small length (X.691, 11.9.3.4).
func (r *reader) smallLength() int {
	if !r.bit() {
		return int(r.bits(6)) + 1
	}
	n, more := r.length()
	if more {
		r.fail(errBounds)
	}
	return n
}

// length reads an unconstrained length determinant (X.691, 11.9.3.5 to 8); more: it is that of a fragment, and another
// length follows what it counts.
func (r *reader) length() (n int, more bool) {
	r.align()
	first := r.bits(8)
	switch {
	case first < 0x80:
		return int(first), false
	case first < 0xc0:
		return int(first&0x3f)<<8 | int(r.bits(8)), false
	}
	if n = int(first & 0x3f); n < 1 || n > 4 {
		r.fail(errBounds)
		return 0, false
	}
	return n * fragment, true
}

// count reads the length or count of t: constrained if its upper bound is below 64K (X.691, 11.9.4.1).
func (r *reader) count(t *Type) (n int, more bool) {
	if t.Hi < 0 || t.Hi > 65535 {
		return r.length()
	}
	n = int(t.Lo) + int(r.within(uint32(t.Hi-t.Lo)))
	if n > int(t.Hi) {
		r.fail(errBounds)
		return 0, false
	}
	return n, false
}

// skipUnits passes over a string of units of so many bits each, and returns where its first byte is and how many units
// there are: those of its first fragment, if there are more.
func (r *reader) skipUnits(t *Type) (at, n int, more bool) {
	n, more = r.count(t)
	at, first, cut := -1, n, more
	for {
		// A string of a fixed length up to two bytes is not aligned (X.691, 16.9, 17.6, 30.5.6).
		if n > 0 && (t.Lo != t.Hi || int(t.Hi)*t.Unit > 16) {
			r.align()
		}
		if at < 0 {
			at = r.pos / 8
		}
		if !r.take(n*t.Unit) || !more {
			return at, first, cut
		}
		n, more = r.length()
	}
}

// bitsFor is the number of bits that hold 0 to span.
func bitsFor(span uint32) (n int) {
	for ; span != 0; span >>= 1 {
		n++
	}
	return n
}

// octetsFor is the number of bytes that hold 0 to span.
func octetsFor(span uint32) int { return (bitsFor(span) + 7) / 8 }
