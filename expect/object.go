package expect

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netns"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// maxPolicy is the most that a class of a helper object may keep at once (NF_CT_EXPECT_MAX_CNT).
const maxPolicy = 255

// objects are the helper objects of h: for what it announces, and for the connections that are announced for it. One a
// family each.
func objects(h *helpers.Helper) (all []nfnl.HelperObject) {
	var classes []nfnl.HelperClass
	for _, c := range h.Classes {
		most := c.Max
		if most == 0 { // no limit of its own: as many on a shadow as one can have
			most = maxPolicy
		}
		classes = append(classes, nfnl.HelperClass{Name: c.Name, Max: min(most, maxPolicy), Timeout: max(seconds(c.Timeout), 1)})
	}
	for _, family := range families {
		all = append(all, nfnl.HelperObject{Name: Label(h.Name), L3: uint16(family), L4: uint8(h.Transport), Classes: classes})
		if h.ReadsAnnounced() {
			all = append(all, nfnl.HelperObject{
				Name: Reading(h.Name), L3: uint16(family), L4: uint8(h.Transport),
				Classes: []nfnl.HelperClass{{Name: "connection", Max: maxPolicy, Timeout: 240}},
			})
		}
	}
	return all
}

// register makes the objects of h. They are the machine's, the same in all network namespaces: one that is there already
// is adopted, as a new one would cost another daemon its expectations.
func (k *Kernel) register(h *helpers.Helper) error {
	for _, o := range objects(h) {
		err := k.conn.CreateHelper(&o)
		if errors.Is(err, unix.EEXIST) {
			o, err = k.adoptObject(o)
		}
		if err != nil {
			return fmt.Errorf("helper %s: %w", h.Name, err)
		}
		c := &carrier{name: o.Name, l4: o.L4, own: true}
		for _, class := range o.Classes {
			l := limits{int(class.Max), class.Timeout}
			if l.capacity == 0 { // "no limit" before 2026, then the most
				l.capacity = maxPolicy
			}
			c.classes = append(c.classes, l)
		}
		k.objects[object{h.Name, o.Name == Reading(h.Name), uint8(o.L3)}] = c
		k.latest = object{}
	}
	return nil
}

// adoptObject makes use of the object that is there in the place of want. Its limits are raised to want's; its timeouts
// stay, as another daemon counts on them.
func (k *Kernel) adoptObject(want nfnl.HelperObject) (nfnl.HelperObject, error) {
	all, err := k.conn.Helpers()
	if err != nil {
		return want, err
	}
	at := slices.IndexFunc(all, func(o nfnl.HelperObject) bool {
		return o.Name == want.Name && o.L3 == want.L3 && o.L4 == want.L4
	})
	if at < 0 {
		return want, fmt.Errorf("helper object %s is there, but not listed", want.Name)
	}
	there := all[at]
	if len(there.Classes) < len(want.Classes) {
		return there, fmt.Errorf("helper object %s of another program has %d classes, %d are needed: "+
			"if nothing uses it, `nfct helper delete %s` removes it", there.Name, len(there.Classes), len(want.Classes), there.Name)
	}
	change := there.Status != 0
	there.Status = 0
	for i, class := range want.Classes {
		if has := &there.Classes[i]; has.Max != 0 && has.Max < class.Max {
			has.Max, change = class.Max, true
		}
	}
	if change {
		err = k.conn.UpdateHelper(&there)
	}
	return there, err
}

// ProbeObjects tries a helper object of its own, with a shadow master and an expectation, in a network namespace that is
// gone when it returns, and deletes the object. nfnl.ErrNoHelperObjects: the kernel has none.
func ProbeObjects() error {
	return netns.Scratch(func() (err error) {
		conn, err := nfnl.Dial()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		o := nfnl.HelperObject{
			Name: Label(fmt.Sprintf("try-%d", os.Getpid()%1e6)), L3: unix.AF_INET, L4: unix.IPPROTO_TCP,
			Classes: []nfnl.HelperClass{{Name: "try", Max: 1, Timeout: 1}},
		}
		if err := conn.CreateHelper(&o); err != nil && !errors.Is(err, unix.EEXIST) { // of a probe that was killed
			return err
		}
		c := carrier{name: o.Name, l4: o.L4, own: true}
		ok, err := c.works(conn, unix.AF_INET)
		if err == nil && !ok {
			err = fmt.Errorf("helper object %s is registered, but nothing can hang on it", o.Name)
		}
		return errors.Join(err, conn.DeleteHelper(&o))
	})
}

// registerAgain makes the object that c names, which somebody has deleted.
func (k *Kernel) registerAgain(c *carrier) error {
	h := k.wanted[c.name]
	if h == nil {
		return fmt.Errorf("helper object %s is gone, and its helper is not enabled", c.name)
	}
	if err := k.register(h); err != nil {
		return err
	}
	k.repaired(Repair{Object: true, Name: c.name})
	return nil
}
