package expect_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// TestReading: what is announced for a helper to read hangs on another shadow than the rest of a session, under the label
// that rules queue; and still does when an earlier process was killed.
func TestReading(t *testing.T) {
	sip := helpers.Helper{
		Name: "expectread", Transport: helpers.UDP, Ports: []uint16{5060}, PerPair: true, Announced: true,
		Classes: []helpers.Class{{Name: "media", Timeout: time.Minute}, {Name: "call", Max: 4, Timeout: time.Minute}},
	}
	overTCP := sip
	overTCP.Transport = helpers.TCP
	for _, family := range []struct{ name, client, server string }{
		{"IPv4", "192.0.2.2", "198.51.100.9"},
		{"IPv6", "2001:db8:1::2", "2001:db8:2::9"},
	} {
		t.Run(family.name, func(t *testing.T) {
			netnstest.New(t).Do(func() {
				k, err := expect.OpenKernel([]helpers.Helper{sip, overTCP})
				if err != nil {
					t.Error(err)
					return
				}
				defer k.Close()
				if k.Label("expectread") == k.Reading("expectread") {
					t.Errorf("media and calls have the label %s: media would be queued", k.Label("expectread"))
				}
				place := func(k *expect.Kernel, id expect.ID, class uint8, reader string, port uint16) {
					q := request(id, 1, family.client, family.server, family.server, port)
					q.Master.Helper, q.Class, q.Helper, q.Transport = "expectread", class, reader, helpers.UDP
					if err := k.Place(q); err != nil {
						t.Errorf("port %d: %v", port, err)
					}
				}
				labels := func() map[uint16]string {
					conn, err := nfnl.Dial()
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					masters, ports := map[nfnl.Tuple]string{}, map[uint16]string{}
					err = conn.Connections(unix.AF_UNSPEC, func(c *nfnl.Connection) { masters[c.Orig] = c.Helper })
					if err == nil {
						err = conn.Expectations(unix.AF_UNSPEC, func(e *nfnl.Expectation) { ports[e.Tuple.DstPort] = masters[e.Master] })
					}
					if err != nil {
						t.Error(err)
					}
					return ports
				}
				check := func(when string, media, calls []uint16) {
					t.Helper()
					got := labels()
					for _, p := range media {
						if got[p] != k.Label("expectread") {
							t.Errorf("%s: media at %d have the label %q, want %q", when, p, got[p], k.Label("expectread"))
						}
					}
					for _, p := range calls {
						if got[p] != k.Reading("expectread") {
							t.Errorf("%s: calls at %d have the label %q, want %q", when, p, got[p], k.Reading("expectread"))
						}
					}
					if len(got) != len(media)+len(calls) {
						t.Errorf("%s: expectations %v", when, got)
					}
				}
				place(k, 1, 1, "expectread", 5070)
				place(k, 2, 0, "", 40000)
				place(k, 3, 0, "", 40001)
				check("at first", []uint16{40000, 40001}, []uint16{5070})
				again, err := expect.OpenKernel([]helpers.Helper{sip, overTCP})
				if err != nil {
					t.Error(err)
					return
				}
				defer again.Close()
				place(again, 1, 0, "", 40002) // in another order
				place(again, 2, 1, "expectread", 5071)
				check("after a restart", []uint16{40000, 40001, 40002}, []uint16{5070, 5071})
				done, err := expect.Clean()
				if err != nil || done.Shadows != 2 || done.Expectations != 5 {
					t.Errorf("cleaned %+v, %v, want 2 shadows and 5 expectations", done, err)
				}
			})
		})
	}
}
