package cli

import (
	"errors"
	"fmt"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/criteria"
	"github.com/cthelperd/cthelperd/flows"
)

type deleteCommand struct {
	criteria.Match
	criteria.More
	careful
	rendering
	Explain bool `group:"Output" help:"Say which part of the condition the kernel tests, and delete nothing."`
}

func (deleteCommand) Help() string {
	return `Without a condition nothing is deleted: that is 'cthelper flush'. With -o the connections are printed too.

Examples:
  cthelper delete -p tcp --orig-port-src 22
  cthelper delete --where 'helper == "cth-ftp" && age > 3600' --dry-run

Exit status 1 also if there was none to delete.`
}

func (d *deleteCommand) Run(c *context) error {
	s, err := c.choose(&d.Match, &d.More)
	if err != nil {
		return err
	}
	if s.any {
		return &caret.Error{Message: "needs a condition; 'cthelper flush' empties the table"}
	}
	return c.on(s, d.Explain, func(t *flows.Table) error {
		counted := func() (uint64, error) { return d.show(c, t, s, d.DryRun) }
		if ok, err := d.may(c, "delete", connection, counted); err != nil || !ok {
			return err
		}
		var done flows.Done
		if d.Output.Kind == "" {
			done, err = t.DeleteAll(s.filter)
		} else {
			done, err = d.deleteShown(c, t, s)
		}
		return c.touched("deleted", done, err)
	})
}

// show counts what would be touched, and prints it if it is asked for.
func (d *deleteCommand) show(c *context, t *flows.Table, s *selection, printed bool) (uint64, error) {
	if !printed || d.Output.Kind == "" {
		return count(t.List(s.filter))
	}
	p, err := d.printer(c, s.labels, false)
	if err != nil {
		return 0, err
	}
	return printAll(p, t.List(s.filter))
}

// deleteShown deletes what it prints.
func (d *deleteCommand) deleteShown(c *context, t *flows.Table, s *selection) (flows.Done, error) {
	p, err := d.printer(c, s.labels, false)
	if err != nil {
		return flows.Done{}, err
	}
	done, err := t.DeleteEach(shown(t.List(s.filter), p.Flow))
	return done, errors.Join(err, p.End())
}

// touched says how many connections were; none is a failure.
func (c *context) touched(verb string, done flows.Done, err error) error {
	about := ""
	if !done.Exact {
		about = "about "
	}
	gone := ""
	if done.Gone > 0 {
		gone = fmt.Sprintf(", %d had ended meanwhile", done.Gone)
	}
	if done.Refused > 0 {
		gone += fmt.Sprintf(", the kernel refused %d", done.Refused)
	}
	c.say("%s %s%s%s", verb, about, amount(done.Entries, connection), gone)
	if done.Entries == 0 {
		c.code = exitFailed
	}
	return err
}

type updateCommand struct {
	criteria.Match
	criteria.Change
	careful
	rendering
	Explain bool `group:"Output" help:"Say which part of the condition the kernel tests, and change nothing."`
}

func (updateCommand) Help() string {
	return `-m, -t and -u say what to make of the connections, as in conntrack(8); to choose by them use --where.

Examples:
  cthelper update -s 192.0.2.1 -m 1
  cthelper update --where 'mark == 1 && proto == "udp"' -t 30 -u FIXED_TIMEOUT`
}

func (u *updateCommand) Run(c *context) error {
	s, err := c.choose(&u.Match, nil)
	if err != nil {
		return err
	}
	change, err := u.Change.Change(s.labels)
	if err != nil {
		return err
	}
	return c.on(s, u.Explain, func(t *flows.Table) error {
		counted := func() (uint64, error) { return count(t.List(s.filter)) }
		if ok, err := u.may(c, "update", connection, counted); err != nil || !ok {
			return err
		}
		var done flows.Done
		if u.Output.Kind == "" {
			done, err = t.UpdateAll(s.filter, change)
		} else {
			done, err = u.updateShown(c, t, s, change)
		}
		return c.touched("updated", done, err)
	})
}

// updateShown prints what became of each.
func (u *updateCommand) updateShown(c *context, t *flows.Table, s *selection, change *flows.Change) (flows.Done, error) {
	done := flows.Done{Exact: true}
	p, err := u.printer(c, s.labels, false)
	if err != nil {
		return done, err
	}
	for f, err := range t.List(s.filter) {
		if err != nil {
			return done, errors.Join(err, p.End())
		}
		err = t.Update(f, change)
		if errors.Is(err, flows.ErrNotFound) {
			done.Gone++
			continue
		}
		if err != nil {
			return done, errors.Join(err, p.End())
		}
		done.Entries++
		now, err := t.Get(f.Transport, f.Orig, f.Zone)
		if err == nil {
			err = p.Flow(&now)
		}
		if err != nil && !errors.Is(err, flows.ErrNotFound) {
			return done, errors.Join(err, p.End())
		}
	}
	return done, p.End()
}

type flushCommand struct{ careful }

func (f *flushCommand) Run(c *context) error {
	t, err := flows.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	return f.flush(c, connection, func() (uint64, error) { return entries(t.Count()) }, t.Flush)
}
