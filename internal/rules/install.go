package rules

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Install puts the table of cfg in place of an older one, in one transaction, in the calling thread's network
// namespace. Counters begin at zero, and connection tracking is on from then on. An older table with the same chains
// keeps its hooks: packets that wait in a queue stay there (the kernel drops them when any hook of the namespace is
// taken off, nf_queue_nf_hook_drop).
func Install(cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	err := install(&cfg, false)
	if err != nil && !errors.Is(err, unix.EPERM) {
		err = install(&cfg, true) // chains of an older version may differ in their hooks
	}
	return wrap("install", err)
}

// install changes the rules in the table that may be there, or makes the table anew.
func install(cfg *Config, anew bool) error {
	b := &batch{xtQueue: !cfg.Features.NFTQueue}
	b.addTable()
	if anew {
		b.deleteTable()
		b.addTable()
	} else {
		b.deleteRules()
	}
	if cfg.Features.ExpectObject {
		const millisecond = 1
		b.addObject(millisecond)
	}
	if originChains(cfg) != nil {
		b.addOrigins()
	}
	chains := layout(cfg)
	for _, c := range chains { // all of them before any rule: rules jump
		b.addChain(c)
	}
	for _, c := range chains {
		for _, r := range c.rules {
			b.addRule(c, r)
		}
	}
	return b.commit()
}

// Remove takes the table away. It is no error if there is none. The kernel drops the packets that wait in a queue, so
// call Clear first and give the last verdicts in between.
func Remove() error {
	var b batch
	b.addTable()
	b.deleteTable()
	return wrap("remove", b.commit())
}

// Clear empties the chains: nothing is queued any more, packets that wait in a queue go on waiting for their verdict.
func Clear() error {
	found, err := Installed()
	if err != nil || !found {
		return err
	}
	var b batch
	b.deleteRules()
	return wrap("clear", b.commit())
}

// Installed says whether there is such a table.
func Installed() (bool, error) {
	found, err := tableExists()
	return found, wrap("look for", err)
}

func wrap(verb string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s table inet %s: %w (%w)", verb, TableName, ErrPermission, err)
	}
	return fmt.Errorf("%s table inet %s: %w", verb, TableName, err)
}
