package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/cthelperd/cthelperd/cli/criteria"
	"github.com/cthelperd/cthelperd/cli/format"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/cli/where"
	"github.com/cthelperd/cthelperd/flows"
)

// rendering are the options that say how connections are written.
type rendering struct {
	Output  format.Output `short:"o" placeholder:"KIND" group:"Output" help:"table (the default), conntrack, xml, json, csv, save, or of conntrack(8): extended, id, timestamp, ktimestamp, labels, userspace; several with commas."`
	Columns []string      `placeholder:"NAME" group:"Output" help:"The table's columns: NAME[,NAME]; see 'cthelper fields'."`
}

// printer begins an output.
func (o *rendering) printer(c *context, labels *names.Labels, events bool) (*format.Printer, error) {
	kind := o.Output
	if kind.Kind == "" {
		kind.Kind = format.Table
	}
	return format.New(c.stdout, format.Options{
		Output: kind, Names: labels, Width: c.width(), Columns: o.Columns, Plain: isTerminal(c.stdout), Events: events,
		Now: time.Now,
	})
}

// asked are the fields that somebody wants to see.
func (o *rendering) asked() []string {
	if o.Output.KTimestamp {
		return []string{"age"}
	}
	return o.Columns
}

// selection is a condition and what belongs to it.
type selection struct {
	*where.Expr
	filter *flows.Filter
	labels *names.Labels
	any    bool // no condition at all
}

// choose reads the options of a condition; more may be nil.
func (c *context) choose(m *criteria.Match, more *criteria.More) (*selection, error) {
	labels, err := names.LoadLabels()
	if err != nil {
		return nil, err
	}
	text, err := m.Condition(more)
	if err != nil {
		return nil, err
	}
	switch {
	case m.Where == "":
	case text == "":
		text = m.Where
	default:
		if _, err := where.Compile(m.Where, labels); err != nil {
			return nil, err // with places in what the user wrote
		}
		text = text + " && (" + m.Where + ")"
	}
	expr, err := where.Compile(text, labels)
	if err != nil {
		return nil, err
	}
	return &selection{Expr: expr, filter: expr.Filter(time.Now()), labels: labels, any: text == ""}, nil
}

// on has work done with the table, on what s means; explain: it says instead which part of that is tested where. shown are
// fields beside those of the condition.
func (c *context) on(s *selection, explain bool, work func(t *flows.Table) error, shown ...string) error {
	t, err := flows.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	if explain {
		_, err := fmt.Fprint(c.stdout, plainLines(s.Explain(t.Plan(s.filter))))
		return err
	}
	c.warn(s, shown...)
	return errors.Join(work(t), s.judged())
}

// warn says which fields of the condition, and of what is shown, are always zero, and why.
func (c *context) warn(s *selection, shown ...string) {
	accounting, counted := s.Needs(where.NeedsAccounting, shown...)
	timestamps, timed := s.Needs(where.NeedsTimestamps, shown...)
	if !counted && !timed {
		return
	}
	settings, err := flows.ReadSettings()
	if err != nil {
		return // it is a hint only
	}
	if counted && settings.Accounting == 0 {
		c.say("%s is not counted: sysctl -w net.netfilter.nf_conntrack_acct=1; connections that there are stay at zero",
			accounting)
	}
	if timed && settings.Timestamps == 0 {
		c.say("%s is not known: sysctl -w net.netfilter.nf_conntrack_timestamp=1; of connections that there are it stays so",
			timestamps)
	}
}

// judged says for how many flows the condition had no value.
func (s *selection) judged() error {
	if n, why := s.Failed(); n > 0 {
		return fmt.Errorf("the condition has no value for %d connections, which were left out: %w", n, why)
	}
	return nil
}

// say writes a line for people.
func (c *context) say(format string, args ...any) {
	fmt.Fprintf(c.stderr, "cthelper: "+format+"\n", args...)
}

// What tables are made of.
const (
	connection  = "connection"
	expectation = "expectation"
)

// amount is a number of things.
func amount(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
