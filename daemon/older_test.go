package daemon_test

import (
	"fmt"
	"testing"
)

// TestOlderInTurns: many older connections under NAT get their new entries in turns, between which all packets pass.
// None is lost, and the first of them can be adjusted as the last.
func TestOlderInTurns(t *testing.T) {
	b := newBed(t, true)
	const many = 2048 + 200
	var all []*ftpClient
	for range many {
		all = append(all, b.connect())
	}
	d := b.run()
	d.says(fmt.Sprintf("connections=%d turns=2", many), 1)
	for _, c := range all {
		b.works("a command on an older connection", c.alive)
	}
	b.works("active on the first", all[0].active)
	b.works("active on the last", all[many-1].active)
	d.counts("missed", 0)
	d.stop()
	b.wants("after the end", left{})
}
