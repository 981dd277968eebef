package h323

import (
	"errors"
	"fmt"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// maxFrame bounds a frame that is read; longer ones are skipped. A Setup with ten fastStart proposals has about 1 KiB, a
// TerminalCapabilitySet 2 KiB.
const maxFrame = 16 << 10

var (
	errLong    = errors.New("frame too long")
	errForeign = fmt.Errorf("no H.323 in frames of RFC 1006: %w", helpers.ErrForeign)
)

// frames is what call signalling and H.245 have in common: a stream of TPKT frames a direction.
type frames struct {
	all   *shared
	desk  *desk // nil: nothing is to be rewritten
	dirs  [2]mode
	blind bool // bytes of either side were not seen
	steps int
}

// mode is what is known of a direction.
type mode uint8

const (
	fresh  mode = iota // nothing was read
	inStep             // between frames
	torn               // bytes were lost: a frame that begins behind them is read
	mute               // not in step any more, or foreign: nothing is read
)

// Steps counts the bytes that were looked at.
func (s *frames) Steps() int { return s.steps }

// Close implements helpers.Session. The engine cancels what the flow leaves behind.
func (s *frames) Close(helpers.FlowID, *helpers.Result) {}

// Rewrite implements helpers.Rewriter.
func (s *frames) Rewrite(seg *helpers.Segment, nat helpers.NAT, edits []helpers.Edit) []helpers.Edit {
	if s.desk == nil {
		return edits
	}
	return s.desk.rewrite(seg, nat, edits)
}

// inspect cuts the stream into frames and has message read what is in each: its payload, and the payload's place. false:
// it is not this protocol.
func (s *frames) inspect(seg *helpers.Segment, out *helpers.Result,
	message func(in *inspection, base int, payload []byte) bool) error {
	if s.desk == nil {
		s.desk = s.all.desks.Take()
	}
	in := s.desk.begin(s.all, seg, out)
	m := &s.dirs[seg.Dir]
	if seg.Gap || *m == fresh && seg.Flow.Late {
		*m, s.blind = torn, true
	}
	off := 0
	for off < len(seg.Data) && *m != mute {
		rest := seg.Data[off:]
		size, err := wire.Frame(rest)
		s.steps++
		switch {
		case err != nil && *m == torn:
			*m = mute
			continue
		case err != nil || size > maxFrame && *m == fresh:
			*m = mute
			in.first = errForeign
			continue
		case size > maxFrame:
			in.fail(off, errLong)
			*m = inStep
			out.Consumed = off + size
			off += min(size, len(rest))
			continue
		}
		if size == 0 || len(rest) < size {
			break
		}
		const header = 4
		if payload := rest[header:size]; len(payload) > 0 {
			s.steps += len(payload)
			switch ok := message(in, off+header, payload); {
			case ok:
				*m = inStep
			case *m == fresh:
				*m = mute
				in.first = errForeign
				continue
			case *m == torn:
				*m = mute
				continue
			}
		}
		off += size
	}
	if *m == mute {
		off = len(seg.Data)
	}
	out.Consumed = max(out.Consumed, off)
	out.Hold = max(0, len(seg.Data)-out.Consumed)
	return in.end(&s.desk)
}
