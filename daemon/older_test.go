package daemon_test

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOlderInTurns: many older connections under NAT get their new entries in turns, between which all packets pass.
// None is lost, and the first of them can be adjusted as the last.
func TestOlderInTurns(t *testing.T) {
	b := newBed(t, true)
	const many = 2048 + 200
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < 3*many { // both ends are this process's
		t.Skipf("%d open files are allowed: too few for both ends of %d connections", limit.Cur, many)
	}
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
