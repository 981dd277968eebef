package cli_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// kinds are lines that create at least one entry of each kind: protocols, families, states, zones, labels, marks, NAT,
// helpers, status, odd addresses.
func kinds() []string {
	var all []string
	n := 0
	add := func(format string, args ...any) {
		n++
		all = append(all, fmt.Sprintf("-I -t %d ", 1000+100*n)+fmt.Sprintf(format, args...))
	}
	for _, net := range []struct{ src, dst, other, icmp string }{
		{"10.0.0.1", "10.0.0.2", "192.0.2.1", "icmp"}, {"fd00::1", "fd00::2", "2001:db8::1", "icmpv6"},
	} {
		ends := func() string { return fmt.Sprintf("-s %s -d %s --sport %d --dport 80", net.src, net.dst, 2000+n) }
		for _, state := range []string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "LISTEN"} {
			add("-p tcp --state %s %s", state, ends())
		}
		for _, state := range []string{"CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT"} {
			add("-p sctp --state %s --orig-vtag 7 --reply-vtag 4294967295 %s", state, ends())
		}
		for _, state := range []string{"REQUEST", "RESPOND", "PARTOPEN", "OPEN", "CLOSEREQ", "CLOSING", "TIMEWAIT"} {
			for _, role := range []string{"client", "server"} {
				// A kernel without DCCP has no ports of it, so another address for each.
				add("-p dccp --state %s --role %s -s %s%d -d %s --sport 1 --dport 2", state, role, net.src, n%100, net.dst)
			}
		}
		for _, proto := range []string{"udp", "udplite", "tcp --state ESTABLISHED"} {
			for _, more := range []string{
				"", "-w 5", "-w 65535", "--orig-zone 6", "--reply-zone 7", "-m 1", "-m 4294967295", "--label-add one", "--label-add one,five,last",
				"--label-add 3", "-u SEEN_REPLY", "-u SEEN_REPLY,ASSURED", "-u ASSURED,FIXED_TIMEOUT", "-u SEEN_REPLY,ASSURED,FIXED_TIMEOUT",
				"-n " + net.other, "-g " + net.other, "-n " + net.other + " -g " + net.other, "-m 7 -w 3 -u SEEN_REPLY --label-add five -n " + net.other,
				"--reply-port-dst 9000 -n " + net.other, "--reply-port-src 9001 -g " + net.other,
			} {
				add("-p %s %s %s", proto, ends(), more)
			}
		}
		types := []int{8, 13, 15, 17}
		if net.icmp == "icmpv6" {
			types = []int{128, 139}
		}
		for _, typ := range types {
			add("-p %s -s %s -d %s --icmp-type %d --icmp-code 0 --icmp-id %d", net.icmp, net.src, net.dst, typ, n)
		}
		add("-p gre -s %s -d %s --srckey 0x10 --dstkey 32", net.src, net.dst)
		for _, proto := range []int{2, 50, 51, 89, 255} {
			add("-p %d -s %s -d %s", proto, net.src, net.dst)
		}
	}
	for _, a := range []string{"::203.0.113.1", "fe80::1", "2001:db8:0:1:0:1:0:1", "1::", "::2:0:0:0"} {
		add("-p udp -s 2001:db8::9 -d %s --sport 1 --dport 2", a)
	}
	return all
}

