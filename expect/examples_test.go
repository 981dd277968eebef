package expect_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// TestExamples runs each example on a real table, and looks at what it prints and what it leaves. There is one for each
// program below utils/ of libnetfilter_conntrack.
func TestExamples(t *testing.T) {
	controls := make([]flows.Flow, 3) // the kernel's helper lets each expect one connection
	for i := range controls {
		controls[i] = flows.Flow{
			Transport: helpers.TCP, Orig: ends(fmt.Sprintf("192.0.2.1:400%d", i), "198.51.100.9:21"), Timeout: 900,
			State: flows.TCPEstablished, Helper: "ftp",
		}
	}
	one := expect.Expectation{
		Transport: helpers.TCP, Tuple: ends("198.51.100.9:0", "192.0.2.1:5001"), MasterTransport: helpers.TCP,
		Master: controls[1].Orig, Timeout: 100,
	}
	two := one
	two.Tuple, two.Master = ends("198.51.100.9:0", "192.0.2.1:5002"), controls[2].Orig
	const line = `((9\d|100) proto=6 src=198.51.100.9 dst=192.0.2.1 sport=0 dport=500%[1]d mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=192.0.2.1 master-dst=198.51.100.9 sport=400%[1]d dport=21 class=0 helper=ftp` + "\n)"
	is := func(n int) string { return fmt.Sprintf(line, n) }
	another := controls[0]
	another.Orig.Src = ends("192.0.2.1:4009", "192.0.2.1:4009").Src
	ns := netnstest.New(t)
	ns.Run("conntrack", "-C") // loads the modules
	ns.Sysctl("net.netfilter.nf_conntrack_events", "1")
	var connections *flows.Table
	var table *expect.Table
	var err error
	ns.Do(func() {
		connections, err = flows.Open()
		if err == nil {
			table, err = expect.Open()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer connections.Close()
	defer table.Close()
	for _, tt := range []struct {
		name, util string
		example    func()
		prints     string   // of all that it prints
		left       []string // lines of conntrack -L expect
		during     func(soFar string, connections *flows.Table, table *expect.Table)
	}{
		{name: "Create", util: "expect_create", example: ExampleTable_Create,
			left: []string{is(1), is(2), strings.ReplaceAll(is(0), `(9\d|100)`, `(5\d|60)`)}},
		{name: "Create_userspace", util: "expect_create_userspace", example: ExampleTable_Create_userspace,
			left: []string{is(1), is(2), `\d+ proto=6 src=192.0.2.7 dst=198.51.100.9 sport=0 dport=50000 .* master-src=192.0.2.7 .* PERMANENT class=0 helper=ftp\n`}},
		{name: "Get", util: "expect_get", example: ExampleTable_Get, left: []string{is(1), is(2)},
			prints: `expected by 192.0.2.1:4001>198.51.100.9:21 with helper ftp\n`},
		{name: "Change", example: ExampleTable_Change, left: []string{strings.ReplaceAll(is(1), `(9\d|100)`, `(99\d|1000)`), is(2)}},
		{name: "Delete", util: "expect_delete", example: ExampleTable_Delete, left: []string{is(2)}},
		{name: "List", util: "expect_dump", example: ExampleTable_List, left: []string{is(1), is(2)},
			prints: is(1) + is(2) + "|" + is(2) + is(1)},
		{name: "Flush", util: "expect_flush", example: ExampleTable_Flush},
		{name: "Watch", util: "expect_events", example: ExampleWatch, left: []string{is(2)},
			during: func(soFar string, _ *flows.Table, table *expect.Table) {
				if strings.Contains(soFar, "all\n") {
					_ = table.Delete(&one)
				}
			},
			prints: `(PRESENT 198.51.100.9:0>192.0.2.1:500[12]\n){2}these are all\nDESTROY 198.51.100.9:0>192.0.2.1:5001\n`},
		{name: "Watch_connections", util: "ctexp_events", example: ExampleWatch_connections, left: []string{is(2)},
			during: func(soFar string, connections *flows.Table, table *expect.Table) {
				if soFar == "watching\n" {
					_ = connections.Create(&another)
				} else {
					_ = table.Delete(&one)
				}
			},
			prints: `watching\nconnection NEW 192.0.2.1:4009>198.51.100.9:21\nexpectation DESTROY 198.51.100.9:0>192.0.2.1:5001\n`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := connections.Flush() // and with them what they expect
			for i := range controls {
				if err == nil {
					err = connections.Create(&controls[i])
				}
			}
			for _, x := range []*expect.Expectation{&one, &two} {
				if err == nil {
					err = table.Create(x)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			printed := ns.Printed(tt.example, func(soFar string) {
				if tt.during != nil {
					tt.during(soFar, connections, table)
				}
			})
			if !regexp.MustCompile(`^(` + tt.prints + `)$`).MatchString(printed) {
				t.Errorf("printed\n%swant\n%s", printed, tt.prints)
			}
			left := ns.Run("sh", "-c", "conntrack -L expect 2>/dev/null")
			if strings.Count(left, "\n") != len(tt.left) {
				t.Errorf("left\n%swant %d", left, len(tt.left))
			}
			for _, want := range tt.left {
				if !regexp.MustCompile(`(?m)^` + want).MatchString(left) {
					t.Errorf("left\n%swant\n%s", left, want)
				}
			}
		})
	}
}
