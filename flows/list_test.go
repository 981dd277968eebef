package flows_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// plain is a connection without NAT.
func plain(tr helpers.Transport, src, dst string) flows.Flow {
	f := flows.Flow{Transport: tr, Orig: helpers.Tuple{Src: ap(src), Dst: ap(dst)}, Timeout: 300, Status: flows.StatusSeenReply}
	switch tr {
	case helpers.TCP, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP:
		f.State = 3
	}
	return f
}

// kinds is a table with a bit of everything.
func kinds() []flows.Flow {
	var all []flows.Flow
	add := func(f flows.Flow, change ...func(*flows.Flow)) {
		for _, c := range change {
			c(&f)
		}
		all = append(all, f)
	}
	add(plain(helpers.TCP, "192.0.2.1:1001", "198.51.100.1:22"))
	add(plain(helpers.TCP, "192.0.2.2:1002", "198.51.100.1:22"), func(f *flows.Flow) { f.Mark = 7 })
	add(plain(helpers.TCP, "192.0.2.2:1003", "198.51.100.2:80"), func(f *flows.Flow) { f.Mark, f.Zone = 8, 5 })
	add(plain(helpers.TCP, "192.0.2.2:1003", "198.51.100.2:80"), func(f *flows.Flow) { f.Status |= flows.StatusAssured })
	add(plain(helpers.TCP, "[2001:db8::1]:1004", "[2001:db8::2]:22"))
	add(plain(helpers.TCP, "[2001:db8::3]:1005", "[2001:db8::2]:22"), func(f *flows.Flow) { f.Mark = 7 })
	add(plain(helpers.UDP, "192.0.2.1:1001", "198.51.100.1:22"))
	add(plain(helpers.UDP, "192.0.2.9:53", "198.51.100.53:53"), func(f *flows.Flow) { f.Zone, f.ZoneDir = 5, flows.ZoneOrig })
	add(plain(helpers.UDP, "[2001:db8::1]:53", "[2001:db8::53]:53"))
	add(plain(unix.IPPROTO_ICMP, "192.0.2.1:77", "198.51.100.1:2048")) // echo request, id 77
	add(plain(unix.IPPROTO_ICMPV6, "[2001:db8::1]:78", "[2001:db8::2]:32768"))
	add(plain(unix.IPPROTO_SCTP, "192.0.2.1:1001", "198.51.100.1:22"))
	add(plain(unix.IPPROTO_UDPLITE, "192.0.2.1:1001", "198.51.100.1:22"))
	add(plain(unix.IPPROTO_GRE, "192.0.2.1:5", "198.51.100.1:6"))
	add(plain(unix.IPPROTO_ESP, "192.0.2.1:0", "198.51.100.1:0"))
	// The server is behind DNAT, the client behind SNAT.
	add(plain(helpers.TCP, "192.0.2.4:1006", "203.0.113.7:443"), func(f *flows.Flow) {
		f.Reply = helpers.Tuple{Src: ap("10.0.0.9:8443"), Dst: ap("192.0.2.4:1006")}
		f.Status |= flows.StatusDstNAT
	})
	add(plain(helpers.UDP, "10.0.0.4:1007", "198.51.100.1:123"), func(f *flows.Flow) {
		f.Reply = helpers.Tuple{Src: ap("198.51.100.1:123"), Dst: ap("203.0.113.1:50007")}
		f.Status |= flows.StatusSrcNAT
	})
	return all
}

// named is a name for each of them.
func name(f *flows.Flow) string { return fmt.Sprintf("%s %s zone %d", f.Transport, f.Orig, f.Zone) }

// fill puts flows into the table.
func fill(table *flows.Table, all []flows.Flow) error {
	for i := range all {
		if err := table.Create(&all[i]); err != nil {
			return err
		}
	}
	return nil
}

