package flows

import (
	"errors"
	"iter"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// List gives the entries that f lets pass; nil: all, of both families. A Flow is valid until the next one is taken: copy
// what is kept. Nothing is collected, so a table of any size costs the same memory. While it goes on, the table may be
// used for anything else, and it may be left at any time.
//
// It is no snapshot: an entry that comes or goes meanwhile may be there or not.
func (t *Table) List(f *Filter) iter.Seq2[*Flow, error] { return t.list(nfnl.CTGet, f) }

// ListAndZero is List, and sets the counters of what the kernel lists to zero as it reads them. What Plan says is tested
// here is zeroed, too, though not given.
func (t *Table) ListAndZero(f *Filter) iter.Seq2[*Flow, error] { return t.list(nfnl.CTGetZero, f) }

// Dying gives the entries that have ended and are still referenced, or whose end could not be told to a listener.
func (t *Table) Dying(f *Filter) iter.Seq2[*Flow, error] { return t.list(nfnl.CTDying, f) }

// Unconfirmed gives the entries whose first packet is still under way. From Linux 5.19 on the kernel shows none.
func (t *Table) Unconfirmed(f *Filter) iter.Seq2[*Flow, error] { return t.list(nfnl.CTUnconfirm, f) }

func (t *Table) list(message uint16, f *Filter) iter.Seq2[*Flow, error] {
	if f == nil {
		f = &Filter{}
	}
	return func(yield func(*Flow, error) bool) {
		asks := f.requests(t.listed(f))
		conns, err := t.ask(message, asks)
		defer t.leave(conns) // of a loop that is left, or panics, too
		if err != nil {
			yield(nil, err)
			return
		}
		var out Flow
		for i, c := range conns {
			left := false
			each := func(e *nfnl.Connection) bool {
				out = flow(e)
				left = f.Match(&out) && !yield(&out, nil)
				return !left
			}
			err := c.Take(each)
			if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) { // an older kernel: all is tested here, too
				err = c.List(message, &nfnl.Filter{Family: asks[i].Family}, each)
			}
			if left {
				return
			}
			if err != nil {
				yield(nil, explain(err, "", nil))
				return
			}
			t.keep(c)
			conns[i] = nil
		}
	}
}

// ask begins to list. The kernel works on all questions at once.
func (t *Table) ask(message uint16, asks []nfnl.Filter) (conns []*nfnl.Conn, err error) {
	conns = make([]*nfnl.Conn, 0, len(asks))
	for i := range asks {
		c, err := t.lister()
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
		c.Ask(message, &asks[i], i > 0)
	}
	return conns, nil
}

// leave gives up the listings that are not at their ends; the others are nil.
func (t *Table) leave(conns []*nfnl.Conn) {
	for _, c := range conns {
		if c != nil {
			_ = c.Close()
		}
	}
}
