package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// dump lists a table: each gets every entry, in place and with struct nfgenmsg before its attributes, until it says no. It must not use c. After a no
// c must not be used any more, as the rest of the listing is in the way. add appends attributes to the question; nil: none.
func (c *Conn) dump(name string, message uint16, family uint8, add func(b []byte) []byte, each func(b []byte) bool) error {
	c.seq++
	ask := appendHeader(nil, message, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, family)
	if add != nil {
		ask = add(ask)
	}
	binary.NativeEndian.PutUint32(ask, uint32(len(ask)))
	binary.NativeEndian.PutUint32(ask[8:], c.seq)
	if _, err := unix.Write(c.s.fd, ask); err != nil {
		return fmt.Errorf("%s: send: %w", name, err)
	}
	for {
		// All slots together: more than the kernel puts into one datagram of a listing (netlink_dump: 32 KiB).
		n, err := unix.Read(c.s.fd, c.s.buffers)
		switch {
		case errors.Is(err, unix.EAGAIN):
			err = c.s.wait()
			if err == nil || errors.Is(err, unix.EINTR) {
				continue
			}
			return fmt.Errorf("%s: %w: %w", name, ErrUnanswered, err)
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // ENOBUFS: the listing has a hole
			return fmt.Errorf("%s: receive: %w", name, err)
		}
		for m := (messages{rest: c.s.buffers[:n]}); m.next(); {
			switch {
			case m.seq != c.seq:
			case m.typ == unix.NLMSG_DONE, m.typ == unix.NLMSG_ERROR:
				return refusal(name, &m)
			case len(m.data) >= headerLen:
				if !each(m.data) {
					return nil
				}
			}
		}
	}
}

// refusal is the error that a message has which ends something; nil: none.
func refusal(name string, m *messages) error {
	if len(m.data) >= 4 {
		if code := int32(binary.NativeEndian.Uint32(m.data)); code < 0 {
			return &Error{Op: name, Errno: unix.Errno(-code), Text: m.text()}
		}
	}
	return nil
}
