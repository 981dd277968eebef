package cli_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/cli"
	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// TestWhy: what a RELATED connection came from, with a shadow as the daemon makes it.
func TestWhy(t *testing.T) {
	const established = 3
	control := flows.Flow{Transport: helpers.TCP, Orig: tuple("10.0.0.1:4000", "192.0.2.1:21"), Timeout: 900, State: established}
	shadow := flows.Flow{Transport: helpers.TCP, Orig: tuple("10.0.0.1:4000", "192.0.2.1:0"), Timeout: 900, Helper: "ftp"}
	related := flows.Flow{
		Transport: helpers.TCP, Orig: tuple("192.0.2.1:20", "10.0.0.1:5000"), Timeout: 900, State: established,
		Master: shadow.Orig, MasterTransport: helpers.TCP,
	}
	pending := expect.Expectation{
		Transport: helpers.TCP, Tuple: tuple("192.0.2.1:0", "10.0.0.1:5001"),
		Mask: tuple("255.255.255.255:0", "255.255.255.255:65535"), MasterTransport: helpers.TCP, Master: shadow.Orig,
	}
	const log = `time=T1 level=INFO msg=expect helper=ftp flow="tcp 10.0.0.1:4000>192.0.2.1:21" class=data transport=tcp from=192.0.2.1:* to=10.0.0.1:5000 dir=orig timeout=300 note="PORT \x1b"
time=T2 level=INFO msg=related helper=ftp flow="tcp 192.0.2.1:20>10.0.0.1:5000" class=data transport=tcp from=192.0.2.1:* to=10.0.0.1:5000 note="RETR \x1b"
`
	var out, errs bytes.Buffer
	var code int
	var failed error
	netnstest.New(t).Do(func() {
		var table *flows.Table
		if table, failed = flows.Open(); failed != nil {
			return
		}
		defer table.Close()
		for _, f := range []*flows.Flow{&control, &shadow, &related} {
			if failed = table.Create(f); failed != nil {
				return
			}
		}
		var other *expect.Table
		if other, failed = expect.Open(); failed != nil {
			return
		}
		defer other.Close()
		if failed = other.Create(&pending); failed != nil {
			return
		}
		code = cli.Run([]string{"why", "--log", "-", "--where", "related"}, strings.NewReader(log), &out, &errs)
	})
	if failed != nil || code != 0 {
		t.Fatalf("exit %d, %v\n%s", code, failed, errs.String())
	}
	want := `tcp 192.0.2.1:20>10.0.0.1:5000 ESTABLISHED
  related    yes: it was expected when it began (status EXPECTED)
  master     tcp 10.0.0.1:4000>192.0.2.1:0, a shadow of cthelperd's: no packet belongs to it
  helper     ftp, of the kernel's, a mere carrier: cthelperd read the connection
  control    tcp 10.0.0.1:4000>192.0.2.1:21 ESTABLISHED
  pending    tcp 192.0.2.1:*>10.0.0.1:5001, for 300 s more
  announced  at T1 by ftp on tcp 10.0.0.1:4000>192.0.2.1:21 (orig): data "PORT \x1b"
  expected   tcp 192.0.2.1:*>10.0.0.1:5000
  used       at T2 for "RETR \x1b"
`
	if got := regexp.MustCompile(`for \d+ s`).ReplaceAllString(out.String(), "for 300 s"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
