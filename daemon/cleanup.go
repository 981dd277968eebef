package daemon

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/rules"
)

type cleanupCommand struct{}

// Help is the text behind the flags.
func (cleanupCommand) Help() string {
	return `The table inet cthelperd, shadow masters and expectations of this network namespace, locks that nobody holds,
and own helper objects that no daemon and no connection of the machine uses: where that cannot be known, they stay.
Not while a daemon runs here: it removes its things when it ends. A state file stays.`
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
	kernel, e := expect.Clean()
	err = errors.Join(err, e)
	var objects int
	var kept []string
	if others == 0 {
		objects, kept, e = expect.CleanObjects(cfg.Helpers())
		err = errors.Join(err, e)
	}
	if err != nil {
		return err
	}
	if len(kept) > 0 {
		fmt.Fprintf(p.stdout, "Kept: %s, which connections in other network namespaces, or rules, use.\n", strings.Join(kept, ", "))
	}
	if !table && stale == 0 && objects == 0 && kernel == (expect.Cleaned{}) {
		_, err = fmt.Fprintln(p.stdout, "Nothing was left.")
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "Removed: %s, %d shadow masters with %d expectations, %d helper objects, %d old locks.\n",
		choose(table, "the table inet cthelperd", "no table"), kernel.Shadows, kernel.Expectations, objects, stale)
	return err
}
