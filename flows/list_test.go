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
	inside(t, func() error {
		table, err := flows.Open()
		if err != nil {
			return err
		}
		defer table.Close()
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
			plan := table.Plan(&f)
			t.Logf("%s: kernel %s, here %s, delete %v", what, plan.Kernel, plan.Here, plan.Delete)
			done, err := table.DeleteAll(&f)
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
