package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nlsock"
)

// Queue serves one netfilter queue. Receive is for one goroutine, which may block a thread of its own; all else may be
// called from any. Nothing is allocated from Receive to Flush.
type Queue struct {
	number  uint16
	table   *table
	closing atomic.Bool
	close   sync.Once
	closed  error

	reading sync.Mutex // held while a thread may wait in the socket
	in      *inbox
	packets []Packet

	mu      sync.Mutex // held while the socket is written to
	fd      int        // -1: closed
	waiting waiting
	run     []uint32 // noted at last: unchanged, each newer than the one before
	out     []byte   // messages that are to be sent
	noted   uint32   // packets that out speaks for
	stats   Stats
}

// outLimit is how much is sent at once. A netlink socket's send buffer (net.core.wmem_default) must hold it.
const outLimit = 96 << 10

// Open serves the queue of the calling thread's network namespace. Errors: ErrPermission, *TakenError, ErrNoQueue,
// ErrNoConntrack, or the kernel's own.
func Open(cfg Config) (*Queue, error) {
	cfg.withDefaults()
	q, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("open netfilter queue %d: %w", cfg.Number, explain(err, cfg))
	}
	return q, nil
}

func open(cfg Config) (*Queue, error) {
	fd, err := dial(cfg.ReadBuffer)
	if err != nil {
		return nil, err
	}
	q := &Queue{
		number: cfg.Number, fd: fd, in: newInbox(),
		packets: make([]Packet, 0, maxBatch), run: make([]uint32, 0, maxBatch), out: make([]byte, 0, 4<<10),
		waiting: waiting{ids: make([]uint32, 0, 2*maxBatch)},
	}
	if err = q.bind(cfg); err == nil {
		q.table, err = openTable()
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return q, nil
}

// bind makes the queue and waits for the answer. Packets may come before it; they pass.
func (q *Queue) bind(cfg Config) error {
	const seq = 1
	if err := ask(q.fd, appendBind(nil, cfg, seq)); err != nil {
		return err
	}
	for {
		if _, err := q.in.receive(q.fd, 1); errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) {
			continue
		} else if err != nil {
			return err
		}
		kind, got, body, _, _ := cut(q.in.datagram(0))
		var p Packet
		switch {
		case kind == msgError && got == seq && len(body) >= 4:
			if errno := -int32(binary.NativeEndian.Uint32(body)); errno != 0 {
				return unix.Errno(errno)
			}
			return nil
		case kind == msgPacket:
			if named, _ := readPacket(body, &p); named {
				if err := nlsock.Send(q.fd, appendVerdict(nil, msgVerdict, q.number, p.ID, 1)); err != nil {
					return err
				}
			}
		}
	}
}

// Receive waits for packets and gives up to 64 that are there, in the order of their arrival. They are valid until the
// next call. ErrClosed: the queue was closed; any other error: it can no longer be read.
func (q *Queue) Receive() ([]Packet, error) {
	q.reading.Lock()
	defer q.reading.Unlock()
	for {
		if q.closing.Load() {
			return nil, ErrClosed
		}
		n, err := q.in.receive(q.fd, maxBatch)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOBUFS): // what was lost is in Stats.Overruns
			continue
		case err != nil:
			return nil, fmt.Errorf("read netfilter queue %d: %w", q.number, err)
		}
		if q.closing.Load() {
			return nil, ErrClosed // the kernel has dropped what was read, too
		}
		if q.read(n); len(q.packets) > 0 {
			return q.packets, nil
		}
	}
}

// read takes the messages of n datagrams. What cannot be read passes.
func (q *Queue) read(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.packets = q.packets[:0]
	pass := false
	for i := range n {
		b := q.in.datagram(i)
		for {
			kind, seq, body, rest, ok := cut(b)
			if !ok {
				break
			}
			b = rest
			switch kind {
			case msgPacket:
				pass = q.take(body) || pass
			case msgError:
				q.answer(seq, body)
			}
		}
	}
	if pass {
		q.flush() // an error is counted
	}
}

// take enters a packet; true: it could not be read, and its verdict is noted.
func (q *Queue) take(body []byte) bool {
	n := len(q.packets)
	q.packets = append(q.packets, Packet{})
	p := &q.packets[n]
	named, whole := readPacket(body, p)
	if whole {
		q.stats.Received++
		q.waiting.add(p.ID)
		return false
	}
	q.packets = q.packets[:n]
	q.stats.Unreadable++
	if named {
		q.endRun()
		q.note(appendVerdict(q.out, msgVerdict, q.number, p.ID, 1), 1)
		return true
	}
	q.stats.Unnamed++ // the next batch of verdicts takes it along
	return false
}

// answer counts what the kernel says of a verdict. A message's sequence number is how many packets it speaks for.
func (q *Queue) answer(seq uint32, body []byte) {
	if len(body) < 4 {
		return
	}
	switch errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body))); errno {
	case 0:
	case unix.ENOENT:
		q.stats.Unknown += uint64(seq)
	default:
		q.stats.Refused += uint64(seq)
	}
}

