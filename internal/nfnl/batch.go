package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Conn is a netlink socket with kept buffers. It is for one goroutine.
type Conn struct {
	s       *socket
	seq     uint32
	batch   Batch
	listing *listing // under way; nil: none
}

// Dial opens a socket in the calling thread's network namespace.
func Dial() (*Conn, error) {
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	c := &Conn{s: s, seq: uint32(os.Getpid())}
	c.batch.c = c
	return c, nil
}

// Close closes the socket.
func (c *Conn) Close() error {
	c.leave()
	return c.s.close()
}

// Begin gives the socket's batch, empty. The one before is no more.
func (c *Conn) Begin() *Batch {
	b := &c.batch
	b.out, b.ops = b.out[:0], b.ops[:0]
	return b
}

// Batch is messages that leave together. The kernel carries them out in their order, each by itself, and has answered
// when Do returns. A batch that succeeds allocates nothing.
type Batch struct {
	c   *Conn
	out []byte
	ops []op
}

// op is one message.
type op struct {
	name     string
	start    int // in Batch.out
	answered bool
	silent   bool // only an error is answered
	errno    unix.Errno
	text     string // the kernel's words on it
	failed   error
	into     *Connection // what is asked for
	expected *Expectation
	counts   *[2]uint32
}

// ErrUnanswered says that the answer to an operation was lost (the socket's buffer was full), or that the kernel gave
// none: it may have been carried out or not.
var ErrUnanswered = errors.New("the kernel's answer is missing")

// open begins a message.
func (b *Batch) open(name string, message, flags uint16, family uint8) {
	b.ops = append(b.ops, op{name: name, start: len(b.out)})
	b.out = appendHeader(b.out, message, flags|unix.NLM_F_REQUEST, family)
}

// appendHeader appends struct nlmsghdr, whose length and sequence number are not known yet, and struct nfgenmsg.
func appendHeader(b []byte, message, flags uint16, family uint8) []byte {
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint16(b, message)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	return append(b, family, unix.NFNETLINK_V0, 0, 0)
}

// Len is how many messages there are.
func (b *Batch) Len() int { return len(b.ops) }

// Bytes are the messages; Do is to fill in their lengths and sequence numbers.
func (b *Batch) Bytes() []byte { return b.out }

// Errno is the kernel's answer to message i; 0: done.
func (b *Batch) Errno(i int) unix.Errno { return b.ops[i].errno }

// Err is what became of message i: nil, an *Error with the kernel's answer, or another.
func (b *Batch) Err(i int) error {
	o := &b.ops[i]
	switch {
	case o.errno != 0:
		return &Error{o.name, o.errno, o.text}
	case o.failed != nil:
		return fmt.Errorf("%s: %w", o.name, o.failed)
	case !o.answered:
		return fmt.Errorf("%s: %w", o.name, ErrUnanswered)
	}
	return nil
}

// Do sends the messages and takes all answers. The error is the first message's that failed.
func (b *Batch) Do() error {
	for first := 0; first < len(b.ops); first += mostAtOnce {
		last := min(first+mostAtOnce, len(b.ops))
		if err := b.exchange(first, last); err != nil {
			for i := first; i < len(b.ops); i++ {
				if o := &b.ops[i]; !o.answered {
					o.failed = err
				}
			}
			break
		}
	}
	for i := range b.ops {
		if o := &b.ops[i]; o.errno != 0 || o.failed != nil || !o.answered {
			return b.Err(i)
		}
	}
	return nil
}

// mostAtOnce is how many messages one answer may be for: if each has an error instead, the socket has room for all.
const mostAtOnce = 96

// page is how many bytes one system call sends at most, if no message is longer. For more the kernel maps pages at each
// call, and has a thread of its own give them back (netlink_alloc_large_skb: NLMSG_GOODSIZE, with a page of 4096 bytes).
const page = 4096 - 320

