package engine

import (
	"math/rand/v2"
	"testing"
)

// Whatever was changed, the numbers are right behind the kernel, and come back.
func TestJournal(t *testing.T) {
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		var j journal
		begin := rnd.Uint32()
		if seed%3 == 0 {
			begin = -uint32(rnd.IntN(300))
		}
		if seed%5 == 0 {
			j.found(SeqAdjust{Pos: begin - 100, Before: int32(rnd.IntN(20) - 10), After: int32(rnd.IntN(20) - 10)})
		}
		var stream, want []byte
		for i := range 400 {
			stream = append(stream, byte(i))
		}
		at := uint32(0)
		for range rnd.IntN(6) {
			from := at + uint32(rnd.IntN(40))
			old := uint32(rnd.IntN(20))
			by := make([]byte, rnd.IntN(20))
			for i := range by {
				by[i] = 0xaa
			}
			before := j.total()
			j.add(begin+from, old, by)
			want = append(append(want, stream[at:from]...), by...)
			at = from + old
			if more := int32(len(by)) - int32(old); more != 0 {
				pos := begin + from
				if len(by) == 0 {
					pos--
				}
				j.kernel = SeqAdjust{Pos: pos, Before: before, After: before + more}
			}
			at++ // edits do not touch each other
			want = append(want, stream[at-1])
		}
		want = append(want, stream[at:]...)
		first := j.out(begin)
		for range 200 {
			from := rnd.IntN(len(stream))
			to := from + rnd.IntN(len(stream)-from+1)
			x := begin + uint32(from)
			got := j.append(nil, x, stream[from:to])
			y := j.out(x)
			if off := int(y - first); off+len(got) > len(want) || string(got) != string(want[off:off+len(got)]) {
				t.Fatalf("seed %d: [%d,%d) leaves as %x at %d of %x", seed, from, to, got, off, want)
			}
			if string(got) != string(stream[from:to]) && !j.touched(x, to-from) {
				t.Fatalf("seed %d: [%d,%d) is changed and not touched", seed, from, to)
			}
			if end := j.out(begin + uint32(to)); to > from && y+uint32(len(got)) != end {
				t.Fatalf("seed %d: [%d,%d) ends at %d, what follows begins at %d", seed, from, to, y+uint32(len(got))-first, end-first)
			}
			if n := j.kernel.seq(j.sequence(x)); n != y {
				t.Fatalf("seed %d: %d is sent as %d, want %d", seed, from, n-first, y-first)
			}
			ack := y + uint32(len(got))
			if back := j.in(ack); int32(back-begin-uint32(to)) < 0 && !between(&j, back) {
				t.Fatalf("seed %d: all of [%d,%d) is acknowledged as %d", seed, from, to, back-begin)
			}
		}
	}
}

// between tells whether x is at the beginning or the end of an edit.
func between(j *journal, x uint32) bool {
	for _, s := range j.steps {
		if x == s.start || x == s.start+s.old {
			return true
		}
	}
	return false
}
