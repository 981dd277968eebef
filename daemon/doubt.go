package daemon

// doubt is about packets that were queued before it was known that their connection's entry is gone. Without NFQA_CT
// nothing tells whether one has that entry still, which the kernel then adjusts it by.
type doubt struct {
	open bool
	last uint32 // id of the newest of them
}

// covers tells whether packet id is one of them. Ids ascend, and wrap.
func (d *doubt) covers(id uint32) bool {
	d.open = d.open && int32(d.last-id) >= 0
	return d.open
}

// noteCuts remembers which packets were queued already, if an entry of a connection that is read has gone.
func (d *daemon) noteCuts() {
	cuts := d.engine.Cuts()
	if d.features.Conntrack || cuts == d.cuts {
		return
	}
	d.cuts = cuts
	if d.doubts == nil {
		d.doubts = make([]doubt, len(d.queues))
	}
	for i, q := range d.queues {
		if s, err := q.Stats(); err == nil {
			d.doubts[i] = doubt{true, s.Kernel.Sequence}
		}
	}
}
