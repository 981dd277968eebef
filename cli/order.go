package cli

import (
	"cmp"
	"container/heap"
	"iter"
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/cli/where"
	"github.com/cthelperd/cthelperd/flows"
)

// order sorts flows by a field.
type order struct {
	key     func(*flows.Flow) (number int64, text string)
	reverse bool
}

// newOrder finds the field; none is no order.
func newOrder(field string, reverse bool, labels *names.Labels) (*order, error) {
	if field == "" {
		return nil, nil
	}
	key, err := where.Key(field, labels, time.Now())
	if err != nil {
		return nil, err
	}
	return &order{key: key, reverse: reverse}, nil
}

// ranked is a flow and what it is sorted by.
type ranked struct {
	flow   flows.Flow
	number int64
	text   string
}

// compare is negative if a comes before b: numbers from the highest, texts from A.
func (o *order) compare(a, b *ranked) int {
	n := cmp.Or(cmp.Compare(b.number, a.number), cmp.Compare(a.text, b.text))
	if o.reverse {
		return -n
	}
	return n
}

// sorted gives the flows of seq in order, the first top of them if that is not 0.
func (o *order) sorted(seq iter.Seq2[*flows.Flow, error], top int) iter.Seq2[*flows.Flow, error] {
	return func(yield func(*flows.Flow, error) bool) {
		kept := &worst{order: o}
		for f, err := range seq {
			if err != nil {
				yield(nil, err)
				return
			}
			r := ranked{}
			r.number, r.text = o.key(f)
			switch {
			case top == 0:
				r.flow = *f
				kept.list = append(kept.list, r)
			case len(kept.list) < top:
				r.flow = *f
				heap.Push(kept, r)
			case o.compare(&r, &kept.list[0]) < 0:
				r.flow = *f
				kept.list[0] = r
				heap.Fix(kept, 0)
			}
		}
		slices.SortFunc(kept.list, func(a, b ranked) int { return o.compare(&a, &b) })
		for i := range kept.list {
			if !yield(&kept.list[i].flow, nil) {
				return
			}
		}
	}
}

// worst is a heap whose first element would go next.
type worst struct {
	*order
	list []ranked
}

func (w *worst) Len() int           { return len(w.list) }
func (w *worst) Less(i, j int) bool { return w.compare(&w.list[i], &w.list[j]) > 0 }
func (w *worst) Swap(i, j int)      { w.list[i], w.list[j] = w.list[j], w.list[i] }
func (w *worst) Push(x any)         { w.list = append(w.list, x.(ranked)) }
func (w *worst) Pop() any {
	last := w.list[len(w.list)-1]
	w.list = w.list[:len(w.list)-1]
	return last
}
