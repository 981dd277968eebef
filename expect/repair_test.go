package expect

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netns"
	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// two has two classes with limits of their own.
var two = helpers.Helper{Name: "expecttest", Transport: helpers.TCP, Ports: []uint16{21}, Classes: []helpers.Class{
	{Name: "data", Max: 3, Timeout: time.Minute}, {Name: "more", Max: 5, Timeout: 2 * time.Minute},
}}

// announce is what a client of session announces to a server.
func announce(id ID, session uint64, port uint16) Request {
	client, server := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("198.51.100.9")
	at := netip.AddrPortFrom(server, port)
	return Request{
		ID: id, Transport: helpers.TCP, Timeout: time.Minute, From: netip.AddrPortFrom(client, 0), At: at, To: at,
		Master: Master{
			Session: session, Helper: two.Name, Transport: helpers.TCP,
			Orig:  helpers.Tuple{Src: netip.AddrPortFrom(client, 50000+uint16(session)), Dst: netip.AddrPortFrom(server, 21)},
			Reply: helpers.Tuple{Src: netip.AddrPortFrom(server, 21), Dst: netip.AddrPortFrom(client, 50000+uint16(session))},
		},
	}
}

// withKernel runs f with the table of a namespace of its own.
func withKernel(t testing.TB, f func(*Kernel)) {
	t.Helper()
	netnstest.New(t).Do(func() {
		k, err := OpenKernel([]helpers.Helper{two})
		if err != nil {
			t.Error(err)
			return
		}
		defer func() {
			for _, o := range objects(&two) {
				err := k.conn.DeleteHelper(&o)
				if err != nil && !errors.Is(err, nfnl.ErrNoHelperObjects) && !errors.Is(err, unix.ENOENT) {
					t.Error(err)
				}
			}
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		}()
		f(k)
	})
}

// ports are those that are expected, by zone-less listing.
func (k *Kernel) ports(t testing.TB) map[uint16]int {
	t.Helper()
	all := map[uint16]int{}
	if err := k.conn.Expectations(unix.AF_UNSPEC, func(e *nfnl.Expectation) { all[e.Tuple.DstPort]++ }); err != nil {
		t.Error(err)
	}
	return all
}

// TestManyOnOneConnection places more than any carrier keeps: none is evicted, and the end of the session takes all.
func TestManyOnOneConnection(t *testing.T) {
	withKernel(t, func(k *Kernel) {
		const n = 100
		for i := range n {
			q := announce(ID(i+1), 1, 40000+uint16(i))
			q.Class = uint8(i % 2)
			if err := k.Place(q); err != nil {
				t.Errorf("expectation %d: %v", i, err)
			}
		}
		// A connection whose port the second shadow of the other one has taken.
		if err := k.Place(announce(1000, 2, 39999)); err != nil {
			t.Errorf("the next port's connection: %v", err)
		}
		if all := k.ports(t); len(all) != n+1 {
			t.Errorf("%d are expected, want %d", len(all), n+1)
		}
		if len(k.names) < 3 {
			t.Errorf("%d shadows for what one cannot keep", len(k.names))
		}
		state, err := k.Save()
		if err != nil {
			t.Error(err)
			return
		}
		next, err := OpenKernel([]helpers.Helper{two})
		if err != nil {
			t.Error(err)
			return
		}
		defer next.Close()
		if err := next.Load(state); err != nil {
			t.Error(err)
		}
		if lost, err := next.Lost(); err != nil || len(lost) != 0 {
			t.Errorf("taken over, but lost: %v %v", lost, err)
		}
		if err := next.Place(announce(1001, 1, 39998)); err != nil {
			t.Errorf("one more, in another process: %v", err)
		}
		if err := next.Forget(1); err != nil {
			t.Error(err)
		}
		if all := k.ports(t); len(all) != 1 || all[39999] != 1 {
			t.Errorf("expected at the end: %v, want 39999", all)
		}
	})
}

