package daemon_test

import (
	"strings"
	"testing"
)

// Several queues, and the other driver, do what one queue does.
func TestQueues(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		config string
		queues int
	}{
		"three":      {"queue: {count: 3}", 3},
		"go-nfqueue": {"queue: {driver: go-nfqueue}", 1},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, b *bed) {
				b.fails("a transfer without the daemon", b.connect().passive)
				d := b.run("--config", b.config("%s\n", tt.config))
				if n := len(strings.Fields(b.firewall.Run("cat", "/proc/thread-self/net/netfilter/nfnetlink_queue"))) / 9; n != tt.queues {
					t.Errorf("%d queues, want %d", n, tt.queues)
				}
				for range 3 {
					c := b.connect()
					b.works("passive", c.passive)
					b.works("active", c.active)
				}
				d.says("msg=related", 6)
				d.stop()
				b.wants("after the end", left{})
			})
		})
	}
}
