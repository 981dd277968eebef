package nfnl

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Event is a change of the connection table. Lost says that events were lost before it (ENOBUFS), and nothing else.
type Event struct {
	Lost       bool
	Destroyed  bool
	Connection Connection
}

// eventBuffer is what waits in the socket, in bytes: some ten thousand events.
const eventBuffer = 8 << 20

// Watch opens a socket that receives events of the connection table.
func Watch(groups ...uint32) (*Conn, error) {
	c, err := Dial()
	if err != nil {
		return nil, err
	}
	if err := c.c.SetReadBuffer(eventBuffer); err != nil {
		return nil, errors.Join(fmt.Errorf("enlarge the buffer for conntrack events: %w", err), c.Close())
	}
	for _, g := range groups {
		if err := c.c.JoinGroup(g); err != nil {
			return nil, errors.Join(fmt.Errorf("receive conntrack events: %w", err), c.Close())
		}
	}
	return c, nil
}

// Receive waits for events and appends them to dst. It fails when the socket is closed.
func (c *Conn) Receive(dst []Event) ([]Event, error) {
	messages, err := c.c.Receive()
	if errors.Is(err, unix.ENOBUFS) {
		return append(dst, Event{Lost: true}), nil
	}
	if err != nil {
		return dst, fmt.Errorf("receive conntrack events: %w", err)
	}
	for _, m := range messages {
		if kind := uint16(m.Header.Type); (kind != CTNew && kind != CTDelete) || len(m.Data) < headerLen {
			continue
		}
		entry, err := Parse(m.Data[headerLen:])
		if err != nil {
			continue
		}
		dst = append(dst, Event{Destroyed: m.Header.Type == netlink.HeaderType(CTDelete), Connection: entry})
	}
	return dst, nil
}