// TestStep has changes of every kind in one call, each with its own answer, carried out in their order.
func TestStep(t *testing.T) {
	withKernel(t, func(k *Kernel) {
		if err := k.Place(announce(1, 1, 40001)); err != nil {
			t.Error(err)
		}
		if err := k.Place(announce(2, 2, 40002)); err != nil {
			t.Error(err)
		}
		place := func(id ID, session uint64, port uint16) Change {
			q := announce(id, session, port)
			return Change{Place: &q}
		}
		changes := []Change{
			place(3, 3, 40003), place(4, 3, 40002), place(5, 3, 40005), {Remove: 1}, place(6, 4, 40001), {Remove: 77},
			place(3, 5, 40007), {Remove: 5}, {Forget: 2}, place(7, 3, 40002),
		}
		want := []error{nil, ErrTaken, nil, nil, nil, nil, ErrTaken, nil, nil, nil}
		answers := make([]error, len(changes))
		k.Do(changes, answers)
		for i, w := range want {
			if !errors.Is(answers[i], w) || (w == nil && answers[i] != nil) {
				t.Errorf("change %d: %v, want %v", i, answers[i], w)
			}
		}
		all := k.ports(t)
		for _, port := range []uint16{40001, 40002, 40003} {
			if all[port] != 1 {
				t.Errorf("%d is expected %d times, want once", port, all[port])
			}
		}
		if len(all) != 3 {
			t.Errorf("expected: %v", all)
		}
	})
}

// TestShadowDeleted has somebody flush the connection table: the next announcements make the shadow again, once.
func TestShadowDeleted(t *testing.T) {
	withKernel(t, func(k *Kernel) {
		var told []Repair
		k.Repaired = func(r Repair) { told = append(told, r) }
		for id := ID(1); id <= 2; id++ {
			if err := k.Place(announce(id, 1, 40000+uint16(id))); err != nil {
				t.Error(err)
			}
		}
		if len(told) != 0 {
			t.Errorf("told %+v, and nothing was missing", told)
		}
		var shadows []nfnl.Connection
		flush := func() {
			if _, err := Clean(); err != nil {
				t.Error(err)
			}
		}
		flush()
		a, b := announce(3, 1, 40003), announce(4, 1, 40004)
		answers := make([]error, 2)
		k.Do([]Change{{Place: &a}, {Place: &b}}, answers)
		if err := errors.Join(answers...); err != nil {
			t.Error(err)
		}
		if all := k.ports(t); len(all) != 2 || all[40003] != 1 || all[40004] != 1 {
			t.Errorf("expected: %v, want 40003 and 40004", all)
		}
		if len(told) != 1 || told[0].Object || told[0].Lost != 2 {
			t.Errorf("told %+v, want one shadow with 2 expectations", told)
		}
		if lost, err := k.Lost(); err != nil || len(lost) != 2 {
			t.Errorf("lost %v, %v, want 1 and 2", lost, err)
		}
		flush()
		now := time.Now()
		k.Now = func() time.Time { return now.Add(time.Hour) } // the shadow is to be prolonged
		if err := k.Place(announce(5, 1, 40005)); err != nil {
			t.Error(err)
		}
		if len(told) != 2 {
			t.Errorf("told %+v, want two", told)
		}
		if err := k.conn.Connections(unix.AF_UNSPEC, func(c *nfnl.Connection) { shadows = append(shadows, *c) }); err != nil || len(shadows) != 1 {
			t.Errorf("shadows %+v, error %v, want one", shadows, err)
		}
	})
}

