package daemon_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOlderInTurns: many older connections under NAT get their new entries in turns, between which all packets pass.
// None is lost, and the first of them can be adjusted as the last.
func TestOlderInTurns(t *testing.T) {
	b := newBed(t, true)
	const many = 2048 + 200
	b.allowFiles(3 * many) // both ends are this process's
	var all []*ftpClient
	for range many {
		all = append(all, b.connect())
	}
	d := b.run()
	d.says(fmt.Sprintf("connections=%d turns=", many), 1)
	if strings.Contains(d.log.String(), "turns=1\n") {
		t.Error("one turn: nothing is tested")
	}
	for i, c := range all {
		if err := c.asks("NOOP", "200"); err != nil {
			t.Errorf("older connection %d: %v; its entries:\n%s", i, err, b.entries(c))
		}
	}
	b.works("active on the first", all[0].active)
	b.works("active on the last", all[many-1].active)
	d.counts("missed", 0)
	d.stop()
	b.wants("after the end", left{})
}

// allowFiles lets this process have n open files.
func (b *bed) allowFiles(n uint64) {
	b.t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		b.t.Fatal(err)
	}
	if limit.Cur >= n {
		return
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: max(limit.Max, n)}); err != nil {
		b.t.Fatalf("%d open files are allowed, %d are needed: %v", limit.Cur, n, err)
	}
	b.t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			b.t.Error(err)
		}
	})
}

// asks says a command and checks the answer's code.
func (c *ftpClient) asks(command, code string) error {
	if _, err := fmt.Fprintf(c.conn, "%s\r\n", command); err != nil {
		return err // of a connection that was reset before; to read would say EOF
	}
	c.conn.SetReadDeadline(time.Now().Add(patience))
	line, err := c.in.ReadString('\n')
	if err == nil && !strings.HasPrefix(line, code) {
		err = fmt.Errorf("the server says %q, want %s", line, code)
	}
	return err
}

// entries are what the firewall's connection table has of c's port.
func (b *bed) entries(c *ftpClient) (found string) {
	_, port, _ := strings.Cut(c.conn.LocalAddr().String(), ":")
	for line := range strings.Lines(b.firewall.Run("conntrack", "-L")) {
		if strings.Contains(line, "port="+port+" ") {
			found += line
		}
	}
	return found
}