// Verdict lets a packet go on with the next Flush: as it came if data is nil, else with data, which is a whole IP
// packet with right checksums of at most 65531 bytes, and is copied. The packet's mark stays. Packets leave in the order
// of their verdicts, whichever that is. A packet that the kernel has no longer is no error here: it is counted in
// Stats.Unknown.
func (q *Queue) Verdict(id uint32, data []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.run); data != nil || n > 0 && !after(id, q.run[n-1]) {
		q.endRun() // while this packet waits: the run's batch must not take it along
	}
	switch known := q.waiting.remove(id); {
	case data == nil && known:
		q.run = append(q.run, id)
		return nil
	case data == nil:
		q.endRun()
		return q.note(appendVerdict(q.out, msgVerdict, q.number, id, 1), 1)
	}
	out, err := q.changed(q.out, id, data)
	return errors.Join(err, q.note(out, 1))
}

// changed appends the message for a packet with other content; what is too long goes on as it came.
func (q *Queue) changed(out []byte, id uint32, data []byte) ([]byte, error) {
	if len(data) > maxChange {
		q.stats.Failed++
		return appendVerdict(out, msgVerdict, q.number, id, 1),
			fmt.Errorf("verdict on packet %d of queue %d: %d bytes, more than %d", id, q.number, len(data), maxChange)
	}
	return appendChanged(out, q.number, id, data), nil
}

// Drop is the verdict that a packet does not go on.
func (q *Queue) Drop(id uint32) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.endRun() // while this packet waits, as above
	q.waiting.remove(id)
	return q.note(appendDrop(q.out, q.number, id), 1)
}

// VerdictAfter is Verdict with data, sent at once, together with what the kernel must be told before: whole netfilter
// netlink messages that ask for no answer. It takes both in one system call, so a process that is killed has sent both
// or neither.
func (q *Queue) VerdictAfter(before []byte, id uint32, data []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.flush() // while this packet waits, as above
	q.waiting.remove(id)
	out, tooLong := q.changed(append(q.out, before...), id, data)
	return errors.Join(err, tooLong, q.note(out, 1), q.send())
}

// note takes out with messages for more packets, and sends it if it is long.
func (q *Queue) note(out []byte, packets uint32) error {
	q.out = out
	q.noted += packets
	if len(q.out) < outLimit {
		return nil
	}
	return q.send()
}

// endRun makes messages of the run. One batch message accepts all packets up to an id: it is right for those before the
// oldest packet that still waits.
func (q *Queue) endRun() {
	n := len(q.run)
	if n == 0 {
		return
	}
	if oldest, ok := q.waiting.oldest(); ok {
		for n = 0; n < len(q.run) && after(oldest, q.run[n]); n++ {
		}
	}
	rest := q.run[n:]
	if n == 1 { // the kernel says more of a single one
		rest = q.run
	} else if n > 1 {
		q.out = appendVerdict(q.out, msgBatch, q.number, q.run[n-1], uint32(n))
		q.noted += uint32(n)
	}
	for _, id := range rest {
		q.out = appendVerdict(q.out, msgVerdict, q.number, id, 1)
		q.noted++
	}
	q.run = q.run[:0]
}

// Flush sends all verdicts that were noted, by one system call unless they are long.
func (q *Queue) Flush() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.flush()
}

func (q *Queue) flush() error {
	q.endRun()
	return q.send()
}

func (q *Queue) send() error {
	if len(q.out) == 0 {
		return nil
	}
	if q.fd < 0 {
		return ErrClosed
	}
	sent, err := q.noted, nlsock.Send(q.fd, q.out)
	if err != nil { // too much at once, or no memory: what can be sent is
		sent, err = q.sendEach()
	}
	q.stats.Verdicts += uint64(sent)
	q.out, q.noted = q.out[:0], 0
	return err
}

func (q *Queue) sendEach() (sent uint32, err error) {
	for b := q.out; ; {
		_, packets, body, rest, ok := cut(b)
		if !ok {
			return sent, err
		}
		if e := nlsock.Send(q.fd, b[:headerLen+len(body)]); e != nil {
			q.stats.Failed += uint64(packets)
			err = fmt.Errorf("verdicts of queue %d: %w", q.number, e)
		} else {
			sent += packets
		}
		b = rest
	}
}

// Stats reads the counters, the kernel's included.
func (q *Queue) Stats() (Stats, error) {
	q.mu.Lock()
	s, err := q.stats, error(ErrClosed)
	if q.fd >= 0 {
		var n uint32
		n, err = nlsock.Drops(q.fd)
		s.Overruns = uint64(n)
	}
	q.mu.Unlock()
	if err != nil {
		return s, fmt.Errorf("read socket drops of queue %d: %w", q.number, err)
	}
	s.Kernel, err = q.table.kernel(q.number)
	return s, err
}

// Close sends what was noted, ends Receive and gives the queue back. The kernel drops the packets that still wait for a
// verdict; later ones pass if the rule says bypass. So stop the rules from queueing, give the last verdicts, and then
// Close.
func (q *Queue) Close() error {
	q.close.Do(func() {
		q.closing.Store(true)
		q.mu.Lock()
		err := q.flush()
		// The answer to this wakes the thread that waits in the socket.
		err = errors.Join(err, ask(q.fd, appendUnbind(nil, q.number, 0)))
		q.mu.Unlock()
		q.reading.Lock()
		defer q.reading.Unlock()
		q.mu.Lock()
		defer q.mu.Unlock()
		q.closed = errors.Join(err, unix.Close(q.fd), q.table.close())
		q.fd = -1
	})
	return q.closed
}
