package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	nfqueue "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nlsock"
)

// Reference serves one netfilter queue through go-nfqueue: what Queue is measured against, and held to by one test for
// both. It differs in nothing but that verdicts leave at once, and that a packet stays valid for longer.
//
// go-nfqueue does not hand out messages that it cannot parse, nor says that there were any: such a packet waits until
// Close. No kernel is known to send one.
type Reference struct {
	nf     *nfqueue.Nfqueue
	number uint16
	table  *table
	read   chan Packet
	batch  []Packet
	done   chan struct{}
	close  sync.Once
	closed error

	received, verdicts, failed, unknown, refused atomic.Uint64
	fatal                                        atomic.Pointer[error]
}

// OpenReference is Open for the reference.
func OpenReference(cfg Config) (*Reference, error) {
	cfg.withDefaults()
	q, err := openReference(cfg)
	if err != nil {
		return nil, fmt.Errorf("open netfilter queue %d: %w", cfg.Number, explain(err, cfg))
	}
	return q, nil
}

func openReference(cfg Config) (*Reference, error) {
	var flags uint32
	if cfg.FailOpen {
		flags |= nfqueue.NfQaCfgFlagFailOpen
	}
	if cfg.Conntrack {
		flags |= nfqueue.NfQaCfgFlagConntrack
	}
	nf, err := nfqueue.Open(&nfqueue.Config{
		NfQueue:      cfg.Number,
		MaxQueueLen:  cfg.Length,
		MaxPacketLen: cfg.MaxPacket,
		Copymode:     nfqueue.NfQnlCopyPacket,
		Flags:        flags,
	})
	if err != nil {
		return nil, err
	}
	q := &Reference{nf: nf, number: cfg.Number, read: make(chan Packet, maxBatch), done: make(chan struct{})}
	if err := q.start(cfg); err != nil {
		close(q.done)
		nf.Close()
		if q.table != nil {
			q.table.close()
		}
		return nil, err
	}
	return q, nil
}

func (q *Reference) start(cfg Config) error {
	if err := q.nf.Con.SetReadBuffer(cfg.ReadBuffer); err != nil {
		return err
	}
	// A lost message is a counted packet, not a broken socket: Overruns has the exact number.
	if err := q.nf.SetOption(netlink.NoENOBUFS, true); err != nil {
		return err
	}
	receive := func(a nfqueue.Attribute) int {
		if a.PacketID == nil {
			return 0
		}
		q.received.Add(1)
		select {
		case q.read <- packet(a):
			return 0
		case <-q.done:
			return 1
		}
	}
	failed := func(err error) int {
		select {
		case <-q.done:
			return 1
		default:
		}
		var op *netlink.OpError
		if errors.As(err, &op) {
			// A bare number is the kernel's answer to a verdict; an error of the socket itself is an *os.SyscallError.
			switch errno, ok := op.Err.(unix.Errno); {
			case ok && errno == unix.ENOENT:
				q.unknown.Add(1)
				return 0
			case ok:
				q.refused.Add(1)
				return 0
			}
		}
		if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR) {
			return 0
		}
		q.fatal.Store(&err)
		close(q.read)
		return 1
	}
	if err := q.nf.RegisterWithErrorFunc(context.Background(), receive, failed); err != nil {
		return err
	}
	var err error
	q.table, err = openTable()
	return err
}

// Receive is as Queue's.
func (q *Reference) Receive() ([]Packet, error) {
	q.batch = q.batch[:0]
	select {
	case p, ok := <-q.read:
		if !ok {
			return nil, fmt.Errorf("read netfilter queue %d: %w", q.number, *q.fatal.Load())
		}
		q.batch = append(q.batch, p)
	case <-q.done:
		return nil, ErrClosed
	}
	for len(q.batch) < maxBatch {
		select {
		case p, ok := <-q.read:
			if ok {
				q.batch = append(q.batch, p)
				continue
			}
		default:
		}
		break
	}
	return q.batch, nil
}

func packet(a nfqueue.Attribute) Packet {
	p := Packet{ID: *a.PacketID}
	if a.Payload != nil {
		p.Data = *a.Payload
	}
	if a.Hook != nil {
		p.Hook = *a.Hook
	}
	if a.Mark != nil {
		p.Mark = *a.Mark
	}
	if a.CapLen != nil { // NFQA_CAP_LEN, the whole length, comes with truncated packets only
		p.Truncated = int(*a.CapLen) > len(p.Data)
	}
	if a.Ct != nil {
		p.Conntrack = *a.Ct
	}
	if a.CtInfo != nil {
		p.CtInfo = *a.CtInfo
	}
	return p
}

// Verdict is as Queue's, but does not wait for Flush.
func (q *Reference) Verdict(id uint32, data []byte) error {
	if data == nil {
		return q.gave(id, q.nf.SetVerdict(id, nfqueue.NfAccept))
	}
	return q.gave(id, q.nf.SetVerdictWithOption(id, nfqueue.NfAccept, nfqueue.WithAlteredPacket(data)))
}

// Drop is as Queue's, but does not wait for Flush.
func (q *Reference) Drop(id uint32) error { return q.gave(id, q.nf.SetVerdict(id, nfqueue.NfDrop)) }

// gave counts a verdict.
func (q *Reference) gave(id uint32, err error) error {
	if err != nil {
		q.failed.Add(1)
		return fmt.Errorf("verdict on packet %d of queue %d: %w", id, q.number, err)
	}
	q.verdicts.Add(1)
	return nil
}

// Flush has nothing to do.
func (q *Reference) Flush() error { return nil }

// Stats reads the counters, the kernel's included.
func (q *Reference) Stats() (Stats, error) {
	s := Stats{
		Received: q.received.Load(),
		Verdicts: q.verdicts.Load(),
		Failed:   q.failed.Load(),
		Unknown:  q.unknown.Load(),
		Refused:  q.refused.Load(),
	}
	c, err := q.nf.Con.SyscallConn()
	if err == nil {
		var failed error
		var n uint32
		err = c.Control(func(fd uintptr) { n, failed = nlsock.Drops(int(fd)) })
		s.Overruns = uint64(n)
		err = errors.Join(err, failed)
	}
	if err != nil {
		return s, fmt.Errorf("read socket drops of queue %d: %w", q.number, err)
	}
	s.Kernel, err = q.table.kernel(q.number)
	return s, err
}

// Close is as Queue's.
func (q *Reference) Close() error {
	q.close.Do(func() {
		close(q.done)
		q.closed = errors.Join(q.nf.Close(), q.table.close())
	})
	return q.closed
}
