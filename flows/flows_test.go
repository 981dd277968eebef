package flows_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// inside runs f in a namespace of its own, and fails the test if f does.
func inside(t *testing.T, f func() error) {
	t.Helper()
	var err error
	netnstest.New(t).Do(func() { err = f() })
	if err != nil {
		t.Fatal(err)
	}
}

// withTable gives f the table of a new network namespace.
func withTable(t *testing.T, f func(*flows.Table) error) {
	t.Helper()
	inside(t, func() error {
		table, err := flows.Open()
		if err != nil {
			return err
		}
		return errors.Join(f(table), table.Close())
	})
}

// entry is a connection under DNAT.
func entry(src, dst, server string) nfnl.Connection {
	s, d, n := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst), netip.MustParseAddrPort(server)
	return nfnl.Connection{
		Orig:    nfnl.Tuple{Src: s.Addr(), SrcPort: s.Port(), Dst: d.Addr(), DstPort: d.Port(), Proto: unix.IPPROTO_TCP},
		Reply:   nfnl.Tuple{Src: n.Addr(), SrcPort: n.Port(), Dst: s.Addr(), DstPort: s.Port(), Proto: unix.IPPROTO_TCP},
		Timeout: 60, Mark: 9,
	}
}

// TestTable has the kernel's table answer by both tuples, keep a sequence adjustment whose "before" is 0, and tell of
// the entry's end.
func TestTable(t *testing.T) {
	for _, tt := range []struct{ name, src, dst, server string }{
		{"IPv4", "192.0.2.2:50000", "203.0.113.7:21", "10.0.0.9:21"},
		{"IPv6", "[2001:db8:1::2]:50000", "[2001:db8:3::7]:21", "[fd00::9]:21"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inside(t, func() (err error) {
				conn, err := nfnl.Dial()
				if err != nil {
					return err
				}
				defer conn.Close()
				table, err := flows.Open()
				if err != nil {
					return err
				}
				defer table.Close()
				watcher, err := flows.Watch(flows.Watching{Kinds: flows.News | flows.Destroys})
				if err != nil {
					return err
				}
				defer watcher.Close()

				e := entry(tt.src, tt.dst, tt.server)
				if e, err = carried(conn, e); err != nil {
					return err
				}
				orig := helpers.Tuple{Src: netip.MustParseAddrPort(tt.src), Dst: netip.MustParseAddrPort(tt.dst)}
				reply := helpers.Tuple{Src: netip.MustParseAddrPort(tt.server), Dst: netip.MustParseAddrPort(tt.src)}
				for _, tuple := range []helpers.Tuple{orig, reply} {
					f, err := table.Get(helpers.TCP, tuple, 0)
					if err != nil {
						return err
					}
					if f.Orig != orig || f.Reply != reply || f.Mark != 9 || !f.Translated() || f.Expected() {
						t.Errorf("by %v: %+v", tuple, f)
					}
				}
				if _, err := table.Get(helpers.TCP, orig, 5); !errors.Is(err, flows.ErrNotFound) {
					t.Errorf("in another zone: %v, want ErrNotFound", err)
				}
				f, err := table.Get(helpers.TCP, orig, 0)
				if err != nil {
					return err
				}
				// ctnetlink_create_conntrack gives every entry that it makes the extension.
				if ok, err := table.Adjustable(&f); err != nil || !ok {
					t.Errorf("adjustable %v, error %v", ok, err)
				}
				set := flows.SeqAdj{Pos: 0xfffffff0, Before: 0, After: -12}
				if err := table.Adjust(helpers.TCP, orig, 0, helpers.Reply, set); err != nil {
					return err
				}
				if f, err = table.Get(helpers.TCP, orig, 0); err != nil {
					return err
				}
				if got := f.Adjust[helpers.Reply]; !f.Adjusted || got != set {
					t.Errorf("adjustment read back: %+v, want %+v", got, set)
				}
				if got := f.Adjust[helpers.Original]; got != (flows.SeqAdj{}) {
					t.Errorf("adjustment of the other direction: %+v, want nothing", got)
				}
				seen := 0
				for f, err := range table.List(nil) {
					if err != nil {
						return err
					}
					if f.Orig == orig {
						seen++
					}
				}
				if seen != 1 {
					t.Errorf("listed %d times", seen)
				}
				if err := conn.DeleteConnection(e.Orig, 0); err != nil {
					return err
				}
				select {
				case <-watcher.Ready():
				case <-time.After(5 * time.Second):
					t.Error("no event within 5 s")
					return nil
				}
				events, err := watcher.Take()
				if err != nil {
					return err
				}
				if n := len(events); n != 2 || events[0].Kind != flows.New || events[1].Kind != flows.Destroy || events[1].Flow.Orig != orig {
					t.Errorf("events %+v, want the entry's beginning and end", events)
				}
				return nil
			})
		})
	}
}

// carried creates e with the first helper that the kernel has.
func carried(conn *nfnl.Conn, e nfnl.Connection) (nfnl.Connection, error) {
	var err error
	for _, helper := range []string{"Q.931", "sane", "ftp"} {
		e.Helper = helper
		if err = conn.CreateConnection(&e); err == nil {
			return e, nil
		}
	}
	return e, err
}
