package flows_test

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// TestExamples runs each example on a real table, and looks at what it prints and what it leaves. There is one for each
// program below utils/ of libnetfilter_conntrack.
func TestExamples(t *testing.T) {
	related := plain(helpers.TCP, "192.0.2.1:4000", "198.51.100.9:21")
	related.Mark, related.Helper = 1, "ftp" // a master must have a helper
	ten := plain(helpers.TCP, "192.0.2.1:20", "198.51.100.9:10")
	ten.Mark = 0x107
	ssh, other := plain(helpers.TCP, "192.0.2.2:1022", "198.51.100.9:22"), plain(helpers.UDP, "10.0.0.1:22", "198.51.100.9:22")
	ssh6 := plain(helpers.TCP, "[2001:db8::2]:1022", "[2001:db8::9]:22")
	all := []flows.Flow{related, ten, ssh, other, ssh6}
	without := func(gone ...flows.Flow) (lines []string) {
		for _, f := range all {
			if !strings.Contains(fmt.Sprint(names(gone)), name(&f)) {
				lines = append(lines, name(&f))
			}
		}
		return lines
	}
	const addresses = `src=192.0.2.2 dst=198.51.100.9 sport=1022 dport=22 src=198.51.100.9 dst=192.0.2.2 sport=22 dport=1022`
	ns := netnstest.New(t)
	ns.Run("conntrack", "-C") // loads the modules
	ns.Sysctl("net.netfilter.nf_conntrack_events", "1")
	var table *flows.Table
	var err error
	ns.Do(func() { table, err = flows.Open() })
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	for _, tt := range []struct {
		name, util string
		example    func()
		prints     string                 // of all that it prints
		left       []string               // afterwards
		now        string                 // a line of conntrack -L afterwards
		shows      func(*flows.Flow) bool // of one of them
		during     func(*flows.Table)     // when it has printed "all"
	}{
		{name: "package", util: "the sample of pynetfilter_conntrack", example: Example, left: without(ssh, ssh6),
			prints: `(tcp +6 \d+ ESTABLISHED (` + addresses + `|src=2001:db8::2 dst=2001:db8::9 .* dport=1022) mark=0 use=1\n){2}`},
		{name: "Create", util: "conntrack_create, conntrack_grp_create", example: ExampleTable_Create,
			left: append(without(), "tcp 192.0.2.5:4000>198.51.100.9:80 zone 0"),
			now:  `tcp +6 (9\d|100) SYN_SENT src=192.0.2.5 dst=198.51.100.9 sport=4000 dport=80 `},
		{name: "Create_nat", util: "conntrack_create_nat", example: ExampleTable_Create_nat,
			left: append(without(), "tcp 10.0.0.1:20>198.51.100.9:10 zone 0"),
			now:  `src=10.0.0.1 dst=198.51.100.9 sport=20 dport=10 \[UNREPLIED\] src=198.51.100.9 dst=203.0.113.1 sport=10 dport=20`},
		{name: "Create_master", util: "conntrack_master", example: ExampleTable_Create_master,
			left:  append(without(), "tcp 192.0.2.1:4001>198.51.100.9:50000 zone 0"),
			shows: func(f *flows.Flow) bool { return f.Expected() && f.Master == related.Orig }},
		{name: "Get", util: "conntrack_get", example: ExampleTable_Get, prints: `ESTABLISHED for (29\d|300) more seconds\n`, left: without()},
		{name: "Update", util: "conntrack_update", example: ExampleTable_Update, left: without(),
			now:   `tcp +6 (99\d|1000) ESTABLISHED src=192.0.2.1 .* dport=10 .* mark=263 `, // 0x107 &^ 0xff ^ 7
			shows: func(f *flows.Flow) bool { return f.Status&flows.StatusFixedTimeout != 0 && f.Orig == ten.Orig }},
		{name: "Delete", util: "conntrack_delete", example: ExampleTable_Delete, left: without(ten)},
		{name: "DeleteAll", example: ExampleTable_DeleteAll, prints: "deleted 3\n", left: without(related, ten, ssh)},
		{name: "List", util: "conntrack_dump", example: ExampleTable_List, left: without(),
			prints: `((tcp|udp) .* use=1\n){5}`},
		{name: "List_filter", util: "conntrack_filter", example: ExampleTable_List_filter, left: without(),
			prints: `kernel: transport, mark here: where\ntcp 192.0.2.1:20>198.51.100.9:10\n`},
		{name: "Flush", util: "conntrack_flush", example: ExampleTable_Flush},
		{name: "Watch", util: "conntrack_events", example: ExampleWatch, left: without(other),
			prints: `PRESENT 10.0.0.1:22>198.51.100.9:22\nthese are all\nDESTROY 10.0.0.1:22>198.51.100.9:22\n`,
			during: func(table *flows.Table) { _ = table.Delete(&other) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := table.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := fill(table, all); err != nil {
				t.Fatal(err)
			}
			printed := ns.Printed(tt.example, func(soFar string) {
				if tt.during != nil && strings.Contains(soFar, "all\n") {
					tt.during(table)
				}
			})
			if !regexp.MustCompile(`^(` + tt.prints + `)$`).MatchString(printed) {
				t.Errorf("printed\n%swant\n%s", printed, tt.prints)
			}
			left, err := list(table, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := names(left), sorted(tt.left); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("left\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if tt.shows != nil && !slices.ContainsFunc(left, func(f flows.Flow) bool { return tt.shows(&f) }) {
				t.Errorf("none of %+v is as it should be", left)
			}
			if tt.now == "" {
				return
			}
			if now := ns.Run("conntrack", "-L"); !regexp.MustCompile(tt.now).MatchString(now) {
				t.Errorf("table is\n%swant %s", now, tt.now)
			}
		})
	}
}

// TestSample: the sample of pynetfilter_conntrack, in Go, has 15 lines, and README.md shows it as it is.
func TestSample(t *testing.T) {
	text, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	sample := regexp.MustCompile(`(?ms)^func Example\(\) \{.*?^\}`).Find(text)
	if n := bytes.Count(sample, []byte("\n")) + 1; n > 15 || n < 3 {
		t.Errorf("%d lines, want at most 15:\n%s", n, sample)
	}
	if readme, err := os.ReadFile("../README.md"); err != nil || !bytes.Contains(readme, sample) {
		t.Errorf("README.md does not show it (%v)", err)
	}
}
