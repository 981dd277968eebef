package flows

import (
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Event is a change of the table.
type Event struct {
	Lost      bool // events were lost before this one, which says nothing else: list the table to know what is there
	Destroyed bool // the connection is gone; else it was expected, and is new
	Flow      Flow
}

// Watcher tells of connections that were expected and have come, and of all that are gone.
type Watcher struct {
	conn   *nfnl.Conn
	events chan []Event
	err    error
}

// Watch begins to watch the table of the calling thread's network namespace.
func Watch() (*Watcher, error) {
	c, err := nfnl.Watch(nfnl.GroupCTNew, nfnl.GroupCTDestroy)
	if err != nil {
		return nil, err
	}
	w := &Watcher{conn: c, events: make(chan []Event, 16)}
	go w.run()
	return w, nil
}

// Events is closed when the watcher ends; Err says why.
func (w *Watcher) Events() <-chan []Event { return w.events }

// Err is why Events was closed.
func (w *Watcher) Err() error { return w.err }

// Close ends the watcher. Its channel is drained, so that whoever waits in it ends too.
func (w *Watcher) Close() error {
	err := w.conn.Close()
	for range w.events {
	}
	return err
}

func (w *Watcher) run() {
	defer close(w.events)
	var raw []nfnl.Event
	for {
		var err error
		if raw, err = w.conn.Receive(raw[:0]); err != nil {
			w.err = err
			return
		}
		var batch []Event
		for i := range raw {
			e := &raw[i]
			if e.Lost || e.Destroyed || e.Connection.Status&nfnl.StatusExpected != 0 {
				batch = append(batch, Event{Lost: e.Lost, Destroyed: e.Destroyed, Flow: flow(&e.Connection)})
			}
		}
		if len(batch) > 0 {
			w.events <- batch
		}
	}
}