// filters are of all kinds that a kernel may test, and some that none does.
func filters() map[string]flows.Filter {
	zone, none := uint16(5), uint16(0)
	both := flows.ZoneBoth
	echo, id := uint8(8), uint16(77)
	echo6 := uint8(128)
	return map[string]flows.Filter{
		"all":            {},
		"IPv4":           {Family: unix.AF_INET},
		"IPv6":           {Family: unix.AF_INET6},
		"tcp":            {Transport: helpers.TCP},
		"udp":            {Transport: helpers.UDP},
		"tcp 22":         {Transport: helpers.TCP, Orig: flows.Ends{DstPort: flows.Port(22)}},
		"22":             {Orig: flows.Ends{DstPort: flows.Port(22)}},
		"tcp 20-30":      {Transport: helpers.TCP, Orig: flows.Ends{DstPort: flows.Ports{Min: 20, Max: 30}}},
		"sctp 22":        {Transport: unix.IPPROTO_SCTP, Orig: flows.Ends{DstPort: flows.Port(22)}},
		"sctp 23":        {Transport: unix.IPPROTO_SCTP, Orig: flows.Ends{DstPort: flows.Port(23)}},
		"tcp from 1003":  {Transport: helpers.TCP, Orig: flows.Ends{SrcPort: flows.Port(1003)}},
		"src":            {Orig: flows.Ends{Src: flows.Addr(netip.MustParseAddr("192.0.2.1"))}},
		"dst":            {Orig: flows.Ends{Dst: flows.Addr(netip.MustParseAddr("198.51.100.1"))}},
		"src6":           {Orig: flows.Ends{Src: flows.Addr(netip.MustParseAddr("2001:db8::1"))}},
		"dst6":           {Orig: flows.Ends{Dst: flows.Addr(netip.MustParseAddr("2001:db8::2"))}},
		"net":            {Orig: flows.Ends{Src: netip.MustParsePrefix("192.0.2.0/29")}},
		"net6":           {Orig: flows.Ends{Src: netip.MustParsePrefix("2001:db8::2/127")}},
		"reply src":      {Reply: flows.Ends{Src: flows.Addr(netip.MustParseAddr("10.0.0.9"))}},
		"reply dst":      {Reply: flows.Ends{Dst: flows.Addr(netip.MustParseAddr("203.0.113.1"))}},
		"reply src6":     {Reply: flows.Ends{Src: flows.Addr(netip.MustParseAddr("2001:db8::2"))}},
		"tcp reply port": {Transport: helpers.TCP, Reply: flows.Ends{SrcPort: flows.Port(8443)}},
		"udp reply to":   {Transport: helpers.UDP, Reply: flows.Ends{DstPort: flows.Port(50007)}},
		"mark":           {Mark: 7, MarkMask: 0xffffffff},
		"mark bit":       {Mark: 8, MarkMask: 8},
		"mark 0":         {Mark: 0, MarkMask: 0xff},
		"assured":        {Status: flows.StatusAssured, StatusMask: flows.StatusAssured},
		"not assured":    {StatusMask: flows.StatusAssured},
		"dnat":           {Status: flows.StatusDstNAT, StatusMask: flows.StatusDstNAT},
		"zone 5":         {Zone: &zone},
		"zone 0":         {Zone: &none},
		"zone 5 both":    {Zone: &zone, ZoneDir: &both},
		"echo":           {Transport: unix.IPPROTO_ICMP, Orig: flows.Ends{ICMPType: &echo}},
		"echo id":        {Transport: unix.IPPROTO_ICMP, Orig: flows.Ends{ICMPID: &id}},
		"echo6":          {Transport: unix.IPPROTO_ICMPV6, Orig: flows.Ends{ICMPType: &echo6}},
		"mixed": {
			Transport: helpers.TCP, Orig: flows.Ends{Src: flows.Addr(netip.MustParseAddr("192.0.2.2")), DstPort: flows.Port(22)},
			Mark: 7, MarkMask: 0xff, Zone: &none,
		},
		"where": {Transport: helpers.TCP, Where: func(f *flows.Flow) bool { return f.Orig.Src.Port()%2 == 0 }},
	}
}

