package e2e

import (
	"flag"
	"slices"
	"testing"
)

// What a run on a slow machine needs: there no Go compiler is quick enough, and the whole matrix takes too long.
var (
	programs  = flag.String("programs", "", "folder of the built programs cthelperd and outoftree; empty: build them")
	onlyPairs = flag.Bool("pairwise", false, "of the matrix only what holds each pair of server, client, family, mode and NAT once")
)

// combination is one field of the matrix.
type combination struct {
	nat    nat
	server serverKind
	client clientKind
	family family
	mode   mode
}

func (c combination) values() []string {
	return []string{string(c.nat), c.server.name, c.client.name, string(c.family), string(c.mode)}
}

// matrix is all that is possible.
func matrix() (all []combination) {
	for _, n := range nats {
		for _, k := range serverKinds {
			for _, c := range clientKinds {
				for _, f := range families {
					for _, m := range modes {
						if !cannot(c, f, m) {
							all = append(all, combination{n, k, c, f, m})
						}
					}
				}
			}
		}
	}
	return all
}

// toRun is the part of the matrix that this run is for.
func toRun() []combination {
	all := matrix()
	if !*onlyPairs {
		return all
	}
	var rows [][]string
	for _, c := range all {
		rows = append(rows, c.values())
	}
	var chosen []combination
	for _, i := range pairwise(rows) {
		chosen = append(chosen, all[i])
	}
	return chosen
}

// pair is two values of a row, and their columns.
type pair struct {
	i, j int
	a, b string
}

func pairs(row []string) (all []pair) {
	for i := range row {
		for j := i + 1; j < len(row); j++ {
			all = append(all, pair{i, j, row[i], row[j]})
		}
	}
	return all
}

// pairwise chooses rows, such that each pair of values of any row is in a chosen one. It takes the row with the most new
// pairs until there are none: not the fewest possible, but few. The answer is sorted.
func pairwise(rows [][]string) (chosen []int) {
	open := map[pair]bool{}
	for _, r := range rows {
		for _, p := range pairs(r) {
			open[p] = true
		}
	}
	for len(open) > 0 {
		best, most := 0, 0
		for i, r := range rows {
			n := 0
			for _, p := range pairs(r) {
				if open[p] {
					n++
				}
			}
			if n > most {
				best, most = i, n
			}
		}
		for _, p := range pairs(rows[best]) {
			delete(open, p)
		}
		chosen = append(chosen, best)
	}
	slices.Sort(chosen)
	return chosen
}

// TestPairwise: the choice holds every pair that there is, and is short.
func TestPairwise(t *testing.T) {
	var rows [][]string
	for _, c := range matrix() {
		rows = append(rows, c.values())
	}
	chosen := pairwise(rows)
	t.Logf("%d of %d", len(chosen), len(rows))
	covered := map[pair]bool{}
	for _, i := range chosen {
		for _, p := range pairs(rows[i]) {
			covered[p] = true
		}
	}
	for _, r := range rows {
		for _, p := range pairs(r) {
			if !covered[p] {
				t.Fatalf("no chosen row has %s with %s", p.a, p.b)
			}
		}
	}
	if len(chosen) > len(rows)/6 {
		t.Errorf("%d rows of %d are chosen: that is not short", len(chosen), len(rows))
	}
	// Of three columns of two values each, four rows hold all pairs, and fewer cannot.
	var cube [][]string
	for _, a := range []string{"0", "1"} {
		for _, b := range []string{"0", "1"} {
			for _, c := range []string{"0", "1"} {
				cube = append(cube, []string{a, b, c})
			}
		}
	}
	if got := pairwise(cube); len(got) != 4 {
		t.Errorf("of a cube %d rows are chosen, want 4", len(got))
	}
	if got := pairwise(nil); len(got) != 0 {
		t.Errorf("of nothing %v is chosen", got)
	}
}
