package queue

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// table is /proc/net/netfilter/nfnetlink_queue of the network namespace in which it was opened. It stays that
// namespace's whichever thread reads it.
type table struct {
	mu sync.Mutex
	f  *os.File
}

// openTable uses the calling thread's namespace: /proc/net would be that of the process's first thread.
func openTable() (*table, error) {
	f, err := os.Open("/proc/thread-self/net/netfilter/nfnetlink_queue")
	if err != nil {
		return nil, err
	}
	return &table{f: f}, nil
}

func (t *table) close() error { return t.f.Close() }

func (t *table) find(number uint16) (Kernel, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.f.Seek(0, io.SeekStart); err != nil {
		return Kernel{}, false, err
	}
	return findQueue(t.f, number)
}

// findQueue reads the lines that seq_show of nfnetlink_queue.c writes: queue, port, waiting, copy mode, copy range,
// queue_dropped, queue_user_dropped, id sequence, 1.
func findQueue(r io.Reader, number uint16) (Kernel, bool, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var k Kernel
		var n uint16
		var mode, size uint32
		if _, err := fmt.Sscan(lines.Text(), &n, &k.PortID, &k.Waiting, &mode, &size, &k.Dropped, &k.UserDropped); err != nil {
			return Kernel{}, false, fmt.Errorf("nfnetlink_queue: line %q: %w", lines.Text(), err)
		}
		if n == number {
			return k, true, nil
		}
	}
	return Kernel{}, false, lines.Err()
}

// drops is how many messages did not fit into the socket's buffer: SO_MEMINFO, word SK_MEMINFO_DROPS.
func drops(c *netlink.Conn) (uint64, error) {
	const dropsWord, words = 8, 9 // linux/sock_diag.h
	rc, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info [words]uint32
	var errno unix.Errno
	err = rc.Control(func(fd uintptr) {
		size := uint32(unsafe.Sizeof(info))
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if errno != 0 {
		err = errors.Join(err, errno)
	}
	return uint64(info[dropsWord]), err
}