// TestListFiltered compares, for each filter, what is listed with what Match says of the whole table, and what DeleteAll
// deletes with that: whatever part of a filter the kernel tests, or tests wrongly, the answer is the same.
func TestListFiltered(t *testing.T) {
	withTable(t, func(table *flows.Table) error {
		all := kinds()
		if err := fill(table, all); err != nil {
			return err
		}
		whole, err := list(table, nil)
		if err != nil {
			return err
		}
		if len(whole) != len(all) {
			t.Errorf("%d entries of %d", len(whole), len(all))
		}
		for _, planned := range []bool{false, true} {
			if planned {
				table.SetFew(0) // else so few are deleted one by one
			}
			for what, f := range filters() {
				var want, rest []string
				for i := range whole {
					if f.Match(&whole[i]) {
						want = append(want, name(&whole[i]))
					} else {
						rest = append(rest, name(&whole[i]))
					}
				}
				if len(want) == 0 && what != "sctp 23" {
					t.Errorf("%s: means nothing", what)
				}
				listed, err := list(table, &f)
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
				if got := names(listed); !slices.Equal(got, sorted(want)) {
					t.Errorf("%s: listed %q, want %q", what, got, want)
				}
				var plan flows.Plan
				if planned {
					plan = table.Plan(&f)
					t.Logf("%s: kernel %s, here %s, delete %v", what, plan.Kernel, plan.Here, plan.Delete)
				}
				done, err := table.DeleteAll(&f)
				if byKernel := plan.Delete && len(want) > 0; planned && done.Exact == byKernel {
					t.Errorf("%s: deleted %+v, planned %+v", what, done, plan)
				}
				if err != nil {
					t.Errorf("%s: delete: %v", what, err)
				}
				if done.Entries != uint64(len(want)) {
					t.Errorf("%s: deleted %+v, want %d", what, done, len(want))
				}
				left, err := list(table, nil)
				if err != nil {
					return err
				}
				if got := names(left); !slices.Equal(got, sorted(rest)) {
					t.Errorf("%s: left %q, want %q", what, got, rest)
				}
				for i := range all {
					if err := table.Create(&all[i]); err != nil && !errors.Is(err, flows.ErrExists) {
						return err
					}
				}
			}
		}
		return nil
	})
}

func list(table *flows.Table, f *flows.Filter) (all []flows.Flow, err error) {
	for e, err := range table.List(f) {
		if err != nil {
			return nil, err
		}
		all = append(all, *e)
	}
	return all, nil
}

