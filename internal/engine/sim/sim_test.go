package sim

import (
	"flag"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	seed  = flag.Uint64("seed", 0, "play this one case, with a trace")
	cases = flag.Int("cases", 5000, "how many cases are drawn")
	first = flag.Uint64("first", 1, "seed of the first of them")
)

// TestSimulation plays cases drawn from seeds. A failing one is played again by -seed N.
func TestSimulation(t *testing.T) {
	if *seed != 0 {
		w := newWorld(*seed, true)
		w.run()
		t.Log("\n" + w.trace.String())
		if w.fail != "" {
			t.Fatalf("seed %d: %s", *seed, w.fail)
		}
		return
	}
	n := *cases
	if testing.Short() {
		n = min(n, 500)
	}
	var next, bad, edited, restarted atomic.Int64
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for i := next.Add(1); i <= int64(n) && bad.Load() < 10; i = next.Add(1) {
				w := newWorld(*first+uint64(i)-1, false)
				w.run()
				if w.fail != "" {
					bad.Add(1)
					t.Errorf("seed %d (%s): %s; play it again with: go test ./internal/engine/sim -run Simulation -seed %d",
						w.seed, w.nat, w.fail, w.seed)
				}
				if w.kernel.adjust[0].After != 0 || w.kernel.adjust[1].After != 0 {
					edited.Add(1)
				}
				if w.event == "" && w.missed {
					restarted.Add(1)
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d cases, %d with adjusted numbers, %d in which packets passed by", n, edited.Load(), restarted.Load())
	if n >= 500 && edited.Load() == 0 {
		t.Error("no case adjusted sequence numbers: the simulation tests nothing")
	}
}
