package engine

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

// Timers run out in the order of their moments, however they are set, set again and cleared, and Next is always right.
func TestTimers(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	e, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Unix(1e9, 0)
	e.now = start
	s := &session{helper: &helper{helpers.Helper{PerPair: true}}} // it keeps what is not pending
	model := map[*entry]time.Time{}
	var all []*entry
	for range 200 {
		x := &entry{session: s, master: s.master(&expect.Master{})}
		e.insert(x)
		all = append(all, x)
	}
	earliest := func() (first *entry) {
		for x, when := range model {
			if first == nil || when.Before(model[first]) || when.Equal(model[first]) && x.id() < first.id() {
				first = x
			}
		}
		return first
	}
	for range 20000 {
		x := all[rnd.IntN(len(all))]
		switch rnd.IntN(8) {
		case 0, 1, 2:
			model[x] = e.now.Add(time.Minute)
			e.wakeEntry(x, model[x])
		case 3:
			model[x] = e.now.Add(time.Duration(rnd.IntN(120)) * time.Second)
			e.wakeEntry(x, model[x])
		case 4, 5:
			delete(model, x)
			e.letSleep(x)
		case 6:
			e.rename(x)
		default:
			e.now = e.now.Add(time.Duration(rnd.IntN(3)) * time.Second)
			for {
				_, got := e.due()
				want := earliest()
				if want != nil && model[want].After(e.now) {
					want = nil
				}
				if got != want {
					t.Fatalf("%v is due, want %v", got, want)
				}
				if got == nil {
					break
				}
				delete(model, got)
			}
		}
		var want time.Time
		if first := earliest(); first != nil {
			want = model[first]
		}
		if next := e.Next(); !next.Equal(want) {
			t.Fatalf("next at %v, want %v", next, want)
		}
		if n := e.timers.count(); n > 64+2*(len(model)+1) {
			t.Fatalf("%d alarms for %d timers", n, len(model))
		}
	}
}
