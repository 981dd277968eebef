package cli

import (
	stdcontext "context"
	"fmt"
	"io"
	"iter"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/format"
	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
)

type expectCommand struct {
	List   expectListCommand   `cmd:"" help:"List expectations."`
	Count  expectCountCommand  `cmd:"" help:"Count expectations."`
	Get    expectGetCommand    `cmd:"" help:"Print one expectation by its addresses and ports."`
	Create expectCreateCommand `cmd:"" help:"Create an expectation."`
	Update expectUpdateCommand `cmd:"" help:"Change the timeout of expectations."`
	Delete expectDeleteCommand `cmd:"" help:"Delete expectations."`
	Flush  expectFlushCommand  `cmd:"" help:"Empty the expectation table."`
	Watch  expectWatchCommand  `cmd:"" help:"Print events of expectations."`
	Stats  expectStatsCommand  `cmd:"" help:"Print the kernel's statistics of expectations."`
}

// expectOutput is how expectations are written.
type expectOutput struct {
	Output expectKind `short:"o" placeholder:"KIND" group:"Output" help:"table (the default), conntrack, xml, json or csv; timestamp with the time. The others of conntrack(8) are taken, and show nothing more."`
}

// expectKind is what -o says.
type expectKind struct{ format.Output }

// UnmarshalText reads an option's value.
func (k *expectKind) UnmarshalText(b []byte) error {
	err := k.Output.UnmarshalText(b)
	if err == nil && strings.HasSuffix(k.Kind, format.Save) {
		err = &caret.Error{Text: string(b), Message: "expectations have no save files"}
	}
	return err
}

func (o *expectOutput) write(w io.Writer, e *expect.Event, events bool) error {
	line := format.AppendExpect(nil, &o.Output.Output, e, time.Now(), events)
	if end := len(line) - 1; end >= 0 && isTerminal(w) {
		line = append(format.Escaped(line[:end]), '\n')
	}
	_, err := w.Write(line)
	return err
}

// print writes entries of the table.
func (o *expectOutput) print(w io.Writer, seq iter.Seq2[*expect.Expectation, error]) error {
	if _, err := io.WriteString(w, format.ExpectHead(o.Output.Kind, false)); err != nil {
		return err
	}
	for x, err := range seq {
		if err != nil {
			return err
		}
		if err := o.write(w, &expect.Event{Expectation: *x}, false); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, format.ExpectTail(o.Output.Kind))
	return err
}

type expectListCommand struct {
	expectMatch
	expectOutput
}

func (l *expectListCommand) Run(c *context) error {
	t, err := expect.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	return l.print(c.stdout, l.list(t))
}

type expectCountCommand struct{ expectMatch }

func (k *expectCountCommand) Run(c *context) error {
	t, err := expect.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	n, err := count(k.list(t))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.stdout, n)
	return err
}

type expectGetCommand struct {
	expectTuple
	expectOutput
}

func (g *expectGetCommand) Run(c *context) error {
	tr, tuple, err := g.tuple()
	if err != nil {
		return err
	}
	t, err := expect.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	x, err := t.Get(tr, tuple, g.Zone.ID)
	if err != nil {
		return err
	}
	return g.print(c.stdout, only(&x))
}

type expectWatchCommand struct {
	expectMatch
	expectOutput
	BufferSize int    `short:"b" placeholder:"BYTES" group:"Events" help:"Receive buffer of the socket."`
	List       bool   `group:"Events" help:"Begin with what is in the table."`
	Count      uint64 `placeholder:"N" group:"Events" help:"End after N events."`
}

func (w *expectWatchCommand) Run(c *context) error {
	watcher, err := expect.Watch(expect.Watching{Buffer: w.BufferSize, List: w.List})
	if err != nil {
		return err
	}
	defer watcher.Close()
	c.silent("expectations of connections")
	if kind := w.Output.Kind; kind != "" && kind != format.Table {
		if _, err := io.WriteString(c.stdout, format.ExpectHead(kind, true)); err != nil {
			return err
		}
	}
	until, stop := signal.NotifyContext(stdcontext.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	n := uint64(0)
	for e, err := range watcher.All(until) {
		if err != nil {
			return err
		}
		aside := e.Kind == flows.Overrun || e.Kind == flows.Synced
		if !aside && !w.match(&e.Expectation) {
			continue
		}
		if err := w.write(c.stdout, e, true); err != nil {
			return err
		}
		if aside {
			continue
		}
		if n++; n == w.Count {
			break
		}
	}
	_, err = io.WriteString(c.stdout, format.ExpectTail(w.Output.Kind))
	return err
}

type expectStatsCommand struct{}

func (expectStatsCommand) Run(c *context) error {
	t, err := expect.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	all, err := t.Stats()
	if err != nil {
		return err
	}
	for _, s := range all {
		_, err := fmt.Fprintf(c.stdout, "cpu=%-4d\texpect_new=%d expect_create=%d expect_delete=%d \n", s.CPU, s.New, s.Create, s.Delete)
		if err != nil {
			return err
		}
	}
	return nil
}
