package h323

import (
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// control is a connection of H.245.
type control struct {
	frames
	book book
}

// Inspect implements helpers.Session.
func (s *control) Inspect(seg *helpers.Segment, out *helpers.Result) error {
	return s.inspect(seg, out, s.message)
}

// message reads the payload of a frame; false: it is not H.245.
func (s *control) message(in *inspection, base int, payload []byte) bool {
	if err := wire.ReadControl(payload, &in.desk.message); err != nil {
		in.failAt(base, err)
		return false
	}
	l := leg{flowBase(in.seg.Flow.ID) + 1, flowBase(in.seg.Flow.ID), &s.book}
	if by := in.seg.Flow.Announced; by != nil && by.Group.ID != 0 {
		l.call = by.Group.ID
	}
	in.controls(base, &l)
	return true
}