// filled is a namespace with an entry of each kind.
func filled(t *testing.T, sysctls ...string) *netnstest.NS {
	t.Helper()
	ns := netnstest.New(t)
	ns.Run("conntrack", "-C") // loads the modules
	for _, s := range sysctls {
		ns.Sysctl("net.netfilter."+s, "1")
	}
	all := kinds()
	if len(all) < 200 {
		t.Fatalf("%d kinds of flows, want 200", len(all))
	}
	// Entries have room for labels if a rule uses them.
	ns.Run("nft", "add table inet t; add chain inet t c { type filter hook output priority 0; }; add rule inet t c ct label set 1")
	file := t.TempDir() + "/kinds"
	if err := os.WriteFile(file, []byte("# made by a test\n\n"+strings.Join(all, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := shell(t, ns, "cthelper restore "+file)
	if code != 0 || !strings.Contains(stderr, fmt.Sprintf("created %d connections", len(all))) {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	return ns
}

// TestEqualsConntrack compares outputs with conntrack(8)'s on the same table, byte for byte.
func TestEqualsConntrack(t *testing.T) {
	ns := filled(t, "nf_conntrack_acct", "nf_conntrack_timestamp")
	for i, c := range []struct{ theirs, ours string }{
		{"", "-o conntrack"},
		{"-o extended", "-o extended"},
		{"-o id", "-o id"},
		{"-o ktimestamp", "-o ktimestamp"},
		{"-o timestamp", "-o timestamp"},
		{"-o labels", "-o labels"},
		{"-o extended,id,ktimestamp,labels", "-o extended,id,ktimestamp,labels"},
		{"-o xml", "-o xml"},
		{"-o xml,labels,ktimestamp", "-o xml,labels,ktimestamp"},
		{"-o xml,extended,timestamp,id", "-o xml,extended,timestamp,id"},
		{"-o save", "-o conntrack,save"},
		{"-f ipv6", "-f ipv6 -o conntrack"},
		{"-f ipv4 -o xml", "-f ipv4 -o xml"},
	} {
		if *pairwise && i%3 != 0 {
			continue
		}
		t.Run(strings.TrimSpace("conntrack -L "+c.theirs), func(t *testing.T) {
			same(t, ns, "conntrack -L "+c.theirs, "cthelper list "+c.ours, 100)
		})
	}
}

// TestSaveWhole: what -o save writes makes the same table, marks and labels included, which conntrack(8)'s own way loses.
func TestSaveWhole(t *testing.T) {
	ns := filled(t)
	const list = "conntrack -L -o labels 2>/dev/null"
	out := must(t, ns, list+"; echo =====; cthelper list -o save > $T/s && cthelper flush && cthelper restore $T/s && "+list+
		"; echo =====; cthelper flush; cthelper list -o conntrack,save > $T/s; cthelper restore $T/s")
	parts := strings.Split(out, "=====\n")
	if before, after := steady(parts[0]), steady(parts[1]); !slices.Equal(before, after) {
		for i := range min(len(before), len(after)) {
			if before[i] != after[i] {
				t.Errorf("%s\nbecame\n%s", before[i], after[i])
			}
		}
		t.Errorf("%d entries, %d before", len(after), len(before))
	}
}

// same runs both on a table that stands still, and compares what they print. Timeouts and ages go on, so it is for the
// one before and the one after to agree. On a machine so busy that they never do, all but the seconds is compared.
func same(t *testing.T, ns *netnstest.NS, theirs, ours string, atLeast int) {
	t.Helper()
	script := fmt.Sprintf("%s > $T/a 2>/dev/null; %s > $T/b; %s > $T/c 2>/dev/null; cmp -s $T/a $T/c; moved=$?; echo; cat $T/a; echo -----; cat $T/b; exit $moved", theirs, ours, theirs)
	seconds := regexp.MustCompile(`(?m)^((?:ipv[46] +\d+ )?\w+ +\d+ )\d+|(delta-time=|-t |<timeout>|<deltatime>)\d+`)
	const tries = 20
	for try := range tries {
		moved, stdout, stderr := shell(t, ns, script)
		if moved != 0 && try < tries-1 {
			continue
		}
		want, got, _ := strings.Cut(strings.TrimPrefix(stdout, "\n"), "-----\n")
		if moved != 0 {
			want, got = seconds.ReplaceAllString(want, "$1$2N"), seconds.ReplaceAllString(got, "$1$2N")
		}
		if want == got && stderr == "" {
			if n := strings.Count(want, "\n"); n < atLeast {
				t.Errorf("only %d lines were compared", n)
			}
			return
		}
		for i, line := range lines(want) {
			if others := lines(got); i >= len(others) || others[i] != line {
				t.Fatalf("%s and %s differ in line %d:\n%s\n%s\n%s", theirs, ours, i+1, line, slices.Concat(others, make([]string, i+1))[i], stderr)
			}
		}
		t.Fatalf("%s prints more than %s: %s\n%s", ours, theirs, got[min(len(want), len(got)):], stderr)
	}
}
