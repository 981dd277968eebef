package flows_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// numbered is connection n.
func numbered(n int) flows.Flow {
	src := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
	return flows.Flow{
		Transport: helpers.UDP, Timeout: 600,
		Orig: helpers.Tuple{Src: netip.AddrPortFrom(src, 1000), Dst: ap("198.51.100.1:53")},
	}
}

// TestWatchClosed: another goroutine may close a watcher while it lists: the loop ends with an error, and nothing is left
// open.
func TestWatchClosed(t *testing.T) {
	withTable(t, func(table *flows.Table) error {
		for n := range 3 {
			f := numbered(n)
			if err := table.Create(&f); err != nil {
				return err
			}
		}
		before := sockets(t)
		w, err := flows.Watch(flows.Watching{List: true})
		if err != nil {
			return err
		}
		closed := make(chan error)
		n := 0
		for e, err := range w.All(t.Context()) {
			if n++; n == 1 && err == nil && e.Kind == flows.Present {
				go func() { closed <- w.Close() }()
				if err := <-closed; err != nil {
					t.Error(err)
				}
			}
		}
		if n != 5 { // three, Synced, and the error
			t.Errorf("%d events", n)
		}
		if now := sockets(t); now != before {
			t.Errorf("%d sockets, %d before", now, before)
		}
		return nil
	})
}

// sockets is how many this process has.
func sockets(t *testing.T) (n int) {
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if to, err := os.Readlink(f); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// TestWatch has every change told, in order, and with what the kernel says of it.
func TestWatch(t *testing.T) {
	withTable(t, func(table *flows.Table) error {
		before := numbered(0)
		if err := table.Create(&before); err != nil {
			return err
		}
		w, err := flows.Watch(flows.Watching{List: true, Filter: &flows.Filter{Transport: helpers.UDP}})
		if err != nil {
			return err
		}
		defer w.Close()
		f, other := numbered(1), plain(helpers.TCP, "192.0.2.1:1", "192.0.2.2:2")
		mark := flows.Change{Mark: 5, MarkMask: ^uint32(0)}
		for _, err := range []error{
			table.Create(&f), table.Create(&other), table.Update(&f, &mark), table.Delete(&f), table.Delete(&other),
		} {
			if err != nil {
				return err
			}
		}
		var got []string
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for e, err := range w.All(ctx) {
			if err != nil {
				return err
			}
			got = append(got, e.Kind.String())
			if e.Kind == flows.Present && e.Flow.Orig != before.Orig || e.Kind == flows.Update && e.Flow.Mark != 5 {
				t.Errorf("%s of %s", e.Kind, &e.Flow)
			}
			if e.Kind == flows.Destroy {
				cancel() // ends the loop
			}
		}
		if want := "[PRESENT SYNCED NEW UPDATE DESTROY]"; fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
		return nil
	})
}

// TestOverrun has more events than the socket can hold before anybody takes one. What is given and what is said to be
// lost is all of them, and the listing that follows is the table.
func TestOverrun(t *testing.T) {
	const all, left = 20000, 500
	withTable(t, func(table *flows.Table) error {
		w, err := flows.Watch(flows.Watching{Buffer: 2 << 20}) // more than All takes at once
		if err != nil {
			return err
		}
		defer w.Close()
		for i := range all {
			f := numbered(i)
			if err := table.Create(&f); err != nil {
				return err
			}
			if i >= left {
				if err := table.Delete(&f); err != nil {
					return err
				}
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		count := map[flows.Kind]int{}
		lost := uint64(0)
		for e, err := range w.All(ctx) {
			if err != nil {
				return err
			}
			if count[e.Kind]++; e.Kind == flows.Overrun {
				if lost += e.Lost; !e.Exact {
					t.Error("the number of lost events is not exact")
				}
			}
			if e.Kind == flows.Synced {
				break
			}
		}
		told := uint64(count[flows.New] + count[flows.Update] + count[flows.Destroy])
		if told+lost != 2*all-left || lost == 0 || count[flows.Overrun] != 1 || count[flows.Present] != left {
			t.Errorf("%v and %d lost, want %d events in all, and %d listed", count, lost, 2*all-left, left)
		}
		// It goes on.
		f := numbered(all)
		if err := table.Create(&f); err != nil {
			return err
		}
		for e, err := range w.All(ctx) {
			if err != nil {
				return err
			}
			if e.Kind != flows.New || e.Flow.Orig != f.Orig {
				t.Errorf("%s of %s", e.Kind, &e.Flow)
			}
			break
		}
		return nil
	})
}

// TestEventsOff has a watcher say that the kernel tells nothing, and what to set.
func TestEventsOff(t *testing.T) {
	ns := netnstest.New(t)
	ns.Sysctl("net.netfilter.nf_conntrack_events", "0")
	ns.Do(func() {
		_, err := flows.Watch(flows.Watching{})
		var off *flows.Off
		if !errors.Is(err, flows.ErrOff) || !errors.As(err, &off) || off.Sysctl != "net.netfilter.nf_conntrack_events=1" {
			t.Errorf("error %v", err)
		}
	})
}

// TestWatchCloses has a closed watcher end a loop, with an error.
func TestWatchCloses(t *testing.T) {
	inside(t, func() error {
		w, err := flows.Watch(flows.Watching{})
		if err != nil {
			return err
		}
		time.AfterFunc(10*time.Millisecond, func() { _ = w.Close() })
		for _, err := range w.All(t.Context()) {
			if err == nil {
				t.Error("an event")
			}
			return nil
		}
		t.Error("no error")
		return nil
	})
}

// TestWatchAllocates has events of connections that begin and end cost no memory.
func TestWatchAllocates(t *testing.T) {
	withTable(t, func(table *flows.Table) error {
		w, err := flows.Watch(flows.Watching{Once: true})
		if err != nil {
			return err
		}
		defer w.Close()
		const many = 1000
		var failed error
		per := testing.AllocsPerRun(5, func() {
			for i := range many {
				f := numbered(i)
				failed = errors.Join(failed, table.Create(&f), table.Delete(&f))
			}
			seen := 0
			for _, err := range w.All(context.Background()) {
				if failed = errors.Join(failed, err); err != nil {
					return
				}
				if seen++; seen == 2*many {
					break
				}
			}
		})
		if per > many/10 { // a loop costs some, an event none
			t.Errorf("%v allocations for %d events", per, 2*many)
		}
		return failed
	})
}
