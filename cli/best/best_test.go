package best_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cthelperd/cthelperd/cli/best"
)

func TestList(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, many := range []int{0, 1, 9, 10, 11, 500} {
		l := best.List[[2]int]{Compare: func(a, b *[2]int) int { return a[0] - b[0] }, Most: 10}
		filled := 0
		all := random.Perm(many)
		for i, n := range all {
			l.Offer([2]int{n}, func(x *[2]int) { x[1] = n + 1; filled++ })
			if i == many/2 {
				l.Sorted() // more is taken after it
			}
		}
		slices.Sort(all)
		got := l.Sorted()
		if len(got) != min(many, 10) || filled < len(got) {
			t.Fatalf("%d of %d, %d were filled", len(got), many, filled)
		}
		for i, x := range got {
			if x != [2]int{all[i], all[i] + 1} {
				t.Errorf("of %d, place %d: %v, want %d", many, i, x, all[i])
			}
		}
	}
	none := best.List[int]{Compare: func(a, b *int) int { return *a - *b }}
	if none.Offer(1, nil); len(none.Sorted()) != 0 {
		t.Error("a list of none has taken something")
	}
}