func names(all []flows.Flow) (out []string) {
	for i := range all {
		out = append(out, name(&all[i]))
	}
	return sorted(out)
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

// TestListAllocates has a listing of many entries, filtered and printed, cost as much memory as one of few.
func TestListAllocates(t *testing.T) {
	withTable(t, func(table *flows.Table) error {
		var failed error
		line := make([]byte, 0, 1024)
		even := flows.Filter{Transport: helpers.UDP, Where: func(f *flows.Flow) bool { return f.Orig.Src.Addr().As4()[3]%2 == 0 }}
		cost := func(want int) float64 {
			return testing.AllocsPerRun(5, func() {
				seen := 0
				for f, err := range table.List(&even) {
					if err != nil {
						failed = err
						return
					}
					seen++
					line, _ = f.AppendText(line[:0])
				}
				if seen != want {
					failed = fmt.Errorf("listed %d, want %d", seen, want)
				}
			})
		}
		few := cost(0)
		for i := range 4000 {
			f := numbered(i)
			if err := table.Create(&f); err != nil {
				return err
			}
		}
		if many := cost(2000); many > few+4 { // the runtime's, for a goroutine that waits
			t.Errorf("%v allocations for 4000 entries, %v for none", many, few)
		}
		return failed
	})
}

// TestListWhileChanging leaves a listing, lists within a listing, and changes and deletes what is listed.
func TestListWhileChanging(t *testing.T) {
	const all = 2000
	withTable(t, func(table *flows.Table) error {
		for i := range all {
			f := numbered(i)
			if err := table.Create(&f); err != nil {
				return err
			}
		}
		for _, err := range table.List(nil) {
			if err != nil {
				return err
			}
			break
		}
		outer, inner := 0, 0
		mark := flows.Change{Mark: 9, MarkMask: ^uint32(0)}
		for f, err := range table.List(nil) {
			if err != nil {
				return err
			}
			if outer++; outer == all/2 {
				for _, err := range table.List(&flows.Filter{Mark: 9, MarkMask: ^uint32(0)}) {
					if err != nil {
						return err
					}
					inner++
				}
			}
			if err := table.Update(f, &mark); err != nil {
				return err
			}
			if got, err := table.Get(f.Transport, f.Orig, 0); err != nil || got.Mark != 9 {
				return fmt.Errorf("%s: %w", &got, err)
			}
			if outer%2 == 0 {
				if err := table.Delete(f); err != nil {
					return err
				}
			}
		}
		if n, _, err := table.Count(); outer != all || inner != all/4 || n != all/2 || err != nil {
			t.Errorf("listed %d, within %d, %d are left, error %v; want %d, %d, %d", outer, inner, n, err, all, all/4, all/2)
		}
		return nil
	})
}

// TestUpdate changes whatever can be changed, one by one and many at once, and says why the rest cannot.
func TestUpdate(t *testing.T) {
	withTable(t, func(table *flows.Table) error {
		if err := fill(table, kinds()); err != nil {
			return err
		}
		timeout := uint32(4000)
		c := flows.Change{
			Timeout: &timeout, Mark: 0x50, MarkMask: 0xf0, Status: flows.StatusAssured | flows.StatusFixedTimeout,
		}
		done, err := table.UpdateAll(nil, &c)
		if err != nil {
			return err
		}
		n, _, err := table.Count()
		if err != nil || done.Entries != uint64(n) || !done.Exact {
			t.Errorf("%+v of %d, error %v", done, n, err)
		}
		for f, err := range table.List(nil) {
			if err != nil {
				return err
			}
			if f.Timeout < timeout-60 || f.Mark&0xf0 != 0x50 || f.Status&c.Status != c.Status {
				t.Errorf("%s: status %x", f, f.Status)
			}
		}
		// What is fixed stays so, and it is said.
		again := flows.Change{Timeout: &timeout}
		if done, err := table.UpdateAll(nil, &again); !errors.Is(err, flows.ErrFixed) || done.Refused != uint64(n) {
			t.Errorf("fixed: %+v, %v", done, err)
		}
		fixed := plain(helpers.TCP, "192.0.2.1:1001", "198.51.100.1:22")
		if err := table.Update(&fixed, &again); !errors.Is(err, flows.ErrFixed) || errors.Is(err, flows.ErrPermission) {
			t.Errorf("fixed: %v", err)
		}
		// What is believed of its status is out of date: nothing of that is taken away.
		stale := plain(helpers.TCP, "192.0.2.1:1001", "198.51.100.1:22")
		stale.Has, stale.Status = flows.HasStatus, flows.StatusConfirmed
		if err := table.Update(&stale, &flows.Change{Status: flows.StatusFixedTimeout}); err != nil {
			t.Errorf("stale: %v", err)
		}
		if got, err := table.Get(stale.Transport, stale.Orig, 0); err != nil || got.Status&c.Status != c.Status {
			t.Errorf("stale: %+v, %v", got, err)
		}
		gone := numbered(77)
		if err := table.Update(&gone, &c); !errors.Is(err, flows.ErrNotFound) {
			t.Errorf("error %v, want ErrNotFound", err)
		}
		if err := table.Delete(&gone); !errors.Is(err, flows.ErrNotFound) {
			t.Errorf("error %v, want ErrNotFound", err)
		}
		label := flows.Change{Labels: flows.Labels{1: 2}, LabelsMask: flows.Labels{1: 2}}
		if err := table.Update(&kinds()[0], &label); !errors.Is(err, flows.ErrNoLabels) {
			t.Errorf("error %v, want ErrNoLabels", err)
		}
		none := "none"
		err = table.Update(&kinds()[0], &flows.Change{Helper: &none})
		var e *flows.Error
		if !errors.As(err, &e) || e.Errno == 0 || e.Entry == "" {
			t.Errorf("error %v", err)
		}
		t.Log(err)
		if err := table.Create(&kinds()[0]); !errors.Is(err, flows.ErrExists) {
			t.Errorf("error %v, want ErrExists", err)
		}
		bad := numbered(78)
		bad.Timeout, bad.Helper = 60, none
		err = table.Create(&bad)
		t.Log(err)
		if err == nil {
			t.Error("an entry with a helper that is not there")
		}
		if err := table.Flush(); err != nil {
			return err
		}
		if n, most, err := table.Count(); n != 0 || most == 0 || err != nil {
			t.Errorf("%d entries of %d after a flush, error %v", n, most, err)
		}
		stats, err := table.Stats()
		if err != nil || len(stats) == 0 || stats[0].CPU != 0 {
			t.Errorf("statistics %+v, error %v", stats, err)
		}
		return nil
	})
}

// TestLabels has labels set, added and taken away, and says where there is no room for them.
func TestLabels(t *testing.T) {
	ns := netnstest.New(t)
	ns.Do(func() {
		table, err := flows.Open()
		if err != nil {
			t.Error(err)
			return
		}
		defer table.Close()
		f := numbered(1)
		f.Labels.Set(127)
		if err := table.Create(&f); !errors.Is(err, flows.ErrNoLabels) {
			t.Errorf("error %v, want ErrNoLabels", err)
		}
	})
	useLabels(ns)
	ns.Do(func() {
		table, err := flows.Open()
		if err != nil {
			t.Error(err)
			return
		}
		defer table.Close()
		f := numbered(2)
		f.Labels.Set(127)
		f.Labels.Set(9)
		err = table.Create(&f)
		if err == nil {
			err = table.Update(&f, &flows.Change{Labels: flows.Labels{0: 1}, LabelsMask: flows.Labels{0: 1, 1: 2}})
		}
		got, e := table.Get(f.Transport, f.Orig, 0)
		if want := (flows.Labels{0: 1, 15: 0x80}); errors.Join(err, e) != nil || got.Labels != want || !got.Labels.Has(127) {
			t.Errorf("labels %x, error %v, want %x", got.Labels, errors.Join(err, e), want)
		}
		found, err := list(table, &flows.Filter{Labels: flows.Labels{15: 0x80}})
		if len(found) != 1 || err != nil {
			t.Errorf("found %d with label 127, error %v", len(found), err)
		}
	})
}

// TestDeleteIsOfThatEntry does not delete another entry that has come in the place of the one that was listed.
func TestDeleteIsOfThatEntry(t *testing.T) {
	withTable(t, func(table *flows.Table) error {
		f := numbered(1)
		if err := table.Create(&f); err != nil {
			return err
		}
		old, err := table.Get(f.Transport, f.Orig, 0)
		if err != nil {
			return err
		}
		if err := table.Delete(&old); err != nil {
			return err
		}
		other := numbered(2) // in the old one's place in memory, of which ids are made (nf_ct_get_id)
		for _, f := range []*flows.Flow{&other, &f} {
			if err := table.Create(f); err != nil {
				return err
			}
		}
		if err := table.Delete(&old); !errors.Is(err, flows.ErrNotFound) {
			t.Errorf("error %v, want ErrNotFound", err)
		}
		return table.Delete(&f)
	})
}

// TestDeleteMany: many go by the kernel's own delete if that is known to test all of the filter, of which an empty namespace
// is enough for the usual conditions. What it takes a walk to know is left to Plan.
func TestDeleteMany(t *testing.T) {
	const all = 5000
	zone := uint16(0)
	tcp := flows.Filter{Transport: helpers.TCP}
	udp := flows.Filter{Transport: helpers.UDP}
	for _, tt := range []struct {
		name  string
		f     flows.Filter
		short bool
		gone  uint64
	}{
		{"transport", udp, true, all},
		{"port", flows.Filter{Transport: helpers.UDP, Orig: flows.Ends{DstPort: flows.Port(53)}}, true, all},
		{"IPv4 address", flows.Filter{Orig: flows.Ends{Dst: flows.Addr(netip.MustParseAddr("198.51.100.1"))}}, true, all},
		{"mark and status", flows.Filter{MarkMask: 1, StatusMask: flows.StatusDying}, true, all},
		{"others", tcp, true, 0},
		{"zone", flows.Filter{Transport: helpers.UDP, Zone: &zone}, false, all},
		{"family", flows.Filter{Family: unix.AF_INET}, false, all},
		{"range", flows.Filter{Transport: helpers.UDP, Orig: flows.Ends{DstPort: flows.Ports{Min: 1, Max: 3000}}}, false, all},
	} {
		t.Run(tt.name, func(t *testing.T) {
			withTable(t, func(table *flows.Table) error {
				for i := range all {
					f := numbered(i)
					if err := table.Create(&f); err != nil {
						return err
					}
				}
				done, err := table.DeleteAll(&tt.f)
				if err != nil {
					return err
				}
				plan := table.Plan(&tt.f)
				if plan.Unasked != (tt.short && plan.Delete) {
					t.Errorf("planned %+v", plan)
				}
				byKernel := tt.short && tt.gone > 0 && plan.Delete
				if left, _, err := table.Count(); err != nil || done.Entries != tt.gone || uint64(left) != all-tt.gone || done.Exact == byKernel {
					t.Errorf("deleted %+v, %d are left, %v; by the kernel: %v", done, left, err, byKernel)
				}
				return nil
			})
		})
	}
}

// TestDeleteSampled: where a look at the table's beginning shows that many are meant, they go without being listed; of a few
// each is counted.
func TestDeleteSampled(t *testing.T) {
	withTable(t, func(table *flows.Table) error {
		const all, rare = 3000, 7 // of which 1000 are looked at
		for i := range uint16(all) {
			f := plain(helpers.TCP, fmt.Sprintf("192.0.2.1:%d", 1000+i), "198.51.100.1:80")
			if i < rare {
				f = plain(helpers.TCP, fmt.Sprintf("192.0.2.1:%d", 1000+i), "198.51.100.1:22")
			}
			if err := table.Create(&f); err != nil {
				return err
			}
		}
		table.SetFew(100)
		for _, step := range []struct{ port, gone uint16 }{{22, rare}, {80, all - rare}} {
			f := flows.Filter{Family: unix.AF_INET, Transport: helpers.TCP, Orig: flows.Ends{DstPort: flows.Port(step.port)}}
			byKernel := table.Plan(&f).Delete
			done, err := table.DeleteAll(&f)
			if exact := step.gone == rare || !byKernel; err != nil || done.Entries != uint64(step.gone) || done.Exact != exact {
				t.Errorf("port %d: deleted %+v, %v, want %d, exact %v", step.port, done, err, step.gone, exact)
			}
		}
		left, err := list(table, nil)
		if len(left) != 0 {
			t.Errorf("%d are left", len(left))
		}
		return err
	})
}
