package flows

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Kind says what an Event tells.
type Kind uint8

// What an Event tells. New, Update and Destroy are the kernel's. Present and Synced are of a listing: an entry that is
// there, and the listing's end.
const (
	Overrun Kind = iota + 1 // events were lost: Lost says how many
	New
	Update
	Destroy
	Present
	Synced
)

// String is the kind's name in capital letters, as conntrack(8) has it.
func (k Kind) String() string {
	names := [...]string{"", "OVERRUN", "NEW", "UPDATE", "DESTROY", "PRESENT", "SYNCED"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Event is a change of the table. The kernel shows of an entry that has ended, or that has changed, less than of one that
// is listed: Flow.Has says what.
type Event struct {
	Kind  Kind
	Lost  uint64 // of an Overrun: how many events
	Exact bool   // of an Overrun: no more and no less
	Port  uint32 // netlink port of the program that caused the change, often its process id; 0: packets or time did
	Flow  Flow
}

// Kinds is a set of New, Update and Destroy.
type Kinds uint8

// Kinds of events.
const (
	News      Kinds = 1 << iota // of connections that begin
	Updates                     // that change
	Destroys                    // that end
	AllEvents = News | Updates | Destroys
)

// Watching says what is watched.
type Watching struct {
	Kinds  Kinds   // 0: all
	Filter *Filter // for All: nil: everything
	Buffer int     // bytes that may wait in the kernel; 0: 8 MiB
	List   bool    // for All: begin with what is there, Present, and Synced
	Once   bool    // for All: no listing after an Overrun
}

// Watcher tells of changes of the table as the kernel does. What it loses because nobody took it in time is counted, and
// nothing is lost in silence. It is for one goroutine, but for Close and for the goroutine that waits for Ready.
type Watcher struct {
	o       Watching
	events  *nfnl.Events
	listing sync.Mutex // while one is under way
	table   *Table     // for listings
	ready   chan struct{}
	ending  chan struct{}
	start   sync.Once
	stop    sync.Once
	err     error
	pending atomic.Bool
	raw     []nfnl.Event
	batch   []Event

	// Of All, which goes on where it was left.
	rest    []Event // of batch
	nothing bool    // there was nothing more behind batch
	lost    bool    // not yet told
	dropped uint32  // told of
	due     bool    // a listing
	next    time.Time
	event   Event
}

// Watch begins to watch the table of the calling thread's network namespace: what happens from then on is told. ErrOff:
// the kernel tells nothing (nf_conntrack_events=0); ErrUnsupported: it cannot.
//
// With nf_conntrack_events=2, the kernel's default, the end of an entry is told only if somebody watched when it began.
func Watch(o Watching) (*Watcher, error) {
	if o.Kinds == 0 {
		o.Kinds = AllEvents
	}
	if s, err := ReadSettings(); err == nil && s.Silent() != nil {
		return nil, &Error{Op: "watch connections", Reason: s.Silent()}
	}
	var groups []uint32
	for i, g := range []uint32{nfnl.GroupCTNew, nfnl.GroupCTUpdate, nfnl.GroupCTDestroy} {
		if o.Kinds&(1<<i) != 0 {
			groups = append(groups, g)
		}
	}
	w := &Watcher{o: o, ready: make(chan struct{}), ending: make(chan struct{}), due: o.List}
	var err error
	if o.List || !o.Once {
		if w.table, err = Open(); err != nil {
			return nil, err
		}
	}
	if w.events, err = nfnl.Watch(o.Buffer, groups...); err != nil {
		if w.table != nil {
			err = errors.Join(err, w.table.Close())
		}
		return nil, explain(err, "", nil)
	}
	return w, nil
}

// Ready says that there may be something to Take. It is closed when the watcher ends; Err says why.
func (w *Watcher) Ready() <-chan struct{} {
	w.start.Do(func() { go w.run() })
	return w.ready
}

// Err is why Ready was closed.
func (w *Watcher) Err() error { return w.err }

// Pending tells, at no cost, whether something is there to Take as far as the goroutine behind Ready knows: it may know a
// moment later than the kernel.
func (w *Watcher) Pending() bool { return w.pending.Load() }

// Take gives what has happened until now, without waiting: who reads a packet and then takes events knows all that came
// before the packet. The events are valid until the next call. There may be more: the next Take gives them. An Overrun
// does not say how many were lost. Neither the filter nor listings are for Take.
func (w *Watcher) Take() ([]Event, error) {
	w.pending.Store(false)
	_, err := w.take()
	return w.batch, err
}

// take fills w.batch; all: there is nothing more.
func (w *Watcher) take() (all bool, err error) {
	w.raw, all, err = w.events.Receive(w.raw[:0])
	w.batch = w.batch[:0]
	for i := range w.raw {
		e := &w.raw[i]
		if e.Kind == nfnl.EventLost {
			w.batch = append(w.batch, Event{Kind: Overrun})
			continue
		}
		w.batch = append(w.batch, Event{Kind: kinds[e.Kind], Port: e.Port, Flow: flow(&e.Connection)})
	}
	return all, err
}

var kinds = [...]Kind{nfnl.EventNew: New, nfnl.EventUpdate: Update, nfnl.EventDestroy: Destroy}

// Close ends the watcher.
func (w *Watcher) Close() error {
	var err error
	w.stop.Do(func() {
		close(w.ending)
		err = errors.Join(w.events.Close(), w.closeTable())
		w.start.Do(func() { close(w.ready) }) // nobody waits
		for range w.ready {
		}
	})
	return err
}

// closeTable closes the table, or leaves it to the listing that is under way.
func (w *Watcher) closeTable() (err error) {
	if w.listing.TryLock() {
		if w.table != nil {
			err = w.table.Close()
		}
		w.table = nil
		w.listing.Unlock()
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

// pause is how long after a listing the next may begin: it takes time in proportion to the table, in which more events
// are lost. So many times what the last one took.
const pause = 4

// All gives the events until ctx ends, or an error; it is not for a watcher whose Ready is used. An Event is valid until
// the next. A loop that is left may be followed by another one.
//
// When events are lost, what was in time is given first, then an Overrun with their exact number. What is known then may
// be wrong, so a listing follows: Present for each entry, and Synced. What was known before the Overrun and was neither
// Present nor New since is gone. While events are lost again and again, a listing follows not on every Overrun.
func (w *Watcher) All(ctx context.Context) iter.Seq2[*Event, error] {
	return func(yield func(*Event, error) bool) {
		stop := context.AfterFunc(ctx, func() { _ = w.events.Deadline(time.Unix(1, 0)) })
		defer stop()
		for w.give(yield) {
			if w.due && !time.Now().Before(w.next) {
				if !w.list(yield) {
					return
				}
				continue
			}
			if err := w.wait(ctx); err != nil {
				if ctx.Err() == nil {
					yield(nil, err)
				}
				return
			}
			var err error
			w.nothing, err = w.take()
			w.rest = w.batch
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// wait waits for events, or for the time of the next listing.
func (w *Watcher) wait(ctx context.Context) error {
	deadline := time.Time{}
	if w.due {
		deadline = w.next
	}
	err := w.events.Deadline(deadline)
	if err == nil {
		err = ctx.Err() // else the deadline that it has set was before ours
	}
	if err == nil {
		err = w.events.Wait()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		err = nil
	}
	return err
}

// give gives what was taken, and what was lost then; no: the loop is left.
func (w *Watcher) give(yield func(*Event, error) bool) bool {
	for len(w.rest) > 0 {
		e := &w.rest[0]
		w.rest = w.rest[1:]
		if e.Kind == Overrun {
			w.lost = true
		} else if (w.o.Filter == nil || w.o.Filter.Match(&e.Flow)) && !yield(e, nil) {
			return false
		}
	}
	if !w.lost || !w.nothing {
		return true
	}
	w.lost, w.due = false, !w.o.Once
	w.event = Event{Kind: Overrun}
	if n, err := w.events.Dropped(); err == nil {
		w.event.Lost, w.event.Exact, w.dropped = uint64(n-w.dropped), true, n
	}
	return yield(&w.event, nil)
}

// list gives what is in the table; no: the loop is left. The next one lists anew then.
func (w *Watcher) list(yield func(*Event, error) bool) bool {
	w.listing.Lock()
	defer func() {
		w.listing.Unlock()
		select {
		case <-w.ending: // it was closed meanwhile
			_ = w.closeTable()
		default:
		}
	}()
	if w.table == nil {
		yield(nil, os.ErrClosed)
		return false
	}
	began := time.Now()
	for f, err := range w.table.List(w.o.Filter) {
		if err != nil {
			yield(nil, err)
			return false
		}
		w.event = Event{Kind: Present, Flow: *f}
		if !yield(&w.event, nil) {
			return false
		}
	}
	w.due, w.next = false, time.Now().Add(pause*time.Since(began))
	w.event = Event{Kind: Synced}
	return yield(&w.event, nil)
}
