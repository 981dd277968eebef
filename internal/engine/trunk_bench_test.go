package engine_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// The time of a call, its end included, among few and among many others in the session of one trunk. The ratio to the
// first is what the others cost.
func BenchmarkTrunk(b *testing.B) {
	for _, nat := range []bool{false, true} {
		first := 0.0
		for _, calls := range []int{10, 1000, 10000} {
			b.Run(fmt.Sprintf("nat=%v/%d", nat, calls), func(b *testing.B) {
				bed := newBed(b, func(c *engine.Config) {
					c.Helpers[1].PerPair = true
					c.Helpers[1].Classes[1].Timeout = time.Hour
					c.Limits = engine.Limits{PerPeer: 1 << 20, Total: 1 << 20, Rate: 1 << 20}
					c.Record = nil
				})
				conn := plainConn(helpers.UDP)
				if nat {
					conn = snatConn(helpers.UDP)
				}
				call := func(n int) string {
					return fmt.Sprintf("open udp 10.0.0.1:%d group %d class 1 paired\nopen udp 10.0.0.1:%d group %d class 1 paired\n",
						2000+2*n, n+1, 2001+2*n, n+1)
				}
				for n := range calls {
					bed.udp(conn, orig, call(n))
				}
				one, end := call(calls), fmt.Sprintf("cancel %d\n", calls+1)
				for b.Loop() {
					bed.done, bed.log = bed.done[:0], bed.log[:0]
					bed.udp(conn, orig, one)
					bed.udp(conn, reply, end)
				}
				each := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
				if first == 0 {
					first = each
				}
				b.ReportMetric(each/first, "of-first")
				if s := bed.e.Stats(); s.Pending != 2*calls || len(s.Refused) > 0 {
					b.Fatalf("%+v", s)
				}
			})
		}
	}
}
