package flows

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Count is how many entries the table has, and how many the kernel allows it (nf_conntrack_max; 0: this kernel does not
// say).
func (t *Table) Count() (entries, most uint32, err error) {
	entries, most, err = t.conn.Count()
	return entries, most, explain(err, "", nil)
}

// CPUStats are the counters of one processor since the namespace began (struct ip_conntrack_stat, enum ctattr_stats_cpu).
type CPUStats struct {
	CPU                                       int
	Found, Invalid, Insert, InsertFailed      uint32
	Drop, EarlyDrop, Error, SearchRestart     uint32
	ClashResolve, ChainTooLong                uint32 // 0 from kernels that do not count them
	Searched, New, Ignore, Delete, DeleteList uint32 // of old kernels
}

// Stats gives the counters of each processor.
func (t *Table) Stats() ([]CPUStats, error) {
	raw, err := t.conn.Stats(nfnl.CTStatsCPU)
	all := make([]CPUStats, 0, len(raw))
	for _, r := range raw {
		c := r.Counts
		all = append(all, CPUStats{
			CPU: r.CPU, Searched: c[1], Found: c[2], New: c[3], Invalid: c[4], Ignore: c[5], Delete: c[6], DeleteList: c[7],
			Insert: c[8], InsertFailed: c[9], Drop: c[10], EarlyDrop: c[11], Error: c[12], SearchRestart: c[13],
			ClashResolve: c[14], ChainTooLong: c[15],
		})
	}
	return all, explain(err, "", nil)
}

// Settings are those of the calling thread's network namespace (/proc/sys/net/netfilter) that decide what a Flow and a
// Watcher can tell. -1: the kernel does not have it.
type Settings struct {
	Accounting int // nf_conntrack_acct: 1 counts packets and bytes of what begins from then on
	Timestamps int // nf_conntrack_timestamp: likewise for Start and Stop
	Events     int // nf_conntrack_events: 0 none, 1 all, 2 of what began while somebody watched
	Max        int // nf_conntrack_max, the machine's
	Buckets    int // nf_conntrack_buckets, the machine's
}

// ReadSettings reads them. It needs no rights.
func ReadSettings() (Settings, error) {
	var s Settings
	var failed error
	for _, one := range []struct {
		name string
		to   *int
	}{
		{"acct", &s.Accounting}, {"timestamp", &s.Timestamps}, {"events", &s.Events}, {"max", &s.Max}, {"buckets", &s.Buckets},
	} {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_" + one.name)
		if err == nil {
			*one.to, err = strconv.Atoi(strings.TrimSpace(string(text)))
		} else if errors.Is(err, fs.ErrNotExist) {
			*one.to, err = -1, nil
		}
		failed = errors.Join(failed, err)
	}
	return s, failed
}

// Silent says why nobody is told of changes, as an *Off or a *Missing; nil: they are told.
func (s *Settings) Silent() error {
	switch {
	case s.Events == 0:
		return &Off{"events are off", "net.netfilter.nf_conntrack_events=1"}
	case s.Events < 0 && s.Max >= 0: // conntrack is there
		return &Missing{"tell of events", "CONFIG_NF_CONNTRACK_EVENTS"}
	}
	return nil
}
