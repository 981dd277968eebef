package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const dumpBuffer = 64 << 10 // more than the kernel puts into one datagram of a listing (netlink_dump: 32 KiB)

// dump lists a table: each gets the attributes of every entry, in place. It must not use c.
func (c *Conn) dump(name string, message uint16, family uint8, each func(b []byte)) error {
	c.seq++
	ask := appendHeader(nil, message, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, family)
	binary.NativeEndian.PutUint32(ask, uint32(len(ask)))
	binary.NativeEndian.PutUint32(ask[8:], c.seq)
	if _, err := unix.Write(c.s.fd, ask); err != nil {
		return fmt.Errorf("%s: send: %w", name, err)
	}
	buf := make([]byte, dumpBuffer)
	for {
		n, err := unix.Read(c.s.fd, buf)
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
		for m := (messages{rest: buf[:n]}); m.next(); {
			switch {
			case m.seq != c.seq:
			case m.typ == unix.NLMSG_DONE, m.typ == unix.NLMSG_ERROR:
				if len(m.data) >= 4 {
					if code := int32(binary.NativeEndian.Uint32(m.data)); code < 0 {
						return &Error{name, unix.Errno(-code)}
					}
				}
				return nil
			case len(m.data) >= headerLen:
				each(m.data[headerLen:])
			}
		}
	}
}
