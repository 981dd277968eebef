package queue

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"sync"
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

// kernel is the line of a queue that must be there.
func (t *table) kernel(number uint16) (Kernel, error) {
	k, found, err := t.find(number)
	if err == nil && !found {
		err = fmt.Errorf("queue %d is not in the kernel's list", number)
	}
	return k, err
}

// findQueue reads the lines that seq_show of nfnetlink_queue.c writes: queue, port, waiting, copy mode, copy range,
// queue_dropped, queue_user_dropped, id sequence, 1.
func findQueue(r io.Reader, number uint16) (Kernel, bool, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var k Kernel
		var n uint16
		var mode, size uint32
		if _, err := fmt.Sscan(lines.Text(), &n, &k.PortID, &k.Waiting, &mode, &size, &k.Dropped, &k.UserDropped, &k.Sequence); err != nil {
			return Kernel{}, false, fmt.Errorf("nfnetlink_queue: line %q: %w", lines.Text(), err)
		}
		if n == number {
			return k, true, nil
		}
	}
	return Kernel{}, false, lines.Err()
}
