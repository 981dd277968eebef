package daemon

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
)

// summary logs the counters.
func (d *daemon) summary() {
	e := d.engine.Stats()
	args := []any{
		"packets", e.Packets, "announced", e.Announced, "related", e.Related, "edits", e.Edits,
		"flows", e.Flows, "sessions", e.Sessions, "pending", e.Pending,
		"unknown", e.Unknown, "stray", e.Stray, "behind", e.Behind, "undecodable", e.Undecodable, "gaps", e.Gaps, "held-out", e.HeldOut,
		"verdicts-failed", d.failed.Load(), "truncated", d.cut, "log-dropped", d.out.dropped.Load(), "log-limited", d.lines.out,
		"missed", d.missing(), "events-lost", d.eventsLost, "ends-untold", d.untold, "rules-restored", d.guard.total,
		"repaired", d.repairs,
	}
	var refused, wrong []any
	for _, r := range slices.Sorted(maps.Keys(e.Refused)) {
		refused = append(refused, slog.Uint64(string(r), e.Refused[r]))
	}
	for _, h := range slices.Sorted(maps.Keys(e.Errors)) {
		wrong = append(wrong, slog.Uint64(h, e.Errors[h]))
	}
	args = append(args, slog.Group("refused", refused...), slog.Group("errors", wrong...))
	for i, driver := range d.queues {
		name := "queue"
		if len(d.queues) > 1 {
			name = fmt.Sprintf("queue-%d", i)
		}
		if q, err := driver.Stats(); err == nil {
			args = append(args, slog.Group(name, "received", q.Received, "verdicts", q.Verdicts, "overruns", q.Overruns,
				"unknown", q.Unknown, "refused", q.Refused, "failed", q.Failed, "unreadable", q.Unreadable,
				"dropped", q.Kernel.Dropped, "user-dropped", q.Kernel.UserDropped))
		}
	}
	args = append(args, processCounters())
	d.log.Info("counters", args...)
}

// processCounters say what the process holds: a leak shows here. heap is what the last collection found alive, in bytes.
func processCounters() slog.Attr {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	heap := uint64(0)
	if live[0].Value.Kind() == metrics.KindUint64 {
		heap = live[0].Value.Uint64()
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		files = nil
	}
	return slog.Group("process", "goroutines", runtime.NumGoroutine(), "heap", heap, "files", len(files))
}
