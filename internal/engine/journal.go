package engine

// A journal is what was changed in one direction of a flow. Output position f(x) of the original position x is x moved
// by all edits that start before x; all new bytes of an edit belong to its first old byte. So the output does not
// depend on how the bytes are cut into segments, and a copy leaves as the first one did.
//
// The kernel moves the numbers too, by one position and two offsets (nf_seqadj.c). The journal knows them and gives the
// numbers to hand out so that they are right behind the kernel.
type journal struct {
	base   int32 // what bytes before the first step are moved by
	steps  []step
	kernel SeqAdjust
}

// step is one edit.
type step struct {
	start uint32 // sequence number of its first old byte
	old   uint32 // bytes that it replaces
	by    []byte
	after int32 // what the bytes behind it are moved by
	alone bool  // an adjustment that was found, not made here: the bytes are not known
}

// maxSteps bounds the journal. What is older was acknowledged long ago: its copies are out of the window, even of a trunk of
// SIP, whose messages have several edits each.
const maxSteps = 1024

// found takes over an adjustment that the kernel makes already.
func (j *journal) found(k SeqAdjust) {
	j.kernel, j.base = k, k.Before
	if k.After != k.Before {
		j.steps = append(j.steps, step{start: k.Pos, after: k.After, alone: true})
	}
}

// foundStep is the adjustment that was found, if no edit has been made since, and what bytes before it are moved by.
func (j *journal) foundStep() (s *step, before int32) {
	n := len(j.steps)
	if n == 0 || !j.steps[n-1].alone {
		return nil, 0
	}
	if before = j.base; n > 1 {
		before = j.steps[n-2].after
	}
	return &j.steps[n-1], before
}

// again tells whether an edit is the one that was found: of a copy of a segment that an earlier daemon changed.
func (j *journal) again(start uint32, more int32) bool {
	s, before := j.foundStep()
	return s != nil && s.start == start && s.after-before == more
}

// add notes an edit behind all others, or what was found.
func (j *journal) add(start, old uint32, by []byte) {
	if j.again(start, int32(len(by))-int32(old)) {
		s, _ := j.foundStep()
		s.old, s.by, s.alone = old, by, false
		return
	}
	if len(j.steps) == maxSteps {
		j.base = j.steps[0].after
		j.steps = append(j.steps[:0], j.steps[1:]...)
	}
	j.steps = append(j.steps, step{start: start, old: old, by: by, after: j.total() + int32(len(by)) - int32(old)})
}

// total is what new bytes are moved by.
func (j *journal) total() int32 {
	if n := len(j.steps); n > 0 {
		return j.steps[n-1].after
	}
	return j.base
}

// idle tells that nothing has to be changed, in payload or numbers.
func (j *journal) idle() bool {
	return len(j.steps) == 0 && j.base == 0 && j.kernel.Before == 0 && j.kernel.After == 0
}

// out is f.
func (j *journal) out(x uint32) uint32 {
	for i := len(j.steps) - 1; i >= 0; i-- {
		if s := &j.steps[i]; ahead(x, s.start) > 0 {
			return later(x, s.start+s.old) + uint32(s.after)
		}
	}
	return x + uint32(j.base)
}

// in is the original position of an output position, as an acknowledgement names it: an edit of which only a part has
// arrived has not arrived.
func (j *journal) in(y uint32) uint32 {
	for i := len(j.steps) - 1; i >= 0; i-- {
		s := &j.steps[i]
		before := j.base
		if i > 0 {
			before = j.steps[i-1].after
		}
		if s.alone {
			if ahead(y-uint32(before), s.start) > 0 {
				return y - uint32(s.after)
			}
			continue
		}
		if ahead(y, s.start+s.old+uint32(s.after)) >= 0 {
			return y - uint32(s.after)
		}
		if ahead(y, s.start+uint32(before)) >= 0 {
			return s.start
		}
	}
	return y - uint32(j.base)
}

// sequence turns the number of a segment, as its sender wrote it, into the one to hand out.
func (j *journal) sequence(x uint32) uint32 {
	y, k := j.out(x), &j.kernel
	for _, try := range [...]uint32{x, y - uint32(k.After)} {
		if k.seq(try) == y {
			return try
		}
	}
	return y - uint32(k.Before)
}

// acknowledged turns a number of the other direction's segments, as seen here, into the one to hand out.
func (j *journal) acknowledged(y uint32) uint32 {
	x, k := j.in(y), &j.kernel
	for _, try := range [...]uint32{y, x + uint32(k.After)} {
		if k.ack(try) == x {
			return try
		}
	}
	return x + uint32(k.Before)
}

// seq is what the kernel makes of a segment's number (nf_ct_seq_adjust).
func (k *SeqAdjust) seq(n uint32) uint32 {
	if ahead(n, k.Pos) > 0 {
		return n + uint32(k.After)
	}
	return n + uint32(k.Before)
}

// ack is what the kernel makes of a number that acknowledges them (nf_ct_seq_adjust, nf_ct_sack_block_adjust).
func (k *SeqAdjust) ack(n uint32) uint32 {
	if ahead(n-uint32(k.Before), k.Pos) > 0 {
		return n - uint32(k.After)
	}
	return n - uint32(k.Before)
}

// touched tells whether the n bytes at x leave as others.
func (j *journal) touched(x uint32, n int) bool {
	for i := range j.steps {
		s := &j.steps[i]
		if !s.alone && ahead(x+uint32(n), s.start) > 0 && (ahead(s.start+s.old, x) > 0 || ahead(s.start, x) >= 0) {
			return true
		}
	}
	return false
}

// append appends what the bytes at x leave as.
func (j *journal) append(b []byte, x uint32, bytes []byte) []byte {
	for i := range j.steps {
		s := &j.steps[i]
		if s.alone || ahead(x, s.start) > 0 && ahead(x, s.start+s.old) >= 0 {
			continue // found, or before x
		}
		from := ahead(s.start, x)
		if from >= len(bytes) {
			break
		}
		if from >= 0 {
			b = append(b, bytes[:from]...)
			b = append(b, s.by...)
		}
		n := min(from+int(s.old), len(bytes))
		bytes, x = bytes[n:], x+uint32(n)
	}
	return append(b, bytes...)
}
