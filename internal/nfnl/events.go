package nfnl

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nlsock"
)

// EventKind says what an event tells.
type EventKind uint8

// What an event tells. EventLost: that events were lost before it, and nothing else.
const (
	EventLost EventKind = iota
	EventNew
	EventUpdate
	EventDestroy
)

// Event is a change of the connection table.
type Event struct {
	Kind       EventKind
	Port       uint32 // netlink port of the program that caused it; 0: packets or time did
	Connection Connection
}

// ExpectationEvent is a change of the table of expectations.
type ExpectationEvent struct {
	Kind        EventKind
	Expectation Expectation
}

const (
	eventBuffer = 8 << 20 // what waits in the socket, in bytes: some ten thousand events
	eventBatch  = 1024    // that Receive gives at once, at most, and one batch of the socket's more
)

// Events is a socket that receives events. Receive is for one goroutine.
type Events struct {
	s       *socket
	f       *os.File // has the descriptor: who closes it ends who waits for it
	raw     syscall.RawConn
	ready   func(fd uintptr) bool
	take    func(fd uintptr)
	waited  error
	n       int
	failed  error
	waiting []unix.PollFd
}

// Watch opens a socket in the calling thread's network namespace. buffer is how many bytes may wait in it; 0: 8 MiB.
func Watch(buffer int, groups ...uint32) (*Events, error) {
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	e := &Events{s: s, waiting: []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}}
	if buffer == 0 {
		buffer = eventBuffer
	}
	err = s.readBuffer(buffer)
	for _, g := range groups {
		if err == nil {
			err = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g))
		}
	}
	if err != nil {
		if errno := unix.Errno(0); errors.As(err, &errno) {
			err = &Error{Op: "receive conntrack events", Errno: errno}
		}
		return nil, errors.Join(err, s.close())
	}
	e.f = os.NewFile(uintptr(s.fd), "conntrack events")
	if e.raw, err = e.f.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("receive conntrack events: %w", err), e.f.Close())
	}
	// Kept, as a function made anew for each call is an allocation.
	e.ready, e.take = e.isReady, func(uintptr) { e.n, e.failed = e.s.receive(slots) }
	return e, nil
}

// Close ends Wait.
func (e *Events) Close() error { return e.f.Close() }

// Wait waits until Receive has something to give. It fails when the socket is closed.
func (e *Events) Wait() error {
	e.waited = nil
	err := e.raw.Read(e.ready)
	if err = errors.Join(err, e.waited); err != nil {
		return fmt.Errorf("wait for conntrack events: %w", err)
	}
	return nil
}

func (e *Events) isReady(uintptr) bool {
	n, err := unix.Poll(e.waiting, 0) // a look at the error queue would take ENOBUFS away
	if err != nil && !errors.Is(err, unix.EINTR) {
		e.waited = err
		return true
	}
	return n > 0
}

// Deadline ends a Wait at t with os.ErrDeadlineExceeded; zero: none does.
func (e *Events) Deadline(t time.Time) error { return e.f.SetReadDeadline(t) }

// Dropped is how many events the socket has lost since it was opened (SK_MEMINFO_DROPS). It is exact when Receive has
// given all that was there: until then the kernel drops what comes (NETLINK_S_CONGESTED).
func (e *Events) Dropped() (n uint32, err error) {
	control := e.raw.Control(func(fd uintptr) { n, err = nlsock.Drops(int(fd)) })
	return n, errors.Join(err, control)
}

// Receive appends to dst what has happened to connections until now, and does not wait. all: there is nothing more.
func (e *Events) Receive(dst []Event) (_ []Event, all bool, err error) {
	first := len(dst)
	for len(dst)-first < eventBatch && !all && err == nil {
		var lost bool
		if lost, all, err = e.receive(); lost {
			dst = extend(dst)
			dst[len(dst)-1].Kind = EventLost
		}
		for i := range e.n {
			data, whole := e.s.datagram(i)
			if !whole {
				dst = extend(dst)
				dst[len(dst)-1].Kind = EventLost
				continue
			}
			dst = appendEvents(dst, data)
		}
	}
	return dst, all, err
}

// appendEvents appends what a datagram tells of connections.
func appendEvents(dst []Event, data []byte) []Event {
	for m := (messages{rest: data}); m.next(); {
		kind, ok := m.kind(CTNew, CTDelete)
		if !ok {
			continue
		}
		dst = extend(dst)
		if ev := &dst[len(dst)-1]; ev.Connection.Parse(m.data[headerLen:]) == nil {
			ev.Kind, ev.Port = kind, m.port
		} else {
			dst = dst[:len(dst)-1]
		}
	}
	return dst
}

// ReceiveExpectations is Receive for those of expectations.
func (e *Events) ReceiveExpectations(dst []ExpectationEvent) (_ []ExpectationEvent, all bool, err error) {
	first := len(dst)
	for len(dst)-first < eventBatch && !all && err == nil {
		var lost bool
		if lost, all, err = e.receive(); lost {
			dst = append(dst, ExpectationEvent{})
		}
		for i := range e.n {
			data, _ := e.s.datagram(i)
			dst = appendExpectationEvents(dst, data)
		}
	}
	return dst, all, err
}

// appendExpectationEvents appends what a datagram tells of expectations.
func appendExpectationEvents(dst []ExpectationEvent, data []byte) []ExpectationEvent {
	for m := (messages{rest: data}); m.next(); {
		ev := ExpectationEvent{}
		var ok bool
		if ev.Kind, ok = m.kind(ExpNew, ExpDelete); ok && ev.Expectation.Parse(m.data[headerLen:]) == nil {
			dst = append(dst, ev)
		}
	}
	return dst
}

// receive takes some datagrams, e.n. lost: others were lost before them; all: there are none.
func (e *Events) receive() (lost, all bool, err error) {
	err = e.raw.Control(e.take)
	switch {
	case err == nil && e.failed == nil:
		return false, false, nil
	case errors.Is(e.failed, unix.EAGAIN):
		all = true
	case errors.Is(e.failed, unix.ENOBUFS):
		lost = true
	default:
		err = fmt.Errorf("receive conntrack events: %w", errors.Join(err, e.failed))
	}
	e.n = 0
	return lost, all, err
}

// kind is what a message tells, which is of type made or gone.
func (m *messages) kind(made, gone uint16) (k EventKind, ok bool) {
	switch {
	case len(m.data) < headerLen:
		return 0, false
	case m.typ == gone:
		return EventDestroy, true
	case m.typ == made && m.flags&unix.NLM_F_CREATE != 0:
		return EventNew, true
	case m.typ == made:
		return EventUpdate, true
	}
	return 0, false
}

// extend appends an event. What was in its place before stays as far as Parse can use it.
func extend(dst []Event) []Event {
	if len(dst) == cap(dst) {
		return append(dst, Event{})
	}
	return dst[:len(dst)+1]
}
