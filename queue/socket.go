package queue

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
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
	headers [maxBatch]mmsghdr
	busy    bool // the last call took all that it could
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	n      uint32
}

func newInbox() *inbox {
	in := &inbox{arena: make([]byte, maxBatch*slot)}
	for i := range in.headers {
		in.vectors[i].Base = &in.arena[i*slot]
		in.vectors[i].SetLen(slot)
		in.headers[i].header.Iov = &in.vectors[i]
		in.headers[i].header.SetIovlen(1)
	}
	return in
}

// receive waits for one message at least, and takes up to most that are there. Sockets of others cannot send any, but
// with the capability to do worse (netlink_allowed).
func (in *inbox) receive(fd, most int) (int, error) {
	if in.busy { // probably there is more: Go's scheduler need not hear of a call that does not wait
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&in.headers[0])), uintptr(most),
			unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			in.busy = int(n) == most
			return int(n), nil
		}
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&in.headers[0])), uintptr(most),
		unix.MSG_WAITFORONE, 0, 0)
	if in.busy = errno == 0 && int(n) == most; errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// datagram is the i-th that the last receive took.
func (in *inbox) datagram(i int) []byte {
	return in.arena[i*slot : i*slot+int(min(in.headers[i].n, slot))]
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

// send gives verdicts to the kernel, which carries them out before it returns, and does not wait for anybody. An
// unconnected netlink socket's peer is the kernel.
func send(fd int, b []byte) error {
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// drops is how many messages did not fit into the socket's buffer: SO_MEMINFO, word SK_MEMINFO_DROPS.
func drops(fd int) (uint64, error) {
	const dropsWord, words = 8, 9 // linux/sock_diag.h
	var info [words]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return uint64(info[dropsWord]), nil
}
