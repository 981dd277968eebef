package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/criteria"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/flows"
)

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
	const free = flows.StatusSeenReply | flows.StatusAssured | flows.StatusFixedTimeout
	if others := flows.Status(k.Status.Bits) &^ free; others != 0 {
		return &caret.Error{
			Message: fmt.Sprintf("a new connection cannot be %s: want SEEN_REPLY, ASSURED or FIXED_TIMEOUT", strings.Join(names.Status(uint32(others)), ",")),
		}
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
			return usageError{err} // as conntrack(8)
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
	n := 1
	for ; text.Scan(); n++ {
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
	if errors.Is(text.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("%s:%d: longer than %d bytes", caret.Plain(r.File), n, longestLine)
	}
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
