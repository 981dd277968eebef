package nfnl

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nlsock"
)

const (
	slots      = 32       // messages that one system call receives, and that one sends, at most
	slotLen    = 4 << 10  // more than the longest entry; a longer one is noticed
	sendBuffer = 64 << 10 // bytes; the kernel refuses a longer send
)

// socket is a netlink socket to netfilter with kept buffers, for raw system calls.
type socket struct {
	fd      int
	headers [slots]nlsock.Header
	vectors [slots]unix.Iovec
	names   [slots]unix.RawSockaddrNetlink
	buffers []byte // slots of slotLen bytes
}

// openSocket opens one in the calling thread's network namespace. It is connected to the kernel, which takes messages
// of others away from it.
func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open a netfilter netlink socket: %w", err)
	}
	s := &socket{fd: fd, buffers: make([]byte, slots*slotLen)}
	kernel := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	err = unix.Bind(fd, kernel)
	if err == nil {
		err = unix.Connect(fd, kernel)
	}
	if err == nil { // an answer need not repeat what was asked
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a netfilter netlink socket: %w", err), unix.Close(fd))
	}
	// Words beside error numbers; before Linux 4.12 there were none.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	for i := range s.headers {
		s.vectors[i].Base = &s.buffers[i*slotLen]
		s.vectors[i].SetLen(slotLen)
		h := &s.headers[i]
		h.Name = (*byte)(unsafe.Pointer(&s.names[i]))
		h.Iov = &s.vectors[i]
		h.SetIovlen(1)
	}
	return s, nil
}

// readBuffer sets how many bytes may wait in the socket. To the root of a container they are at most net.core.rmem_max.
func (s *socket) readBuffer(n int) error {
	err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, n)
	if err == unix.EPERM {
		err = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, n)
	}
	return os.NewSyscallError("setsockopt", err)
}

// close gives the descriptor back. Its number may become another file's, which later calls must not meet.
func (s *socket) close() error {
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}

// send gives messages to the kernel, which carries them out before it returns.
func (s *socket) send(b []byte) error { return nlsock.Send(s.fd, b) }

// receive takes up to most messages without waiting; datagram gives them. Errors: EAGAIN, ENOBUFS (some were lost before
// the next) and what else recvmmsg has.
func (s *socket) receive(most int) (int, error) {
	most = min(most, slots)
	for i := range most {
		s.headers[i].Namelen = unix.SizeofSockaddrNetlink
	}
	return nlsock.Receive(s.fd, s.headers[:most])
}

// receiveOne takes one message without waiting; whole says that nothing of it is missing. It costs less than receive, and
// need not ask who sent it: nobody but the kernel can, to a socket that is connected to it.
func (s *socket) receiveOne() (b []byte, whole bool, err error) {
	into := &s.vectors[0]
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(into.Base)), uintptr(into.Len),
			unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0) // MSG_TRUNC has the message's own length
		switch errno {
		case 0:
			return s.buffers[:min(uint64(n), into.Len)], uint64(n) <= into.Len, nil
		case unix.EINTR:
		default:
			return nil, false, errno
		}
	}
}

// receiveLong takes one datagram of a listing into b; it waits for it, and may go on with the listing meanwhile.
func (s *socket) receiveLong(b []byte) (int, error) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
			uintptr(len(b)), unix.MSG_TRUNC, 0, 0) // MSG_TRUNC has the datagram's own length
		switch {
		case errno == unix.EAGAIN:
			if err := s.wait(); err != nil && !errors.Is(err, unix.EINTR) {
				return 0, fmt.Errorf("%w: %w", ErrUnanswered, err)
			}
		case errno == unix.EINTR:
		case errno != 0:
			return 0, fmt.Errorf("receive: %w", errno)
		case n > uintptr(len(b)):
			return 0, errTruncated
		default:
			return int(n), nil
		}
	}
}

// datagram is what receive took, or nil if it is not the kernel's; whole says that nothing of it is missing.
func (s *socket) datagram(i int) (b []byte, whole bool) {
	h := &s.headers[i]
	if h.Namelen != unix.SizeofSockaddrNetlink || s.names[i].Pid != 0 {
		return nil, true
	}
	n := min(int(h.N), slotLen)
	return s.buffers[i*slotLen:][:n:n], h.Flags&unix.MSG_TRUNC == 0
}

// wait waits for something to receive, for a second at most.
func (s *socket) wait() error {
	ready := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(ready, 1000)
	if err == nil && n == 0 {
		err = unix.ETIMEDOUT
	}
	return err
}
