package nfnl

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	ahead       = 4        // datagrams that a listing may be ahead of who takes them
	datagramLen = 32 << 10 // more than the kernel puts into one of a listing (netlink_dump)
)

// listing is one under way. A goroutine has the kernel go on with it while what came before is worked on: most of its
// time is the kernel's.
type listing struct {
	name string
	seq  uint32
	free chan []byte
	full chan []byte // datagrams; closed at the end
	left chan struct{}
	err  error // of the goroutine, when full is closed
}

// ask begins to list a table. add appends attributes to the question; nil: none. The kernel looks for the first entries
// before it takes another question of anybody's: beside has the goroutine wait for that.
func (c *Conn) ask(name string, message uint16, family uint8, add func(b []byte) []byte, beside bool) {
	c.seq++
	question := appendHeader(nil, message, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, family)
	if add != nil {
		question = add(question)
	}
	binary.NativeEndian.PutUint32(question, uint32(len(question)))
	binary.NativeEndian.PutUint32(question[8:], c.seq)
	l := &listing{
		name: name, seq: c.seq, free: make(chan []byte, ahead), full: make(chan []byte, ahead), left: make(chan struct{}),
	}
	for i := range ahead {
		l.free <- c.s.buffers[i*datagramLen:][:datagramLen:datagramLen]
	}
	c.listing = l
	if !beside {
		l.send(c.s, question)
		question = nil
	}
	go l.read(c.s, question)
}

func (l *listing) send(s *socket, question []byte) {
	if _, err := unix.Write(s.fd, question); err != nil {
		l.err = fmt.Errorf("%s: send: %w", l.name, err)
	}
}

// read sends the question, if there is one, and receives until the listing's end, or until who takes it leaves.
func (l *listing) read(s *socket, question []byte) {
	defer close(l.full)
	if question != nil {
		l.send(s, question)
	}
	for more := l.err == nil; more; {
		var b []byte
		select {
		case b = <-l.free:
		case <-l.left:
			return
		}
		n, err := s.receiveLong(b)
		if err != nil { // ENOBUFS: the listing has a hole
			l.err = fmt.Errorf("%s: %w", l.name, err)
			return
		}
		for m := (messages{rest: b[:n]}); m.next(); {
			more = more && !(m.seq == l.seq && m.ends())
		}
		l.full <- b[:n]
	}
}

// take gives each entry to each, in place and with struct nfgenmsg before its attributes, until it says no. It must not
// use c. After a no c must not be used any more, as the rest of the listing is in the way.
func (c *Conn) take(each func(b []byte) bool) error {
	defer c.leave()
	l := c.listing
	for b := range l.full {
		for m := (messages{rest: b}); m.next(); {
			switch {
			case m.seq != l.seq:
			case m.ends():
				return refusal(l.name, &m)
			case len(m.data) >= headerLen:
				if !each(m.data) {
					return nil
				}
			}
		}
		l.free <- b[:datagramLen]
	}
	return l.err
}

// leave ends a listing that is under way: it waits for what the kernel is doing.
func (c *Conn) leave() {
	if l := c.listing; l != nil {
		close(l.left)
		for range l.full {
		}
		c.listing = nil
	}
}

// dump lists a table: each gets every entry, as take.
func (c *Conn) dump(name string, message uint16, family uint8, add func(b []byte) []byte, each func(b []byte) bool) error {
	c.ask(name, message, family, add, false)
	return c.take(each)
}

// ends says whether m is the end of a listing.
func (m *messages) ends() bool { return m.typ == unix.NLMSG_DONE || m.typ == unix.NLMSG_ERROR }

// refusal is the error that a message has which ends something; nil: none.
func refusal(name string, m *messages) error {
	if len(m.data) >= 4 {
		if code := int32(binary.NativeEndian.Uint32(m.data)); code < 0 {
			return &Error{Op: name, Errno: unix.Errno(-code), Text: m.text()}
		}
	}
	return nil
}
