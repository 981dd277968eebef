package cli

import (
	"fmt"
	"iter"
	"strconv"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/criteria"
	"github.com/cthelperd/cthelperd/cli/format"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/flows"
)

type listCommand struct {
	criteria.Match
	criteria.More
	rendering
	Zero    bool   `short:"z" group:"Output" help:"Set the counters to zero as they are read."`
	Sort    string `placeholder:"FIELD" group:"Output" help:"Sort by a field, numbers from the highest. Without --top all is kept in memory."`
	Reverse bool   `group:"Output" help:"Sort the other way round."`
	Top     int    `placeholder:"N" group:"Output" help:"Only the first N, in constant memory."`
	Explain bool   `group:"Output" help:"Say which part of the condition the kernel tests, and list nothing."`
	Table   string `arg:"" optional:"" enum:"conntrack,dying,unconfirmed," default:"conntrack" help:"conntrack (the default), dying or unconfirmed."`
}

func (listCommand) Help() string {
	return `Examples:
  cthelper list -p tcp --orig-port-dst 22
  cthelper list --where 'bytes > 10e6 && orig.dst.in("10.0.0.0/8")' --sort bytes --top 20
  cthelper list -f ipv6 -o extended
  cthelper list -w 11 -o save | sed 's/-w 11/-w 12/' | cthelper restore -`
}

func (l *listCommand) Run(c *context) error {
	s, err := c.choose(&l.Match, &l.More)
	if err != nil {
		return err
	}
	if l.Top < 0 {
		return &caret.Error{Text: strconv.Itoa(l.Top), Message: "want at least 1"}
	}
	by, err := newOrder(l.Sort, l.Reverse, s.labels)
	if err != nil {
		return err
	}
	shown := append(l.asked(), l.Sort)
	if l.Zero {
		shown = append(shown, "packets")
	}
	return c.on(s, l.Explain, func(t *flows.Table) error {
		l.Output.Labels = l.Output.Labels || len(l.Label) > 0 // as conntrack(8)
		p, err := l.printer(c, s.labels, false)
		if err != nil {
			return err
		}
		seq := l.entries(t, s.filter)
		if by != nil {
			seq = by.sorted(seq, l.Top)
		} else if l.Top > 0 {
			seq = first(seq, l.Top)
		}
		n, err := printAll(p, seq)
		if err == nil && c.interactive() {
			c.say("%s", amount(n, connection))
		}
		return err
	}, shown...)
}

// printAll writes all of seq, and says how many there were.
func printAll(p *format.Printer, seq iter.Seq2[*flows.Flow, error]) (uint64, error) {
	n, err := count(shown(seq, p.Flow))
	if err != nil {
		return n, err
	}
	return n, p.End()
}

// shown passes flows on, each printed first.
func shown(seq iter.Seq2[*flows.Flow, error], print func(*flows.Flow) error) iter.Seq2[*flows.Flow, error] {
	return func(yield func(*flows.Flow, error) bool) {
		for f, err := range seq {
			if err == nil {
				err = print(f)
			}
			if !yield(f, err) {
				return
			}
		}
	}
}

// only gives one entry.
func only[T any](x *T) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) { yield(x, nil) }
}

// entries are those of the table that is asked for.
func (l *listCommand) entries(t *flows.Table, f *flows.Filter) iter.Seq2[*flows.Flow, error] {
	switch {
	case l.Table == "dying":
		return t.Dying(f)
	case l.Table == "unconfirmed":
		return t.Unconfirmed(f)
	case l.Zero:
		return t.ListAndZero(f)
	}
	return t.List(f)
}

// first ends seq after n flows.
func first(seq iter.Seq2[*flows.Flow, error], n int) iter.Seq2[*flows.Flow, error] {
	return func(yield func(*flows.Flow, error) bool) {
		left := n
		for f, err := range seq {
			if !yield(f, err) || err != nil {
				return
			}
			if left--; left == 0 {
				return
			}
		}
	}
}

type countCommand struct {
	criteria.Match
	criteria.More
	Explain bool `group:"Output" help:"Say which part of the condition the kernel tests, and count nothing."`
}

func (k *countCommand) Run(c *context) error {
	s, err := c.choose(&k.Match, &k.More)
	if err != nil {
		return err
	}
	return c.on(s, k.Explain, func(t *flows.Table) error {
		n := uint64(0)
		if s.any {
			n, err = entries(t.Count())
		} else {
			n, err = count(t.List(s.filter))
		}
		if err == nil {
			_, err = fmt.Fprintln(c.stdout, n)
		}
		return err
	})
}

func count[T any](seq iter.Seq2[T, error]) (n uint64, err error) {
	for _, err := range seq {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

type getCommand struct {
	criteria.Tuples
	rendering
}

func (g *getCommand) Run(c *context) error {
	labels, err := names.LoadLabels()
	if err != nil {
		return err
	}
	want, err := (&criteria.Draft{Tuples: g.Tuples}).Name()
	if err != nil {
		return err
	}
	t, err := flows.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	f, err := t.Get(want.Transport, want.Orig, want.Zone)
	if err != nil {
		return err
	}
	p, err := g.printer(c, labels, false)
	if err != nil {
		return err
	}
	_, err = printAll(p, only(&f))
	return err
}
