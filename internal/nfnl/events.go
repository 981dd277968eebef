package nfnl

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Event is a change of the connection table. Lost says that events were lost before it (ENOBUFS), and nothing else.
type Event struct {
	Lost       bool
	Destroyed  bool
	Connection Connection
}

const (
	eventBuffer = 8 << 20 // what waits in the socket, in bytes: some ten thousand events
	eventBatch  = 1024    // that Receive gives at once, at most, and one batch of the socket's more
)

// Events is a socket that receives events of the connection table. Receive is for one goroutine.
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

// Watch opens a socket in the calling thread's network namespace.
func Watch(groups ...uint32) (*Events, error) {
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	e := &Events{s: s, waiting: []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}}
	err = s.readBuffer(eventBuffer)
	for _, g := range groups {
		if err == nil {
			err = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g))
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("receive conntrack events: %w", err), s.close())
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

// Receive appends to dst what has happened until now, and does not wait.
func (e *Events) Receive(dst []Event) ([]Event, error) {
	for first := len(dst); len(dst)-first < eventBatch; {
		err := e.raw.Control(e.take)
		switch {
		case err == nil && e.failed == nil:
		case errors.Is(e.failed, unix.EAGAIN):
			return dst, nil
		case errors.Is(e.failed, unix.ENOBUFS):
			dst = extend(dst)
			dst[len(dst)-1].Lost = true
			continue
		default:
			return dst, fmt.Errorf("receive conntrack events: %w", errors.Join(err, e.failed))
		}
		for i := range e.n {
			data, whole := e.s.datagram(i)
			if !whole {
				dst = extend(dst)
				dst[len(dst)-1].Lost = true
				continue
			}
			for m := (messages{rest: data}); m.next(); {
				if (m.typ != CTNew && m.typ != CTDelete) || len(m.data) < headerLen {
					continue
				}
				dst = extend(dst)
				if ev := &dst[len(dst)-1]; ev.Connection.Parse(m.data[headerLen:]) == nil {
					ev.Destroyed = m.typ == CTDelete
				} else {
					dst = dst[:len(dst)-1]
				}
			}
		}
	}
	return dst, nil
}

// extend appends an event. What was in its place before stays as far as Parse can use it.
func extend(dst []Event) []Event {
	if len(dst) == cap(dst) {
		return append(dst, Event{})
	}
	dst = dst[:len(dst)+1]
	ev := &dst[len(dst)-1]
	ev.Lost, ev.Destroyed = false, false
	return dst
}
