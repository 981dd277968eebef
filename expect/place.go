package expect

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Change is one change of the table. One field is set.
type Change struct {
	Place  *Request // answer: nil, ErrTaken, ErrFull, or a failure
	Remove ID       // it is no error if it has been used or has run out
	Forget uint64   // delete the shadows of a session, and with them all that hangs on them
}

// place is where an expectation is.
type place struct {
	shadow *shadow
	tuple  nfnl.Tuple
	class  uint8
	index  int // in shadow.ids
}

// plan is a Place on its way.
type plan struct {
	at           int // of changes
	id           ID
	e            nfnl.Expectation
	shadow       *shadow
	class        uint8
	timeout      time.Duration
	make, create int // messages; -1: none
	prolong      bool
	failed       bool  // the shadow is not what it is to be
	err          error // of create
}

// removal is a message that takes something out.
type removal struct{ at, message int }

// Do carries out changes, in their order, with all messages in one system call, and waits for the kernel's answers: one
// for each change goes to answers. What needs more than that takes more calls: another timeout than the class's, and
// everything that somebody else took out of the tables.
func (k *Kernel) Do(changes []Change, answers []error) {
	now := k.Now()
	k.round++
	k.plans, k.removals = k.plans[:0], k.removals[:0]
	b := k.conn.Begin()
	for i := range changes {
		c := &changes[i]
		answers[i] = nil
		switch {
		case c.Place != nil:
			answers[i] = k.plan(b, i, c.Place, now)
		case c.Remove != 0:
			if p, ok := k.placed[c.Remove]; ok {
				k.unplace(c.Remove, p)
				k.removals = append(k.removals, removal{i, b.Len()})
				b.DeleteExpectation(&p.tuple, p.shadow.zone)
			}
		case c.Forget != 0:
			k.forget(b, i, c.Forget)
		}
	}
	if b.Len() == 0 {
		return
	}
	if b.Do() != nil { // only then is there anything to look for
		for _, r := range k.removals {
			answers[r.at] = errors.Join(answers[r.at], gone(b.Err(r.message)))
		}
		for i := range k.plans {
			p := &k.plans[i]
			p.err = b.Err(p.create)
			if p.make >= 0 && b.Err(p.make) != nil {
				p.shadow.until = time.Time{}
			}
		}
		for i := range k.plans {
			k.plans[i].failed = k.plans[i].shadow.until.IsZero() // for all that hang on it
		}
		for i := range k.plans {
			if p := &k.plans[i]; p.failed || p.err != nil {
				k.settle(p, answers)
			}
		}
	}
	k.setTimeouts(answers)
}

// plan appends the messages of one Place. It counts as placed from here on.
func (k *Kernel) plan(b *nfnl.Batch, at int, q *Request, now time.Time) error {
	if _, ok := k.placed[q.ID]; ok {
		return ErrTaken
	}
	c, class, err := k.carrierOf(q)
	if err != nil {
		return err
	}
	s, err := k.shadowFor(&q.Master, c, class, q.Helper != "", now)
	if err != nil {
		return err
	}
	n := len(k.plans)
	k.plans = slices.Grow(k.plans, 1)[:n+1]
	p := &k.plans[n]
	*p = plan{}
	p.at, p.id, p.shadow, p.class, p.timeout, p.make = at, q.ID, s, class, q.Timeout, -1
	compile(&p.e, q, &s.orig, class)
	if life := s.life(now, q.Timeout); life > 0 || s.mark != q.Master.Mark {
		p.make = b.Len()
		s.mark = q.Master.Mark // connections inherit it from their master
		life = max(life, s.until.Sub(now))
		if s.until.IsZero() {
			entry := s.entry(seconds(life))
			b.CreateConnection(&entry)
		} else {
			p.prolong = true
			b.Prolong(&s.orig, s.zone, seconds(life), s.mark)
		}
		s.until = now.Add(life)
	}
	p.create = b.Len()
	b.CreateExpectation(&p.e)
	k.placed[q.ID] = place{s, p.e.Tuple, class, len(s.ids)}
	s.ids = append(s.ids, q.ID)
	s.count[class]++
	return nil
}

// settle does what is left to do for p, whose first messages have failed.
func (k *Kernel) settle(p *plan, answers []error) {
	if _, ok := k.placed[p.id]; !ok { // removed in the same breath
		answers[p.at] = p.err
		return
	}
	if err := k.again(p); err != nil {
		k.Used(p.id)
		answers[p.at] = err
	}
	p.err = answers[p.at]
}

