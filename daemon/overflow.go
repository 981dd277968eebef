package daemon

import (
	"time"

	"github.com/cthelperd/cthelperd/internal/rules"
)

// unseen counts packets that the kernel let pass because the queue was full (NFQA_CFG_F_FAIL_OPEN). It counts them
// nowhere: they are what the rules gave to the queue and the queue does not know.
type unseen struct {
	before  uint64 // of earlier rules: their counters are gone
	current uint64 // of the rules that are there now, the most that was seen
	base    uint64 // what the queue knew when their counters began
}

func (u *unseen) total() uint64 { return u.before + u.current }

// look compares the rules' count, which was read first, with what the queue knew afterwards: packets that came between
// make the difference too small, never too large.
func (u *unseen) look(queued, known uint64) {
	if known -= u.base; queued > known {
		u.current = max(u.current, queued-known)
	}
}

// renew says that the rules count from zero again, at some time after the queue knew known.
func (u *unseen) renew(known uint64) {
	*u = unseen{before: u.total(), base: known}
}

// queueLoad is what became of the packets that were given to the queues.
type queueLoad struct {
	// known are those that got an id (nfqnl_enqueue_packet: before they are sent to the socket), or were counted as
	// dropped for want of room.
	known uint64
	// dropped are those of known that did not get here.
	dropped uint64
}

func (d *daemon) queueLoad() (l queueLoad, err error) {
	for _, q := range d.queues {
		s, err := q.Stats()
		if err != nil {
			return l, err
		}
		ahead := s.Kernel.Sequence - uint32(s.Received) // ids wrap; a packet is read soon after it got one
		l.known += s.Received + uint64(ahead) + s.Kernel.Dropped
		l.dropped += s.Overruns + s.Kernel.Dropped // user-dropped are among the overruns
	}
	return l, nil
}

// setRules puts rules in place; their counters begin at zero.
func (d *daemon) setRules(r rules.Config) error {
	if d.running { // else their counters are an earlier run's
		d.overflow()
	}
	l, err := d.queueLoad()
	if err != nil {
		return err
	}
	if err := rules.Install(r); err != nil {
		return err
	}
	d.unseen.renew(l.known)
	return nil
}

// overflow tells the log and the engine if packets passed unseen, or were dropped.
func (d *daemon) overflow() {
	if n := d.missing(); n > d.missed {
		d.log.Warn("packets did not fit into the queue", "packets", n-d.missed, "fate", choose(d.cfg.FailClosed, "dropped", "passed unread"))
		d.missed = n
		d.excuse()
	}
}

// missing is how many packets did not fit into the queues since the start.
func (d *daemon) missing() uint64 {
	queued, err := rules.Queued()
	if err != nil {
		return d.missed
	}
	l, err := d.queueLoad()
	if err != nil {
		return d.missed
	}
	d.unseen.look(queued, l.known)
	return d.unseen.total() + l.dropped
}

// asksPerSec bounds how often the engine's question is answered anew. It asks about each connection that it meets late,
// and the answer, a list of rules, costs far more than a packet: who sends packets of connections that never began must
// not have it made for each.
const asksPerSec = 100

// asks counts questions within a second.
type asks struct {
	since time.Time
	n     int
	last  uint64 // what was answered
}

func (a *asks) may(now time.Time) bool {
	if now.Sub(a.since) >= time.Second {
		a.since, a.n = now, 0
	}
	a.n++
	return a.n <= asksPerSec
}

// askMissing is what missing was lately.
func (d *daemon) askMissing() uint64 {
	if d.asks.may(time.Now()) {
		d.asks.last = d.missing()
	}
	return d.asks.last
}
