package daemon

import (
	"log/slog"
	"os"
	"runtime"
	"runtime/metrics"
)

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