// TestShadowOutlives: a shadow that is made again lives longer than all that are placed on it at once.
func TestShadowOutlives(t *testing.T) {
	withKernel(t, func(k *Kernel) {
		first := announce(1, 1, 40001)
		first.Timeout = 10 * time.Minute // so that the next ones do not prolong it
		if err := k.Place(first); err != nil {
			t.Error(err)
			return
		}
		s := k.placed[1].shadow
		if err := k.conn.DeleteConnection(s.orig, s.zone); err != nil {
			t.Error(err)
		}
		k.Used(1)
		short, long := announce(2, 1, 40002), announce(3, 1, 40003)
		short.Timeout, long.Timeout = time.Second, 5*time.Minute
		answers := make([]error, 2)
		k.Do([]Change{{Place: &short}, {Place: &long}}, answers)
		if err := errors.Join(answers...); err != nil {
			t.Error(err)
		}
		for id, want := range map[ID]time.Duration{2: short.Timeout, 3: long.Timeout} {
			s := k.placed[id].shadow
			entry, err := k.conn.Get(s.orig, s.zone)
			if got := time.Duration(entry.Timeout) * time.Second; err != nil || got < want {
				t.Errorf("a shadow lives for %v (%v), what hangs on it for %v", got, err, want)
			}
		}
	})
}

// TestObjectDeleted has somebody delete the helper object: expectations are gone, and so is the use of their shadows.
func TestObjectDeleted(t *testing.T) {
	withKernel(t, func(k *Kernel) {
		if !k.Own() {
			t.Log("the kernel has no helper objects")
			return
		}
		var told []Repair
		k.Repaired = func(r Repair) { told = append(told, r) }
		for id := ID(1); id <= 2; id++ {
			if err := k.Place(announce(id, 1, 40000+uint16(id))); err != nil {
				t.Error(err)
			}
		}
		for _, o := range objects(&two) {
			if err := k.conn.DeleteHelper(&o); err != nil {
				t.Error(err)
			}
		}
		if all := k.ports(t); len(all) != 0 {
			t.Errorf("expected without the object: %v", all)
		}
		if err := k.Place(announce(3, 1, 40003)); err != nil {
			t.Errorf("on the old shadow: %v", err)
		}
		if err := k.Place(announce(4, 2, 40004)); err != nil {
			t.Errorf("on a new one: %v", err)
		}
		if all := k.ports(t); len(all) != 2 {
			t.Errorf("expected: %v, want 40003 and 40004", all)
		}
		if len(told) != 2 || !told[0].Object || told[1].Object || told[1].Lost != 2 {
			t.Errorf("told %+v, want the object, and the shadow with 2 expectations", told)
		}
	})
}

// TestAdoptObject finds an object of another daemon with other limits.
func TestAdoptObject(t *testing.T) {
	withKernel(t, func(k *Kernel) {
		if !k.Own() {
			t.Log("the kernel has no helper objects")
			return
		}
		other := two
		other.Classes = []helpers.Class{{Name: "x", Max: 9, Timeout: time.Hour}, {Name: "y", Max: 2, Timeout: time.Hour}}
		if err := k.Use([]helpers.Helper{other}); err != nil {
			t.Error(err)
		}
		want := []nfnl.HelperClass{{Name: "data", Max: 9, Timeout: 60}, {Name: "more", Max: 5, Timeout: 120}}
		all, err := k.conn.Helpers()
		if err != nil {
			t.Error(err)
		}
		found := 0
		for _, o := range all {
			if o.Name != Label(two.Name) {
				continue
			}
			found++
			if len(o.Classes) != 2 || o.Classes[0] != want[0] || o.Classes[1] != want[1] {
				t.Errorf("%+v, want the limits raised, the timeouts as they were", o)
			}
		}
		if found != 2 {
			t.Errorf("%d objects, want one a family", found)
		}
		other.Classes = append(other.Classes, helpers.Class{Name: "z", Max: 1, Timeout: time.Hour})
		if err := k.Use([]helpers.Helper{other}); err == nil {
			t.Error("an object with too few classes is used")
		}
	})
}

// TestProbeObjects asks that the probe agrees with what is used, and leaves no object.
func TestProbeObjects(t *testing.T) {
	withKernel(t, func(k *Kernel) {
		err := ProbeObjects()
		if k.Own() != (err == nil) || (err != nil && !errors.Is(err, nfnl.ErrNoHelperObjects)) {
			t.Errorf("own objects are used: %v; the probe says %v", k.Own(), err)
		}
		all, err := k.conn.Helpers()
		if err != nil && !errors.Is(err, nfnl.ErrNoHelperObjects) {
			t.Error(err)
		}
		for _, o := range all {
			if len(o.Classes) == 1 && o.Classes[0].Name == "try" {
				t.Errorf("left: %+v", o)
			}
		}
	})
}

