package expect

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

const (
	// spare is how much longer than its longest expectation a shadow lives.
	spare = 60 * time.Second
	// maxShadows bounds the shadows of one session on one connection.
	maxShadows = 128
	// maxNames bounds how many ports are tried for one shadow.
	maxNames = 64
)

// groupName names the shadows of one session on one connection.
type groupName struct {
	session uint64
	reading bool
	name
}

// name is what an entry of the connection table is found by.
type name struct {
	orig nfnl.Tuple
	zone uint16
}

type group struct {
	name    groupName
	shadows []*shadow
}

// shadow is one shadow master. It keeps as many expectations of a class as its carrier does; the next go on another one.
type shadow struct {
	name
	reply   nfnl.Tuple
	mark    uint32
	carrier *carrier
	until   time.Time // when the kernel forgets it; zero: it is not known to be there
	round   uint64    // of Kernel.Do, in which it was made again
	ids     []ID
	count   [maxClasses]int // of ids, by class
	left    []leftover      // what an earlier run placed on it
}

// room says whether one more of the class can be placed and none is evicted for it.
func (s *shadow) room(class uint8, now time.Time) bool {
	n := s.count[class]
	for _, l := range s.left {
		if l.class == class && l.until.After(now) {
			n++
		}
	}
	return int(class) < len(s.carrier.classes) && n < s.carrier.classes[class].capacity
}

// shadowFor gives the shadow that the next expectation of the class is to hang on.
func (k *Kernel) shadowFor(m *Master, c *carrier, class uint8, reading bool, now time.Time) (*shadow, error) {
	orig, reply := shadowOf(m, c.l4, reading)
	key := groupName{m.Session, reading, name{orig, m.Zone}}
	g := k.groupFor(&key)
	for _, s := range g.shadows {
		if s.room(class, now) {
			return s, nil
		}
	}
	if len(g.shadows) >= maxShadows {
		return nil, fmt.Errorf("%w: %d shadow masters with helper %s", ErrFull, maxShadows, c.name)
	}
	s := &shadow{name: name{orig, m.Zone}, reply: reply, mark: m.Mark, carrier: c}
	if k.names[s.name] != nil && !k.rename(s) {
		return nil, fmt.Errorf("%w: no port is free for a shadow master", ErrFull)
	}
	k.names[s.name] = s
	g.shadows = append(g.shadows, s)
	return s, nil
}

// groupFor gives the group of a name. Most sessions have one: no need to look among all.
func (k *Kernel) groupFor(key *groupName) *group {
	own := k.sessions[key.session]
	if len(own) > 0 && own[len(own)-1].name == *key {
		return own[len(own)-1]
	}
	g := k.groups[*key]
	if g == nil {
		g = &group{name: *key}
		k.groups[*key] = g
		k.sessions[key.session] = append(own, g)
	}
	return g
}

// rename gives s other ports, which no shadow of ours has; the server's stays 0.
func (k *Kernel) rename(s *shadow) bool {
	if k.names[s.name] == s {
		delete(k.names, s.name)
	}
	for range maxNames {
		s.orig.SrcPort++
		s.reply.DstPort++
		if k.names[s.name] == nil {
			k.names[s.name] = s
			return true
		}
	}
	return false
}

// life is how long s has to live for one more expectation; 0: it does.
func (s *shadow) life(now time.Time, timeout time.Duration) time.Duration {
	if !s.until.Before(now.Add(timeout + spare)) {
		return 0
	}
	return timeout + 2*spare // so that not every announcement has to prolong it
}

func (s *shadow) entry(seconds uint32) nfnl.Connection {
	return nfnl.Connection{
		Orig: s.orig, Reply: s.reply, Zone: s.zone, Mark: s.mark, Timeout: seconds, Helper: s.carrier.name,
	}
}

// make puts s into the kernel's table, whatever is missing there or in its way.
func (k *Kernel) make(s *shadow, life time.Duration) error {
	registered := false
	for range maxNames {
		entry := s.entry(seconds(life))
		err := k.conn.CreateConnection(&entry)
		switch {
		case err == nil:
			s.until, s.left = k.Now().Add(life), nil
			return nil
		case errors.Is(err, unix.EEXIST):
			there, err := k.adopt(s, life)
			if there || err != nil {
				return err
			}
		case errors.Is(err, unix.ENOMEM):
			return fmt.Errorf("%w: nf_conntrack_max: %w", ErrFull, err)
		case noHelper(err) && s.carrier.own && !registered:
			registered = true
			if err := k.registerAgain(s.carrier); err != nil {
				return err
			}
		default:
			return fmt.Errorf("shadow master with helper %s: %w", s.carrier.name, err)
		}
	}
	return fmt.Errorf("%w: no port is free for a shadow master", ErrFull)
}

// adopt takes over the entry that has s's name: of an earlier run, with what hangs on it. If something else is in the
// way, s gets another name; if it is a shadow that is of no use any more, it is deleted.
func (k *Kernel) adopt(s *shadow, life time.Duration) (there bool, err error) {
	entry, err := k.conn.Get(s.orig, s.zone)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return false, err
	}
	switch {
	case err != nil || entry.Orig != s.orig || !shadowLike(&entry):
		if !k.rename(s) {
			return false, fmt.Errorf("%w: no port is free for a shadow master", ErrFull)
		}
		return false, nil
	case entry.Reply != s.reply || entry.Helper != s.carrier.name:
		return false, gone(k.conn.DeleteConnection(s.orig, s.zone))
	}
	life = max(life, time.Duration(entry.Timeout)*time.Second) // for what hangs on it
	b := k.conn.Begin()
	b.Prolong(&s.orig, s.zone, seconds(life), s.mark)
	if err := b.Do(); err != nil {
		return false, gone(err)
	}
	if s.until.IsZero() && len(s.ids) == 0 {
		s.left = nil
		for l, what := range k.left {
			if l.master == s.orig {
				s.left = append(s.left, what)
			}
		}
	}
	s.until = k.Now().Add(life)
	return true, nil
}

// noHelper: there is no helper of that name (ctnetlink_create_conntrack).
func noHelper(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAGAIN)
}

// gone is err, unless it says that what was to be deleted is not there.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
