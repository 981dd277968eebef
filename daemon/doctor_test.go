package daemon_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// TestDoctor: what the doctor says of the kernel is what the nft command finds, and the way that it names is the one
// that a daemon goes.
func TestDoctor(t *testing.T) {
	b := newBed(t, false)
	said := b.command("doctor").ends(0)
	yes := func(what string) bool {
		t.Helper()
		m := regexp.MustCompile(`(?m)^(yes|no) +` + regexp.QuoteMeta(what)).FindStringSubmatch(said)
		if m == nil {
			t.Fatalf("the doctor does not say whether %q:\n%s", what, said)
		}
		return m[1] == "yes"
	}
	queue, target := yes("packets are queued by nft's queue"), yes("packets are queued by the xtables target")
	try := func(command string) bool {
		return strings.Contains(netnstest.New(t).Run("sh", "-c", "if "+command+" >&2; then echo it works; fi"), "it works")
	}
	if got := try("nft 'table inet t { chain c { queue num 1; }; }'"); got != queue {
		t.Errorf("nft's queue expression works: %v, the doctor says %v", got, queue)
	}
	if got := try("iptables-nft -t mangle -A INPUT -j NFQUEUE"); got != target {
		t.Errorf("the xtables target NFQUEUE works: %v, the doctor says %v", got, target)
	}

	d := b.run()
	c := b.connect()
	addr := c.epsv() // announced, and not used
	table := b.firewall.Run("nft", "list", "table", "inet", "cthelperd")
	// The nft command shows the target NFQUEUE as its own queue, and says that it is iptables'.
	if got := !strings.Contains(table, "iptables-nft"); got != queue || !strings.Contains(table, "queue ") {
		t.Errorf("the daemon's rules use nft's queue: %v, the doctor says %v\n%s", got, queue, table)
	}
	if got := strings.Contains(table, "ct expectation"); got != yes("rewritten messages may change their length") {
		t.Errorf("the daemon's rules have the object of size 0: %v, the doctor says %v\n%s", got, !got, table)
	}
	label := "cth-ftp"
	if !yes("expectations hang on helper objects of our own") {
		m := regexp.MustCompile(`in-kernel helper (\S+) as carrier`).FindStringSubmatch(said)
		if m == nil {
			t.Fatalf("the doctor names no carrier:\n%s", said)
		}
		label = m[1]
	}
	if out := b.firewall.Run("conntrack", "-L", "expect"); !strings.Contains(out, "helper="+label+"\n") &&
		!strings.Contains(out, "helper="+label+" ") {
		t.Errorf("the expectations' helper is not %s:\n%s", label, out)
	}
	if out := b.command("rules").ends(0); !strings.Contains(out, `ct helper "`+label+`"`) {
		t.Errorf("the printed rules do not match helper %s:\n%s", label, out)
	}
	if err := c.read(addr); err != nil {
		t.Error(err)
	}
	d.stop()
}
