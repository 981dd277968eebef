// Package best keeps the first of many in an order, in constant memory.
package best

import (
	"container/heap"
	"slices"
)

// List are the first Most of what it was given.
type List[T any] struct {
	Compare func(a, b *T) int // negative: a comes first
	Most    int

	kept []T // a heap: the one that would go next is the first
}

// Offer takes x if it is among the first until now. fill, which may be nil, completes what is taken: what Compare does
// not look at need not be there before.
func (l *List[T]) Offer(x T, fill func(*T)) {
	full := len(l.kept) >= l.Most
	if full && (l.Most == 0 || l.Compare(&x, &l.kept[0]) >= 0) {
		return
	}
	if fill != nil {
		fill(&x)
	}
	if full {
		l.kept[0] = x
		heap.Fix(order[T]{l}, 0)
	} else {
		heap.Push(order[T]{l}, x)
	}
}

// Sorted gives what was taken, in order. More may be offered after it.
func (l *List[T]) Sorted() []T {
	sorted := slices.Clone(l.kept)
	slices.SortFunc(sorted, func(a, b T) int { return l.Compare(&a, &b) })
	return sorted
}

// order is the heap.
type order[T any] struct{ *List[T] }

func (o order[T]) Len() int           { return len(o.kept) }
func (o order[T]) Less(i, j int) bool { return o.Compare(&o.kept[i], &o.kept[j]) > 0 }
func (o order[T]) Swap(i, j int)      { o.kept[i], o.kept[j] = o.kept[j], o.kept[i] }
func (o order[T]) Push(x any)         { o.kept = append(o.kept, x.(T)) }
func (o order[T]) Pop() any           { panic("nothing is taken out") }
