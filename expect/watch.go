package expect

import (
	"context"
	"errors"
	"iter"
	"os"
	"time"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Event is a change of the table, with flows' kinds.
type Event struct {
	Kind        flows.Kind
	Lost        uint64 // of an Overrun: how many events
	Exact       bool   // of an Overrun: no more and no less
	Expectation Expectation
}

// Watching says what is watched.
type Watching struct {
	Buffer int  // bytes that may wait in the kernel; 0: 8 MiB
	List   bool // begin with what is there, Present, and Synced
}

// Watcher tells of changes of the table. It is for one goroutine.
type Watcher struct {
	events  *nfnl.Events
	table   *Table // for listings
	due     bool   // a listing
	dropped uint32 // told of
}

// Watch begins to watch the table of the calling thread's network namespace: what happens from then on is told. The kernel
// tells of expectations that begin or are taken out, not of those that are used or end by time; with
// nf_conntrack_events=2, its default, only if somebody watched when the master began. flows.ErrOff: it tells nothing;
// flows.ErrUnsupported: it cannot.
func Watch(o Watching) (*Watcher, error) {
	if s, err := flows.ReadSettings(); err == nil && s.Silent() != nil {
		return nil, &flows.Error{Op: "watch expectations", Reason: s.Silent()}
	}
	t, err := Open()
	if err != nil {
		return nil, err
	}
	e, err := nfnl.Watch(o.Buffer, nfnl.GroupExpNew, nfnl.GroupExpDestroy)
	if err != nil {
		return nil, errors.Join(refused(err, "", nil), t.Close())
	}
	return &Watcher{events: e, table: t, due: o.List}, nil
}

// Close ends the watcher.
func (w *Watcher) Close() error { return errors.Join(w.events.Close(), w.table.Close()) }

// All gives the events until ctx ends, or an error. An Event is valid until the next. When events are lost there is an
// Overrun, and then a listing: Present for each entry, and Synced.
func (w *Watcher) All(ctx context.Context) iter.Seq2[*Event, error] {
	return func(yield func(*Event, error) bool) {
		stop := context.AfterFunc(ctx, func() { _ = w.events.Deadline(time.Unix(1, 0)) })
		defer stop()
		var raw []nfnl.ExpectationEvent
		for {
			if w.due && !w.list(yield) {
				return
			}
			err := w.events.Wait()
			if err == nil {
				raw, _, err = w.events.ReceiveExpectations(raw[:0])
			}
			if err != nil {
				if ctx.Err() == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
					yield(nil, err)
				}
				return
			}
			if !w.give(raw, yield) {
				return
			}
		}
	}
}

// give gives what was received; no: the loop is left.
func (w *Watcher) give(raw []nfnl.ExpectationEvent, yield func(*Event, error) bool) bool {
	lost := false
	for i := range raw {
		var kind flows.Kind
		switch raw[i].Kind {
		case nfnl.EventNew:
			kind = flows.New
		case nfnl.EventDestroy:
			kind = flows.Destroy
		case nfnl.EventLost:
			lost = true
			continue
		default:
			continue
		}
		if !yield(&Event{Kind: kind, Expectation: shown(&raw[i].Expectation)}, nil) {
			return false
		}
	}
	if !lost {
		return true
	}
	dropped, err := w.events.Dropped()
	if err != nil {
		return yield(nil, err)
	}
	e := &Event{Kind: flows.Overrun, Lost: uint64(dropped - w.dropped), Exact: dropped != w.dropped}
	w.dropped, w.due = dropped, true
	return yield(e, nil)
}

func (w *Watcher) list(yield func(*Event, error) bool) bool {
	w.due = false
	for x, err := range w.table.List() {
		if err != nil {
			yield(nil, err)
			return false
		}
		if !yield(&Event{Kind: flows.Present, Expectation: *x}, nil) {
			return false
		}
	}
	return yield(&Event{Kind: flows.Synced}, nil)
}
