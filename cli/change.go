package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/criteria"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/flows"
)

// askFrom is how many entries a terminal is asked about before they are touched.
const askFrom = 10

// careful are the options of commands that touch many entries of a table.
type careful struct {
	DryRun bool `group:"Safety" help:"Touch nothing, say how many would be."`
	Yes    bool `short:"y" group:"Safety" help:"Ask nothing. Otherwise, with a terminal, from 10 entries on there is a question."`
}

// may says whether to go on with n entries; verb is what will be done, and noun what to.
func (k *careful) may(c *context, verb, noun string, n func() (uint64, error)) (bool, error) {
	if !k.DryRun && (k.Yes || !c.asking()) {
		return true, nil
	}
	touched, err := n()
	if err != nil {
		return false, err
	}
	if k.DryRun {
		c.say("would %s %s", verb, amount(touched, noun))
		return false, nil
	}
	if touched < askFrom {
		return true, nil
	}
	fmt.Fprintf(c.stderr, "%s %s? [y/N] ", strings.ToUpper(verb[:1])+verb[1:], amount(touched, noun))
	answer, err := bufio.NewReader(c.stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	}
	c.say("nothing was touched")
	c.code = exitFailed
	return false, nil
}

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
	t, err := flows.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	if d.Explain {
		return c.explain(t, s)
	}
	c.warn(s)
	counted := func() (uint64, error) { return d.show(c, t, s, d.DryRun) }
	if ok, err := d.may(c, "delete", connection, counted); err != nil || !ok {
		return errors.Join(err, s.judged())
	}
	var done flows.Done
	if d.Output.Kind == "" {
		done, err = t.DeleteAll(s.filter)
	} else {
		done, err = d.deleteShown(c, t, s)
	}
	return c.touched("deleted", done, errors.Join(err, s.judged()))
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
	t, err := flows.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	if u.Explain {
		return c.explain(t, s)
	}
	c.warn(s)
	counted := func() (uint64, error) { return count(t.List(s.filter)) }
	if ok, err := u.may(c, "update", connection, counted); err != nil || !ok {
		return errors.Join(err, s.judged())
	}
	var done flows.Done
	if u.Output.Kind == "" {
		done, err = t.UpdateAll(s.filter, change)
	} else {
		done, err = u.updateShown(c, t, s, change)
	}
	return c.touched("updated", done, errors.Join(err, s.judged()))
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

// flush empties a table.
func (k *careful) flush(c *context, noun string, counted func() (uint64, error), flush func() error) error {
	if ok, err := k.may(c, "delete", noun, counted); err != nil || !ok {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	c.say("the %s table has been emptied", noun)
	return nil
}

// entries is how many of a table's count there are, without its limit.
func entries[N int | uint32](n, _ N, err error) (uint64, error) { return uint64(n), err }

type flushCommand struct{ careful }

func (f *flushCommand) Run(c *context) error {
	t, err := flows.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	return f.flush(c, connection, func() (uint64, error) { return entries(t.Count()) }, t.Flush)
}

type createCommand struct {
	criteria.Draft
	rendering
	Add    bool            `group:"New connection" help:"That there is one already is no error."`
	Family criteria.Family `short:"f" placeholder:"FAMILY" group:"Tuples" help:"ipv4 or ipv6: the addresses say it, this only checks."`
	File   string          `arg:"" optional:"" help:"Instead of options: a file of lines as list -o save writes them, conntrack's own too; - is standard input."`
}

func (createCommand) Help() string {
	return `Examples:
  cthelper create -p tcp -s 192.0.2.1 -d 198.51.100.9 --sport 4000 --dport 22 --state ESTABLISHED -t 600
  cthelper create -p udp -s 10.0.0.1 -d 198.51.100.9 --sport 53 --dport 53 -t 30 -n 203.0.113.1:1053
  cthelper list -o save > table; cthelper restore table`
}

func (k *createCommand) Run(c *context) error {
	if k.File != "" {
		return (&restoreCommand{File: k.File}).Run(c)
	}
	labels, err := names.LoadLabels()
	if err != nil {
		return err
	}
	f, err := k.Draft.Flow(labels)
	if err != nil {
		return err
	}
	if k.Family.IsSet() && k.Family.Name == "ipv6" != f.Orig.Src.Addr().Is6() {
		return &caret.Error{Text: k.Family.Name, Message: "the addresses are of the other family"}
	}
	t, err := flows.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	err = t.Create(&f)
	if errors.Is(err, flows.ErrExists) && k.Add {
		c.say("it was there")
		return nil
	}
	if err != nil {
		return err
	}
	c.say("created %s", amount(1, connection))
	if k.Output.Kind == "" {
		return nil
	}
	p, err := k.printer(c, labels, false)
	if err != nil {
		return err
	}
	made, err := t.Get(f.Transport, f.Orig, f.Zone)
	if err == nil {
		err = p.Flow(&made)
	}
	return errors.Join(err, p.End())
}

type restoreCommand struct {
	File string `arg:"" help:"Lines as list -o save writes them, conntrack's own too; - is standard input."`
}

func (restoreCommand) Help() string {
	return `Each line is a command: -A adds (what is there already is left alone), -I creates (what is there already is an
error), -U updates, -D deletes. Blank lines and those that begin with # are left out. The first error ends it.

Example:
  cthelper list -w 11 -o save | sed 's/-w 11/-w 12/' | cthelper restore -`
}

// longestLine is that of a save file.
const longestLine = 64 << 10

func (r *restoreCommand) Run(c *context) error {
	labels, err := names.LoadLabels()
	if err != nil {
		return err
	}
	in := c.stdin
	if r.File != "-" {
		file, err := os.Open(r.File)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	t, err := flows.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	lines := criteria.NewLines()
	text := bufio.NewScanner(in)
	text.Buffer(nil, longestLine)
	made := restored{}
	for n := 1; text.Scan(); n++ {
		line := strings.TrimSpace(text.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := made.line(t, lines, line, labels); err != nil {
			c.say("%s", made)
			return fmt.Errorf("%s:%d: %w", caret.Plain(r.File), n, err)
		}
	}
	c.say("%s", made)
	return text.Err()
}

// restored counts what lines did.
type restored struct{ created, there, updated, deleted uint64 }

func (r restored) String() string {
	text := fmt.Sprintf("created %s", amount(r.created, connection))
	if r.there > 0 {
		text += fmt.Sprintf(", %d were there", r.there)
	}
	if r.updated > 0 {
		text += fmt.Sprintf(", updated %d", r.updated)
	}
	if r.deleted > 0 {
		text += fmt.Sprintf(", deleted %d", r.deleted)
	}
	return text
}

func (r *restored) line(t *flows.Table, lines *criteria.Lines, line string, labels *names.Labels) error {
	command, draft, err := lines.Parse(line)
	if err != nil {
		return err
	}
	switch command {
	case criteria.Delete:
		f, err := draft.Name()
		if err == nil {
			err = t.Delete(&f)
		}
		if err != nil {
			return err
		}
		r.deleted++
	case criteria.Update:
		f, err := draft.Name()
		if err != nil {
			return err
		}
		change, err := draft.Change().Change(labels)
		if err == nil {
			err = t.Update(&f, change)
		}
		if err != nil {
			return err
		}
		r.updated++
	default:
		f, err := draft.Flow(labels)
		if err == nil {
			err = t.Create(&f)
		}
		if errors.Is(err, flows.ErrExists) && command == criteria.Add {
			r.there++
			return nil
		}
		if err != nil {
			return err
		}
		r.created++
	}
	return nil
}
