package expect_test

import (
	"errors"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

var ftp = helpers.Helper{
	Name: "ftp", Transport: helpers.TCP,
	Classes: []helpers.Class{{Name: "data", Max: 8, Timeout: 5 * time.Minute}},
}

// request is a passive announcement; the server stands behind DNAT if public is not its own address.
func request(id expect.ID, session uint64, client, public, server string, port uint16) expect.Request {
	c, p, s := netip.MustParseAddr(client), netip.MustParseAddr(public), netip.MustParseAddr(server)
	return expect.Request{
		ID: id, Transport: helpers.TCP, Toward: helpers.Original, Timeout: 5 * time.Minute, NAT: p != s,
		Master: expect.Master{
			Session: session, Helper: "ftp", Transport: helpers.TCP,
			Orig:  helpers.Tuple{Src: netip.AddrPortFrom(c, 50000+uint16(session)), Dst: netip.AddrPortFrom(p, 21)},
			Reply: helpers.Tuple{Src: netip.AddrPortFrom(s, 21), Dst: netip.AddrPortFrom(c, 50000+uint16(session))},
		},
		From: netip.AddrPortFrom(c, 0), At: netip.AddrPortFrom(p, port), To: netip.AddrPortFrom(s, port),
	}
}

// TestKernel drives the kernel's table as a daemon does.
func TestKernel(t *testing.T) {
	// Rules that translate load it, and there are none here; where it is no module this fails, and it is there.
	_ = exec.Command("modprobe", "-q", "nf_nat").Run()
	for _, family := range []struct{ name, client, public, server string }{
		{"IPv4", "192.0.2.2", "198.51.100.9", "198.51.100.9"},
		{"IPv4 DNAT", "192.0.2.2", "203.0.113.7", "10.0.0.9"},
		{"IPv6", "2001:db8:1::2", "2001:db8:2::9", "2001:db8:2::9"},
		{"IPv6 DNAT", "2001:db8:1::2", "2001:db8:3::7", "fd00::9"},
	} {
		t.Run(family.name, func(t *testing.T) {
			netnstest.New(t).Do(func() {
				k, err := expect.OpenKernel([]helpers.Helper{ftp})
				if err != nil {
					t.Error(err)
					return
				}
				defer k.Close()
				t.Logf("way: %s, label %s", k.Way(), k.Label("ftp"))
				used := func(want int) {
					t.Helper()
					if n, _, err := expect.Counts(); err != nil || n != want {
						t.Errorf("%d expectations, error %v, want %d", n, err, want)
					}
				}
				one := func(id expect.ID, session uint64, port uint16) expect.Request {
					return request(id, session, family.client, family.public, family.server, port)
				}
				for id := expect.ID(1); id <= 8; id++ {
					if err := k.Place(one(id, 1, 40000+uint16(id))); err != nil {
						t.Errorf("expectation %d: %v", id, err)
					}
				}
				used(8)
				if err := k.Place(one(20, 2, 40001)); !errors.Is(err, expect.ErrTaken) {
					t.Errorf("the same end point from another session: %v, want ErrTaken", err)
				}
				if err := k.Place(one(21, 2, 41000)); err != nil {
					t.Errorf("another session: %v", err)
				}
				used(9)
				if err := k.Remove(1); err != nil {
					t.Error(err)
				}
				if err := k.Remove(1); err != nil {
					t.Errorf("removed twice: %v", err)
				}
				used(8)
				if lost, err := k.Lost(); err != nil || len(lost) != 0 {
					t.Errorf("lost %v, %v", lost, err)
				}
				if err := k.Forget(1); err != nil {
					t.Error(err)
				}
				used(1)
				done, err := expect.Clean()
				if err != nil || done.Shadows != 1 || done.Expectations != 1 {
					t.Errorf("cleaned %+v, %v, want one shadow and one expectation", done, err)
				}
				used(0)
				if lost, err := k.Lost(); err != nil || len(lost) != 1 || lost[0] != 21 {
					t.Errorf("lost %v, %v, want 21", lost, err)
				}
				k.Used(21)
				if err := k.Place(one(22, 2, 41000)); err != nil {
					t.Errorf("after the connection table was flushed: %v", err)
				}
				used(1)
				again, err := expect.OpenKernel([]helpers.Helper{ftp}) // an earlier process was killed
				if err != nil {
					t.Error(err)
					return
				}
				defer again.Close()
				if err := again.Place(one(1, 3, 41000)); !errors.Is(err, expect.ErrTaken) {
					t.Errorf("an end point that an earlier process opened for another connection: %v, want ErrTaken", err)
				}
				if err := again.Place(one(1, 2, 41000)); err != nil {
					t.Errorf("an end point that an earlier process opened for the same connection: %v", err)
				}
				if err := again.Place(one(3, 2, 41000)); !errors.Is(err, expect.ErrTaken) {
					t.Errorf("an end point that is open: %v, want ErrTaken", err)
				}
				if err := again.Place(one(2, 2, 41001)); err != nil {
					t.Errorf("beside what an earlier process opened: %v", err)
				}
				used(2)
			})
		})
	}
}
