package cli

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/cli/best"
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
		var all []ranked
		first := best.List[ranked]{Compare: o.compare, Most: top}
		for f, err := range seq {
			if err != nil {
				yield(nil, err)
				return
			}
			r := ranked{}
			r.number, r.text = o.key(f)
			if top == 0 {
				r.flow = *f
				all = append(all, r)
			} else {
				first.Offer(r, func(r *ranked) { r.flow = *f })
			}
		}
		if top > 0 {
			all = first.Sorted()
		} else {
			slices.SortFunc(all, func(a, b ranked) int { return o.compare(&a, &b) })
		}
		for i := range all {
			if !yield(&all[i].flow, nil) {
				return
			}
		}
	}
}
