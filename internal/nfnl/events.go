package nfnl

import (
	"errors"
	"fmt"
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
	eventBuffer  = 8 << 20  // what waits in the socket, in bytes: some ten thousand events
	eventMessage = 64 << 10 // more than the longest
	eventBatch   = 1024     // that Receive gives at once, at most
)

// Events is a socket that receives events of the connection table.
type Events struct {
	conn *Conn
	raw  syscall.RawConn
	buf  []byte
}

// Watch opens a socket in the calling thread's network namespace.
func Watch(groups ...uint32) (*Events, error) {
	c, err := Dial()
	if err != nil {
		return nil, err
	}
	err = c.c.SetReadBuffer(eventBuffer)
	for _, g := range groups {
		if err == nil {
			err = c.c.JoinGroup(g)
		}
	}
	e := &Events{conn: c, buf: make([]byte, eventMessage)}
	if err == nil {
		e.raw, err = c.c.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("receive conntrack events: %w", err), c.Close())
	}
	return e, nil
}

// Close ends Wait.
func (e *Events) Close() error { return e.conn.Close() }

// Wait waits until Receive has something to give. It fails when the socket is closed.
func (e *Events) Wait() error {
	var failed error
	err := e.raw.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, 0) // a look at the error queue would take ENOBUFS away
		if err != nil && !errors.Is(err, unix.EINTR) {
			failed = err
			return true
		}
		return n > 0
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("wait for conntrack events: %w", err)
	}
	return nil
}

// Receive appends to dst what has happened until now, and does not wait.
func (e *Events) Receive(dst []Event) ([]Event, error) {
	for range eventBatch {
		var n int
		var from unix.Sockaddr
		var failed error
		err := e.raw.Control(func(fd uintptr) {
			n, from, failed = unix.Recvfrom(int(fd), e.buf, unix.MSG_DONTWAIT)
		})
		switch {
		case errors.Is(failed, unix.EAGAIN):
			return dst, nil
		case errors.Is(failed, unix.EINTR):
			continue
		case errors.Is(failed, unix.ENOBUFS):
			dst = append(dst, Event{Lost: true})
			continue
		case err != nil || failed != nil:
			return dst, fmt.Errorf("receive conntrack events: %w", errors.Join(err, failed))
		}
		if kernel, ok := from.(*unix.SockaddrNetlink); !ok || kernel.Pid != 0 {
			continue
		}
		messages, err := syscall.ParseNetlinkMessage(e.buf[:n])
		if err != nil {
			continue
		}
		for _, m := range messages {
			if (m.Header.Type != CTNew && m.Header.Type != CTDelete) || len(m.Data) < headerLen {
				continue
			}
			if entry, err := Parse(m.Data[headerLen:]); err == nil {
				dst = append(dst, Event{Destroyed: m.Header.Type == CTDelete, Connection: entry})
			}
		}
	}
	return dst, nil
}
