package expect_test

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

func ends(src, dst string) helpers.Tuple {
	return helpers.Tuple{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)}
}

// TestTable makes, lists, changes and deletes expectations, beside conntrack(8).
func TestTable(t *testing.T) {
	var failed error
	ns := netnstest.New(t)
	ns.Run("conntrack", "-C")                           // loads the modules
	ns.Sysctl("net.netfilter.nf_conntrack_events", "1") // also of masters that began before somebody watched
	ns.Do(func() { failed = testTable(t) })
	if failed != nil {
		t.Fatal(failed)
	}
}

func testTable(t *testing.T) error {
	master := flows.Flow{
		Transport: helpers.TCP, Orig: ends("10.0.0.1:4000", "192.0.2.1:21"), Timeout: 900, State: 3, Helper: "ftp",
	}
	six := flows.Flow{
		Transport: helpers.TCP, Orig: ends("[fd00::1]:4000", "[fd00::2]:21"), Timeout: 900, State: 3, Helper: "ftp",
	}
	bare := flows.Flow{Transport: helpers.TCP, Orig: ends("10.0.0.3:4000", "192.0.2.1:21"), Timeout: 900, State: 3}
	connections, err := flows.Open()
	if err != nil {
		return err
	}
	defer connections.Close()
	for _, f := range []*flows.Flow{&master, &six, &bare} {
		if err := connections.Create(f); err != nil {
			return err
		}
	}
	table, err := expect.Open()
	if err != nil {
		return err
	}
	defer table.Close()
	watcher, err := expect.Watch(expect.Watching{})
	if err != nil {
		return err
	}
	defer watcher.Close()

	x := &expect.Expectation{
		Transport: helpers.TCP, Tuple: ends("192.0.2.1:0", "10.0.0.1:5000"), Mask: ends("255.255.255.255:0", "255.255.255.255:65535"),
		MasterTransport: helpers.TCP, Master: master.Orig, Timeout: 60, Flags: expect.FlagPermanent | expect.FlagUserspace,
	}
	y := &expect.Expectation{
		Transport: helpers.UDP, Tuple: ends("[fd00::2]:7", "[fd00::1]:5000"),
		Mask:            ends("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
		MasterTransport: helpers.TCP, Master: six.Orig,
	}
	for _, e := range []*expect.Expectation{x, y} {
		if err := table.Create(e); err != nil {
			return err
		}
	}
	for what, change := range map[error]func(*expect.Expectation){
		expect.ErrInTheWay: func(e *expect.Expectation) {
			e.Timeout = 0
			e.Mask = ends("255.255.255.255:65535", "255.255.255.255:65535")
		},
		expect.ErrNoMaster: func(e *expect.Expectation) {
			e.Tuple, e.Master = ends("192.0.2.1:0", "10.0.0.1:5009"), ends("10.9.9.9:1", "192.0.2.1:21")
		},
		expect.ErrNoHelper: func(e *expect.Expectation) { e.Tuple, e.Master = ends("192.0.2.1:0", "10.0.0.1:5009"), bare.Orig },
	} {
		wrong := *x
		change(&wrong)
		if err := table.Create(&wrong); !errors.Is(err, what) {
			t.Errorf("%v, want %v", err, what)
		}
	}
	compare(t, table)
	got, err := table.Get(helpers.TCP, x.Tuple, 0)
	if err != nil {
		return err
	}
	if got.Timeout < 55 || got.Timeout > 60 || got.Helper != "ftp" || got.Flags&expect.FlagPermanent == 0 || got.Master != master.Orig {
		t.Errorf("got %+v", got)
	}
	got.Timeout = 7
	if err := table.Change(&got); err != nil {
		return err
	}
	if again, err := table.Get(helpers.TCP, x.Tuple, 0); err != nil || again.Timeout > 7 || again.Timeout < 5 {
		t.Errorf("%d seconds, %v", again.Timeout, err)
	}
	if n, most, err := table.Count(); err != nil || n != 2 || most < 2 {
		t.Errorf("%d of %d, %v", n, most, err)
	}
	for range table.List() {
		break // a list that is left harms nothing
	}
	if err := table.Delete(x); err != nil {
		return err
	}
	if err := table.Delete(x); !errors.Is(err, expect.ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	created := uint32(0)
	all, err := table.Stats()
	for _, s := range all {
		created += s.Create
	}
	if err != nil || created < 2 {
		t.Errorf("%d created, %v", created, err)
	}
	events := ""
	until, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	for e, err := range watcher.All(until) {
		if err != nil {
			return err
		}
		events += e.Kind.String() + " " + e.Expectation.Tuple.Dst.String() + "; "
		if strings.Count(events, ";") == 4 {
			break
		}
	}
	if want := "NEW 10.0.0.1:5000; NEW [fd00::1]:5000; DESTROY 10.0.0.1:5000; DESTROY [fd00::1]:5000; "; events != want {
		t.Errorf("%q, want %q", events, want)
	}
	return nil
}

// compare lists beside conntrack(8); timeouts go on, so it is for the one before and the one after to agree.
func compare(t *testing.T, table *expect.Table) {
	theirs := func() string {
		all := ""
		for _, family := range []string{"ipv6", "ipv4"} {
			out, err := exec.Command("conntrack", "-L", "expect", "-f", family).Output()
			if err != nil {
				t.Error(err)
			}
			all += string(out)
		}
		return all
	}
	for range 20 {
		before, got := theirs(), ""
		for e, err := range table.List() {
			if err != nil {
				t.Error(err)
				return
			}
			got += e.String() + "\n"
		}
		if theirs() != before {
			continue
		}
		for line := range strings.Lines(before) {
			if !strings.Contains(got, line) {
				t.Errorf("listed\n%sconntrack\n%s", got, line)
			}
		}
		if len(got) != len(before) || strings.Count(got, "\n") != 2 {
			t.Errorf("listed\n%sconntrack\n%s", got, before)
		}
		return
	}
	t.Error("the table did not stand still")
}

// TestTableNoRights: who has no rights is told what it needs, by every call.
func TestTableNoRights(t *testing.T) {
	ns := netnstest.New(t)
	ns.Sysctl("net.netfilter.nf_conntrack_events", "1")
	var table *expect.Table
	var err error
	ns.Do(func() { table, err = expect.Open() })
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	x := expect.Expectation{
		Transport: helpers.TCP, Tuple: ends("192.0.2.1:0", "10.0.0.1:5000"),
		MasterTransport: helpers.TCP, Master: ends("10.0.0.1:4000", "192.0.2.1:21"), Timeout: 9,
	}
	for what, call := range map[string]func() error{
		"Open":   func() error { _, err := expect.Open(); return err },
		"Watch":  func() error { _, err := expect.Watch(expect.Watching{}); return err },
		"Count":  func() error { _, _, err := table.Count(); return err },
		"Stats":  func() error { _, err := table.Stats(); return err },
		"Get":    func() error { _, err := table.Get(x.Transport, x.Tuple, 0); return err },
		"Create": func() error { return table.Create(&x) },
		"Change": func() error { return table.Change(&x) },
		"Delete": func() error { return table.Delete(&x) },
		"Flush":  func() error { return table.Flush() },
		"List": func() (err error) {
			for _, err = range table.List() {
			}
			return err
		},
	} {
		ns.DoWithoutRights(func() { err = call() })
		if !errors.Is(err, flows.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
