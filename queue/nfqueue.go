package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	nfqueue "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	defaultLength     = 4096
	defaultMaxPacket  = 0xffff
	defaultReadBuffer = 16 << 20
	maxBatch          = 64
)

// Queue serves one netfilter queue through go-nfqueue. Verdict, Stats, Err and Close may be called from any goroutine.
//
// go-nfqueue does not hand out messages that it cannot parse, nor says that there were any: such a packet waits until
// Close. No kernel is known to send one.
type Queue struct {
	nf      *nfqueue.Nfqueue
	number  uint16
	table   *table
	packets chan []Packet
	done    chan struct{}
	close   sync.Once
	closed  error

	received, verdicts, failed, unknown, refused atomic.Uint64
	fatal                                        atomic.Pointer[error]
}

// Open serves the queue of the calling thread's network namespace. Errors: ErrPermission, *TakenError, ErrNoQueue,
// ErrNoConntrack, or the kernel's own.
func Open(cfg Config) (*Queue, error) {
	if cfg.Length == 0 {
		cfg.Length = defaultLength
	}
	if cfg.MaxPacket == 0 {
		cfg.MaxPacket = defaultMaxPacket
	}
	if cfg.ReadBuffer == 0 {
		cfg.ReadBuffer = defaultReadBuffer
	}
	q, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("open netfilter queue %d: %w", cfg.Number, explain(err, cfg))
	}
	return q, nil
}

func open(cfg Config) (*Queue, error) {
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
	q := &Queue{
		nf:      nf,
		number:  cfg.Number,
		packets: make(chan []Packet),
		done:    make(chan struct{}),
	}
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

func (q *Queue) start(cfg Config) error {
	if err := q.nf.Con.SetReadBuffer(cfg.ReadBuffer); err != nil {
		return err
	}
	// A lost message is a counted packet, not a broken socket: Overruns has the exact number.
	if err := q.nf.SetOption(netlink.NoENOBUFS, true); err != nil {
		return err
	}
	read := make(chan Packet, maxBatch)
	receive := func(a nfqueue.Attribute) int {
		if a.PacketID == nil {
			return 0
		}
		q.received.Add(1)
		select {
		case read <- packet(a):
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
		close(read)
		return 1
	}
	if err := q.nf.RegisterWithErrorFunc(context.Background(), receive, failed); err != nil {
		return err
	}
	var err error
	if q.table, err = openTable(); err != nil {
		return err
	}
	go q.batch(read)
	return nil
}

// batch hands on what has been read as long as nobody takes it: the reader pays for a switch of goroutines once a batch.
func (q *Queue) batch(read <-chan Packet) {
	defer close(q.packets)
	for {
		var batch []Packet
		select {
		case p, ok := <-read:
			if !ok {
				return
			}
			batch = append(batch, p)
		case <-q.done:
			return
		}
		for waiting := true; waiting && len(batch) < maxBatch; {
			select {
			case p, ok := <-read:
				if ok {
					batch = append(batch, p)
				} else {
					waiting = false
				}
			default:
				waiting = false
			}
		}
		select {
		case q.packets <- batch:
		case <-q.done:
			return
		}
	}
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
	if a.Timestamp != nil {
		p.Time = *a.Timestamp
	} else {
		p.Time = time.Now()
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

// Packets are the queued packets in order of arrival, up to 64 at once. The channel is closed by Close, or when the
// queue can no longer be read: then Err says why.
func (q *Queue) Packets() <-chan []Packet { return q.packets }

// Err is why Packets was closed; nil after Close.
func (q *Queue) Err() error {
	if err := q.fatal.Load(); err != nil {
		return fmt.Errorf("read netfilter queue %d: %w", q.number, *err)
	}
	return nil
}

// Verdict lets the packet go on: as it came if data is nil, else with data, which is a whole IP packet with right
// checksums of at most 65531 bytes. Its mark stays. The order among packets is free. A packet that the kernel has no
// longer is no error here: it is counted in Stats.Unknown.
func (q *Queue) Verdict(id uint32, data []byte) error {
	var err error
	if data == nil {
		err = q.nf.SetVerdict(id, nfqueue.NfAccept)
	} else {
		err = q.nf.SetVerdictWithOption(id, nfqueue.NfAccept, nfqueue.WithAlteredPacket(data))
	}
	if err != nil {
		q.failed.Add(1)
		return fmt.Errorf("verdict on packet %d of queue %d: %w", id, q.number, err)
	}
	q.verdicts.Add(1)
	return nil
}

// Stats reads the counters, the kernel's included.
func (q *Queue) Stats() (Stats, error) {
	s := Stats{
		Received: q.received.Load(),
		Verdicts: q.verdicts.Load(),
		Failed:   q.failed.Load(),
		Unknown:  q.unknown.Load(),
		Refused:  q.refused.Load(),
	}
	var err error
	if s.Overruns, err = drops(q.nf.Con); err != nil {
		return s, fmt.Errorf("read socket drops of queue %d: %w", q.number, err)
	}
	k, found, err := q.table.find(q.number)
	if err != nil {
		return s, err
	}
	if !found {
		return s, fmt.Errorf("queue %d is not in the kernel's list", q.number)
	}
	s.Kernel = k
	return s, nil
}

// Close gives the queue back. The kernel drops the packets that still wait for a verdict; later ones pass if the rule
// says bypass. So stop the rules from queueing, give the last verdicts, and then Close.
func (q *Queue) Close() error {
	q.close.Do(func() {
		close(q.done)
		q.closed = errors.Join(q.nf.Close(), q.table.close())
	})
	return q.closed
}

// explain turns what the kernel says into what to do.
func explain(err error, cfg Config) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("%w (%w)", ErrNoQueue, err) // no NETLINK_NETFILTER at all
	case errors.Is(err, unix.EINVAL):
		if t, terr := openTable(); terr != nil { // nfnetlink_rcv_msg answers EINVAL for a subsystem that it does not have
			return fmt.Errorf("%w (%w)", ErrNoQueue, err)
		} else {
			t.close()
		}
	case errors.Is(err, unix.EOPNOTSUPP) && cfg.Conntrack:
		return fmt.Errorf("%w (%w)", ErrNoConntrack, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EBUSY):
		// A queue of somebody else's is EPERM too (nfqnl_recv_config).
		if t, terr := openTable(); terr == nil {
			defer t.close()
			if k, found, terr := t.find(cfg.Number); terr == nil && found {
				return &TakenError{Number: cfg.Number, PortID: k.PortID}
			}
		}
		return fmt.Errorf("%w (%w)", ErrPermission, err)
	}
	return err
}
