package daemon

import (
	"fmt"
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/rules"
)

// How often the rules are put back, before it is taken for a fight with another program that takes them away.
const (
	restoresAtOnce = 5
	restoresWithin = time.Minute
)

// ruleGuard knows whether the daemon's own table is whole.
type ruleGuard struct {
	watcher  *rules.Watcher
	broken   bool        // something is missing, and stays so
	restored []time.Time // within the last restoresWithin
	total    uint64      // restored since start
}

// checkRules looks at the daemon's own table after somebody changed it, and puts back what is missing.
func (d *daemon) checkRules() {
	g := &d.guard
	missing, err := rules.Damage(d.rules(d.cfg))
	switch {
	case err != nil:
		d.log.Error("the rules cannot be looked at", "error", err)
		return
	case missing == "":
		d.rulesAreBack()
		return
	case g.broken: // it has been said
		return
	}
	g.broken = true
	d.excuse()
	then := "control connections pass unread"
	if d.cfg.Rules == config.RulesNone { // the table holds what nft cannot load
		then = "without them numbers under NAT cannot be adjusted"
	}
	now := time.Now()
	g.restored = slices.DeleteFunc(g.restored, func(t time.Time) bool { return now.Sub(t) > restoresWithin })
	if len(g.restored) == restoresAtOnce {
		d.log.Error("rules were taken away again: something fights for them, they stay away until SIGHUP", "then", then, "missing", missing,
			"restored", fmt.Sprintf("%d times within %v", restoresAtOnce, restoresWithin))
		return
	}
	if err := d.install(d.cfg); err != nil {
		d.log.Error("rules were taken away and cannot be put back until SIGHUP", "then", then, "missing", missing, "error", err)
		return
	}
	g.restored = append(g.restored, now)
	g.total++
	d.log.Warn("rules were taken away and are back", "missing", missing)
	d.rulesAreBack()
}

// rulesAreBack says that the table is whole, by whomever.
func (d *daemon) rulesAreBack() {
	if d.guard.broken {
		d.guard.broken = false
		d.excuse()
	}
}

// excuse lets connections announce though they are met late: their beginning passed while nobody could read it.
func (d *daemon) excuse() { d.engine.Overflowed(time.Now()) }