// TestCleanObjects keeps an object that a connection carries in another network namespace.
func TestCleanObjects(t *testing.T) {
	withKernel(t, func(k *Kernel) {
		if !k.Own() {
			t.Log("the kernel has no helper objects")
			return
		}
		if err := k.Place(announce(1, 1, 40001)); err != nil {
			t.Error(err)
		}
		clean := func(wantDeleted, wantKept int) {
			t.Helper()
			if err := netns.Scratch(func() error {
				deleted, kept, err := CleanObjects([]helpers.Helper{two})
				if err == nil && (deleted != wantDeleted || len(kept) != wantKept) {
					t.Errorf("deleted %d, kept %v, want %d and %d", deleted, kept, wantDeleted, wantKept)
				}
				return err
			}); err != nil {
				t.Error(err)
			}
		}
		clean(0, 1)
		if all := k.ports(t); all[40001] != 1 {
			t.Errorf("expected: %v, want 40001", all)
		}
		if err := k.Forget(1); err != nil {
			t.Error(err)
		}
		clean(2, 0)
	})
}

// TestZones has one announcement in three zones: each is its own.
func TestZones(t *testing.T) {
	withKernel(t, func(k *Kernel) {
		for zone := range uint16(3) {
			q := announce(ID(zone+1), uint64(zone+1), 40001)
			q.Master.Orig, q.Master.Reply = announce(0, 1, 0).Master.Orig, announce(0, 1, 0).Master.Reply
			q.Master.Zone = zone
			if err := k.Place(q); err != nil {
				t.Errorf("zone %d: %v", zone, err)
			}
			q.ID += 10
			if err := k.Place(q); !errors.Is(err, ErrTaken) {
				t.Errorf("zone %d again: %v, want ErrTaken", zone, err)
			}
		}
		if all := k.ports(t); all[40001] != 3 {
			t.Errorf("expected %v, want 40001 three times", all)
		}
		taken := k.placed[2]
		if err := k.conn.DeleteExpectation(taken.tuple, 1); err != nil {
			t.Error(err)
		}
		if lost, err := k.Lost(); err != nil || len(lost) != 1 || lost[0] != 2 {
			t.Errorf("lost %v, %v, want 2", lost, err)
		}
		if err := k.Forget(1); err != nil {
			t.Error(err)
		}
		if lost, err := k.Lost(); err != nil || len(lost) != 1 || lost[0] != 2 {
			t.Errorf("lost after the session in zone 0 ended: %v, %v, want 2", lost, err)
		}
		next, err := OpenKernel([]helpers.Helper{two}) // this one was killed
		if err != nil {
			t.Error(err)
			return
		}
		defer next.Close()
		q := announce(1, 1, 40001)
		if err := next.Place(q); err != nil {
			t.Errorf("in zone 0, where it is free: %v", err)
		}
		q.ID, q.Master.Zone = 2, 2
		q.Master.Session = 2
		if err := next.Place(q); err != nil {
			t.Errorf("in zone 2, after an earlier run: %v", err)
		}
		if all := k.ports(t); all[40001] != 2 {
			t.Errorf("expected %v, want 40001 in the zones 0 and 2", all)
		}
	})
}

// TestPlaceAllocates asks that nothing is allocated for an announcement on a shadow that is there.
func TestPlaceAllocates(t *testing.T) {
	withKernel(t, func(k *Kernel) {
		q := announce(1, 1, 40001)
		cycle := func() {
			if err := k.Place(q); err != nil {
				t.Error(err)
			}
			if err := k.Remove(q.ID); err != nil {
				t.Error(err)
			}
		}
		cycle()
		if n := testing.AllocsPerRun(200, cycle); n != 0 {
			t.Errorf("%v allocations, want 0", n)
		}
	})
}
