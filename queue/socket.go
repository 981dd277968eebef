package queue

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nlsock"
)

const (
	maxBatch = 64 // packets that one Receive gives, at most
	// slot is room for the longest message: a packet of 64 KiB, its connection, and what else a kernel may tell. The
	// beginnings of slots do not lie at the same place of a page, which would put them all into the same few lines of the
	// processor's cache.
	slot = 68<<10 + 5*64
)

// inbox is where messages are read to. Its pages are touched only as far as packets are long: 4 MiB at most.
type inbox struct {
	arena   []byte
	vectors [maxBatch]unix.Iovec
	headers [maxBatch]nlsock.Header
	busy    bool // the last call took all that it could
}

func newInbox() *inbox {
	in := &inbox{arena: make([]byte, maxBatch*slot)}
	for i := range in.headers {
		in.vectors[i].Base = &in.arena[i*slot]
		in.vectors[i].SetLen(slot)
		in.headers[i].Iov = &in.vectors[i]
		in.headers[i].SetIovlen(1)
	}
	return in
}

// receive waits for one message at least, and takes up to most that are there. Sockets of others cannot send any, but
// with the capability to do worse (netlink_allowed).
func (in *inbox) receive(fd, most int) (n int, err error) {
	into := in.headers[:most]
	if in.busy { // probably there is more
		n, err = nlsock.Receive(fd, into)
	}
	if n == 0 {
		n, err = nlsock.Wait(fd, into)
	}
	in.busy = n == most
	return n, err
}

// datagram is the i-th that the last receive took.
func (in *inbox) datagram(i int) []byte {
	return in.arena[i*slot : i*slot+int(min(in.headers[i].N, slot))]
}

// dial opens a socket in the calling thread's network namespace.
func dial(readBuffer int) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER); err != nil {
		return -1, err
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, readBuffer); err != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, readBuffer)
	}
	if err == nil { // a lost message is a counted packet, not a broken socket: Overruns has the exact number
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 1)
	}
	if err == nil { // the answer to a bad verdict does not repeat its packet
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// ask gives a request to the kernel. It may wait for others' requests.
func ask(fd int, b []byte) error {
	return unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}