// exchange sends the messages first to last. The kernel works on them before each call returns (netlink_unicast_kernel),
// so that all answers are there. It answers every error, asked or not (netlink_rcv_skb): only the last message asks, and
// its answer says of those before that what was not complained of is done.
func (b *Batch) exchange(first, last int) error {
	from, base := b.ops[first].start, b.c.seq+1
	for i := first; i < last; i++ {
		o, next := &b.ops[i], len(b.out)
		if i+1 < len(b.ops) {
			next = b.ops[i+1].start
		}
		if next-from > page && o.start > from {
			if err := b.c.s.send(b.out[from:o.start]); err != nil {
				return fmt.Errorf("send: %w", err)
			}
			from = o.start
		}
		header := b.out[o.start:]
		binary.NativeEndian.PutUint32(header, uint32(next-o.start))
		flags := binary.NativeEndian.Uint16(header[6:])
		if o.silent = i+1 < last && flags&unix.NLM_F_ACK != 0; o.silent {
			binary.NativeEndian.PutUint16(header[6:], flags&^unix.NLM_F_ACK)
		}
		b.c.seq++
		binary.NativeEndian.PutUint32(header[8:], b.c.seq)
	}
	to := len(b.out)
	if last < len(b.ops) {
		to = b.ops[last].start
	}
	if err := b.c.s.send(b.out[from:to]); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	ops, lost := b.ops[first:last], false
	for !ops[len(ops)-1].answered {
		data, whole, err := b.c.s.receiveOne() // usually there is one
		switch {
		case err == nil:
			b.take(ops, base, data, whole)
		case errors.Is(err, unix.EAGAIN):
			return nil // nothing more will come
		case errors.Is(err, unix.ENOBUFS):
			lost = true // what is missing stays unanswered
		default:
			return fmt.Errorf("receive: %w", err)
		}
	}
	for i := range ops {
		if o := &ops[i]; o.silent && !lost {
			o.answered = true
		}
	}
	return nil
}

// take reads the answers in a datagram to ops, the first of which has the sequence number base.
func (b *Batch) take(ops []op, base uint32, data []byte, whole bool) {
	for m := (messages{rest: data}); m.next(); {
		at := m.seq - base
		if at >= uint32(len(ops)) || ops[at].answered { // of something that was given up before
			continue
		}
		o := &ops[at]
		switch {
		case m.typ == unix.NLMSG_ERROR && len(m.data) >= 4:
			if o.errno = unix.Errno(-int32(binary.NativeEndian.Uint32(m.data))); o.errno != 0 {
				o.text = m.text()
			}
		case !whole:
			o.failed = errTruncated
		case o.into != nil && m.typ == CTNew && len(m.data) >= headerLen:
			o.failed = o.into.Parse(m.data[headerLen:])
		case o.expected != nil && m.typ == ExpNew && len(m.data) >= headerLen:
			o.failed = o.expected.Parse(m.data[headerLen:])
		case o.counts != nil && m.typ == CTStats && len(m.data) >= headerLen:
			o.failed = parseCounts(o.counts, m.data[headerLen:])
		default:
			continue
		}
		o.answered = true
	}
}

var errTruncated = errors.New("the kernel's answer is longer than expected")

// messages goes through netlink messages in place.
type messages struct {
	rest  []byte
	typ   uint16
	flags uint16
	seq   uint32
	port  uint32 // of an event: the netlink port of the program that caused it
	data  []byte // behind struct nlmsghdr
}

func (m *messages) next() bool {
	if len(m.rest) < unix.SizeofNlMsghdr {
		return false
	}
	n := int(binary.NativeEndian.Uint32(m.rest))
	if n < unix.SizeofNlMsghdr {
		return false
	}
	n = min(n, len(m.rest)) // of a truncated one
	m.typ = binary.NativeEndian.Uint16(m.rest[4:])
	m.flags = binary.NativeEndian.Uint16(m.rest[6:])
	m.seq = binary.NativeEndian.Uint32(m.rest[8:])
	m.port = binary.NativeEndian.Uint32(m.rest[12:])
	m.data = m.rest[unix.SizeofNlMsghdr:n]
	m.rest = m.rest[min((n+3)&^3, len(m.rest)):]
	return true
}

const (
	errorLen    = 4 + unix.SizeofNlMsghdr // struct nlmsgerr, the question's header in it (NETLINK_CAP_ACK)
	nlmsgerrMsg = 1                       // NLMSGERR_ATTR_MSG
)

// text is what the kernel says in words about an error (NETLINK_EXT_ACK).
func (m *messages) text() string {
	if m.flags&unix.NLM_F_ACK_TLVS == 0 || len(m.data) < errorLen {
		return ""
	}
	a := attributes{rest: m.data[errorLen:]}
	for a.next() {
		if a.typ == nlmsgerrMsg {
			return a.text("")
		}
	}
	return ""
}
