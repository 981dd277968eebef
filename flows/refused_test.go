package flows_test

import (
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// TestNoRights: who has lost the right to, after opening the table or before, is told what it needs, by every call.
func TestNoRights(t *testing.T) {
	ns := netnstest.New(t)
	ns.Sysctl("net.netfilter.nf_conntrack_events", "1")
	f := plain(helpers.TCP, "192.0.2.1:1", "192.0.2.2:2")
	var table *flows.Table
	ns.Do(func() {
		var err error
		if table, err = flows.Open(); err != nil {
			t.Error(err)
			return
		}
		if err := table.Create(&f); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		return
	}
	defer table.Close()
	one := func(seq iter.Seq2[*flows.Flow, error]) (err error) {
		for _, err = range seq {
		}
		return err
	}
	known := func(yield func(*flows.Flow, error) bool) { yield(&f, nil) }
	for what, call := range map[string]func() error{
		"Open":             func() error { _, err := flows.Open(); return err },
		"Watch":            func() error { _, err := flows.Watch(flows.Watching{}); return err },
		"Watch once":       func() error { _, err := flows.Watch(flows.Watching{Once: true}); return err },
		"Count":            func() error { _, _, err := table.Count(); return err },
		"Stats":            func() error { _, err := table.Stats(); return err },
		"Get":              func() error { _, err := table.Get(f.Transport, f.Orig, 0); return err },
		"Has":              func() error { _, err := table.Has(f.Transport, f.Orig, 0); return err },
		"List":             func() error { return one(table.List(nil)) },
		"ListAndZero":      func() error { return one(table.ListAndZero(nil)) },
		"Dying":            func() error { return one(table.Dying(nil)) },
		"Unconfirmed":      func() error { return one(table.Unconfirmed(nil)) },
		"Create":           func() error { return table.Create(&f) },
		"Update":           func() error { return table.Update(&f, &flows.Change{Mark: 1, MarkMask: 1}) },
		"Update of status": func() error { return table.Update(&f, &flows.Change{Status: flows.StatusAssured}) },
		"UpdateAll":        func() error { _, err := table.UpdateAll(nil, &flows.Change{Mark: 1, MarkMask: 1}); return err },
		"Delete":           func() error { return table.Delete(&f) },
		"DeleteAll":        func() error { _, err := table.DeleteAll(nil); return err },
		"DeleteAll of one": func() error {
			_, err := table.DeleteAll(&flows.Filter{Where: func(*flows.Flow) bool { return true }})
			return err
		},
		"DeleteEach": func() error { _, err := table.DeleteEach(known); return err },
		"Flush":      func() error { return table.Flush() },
		"Adjust":     func() error { return table.Adjust(f.Transport, f.Orig, 0, helpers.Original, flows.SeqAdj{}) },
		"Adjustable": func() error { _, err := table.Adjustable(&f); return err },
		"Replace":    func() error { return table.Replace(&f) },
	} {
		var err error
		ns.DoWithoutRights(func() { err = call() })
		if !errors.Is(err, flows.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n, _, err := table.Count(); n != 1 || err != nil {
		t.Errorf("%d entries are left, want 1: %v", n, err)
	}
}

var unload = flag.Bool("unload", false, "take ctnetlink out of the kernel for a test: nobody else may need it meanwhile")

// TestNoTable: where the kernel has no ctnetlink it is said what it lacks.
func TestNoTable(t *testing.T) {
	if !*unload {
		t.Skip("needs CONFIG_NF_CT_NETLINK=m, and a machine on which the module may be taken out: -unload")
	}
	const loader = "/proc/sys/kernel/modprobe" // what the kernel calls for a module that it needs
	path, err := os.ReadFile(loader)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(loader, []byte("/bin/false"), 0); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile(loader, path, 0); err != nil {
			t.Error(err)
		}
	}()
	if out, err := exec.Command("modprobe", "-r", "nf_conntrack_netlink").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for what, open := range map[string]func() error{
		"flows.Open":   func() error { _, err := flows.Open(); return err },
		"flows.Watch":  func() error { _, err := flows.Watch(flows.Watching{}); return err },
		"expect.Open":  func() error { _, err := expect.Open(); return err },
		"expect.Watch": func() error { _, err := expect.Watch(expect.Watching{}); return err },
	} {
		if err := open(); !errors.Is(err, flows.ErrNoTable) || !strings.Contains(err.Error(), "CONFIG_NF_CT_NETLINK") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestNoNetfilter: where the kernel has no netlink of netfilter it is said what it lacks.
func TestNoNetfilter(t *testing.T) {
	for what, open := range map[string]func() error{
		"Open":  func() error { _, err := flows.Open(); return err },
		"Watch": func() error { _, err := flows.Watch(flows.Watching{}); return err },
	} {
		done := make(chan error)
		go func() { // its thread is of no use behind that, and ends with it
			runtime.LockOSThread()
			err := refuseNetfilter()
			if err == nil {
				err = open()
			}
			done <- err
		}()
		if err := <-done; !errors.Is(err, flows.ErrNoTable) || !strings.Contains(err.Error(), "CONFIG_NF_CT_NETLINK") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// refuseNetfilter has the kernel answer this thread as one without nfnetlink does (netlink_create), by seccomp(2).
func refuseNetfilter() error {
	const number, domain, protocol = 0, 16, 32 // struct seccomp_data: nr, args[0], args[2]
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(k uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: skip}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	filter := []unix.SockFilter{
		load(number), unless(unix.SYS_SOCKET, 5),
		load(domain), unless(unix.AF_NETLINK, 3),
		load(protocol), unless(unix.NETLINK_NETFILTER, 1),
		answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)),
		answer(unix.SECCOMP_RET_ALLOW),
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

// TestOff: what is switched off in the kernel is named, with the setting, and nothing is made up.
func TestOff(t *testing.T) {
	ns := netnstest.New(t)
	ns.Run("conntrack", "-C") // loads the modules
	for _, s := range []string{"acct", "timestamp", "events"} {
		ns.Sysctl("net.netfilter.nf_conntrack_"+s, "0")
	}
	ns.Do(func() {
		table, err := flows.Open()
		if err != nil {
			t.Error(err)
			return
		}
		defer table.Close()
		f := plain(helpers.UDP, "192.0.2.1:1", "192.0.2.2:2")
		if err := table.Create(&f); err != nil {
			t.Error(err)
		}
		got, err := table.Get(f.Transport, f.Orig, 0)
		if err != nil || got.Has&(flows.HasCounters|flows.HasTimestamp) != 0 || !got.Start.IsZero() {
			t.Errorf("%+v, %v", got, err)
		}
		s, err := flows.ReadSettings()
		if err != nil || s.Accounting != 0 || s.Timestamps != 0 || s.Events != 0 || s.Max <= 0 || s.Buckets <= 0 {
			t.Errorf("%+v, %v", s, err)
		}
		var off *flows.Off
		if err := s.Silent(); !errors.As(err, &off) || off.Sysctl != "net.netfilter.nf_conntrack_events=1" {
			t.Errorf("silent: %v", err)
		}
		s.Events = -1
		if err := s.Silent(); !errors.Is(err, flows.ErrUnsupported) {
			t.Errorf("without events in the kernel: %v", err)
		}
	})
}

// TestClosed: a table that is closed twice, or used afterwards, meets no file that has got its descriptors' numbers.
func TestClosed(t *testing.T) {
	withTable(t, func(*flows.Table) error {
		table, err := flows.Open()
		if err != nil {
			return err
		}
		if err := table.Close(); err != nil {
			return err
		}
		var others []*os.File
		for range 8 {
			r, w, err := os.Pipe()
			if err != nil {
				return err
			}
			defer r.Close()
			defer w.Close()
			others = append(others, r, w)
		}
		if table.Close() == nil {
			t.Error("closed twice")
		}
		if _, _, err := table.Count(); err == nil {
			t.Error("a closed table counts")
		}
		for _, f := range others {
			if _, err := f.Stat(); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
}

// TestCreateLacks: what must be given is asked for: the kernel takes an entry without an address or a timeout in silence.
func TestCreateLacks(t *testing.T) {
	withTable(t, func(table *flows.Table) error {
		whole := plain(helpers.UDP, "192.0.2.1:1", "192.0.2.2:2")
		for what, change := range map[string]func(*flows.Flow){
			"timeout": func(f *flows.Flow) { f.Timeout = 0 },
			"tuple":   func(f *flows.Flow) { f.Orig = helpers.Tuple{} },
			"family":  func(f *flows.Flow) { f.Orig.Dst = ap("[2001:db8::1]:2") },
		} {
			f := whole
			change(&f)
			if err := table.Create(&f); err == nil || !strings.Contains(err.Error(), "wants a timeout") {
				t.Errorf("%s: %v", what, err)
			}
		}
		return table.Create(&whole)
	})
}
