package expect

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// leftName names what an earlier run placed. The kernel lists no zone: of several with one name in several zones one is
// kept, and the kernel is asked before anything is done.
type leftName struct{ tuple, master nfnl.Tuple }

type leftover struct {
	class uint8
	until time.Time
}

// noteLeft remembers what is in the table.
func (k *Kernel) noteLeft() error {
	return k.conn.Expectations(unix.AF_UNSPEC, func(e *nfnl.Expectation) {
		k.left[leftName{e.Tuple, e.Master}] = leftover{uint8(e.Class), k.Now().Add(time.Duration(e.Timeout) * time.Second)}
	})
}

// leftHere says whether what is in p's way is an earlier run's, for the same control connection.
func (k *Kernel) leftHere(p *plan) (bool, error) {
	e := &p.e
	if _, ok := k.left[leftName{e.Tuple, e.Master}]; !ok {
		return false, nil
	}
	for id, o := range k.placed { // or it is ours by now
		if id != p.id && o.tuple == e.Tuple && o.shadow.name == p.shadow.name {
			return false, nil
		}
	}
	var there nfnl.Expectation
	b := k.conn.Begin()
	b.GetExpectation(&e.Tuple, e.Zone, &there)
	if err := b.Do(); err != nil {
		return false, gone(err)
	}
	return there.Tuple == e.Tuple && there.Master == e.Master, nil
}

// Lost gives the expectations that are not in the table any more though nothing said so: used while events were lost,
// flushed by an administrator, evicted.
func (k *Kernel) Lost() (lost []ID, err error) {
	there := map[nfnl.Tuple]bool{}
	if err := k.conn.Expectations(unix.AF_UNSPEC, func(e *nfnl.Expectation) { there[e.Tuple] = true }); err != nil {
		return nil, err
	}
	zones := false
	for n := range k.names {
		zones = zones || n.zone != 0
	}
	var e nfnl.Expectation
	for id, p := range k.placed {
		if there[p.tuple] && zones { // the list does not say in which zone
			b := k.conn.Begin()
			b.GetExpectation(&p.tuple, p.shadow.zone, &e)
			if err := b.Do(); errors.Is(err, unix.ENOENT) {
				lost = append(lost, id)
			} else if err != nil {
				return nil, err
			}
		} else if !there[p.tuple] {
			lost = append(lost, id)
		}
	}
	return lost, nil
}