// again places p with a look at what is in its way. An error leaves nothing behind but a shadow.
func (k *Kernel) again(p *plan) error {
	s, err := p.shadow, p.err
	if errors.Is(err, nfnl.ErrUnanswered) { // it may be there
		return errors.Join(err, gone(k.conn.DeleteExpectation(p.e.Tuple, p.e.Zone)))
	}
	if p.failed || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ESHUTDOWN) {
		if err == nil { // it hangs on an entry that was there already
			if e := gone(k.conn.DeleteExpectation(p.e.Tuple, p.e.Zone)); e != nil {
				return e
			}
		}
		if e := k.makeAgain(p); e != nil {
			return e
		}
		p.e.Master = s.orig
		err = k.conn.CreateExpectation(&p.e)
	}
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) {
		if mine, e := k.leftHere(p); e != nil {
			return e
		} else if mine { // the same end point of the same control connection, from a process that was killed
			delete(k.left, leftName{p.e.Tuple, p.e.Master})
			if err = gone(k.conn.DeleteExpectation(p.e.Tuple, p.e.Zone)); err == nil {
				err = k.conn.CreateExpectation(&p.e)
			}
		}
	}
	switch {
	case errors.Is(err, unix.EEXIST), errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: %w", ErrTaken, err)
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("%w: nf_conntrack_expect_max: %w", ErrFull, err)
	case errors.Is(err, nfnl.ErrUnanswered):
		return errors.Join(err, gone(k.conn.DeleteExpectation(p.e.Tuple, p.e.Zone)))
	}
	return err
}

// makeAgain puts p's shadow into the kernel's table, if that has not been done for another p.
func (k *Kernel) makeAgain(p *plan) error {
	s := p.shadow
	if s.round == k.round {
		return nil
	}
	var longest time.Duration
	for i := range k.plans {
		if q := &k.plans[i]; q.shadow == s {
			longest = max(longest, q.timeout)
		}
	}
	life := max(longest+2*spare, s.until.Sub(k.Now())) // what was on it may be there
	s.until = time.Time{}
	if err := k.make(s, life); err != nil {
		return err
	}
	s.round = k.round
	if p.prolong || p.make < 0 { // it was believed to be there
		lost := len(s.ids)
		for i := range k.plans {
			if k.plans[i].shadow == s {
				lost--
			}
		}
		k.repaired(Repair{Name: s.carrier.name, Lost: max(lost, 0)})
	}
	return nil
}

// setTimeouts changes the timeouts that differ from the class's. It comes behind the kernel's "placed": an expectation of
// somebody else with the same tuple would be changed as well.
func (k *Kernel) setTimeouts(answers []error) {
	b := k.conn.Begin()
	for i := range k.plans {
		p := &k.plans[i]
		p.make = -1
		if p.err != nil || p.e.Timeout == p.shadow.carrier.classes[p.class].timeout {
			continue
		}
		if _, ok := k.placed[p.id]; ok {
			p.make = b.Len()
			b.ChangeExpectation(&p.e)
		}
	}
	if b.Len() == 0 || b.Do() == nil {
		return
	}
	for i := range k.plans {
		if p := &k.plans[i]; p.make >= 0 {
			p.err = b.Err(p.make)
		}
	}
	for i := range k.plans {
		if p := &k.plans[i]; p.make >= 0 && p.err != nil {
			k.Used(p.id)
			answers[p.at] = errors.Join(p.err, gone(k.conn.DeleteExpectation(p.e.Tuple, p.e.Zone)))
		}
	}
}

// forget appends the messages that delete a session's shadows.
func (k *Kernel) forget(b *nfnl.Batch, at int, session uint64) {
	for _, g := range k.sessions[session] {
		for _, s := range g.shadows {
			for _, id := range s.ids {
				delete(k.placed, id)
			}
			s.ids, s.count = nil, [maxClasses]int{}
			delete(k.names, s.name)
			k.removals = append(k.removals, removal{at, b.Len()})
			b.DeleteConnection(&s.orig, s.zone)
		}
		delete(k.groups, g.name)
	}
	delete(k.sessions, session)
}

func (k *Kernel) do(c Change) error {
	k.single[0] = c
	k.Do(k.single[:], k.answer[:])
	return k.answer[0]
}

// Place is Do with one Place.
func (k *Kernel) Place(q Request) error {
	k.one = q
	return k.do(Change{Place: &k.one})
}

// Remove is Do with one Remove.
func (k *Kernel) Remove(id ID) error { return k.do(Change{Remove: id}) }

// Forget is Do with one Forget.
func (k *Kernel) Forget(session uint64) error { return k.do(Change{Forget: session}) }

// Used says that an expectation has left the table without Remove.
func (k *Kernel) Used(id ID) {
	if p, ok := k.placed[id]; ok {
		k.unplace(id, p)
	}
}

func (k *Kernel) unplace(id ID, p place) {
	delete(k.placed, id)
	s, last := p.shadow, len(p.shadow.ids)-1
	if moved := s.ids[last]; moved != id {
		s.ids[p.index] = moved
		q := k.placed[moved]
		q.index = p.index
		k.placed[moved] = q
	}
	s.ids = s.ids[:last]
	s.count[p.class]--
}

func (k *Kernel) repaired(r Repair) {
	if k.Repaired != nil {
		k.Repaired(r)
	}
}
