package daemon

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"time"

	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/queue"
)

// driver is what the daemon uses of a queue: *queue.Queue, or *queue.Reference.
type driver interface {
	Receive() ([]queue.Packet, error)
	Verdict(id uint32, data []byte) error
	Drop(id uint32) error
	Flush() error
	Stats() (queue.Stats, error)
	Close() error
}

func (d *daemon) openQueues() error {
	for i := range d.cfg.Queue.Count {
		cfg := queue.Config{
			Number:     d.cfg.Queue.Number + i,
			Length:     d.cfg.Queue.Length,
			ReadBuffer: d.cfg.Queue.Buffer,
			FailOpen:   !d.cfg.FailClosed,
			Conntrack:  d.features.Conntrack,
		}
		q, err := openDriver(d.cfg.Queue.Driver, cfg)
		if taken := (*queue.TakenError)(nil); errors.As(err, &taken) {
			return fmt.Errorf("%w, by queue: {number: N} in the configuration", err)
		}
		if err != nil {
			return err
		}
		d.queues = append(d.queues, q)
		_, d.tables.together = q.(*queue.Queue)
	}
	return nil
}

func openDriver(name config.Driver, cfg queue.Config) (driver, error) {
	if name == config.DriverReference {
		return queue.OpenReference(cfg)
	}
	return queue.Open(cfg)
}

// serve begins to read the queues. Each takes a thread, which waits in a system call; none is locked to it, as each time
// that a locked goroutine is preempted costs two changes of threads. All share one engine, which costs a fraction of the
// system calls around it.
//
// Go's scheduler leaves a thread that waits in a system call its processor (P) as long as another one is idle. So there
// are more of them than threads that wait, even on a machine with one core: else a second thread would look for such
// waits every 20 us, and each packet after a pause would have to get a processor back.
func (d *daemon) serve() {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), len(d.queues)+1))
	d.ended, d.wake = make(chan error, len(d.queues)), make(chan struct{}, 1)
	for i := range d.queues {
		d.serving.Go(func() {
			for {
				if err := d.batch(i); errors.Is(err, queue.ErrClosed) {
					return
				} else if err != nil {
					d.ended <- err
					return
				}
			}
		})
	}
}

// batch waits for packets of queue i, hands them to the engine, and sends the verdicts that there are then.
func (d *daemon) batch(i int) error {
	packets, err := d.queues[i].Receive()
	if err != nil {
		return err
	}
	d.mu.Lock()
	// What came of earlier packets comes first. The kernel is asked where it matters: that an entry is gone whose addresses
	// and ports are used again, or that an expectation was met which the next packet may cancel.
	if d.tables.watcher.Pending() || d.engine.Pending() > 0 || begins(packets) {
		err = d.events()
	}
	d.packets(i, packets)
	d.unlock()
	return err
}

// do runs f with all that mu guards.
func (d *daemon) do(f func()) {
	d.mu.Lock()
	f()
	d.unlock()
}

// unlock lets others go on, and sends the verdicts that were given meanwhile, on whichever queue.
func (d *daemon) unlock() {
	touched, log := d.touched, d.log
	d.touched = 0
	next := d.engine.Next()
	sooner := !next.IsZero() && (d.alarm.IsZero() || next.Before(d.alarm))
	if sooner {
		d.alarm = next
	}
	d.mu.Unlock()
	for ; touched != 0; touched &= touched - 1 {
		if err := d.queues[bits.TrailingZeros64(touched)].Flush(); err != nil && d.failed.Add(1) == 1 {
			log.Error("packets could not be given back; more of this is only counted", "error", err)
		}
	}
	if sooner {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

// begins tells whether a packet may be the first of an entry. Then the end of an earlier one with the same addresses and
// ports must be known before, and it is asked for. Without NFQA_CT any packet may be: conntrack picks up in the middle.
func begins(packets []queue.Packet) bool {
	const isNew = 2 // IP_CT_NEW of enum ip_conntrack_info
	for i := range packets {
		if p := &packets[i]; p.Conntrack == nil || p.CtInfo == isNew {
			return true
		}
	}
	return false
}

// packets hands packets of queue i to the engine. Their time is this process's clock, as Tick's is: the kernel's stamp
// jumps when somebody sets the time.
func (d *daemon) packets(i int, batch []queue.Packet) {
	now := time.Now()
	d.next = d.next[:0]
	for n := range batch {
		d.next = append(d.next, batch[n].Data)
	}
	d.engine.Prepare(d.next)
	for n := range batch {
		p := &batch[n]
		id := uint64(i)<<32 | uint64(p.ID)
		if p.Truncated { // it must go as it came
			d.cut++
		}
		if p.Truncated || d.left {
			d.verdict(engine.Verdict{ID: id, Drop: d.left && d.shut})
			continue
		}
		in := engine.Packet{ID: id, Time: now, Data: p.Data, Doubtful: d.doubts != nil && d.doubts[i].covers(p.ID)}
		if p.Conntrack != nil {
			in.Conn = d.tables.packetConn(p)
		}
		d.steps.Add(d.engine.Handle(in))
	}
	d.steps.Do()
	d.settle()
}

// drive carries out a step of the engine.
func (d *daemon) drive(s *engine.Step) {
	d.steps.Add(s)
	d.steps.Do()
	for _, id := range d.tables.used { // what the engine removes all the same is removed by now
		d.tables.kernel.Used(id)
	}
	d.tables.used = d.tables.used[:0]
	d.settle()
}

// settle sets the adjustments that no verdict has taken along.
func (d *daemon) settle() {
	if len(d.tables.owed) == 0 {
		return
	}
	if err := d.tables.settle(); err != nil {
		d.log.Error("numbers cannot be adjusted", "error", err)
	}
}

// verdict notes a verdict with the queue that the packet came from. What was rewritten leaves at once, with the adjustment
// that it needs.
func (d *daemon) verdict(v engine.Verdict) {
	i, id := v.ID>>32, uint32(v.ID)
	d.touched |= 1 << i
	var err error
	if v.Drop {
		err = d.queues[i].Drop(id)
	} else if own, ok := d.queues[i].(*queue.Queue); ok && v.Data != nil && len(d.tables.owed) > 0 {
		d.flush()
		err = own.VerdictAfter(d.tables.adjusts, id, v.Data)
		d.tables.taken()
	} else {
		d.settle() // before the packet goes on
		err = d.queues[i].Verdict(id, v.Data)
	}
	if err != nil && d.failed.Add(1) == 1 {
		d.log.Error("a packet could not be given back; more of this is only counted", "error", err)
	}
}

// flush sends the verdicts that are noted, of all queues: the directions of a connection may have different ones.
func (d *daemon) flush() {
	for _, q := range d.queues {
		if err := q.Flush(); err != nil && d.failed.Add(1) == 1 {
			d.log.Error("packets could not be given back; more of this is only counted", "error", err)
		}
	}
}
