package flows

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Table is the connection table of one network namespace. It is for one goroutine.
type Table struct {
	conn  *nfnl.Conn
	entry nfnl.Connection // kept for answers
	spare []*nfnl.Conn    // for listings; fewer while one is under way, and when one was broken off
	home  namespace
	tried map[trial]bool
	few   int // of DeleteAll
}

// spares are the sockets that a listing needs: one for each family.
const spares = 2

// Open opens the table of the calling thread's network namespace. ErrPermission and ErrNoTable are said here.
func Open() (*Table, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := here()
	if err != nil {
		return nil, err
	}
	t := &Table{home: home, few: few}
	t.conn, err = nfnl.Dial()
	for err == nil && len(t.spare) < spares {
		var c *nfnl.Conn
		if c, err = nfnl.Dial(); err == nil {
			t.spare = append(t.spare, c)
		}
	}
	if err == nil {
		_, _, err = t.Count()
	}
	const what = "open the connection table"
	if nfnl.NoSubsystem(err) {
		err = &Error{Op: what, Reason: ErrNoTable}
	} else if e := (*Error)(nil); errors.As(err, &e) {
		e.Op = what // not the question that tried it
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Close closes the table's sockets.
func (t *Table) Close() (err error) {
	if t.conn != nil {
		err = t.conn.Close()
	}
	for _, c := range t.spare {
		err = errors.Join(err, c.Close())
	}
	return err
}

// namespace names a network namespace.
type namespace struct{ dev, ino uint64 }

// here is the calling thread's.
func here() (namespace, error) {
	var s unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &s); err != nil {
		return namespace{}, fmt.Errorf("find the network namespace: %w", err)
	}
	return namespace{s.Dev, s.Ino}, nil
}

var errElsewhere = errors.New("the calling thread is in another network namespace than the table")

// lister gives a socket for one listing.
func (t *Table) lister() (*nfnl.Conn, error) {
	if last := len(t.spare) - 1; last >= 0 {
		c := t.spare[last]
		t.spare = t.spare[:last]
		return c, nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	now, err := here()
	if err == nil && now != t.home {
		err = errElsewhere
	}
	if err != nil {
		return nil, err
	}
	return nfnl.Dial()
}

// keep takes back a socket whose listing is at its end.
func (t *Table) keep(c *nfnl.Conn) {
	if len(t.spare) < spares {
		t.spare = append(t.spare, c)
		return
	}
	_ = c.Close()
}

// Get finds the connection that has tuple in one of its directions. ErrNotFound: there is none.
func (t *Table) Get(tr helpers.Transport, tuple helpers.Tuple, zone uint16) (Flow, error) {
	name := raw(tr, tuple)
	b := t.conn.Begin()
	b.Get(&name, zone, &t.entry)
	if err := b.Do(); err != nil {
		return Flow{}, failed(tr, tuple, err)
	}
	return flow(&t.entry), nil
}

// failed names the connection.
func failed(tr helpers.Transport, tuple helpers.Tuple, err error) error {
	return explain(err, fmt.Sprintf("%s %s", tr, tuple), nil)
}
