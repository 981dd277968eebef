// Package nlsock has the system calls of netlink sockets that golang.org/x/sys lacks: many messages at once, without
// allocation, and unseen by Go's scheduler where they do not wait.
package nlsock

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Header is struct mmsghdr of recvmmsg(2).
type Header struct {
	unix.Msghdr
	N uint32 // bytes that were received
}

// Send gives messages to the kernel, which carries them out before it returns, and does not wait for anybody. The socket
// is connected to the kernel, or to nobody: then its peer is the kernel, too.
func Send(fd int, b []byte) error {
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

// Receive takes messages that are there, as many as there are headers, and does not wait: EAGAIN.
func Receive(fd int, into []Header) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(into))), uintptr(len(into)),
			unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// Wait is Receive that waits for one message at least. EINTR: a signal came.
func Wait(fd int, into []Header) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(into))), uintptr(len(into)),
		unix.MSG_WAITFORONE, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Drops is how many messages did not fit into the socket's buffer since it was opened: SO_MEMINFO, SK_MEMINFO_DROPS.
func Drops(fd int) (uint32, error) {
	const drops = 8 // linux/sock_diag.h
	var info [drops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, os.NewSyscallError("getsockopt", errno)
	}
	return info[drops], nil
}
