package daemon

import (
	"errors"
	"fmt"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/rules"
)

type cleanupCommand struct{}

// Help is the text behind the flags.
func (cleanupCommand) Help() string {
	return `The table inet cthelperd, shadow masters and expectations of this network namespace, own helper objects if no
other daemon of the machine uses them, and locks that nobody holds. Not while a daemon runs here: it removes its things
when it ends. A state file stays.`
}

func (cleanupCommand) Run(p *program) (err error) {
	if err := permitted(); err != nil {
		return err
	}
	l, err := takeLock(lockFolder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.release()) }()

	table, err := rules.Installed()
	if err == nil && table {
		err = rules.Remove()
	}
	stale, others, e := otherLocks(lockFolder, l)
	err = errors.Join(err, e)
	cfg, e := config.Default(p.protocols)
	if e != nil {
		return e
	}
	kernel, e := expect.Clean(cfg.Helpers(), others == 0)
	err = errors.Join(err, e)
	if err != nil {
		return err
	}
	if !table && stale == 0 && kernel == (expect.Cleaned{}) {
		_, err = fmt.Fprintln(p.stdout, "Nothing was left.")
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "Removed: %s, %d shadow masters with %d expectations, %d helper objects, %d old locks.\n",
		choose(table, "the table inet cthelperd", "no table"), kernel.Shadows, kernel.Expectations, kernel.Objects, stale)
	return err
}
