package expect

import (
	"math"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// TestCarriers has each in-kernel carrier keep what its row says, and the kernel evict the oldest beyond that without
// an error: Place must count by itself.
func TestCarriers(t *testing.T) {
	for _, family := range []struct {
		name   string
		number uint8
	}{{"IPv4", unix.AF_INET}, {"IPv6", unix.AF_INET6}} {
		for _, c := range inKernel {
			t.Run(family.name+"/"+c.name, func(t *testing.T) {
				capacity, timeout := c.classes[0].capacity, c.classes[0].timeout
				var conn *nfnl.Conn
				var err error
				netnstest.New(t).Do(func() { conn, err = nfnl.Dial() })
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if ok, err := c.works(conn, family.number); err != nil {
					t.Fatal(err)
				} else if c.name == "irc" && family.number == unix.AF_INET6 { // nf_conntrack_irc_init: IPv4 only
					if ok {
						t.Error("irc carries expectations of IPv6 now: say so where it is chosen")
					}
					return
				} else if !ok {
					t.Skipf("the kernel has no conntrack helper %s for this family and protocol", c.name)
				}
				a := probeAddresses[family.number]
				master := nfnl.Connection{
					Orig:    nfnl.Tuple{Src: a[0], SrcPort: 5, Dst: a[1], Proto: c.l4},
					Reply:   nfnl.Tuple{Src: a[1], Dst: a[0], DstPort: 5, Proto: c.l4},
					Timeout: 600, Helper: c.name,
				}
				if err := conn.CreateConnection(&master); err != nil {
					t.Fatal(err)
				}
				all := all4
				if family.number == unix.AF_INET6 {
					all = all6
				}
				const more = 3
				for i := range uint16(capacity + more) {
					e := nfnl.Expectation{
						Master: master.Orig,
						Tuple:  nfnl.Tuple{Src: a[0], Dst: a[1], DstPort: 40000 + i, Proto: unix.IPPROTO_TCP},
						Mask:   nfnl.Tuple{Src: all, Dst: all, DstPort: math.MaxUint16, Proto: unix.IPPROTO_TCP},
					}
					if err := conn.CreateExpectation(&e); err != nil {
						t.Fatalf("expectation %d: %v", i, err)
					}
				}
				kept := 0
				if err := conn.Expectations(family.number, func(e *nfnl.Expectation) {
					kept++
					if e.Tuple.DstPort < 40000+more {
						t.Errorf("%d was kept, which is among the oldest", e.Tuple.DstPort)
					}
					if e.Timeout > timeout || e.Timeout+10 < timeout {
						t.Errorf("timeout %d s, want %d", e.Timeout, timeout)
					}
				}); err != nil {
					t.Fatal(err)
				}
				if kept != capacity {
					t.Errorf("%d kept, want %d", kept, capacity)
				}
			})
		}
	}
}
