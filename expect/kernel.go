package expect

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Kernel is the table of expectations of one network namespace. Expectations hang on shadow masters: entries of the
// connection table that no packet can meet, made at the first announcement of a session on a connection. It is for one
// goroutine.
type Kernel struct {
	// Repaired is told what was missing and is there again; nil: nobody is.
	Repaired func(Repair)

	conn     *nfnl.Conn
	objects  map[object]*carrier        // helper objects of our own
	carriers map[uint8]*carrier         // by family, where there are none
	wanted   map[string]*helpers.Helper // those with objects of our own, by label
	groups   map[groupName]*group       // of shadows
	sessions map[uint64][]*group
	names    map[name]*shadow // all shadows
	placed   map[ID]place
	left     map[leftName]leftover // what was in the table before
	now      func() time.Time

	round    uint64 // counts calls of Do
	plans    []plan // kept for Do
	removals []removal
	one      Request
	single   [1]Change
	answer   [1]error
}

// object names a helper object of our own.
type object struct {
	helper string
	family uint8
}

// Repair is something that somebody else took out of the kernel's tables, and that Do needed and made anew.
type Repair struct {
	Object bool   // a helper object; else a shadow master: its expectations are gone
	Name   string // of the object, or of the helper that the shadow carries
	Lost   int    // expectations that were on the shadow
}

// OpenKernel opens the table of the calling thread's network namespace, for what these helpers announce. ErrNoCarrier:
// this kernel cannot do it.
func OpenKernel(all []helpers.Helper) (*Kernel, error) {
	conn, err := nfnl.Dial()
	if err != nil {
		return nil, err
	}
	k := &Kernel{
		conn: conn, objects: map[object]*carrier{}, carriers: map[uint8]*carrier{}, wanted: map[string]*helpers.Helper{},
		groups:   map[groupName]*group{},
		sessions: map[uint64][]*group{}, names: map[name]*shadow{}, placed: map[ID]place{}, left: map[leftName]leftover{},
		now: time.Now,
	}
	if err = k.Use(all); err == nil {
		err = k.noteLeft()
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return k, nil
}

// Use makes the table ready for more helpers; what is there stays.
func (k *Kernel) Use(all []helpers.Helper) error {
	for i := range all {
		err := k.register(&all[i])
		// EPERM: they are for the initial user namespace only (nfnl_cthelper_new), and this is another.
		if errors.Is(err, nfnl.ErrNoHelperObjects) || errors.Is(err, unix.EPERM) {
			if len(k.carriers) == 0 {
				k.carriers, err = find()
			} else {
				err = nil
			}
			return err
		}
		if err != nil {
			return err
		}
		k.wanted[Label(all[i].Name)] = &all[i]
	}
	return nil
}

// Close closes the socket. What is in the table stays.
func (k *Kernel) Close() error { return k.conn.Close() }

// Label is the helper's name that rules match on connections which helper led to (nft `ct helper`).
func (k *Kernel) Label(helper string) string {
	if k.objects[object{helper, unix.AF_INET}] != nil {
		return Label(helper)
	}
	if c := k.carriers[unix.AF_INET]; c != nil {
		return c.name
	}
	return Label(helper)
}

// Own says whether expectations hang on helper objects of our own.
func (k *Kernel) Own() bool { return len(k.objects) > 0 }

// Way says in words what expectations hang on.
func (k *Kernel) Way() string {
	if k.Own() {
		return "own helper objects"
	}
	if len(k.carriers) == 0 {
		return "nothing: no helper is enabled"
	}
	return fmt.Sprintf("in-kernel helper %s as carrier (IPv6: %s)", k.carriers[unix.AF_INET].name, k.carriers[unix.AF_INET6].name)
}

// carrierOf gives what m's shadows carry, and the kernel's class for class.
func (k *Kernel) carrierOf(m *Master, class uint8) (*carrier, uint8, error) {
	family := nfnl.Family(m.Orig.Src.Addr())
	if c := k.objects[object{m.Helper, family}]; c != nil {
		if int(class) >= len(c.classes) {
			return nil, 0, fmt.Errorf("helper object %s has %d classes, no %d", c.name, len(c.classes), class)
		}
		return c, class, nil
	}
	if c := k.carriers[family]; c != nil {
		return c, 0, nil
	}
	return nil, 0, fmt.Errorf("helper %s: %w", m.Helper, ErrNoCarrier)
}
