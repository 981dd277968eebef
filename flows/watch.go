package flows

import (
	"sync/atomic"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Event is a change of the table.
type Event struct {
	Lost      bool // events were lost before this one, which says nothing else: list the table to know what is there
	Destroyed bool // the connection is gone; else it is new
	Flow      Flow
}

// Watcher tells of connections that were expected and have come, of all that are new outside of zone 0, and of all that
// are gone. But for the goroutine that waits for Ready it is for one goroutine.
type Watcher struct {
	events  *nfnl.Events
	ready   chan struct{}
	ending  chan struct{}
	err     error
	pending atomic.Bool
	raw     []nfnl.Event
	batch   []Event
}

// Watch begins to watch the table of the calling thread's network namespace.
func Watch() (*Watcher, error) {
	e, err := nfnl.Watch(nfnl.GroupCTNew, nfnl.GroupCTDestroy)
	if err != nil {
		return nil, err
	}
	w := &Watcher{events: e, ready: make(chan struct{}), ending: make(chan struct{})}
	go w.run()
	return w, nil
}

// Ready says that there may be something to Take. It is closed when the watcher ends; Err says why.
func (w *Watcher) Ready() <-chan struct{} { return w.ready }

// Err is why Ready was closed.
func (w *Watcher) Err() error { return w.err }

// Pending tells, at no cost, whether something is there to Take as far as the watcher's own goroutine knows: it may know
// a moment later than the kernel.
func (w *Watcher) Pending() bool { return w.pending.Load() }

// Take gives what has happened until now, without waiting: who reads a packet and then takes events knows all that came
// before the packet. The events are valid until the next call. There may be more: the next Take gives them.
func (w *Watcher) Take() ([]Event, error) {
	w.pending.Store(false)
	var err error
	w.raw, err = w.events.Receive(w.raw[:0])
	w.batch = w.batch[:0]
	for i := range w.raw {
		e := &w.raw[i]
		if e.Lost {
			w.batch = append(w.batch, Event{Lost: true})
		} else if e.Destroyed || e.Connection.Zone != 0 || e.Connection.Status&nfnl.StatusExpected != 0 {
			w.batch = append(w.batch, Event{Destroyed: e.Destroyed, Flow: flow(&e.Connection)})
		}
	}
	return w.batch, err
}

// Close ends the watcher.
func (w *Watcher) Close() error {
	close(w.ending)
	err := w.events.Close()
	for range w.ready {
	}
	return err
}

func (w *Watcher) run() {
	defer close(w.ready)
	for {
		if w.err = w.events.Wait(); w.err != nil {
			return
		}
		w.pending.Store(true)
		select {
		case w.ready <- struct{}{}:
		case <-w.ending:
			return
		}
	}
}
