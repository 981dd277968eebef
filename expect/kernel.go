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
	// Now is the present time: time.Now, unless the caller knows it already. Some machines' clocks are slow to read.
	Now func() time.Time

	conn     *nfnl.Conn
	objects  map[object]*carrier        // helper objects of our own
	latest   object                     // of objects, that was looked up last
	found    *carrier                   // what latest has
	carriers map[uint8]*carrier         // by family, where there are none
	readers  map[uint8]*carrier         // the same, for connections that are read
	wanted   map[string]*helpers.Helper // those with objects of our own, by label
	groups   map[groupName]*group       // of shadows
	sessions map[uint64][]*group
	names    map[name]*shadow // all shadows
	placed   map[ID]place
	left     map[leftName]leftover // what was in the table before

	round    uint64 // counts calls of Do
	plans    []plan // kept for Do
	removals []removal
	one      Request
	single   [1]Change
	answer   [1]error
}

// object names a helper object of our own.
type object struct {
	helper  string
	reading bool // for connections that it reads; else for what it announces
	family  uint8
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
		conn: conn, objects: map[object]*carrier{}, carriers: map[uint8]*carrier{}, readers: map[uint8]*carrier{}, wanted: map[string]*helpers.Helper{},
		groups:   map[groupName]*group{},
		sessions: map[uint64][]*group{}, names: map[name]*shadow{}, placed: map[ID]place{}, left: map[leftName]leftover{},
		Now: time.Now,
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
	seen := map[string]bool{}
	for i := range all {
		if seen[all[i].Name] { // for the other transport
			continue
		}
		seen[all[i].Name] = true
		err := k.register(&all[i])
		// EPERM: they are for the initial user namespace only (nfnl_cthelper_new), and this is another.
		if errors.Is(err, nfnl.ErrNoHelperObjects) || errors.Is(err, unix.EPERM) {
			if len(k.carriers) == 0 {
				k.carriers, k.readers, err = find()
			} else {
				err = nil
			}
			return err
		}
		if err != nil {
			return err
		}
		k.wanted[Label(all[i].Name)], k.wanted[Reading(all[i].Name)] = &all[i], &all[i]
	}
	return nil
}

// Close closes the socket. What is in the table stays.
func (k *Kernel) Close() error { return k.conn.Close() }

// Label is the helper's name that rules match on connections which helper led to (nft `ct helper`).
func (k *Kernel) Label(helper string) string {
	return k.label(Label(helper), k.carriers)
}

// Reading is the helper's name that rules match on connections that were announced for helper to read. Where expectations
// hang on in-kernel helpers it is the same for all helpers.
func (k *Kernel) Reading(helper string) string { return k.label(Reading(helper), k.readers) }

func (k *Kernel) label(own string, carriers map[uint8]*carrier) string {
	if c := carriers[unix.AF_INET]; c != nil && !k.Own() {
		return c.name
	}
	return own
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

// carrierOf gives what the shadow for q carries, and the kernel's class.
func (k *Kernel) carrierOf(q *Request) (*carrier, uint8, error) {
	family, class := nfnl.Family(q.Master.Orig.Src.Addr()), q.Class
	own, carriers := object{q.Master.Helper, false, family}, k.carriers
	if q.Helper != "" {
		own, carriers, class = object{q.Helper, true, family}, k.readers, 0
	}
	if k.latest != own { // announcements of one helper follow each other
		k.latest, k.found = own, k.objects[own]
	}
	if c := k.found; c != nil {
		if int(class) >= len(c.classes) {
			return nil, 0, fmt.Errorf("helper object %s has %d classes, no %d", c.name, len(c.classes), class)
		}
		return c, class, nil
	}
	if c := carriers[family]; c != nil {
		return c, 0, nil
	}
	return nil, 0, fmt.Errorf("helper %s: %w", own.helper, ErrNoCarrier)
}
