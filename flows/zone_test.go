package flows_test

import (
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// TestZoneOfOneDirection has connections of which only one direction is in a zone: the zone is read, and the connection
// is found and changed by its original tuple.
func TestZoneOfOneDirection(t *testing.T) {
	for _, dir := range []string{"original", "reply"} {
		t.Run(dir, func(t *testing.T) {
			ns := netnstest.New(t)
			ns.Run("nft", "add table ip z; "+
				"add chain ip z out { type filter hook output priority -300; }; "+
				"add rule ip z out tcp dport 2121 ct "+dir+" zone set 5")
			ns.Do(func() {
				// Nobody listens, and the answer is dropped before conntrack: the entry stays as it is, SYN_SENT.
				drop := "add chain ip z in { type filter hook output priority -400; }; add rule ip z in tcp sport 2121 drop"
				if out, err := exec.Command("nft", drop).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
					return
				}
				table, err := flows.Open()
				if err != nil {
					t.Error(err)
					return
				}
				defer table.Close()
				connect := exec.Command("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/2121")
				if err := connect.Start(); err != nil {
					t.Error(err)
					return
				}
				defer func() {
					_ = connect.Process.Kill()
					_ = connect.Wait()
				}()
				var found flows.Flow
				for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
					for f, err := range table.List(nil) {
						if err != nil {
							t.Error(err)
							return
						}
						if f.Transport == helpers.TCP && f.Orig.Dst == netip.MustParseAddrPort("127.0.0.1:2121") {
							found = *f
						}
					}
					if found.Orig.Dst.IsValid() {
						break
					}
				}
				if found.Zone != 5 {
					t.Errorf("read %+v, want zone 5", found)
				}
				if err := table.Adjust(helpers.TCP, found.Orig, found.Zone, helpers.Original, flows.SeqAdj{}); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
