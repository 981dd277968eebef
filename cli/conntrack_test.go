package cli_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
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
		for _, more := range []string{"", "-m 3", "-n " + net.other, "-w 9 --label-add five -u SEEN_REPLY,ASSURED"} {
			add("-p tcp --state ESTABLISHED %s --helper ftp %s", ends(), more)
		}
		add("-p gre -s %s -d %s --srckey 0x10 --dstkey 32", net.src, net.dst)
		add("-p gre -s %s -d %s --srckey 65535 --dstkey 0 -w 8 -u SEEN_REPLY", net.src, net.dst)
		add("-p gre -s %s -d %s --srckey 0 --dstkey 0", net.src, net.dst)
		for _, proto := range []int{2, 50, 51, 89, 255} {
			add("-p %d -s %s -d %s", proto, net.src, net.dst)
		}
	}
	for _, a := range []string{"::203.0.113.1", "fe80::1", "2001:db8:0:1:0:1:0:1", "1::", "::2:0:0:0"} {
		add("-p udp -s 2001:db8::9 -d %s --sport 1 --dport 2", a)
	}
	return all
}

// useLabels has a rule use labels: without one entries have no room for them. And connections are tracked then.
func useLabels(ns *netnstest.NS) {
	ns.Run("nft", "add table inet t; add chain inet t c { type filter hook output priority 0; }; add rule inet t c ct label set 1")
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
	t.Logf("%d kinds of flows", len(all))
	useLabels(ns)
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

// traffic makes entries by packets: with counters, of both families, answered and not, open, half closed and reset,
// translated by a rule, and one that another has led to. What is open stays so until the test ends.
func traffic(t *testing.T, ns *netnstest.NS) {
	t.Helper()
	for _, state := range []string{"udp_timeout", "tcp_timeout_close", "tcp_timeout_close_wait", "tcp_timeout_fin_wait", "tcp_timeout_time_wait"} {
		ns.Sysctl("net.netfilter.nf_conntrack_"+state, "5000") // none ends while the table is looked at
	}
	ns.Run("nft", `table inet nat {
	chain out { type nat hook output priority -100; tcp dport 7001 redirect to :7000; }
	chain back { type nat hook input priority 100; }
}`)
	ns.Do(func() {
		for _, host := range []string{"127.0.0.1", "[::1]"} {
			l, err := net.Listen("tcp", host+":7000")
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { l.Close() })
			for i, port := range []string{":7000", ":7001", ":7000"} {
				c, err := net.Dial("tcp", host+port)
				if err != nil {
					t.Error(err)
					return
				}
				s, err := l.Accept()
				if err == nil {
					t.Cleanup(func() { c.Close(); s.Close() })
					_, err = c.Write([]byte("some bytes"))
				}
				if err == nil && i == 2 {
					err = c.(*net.TCPConn).CloseWrite()
				}
				if err != nil {
					t.Error(err)
				}
			}
			if c, err := net.Dial("tcp", host+":7002"); err == nil { // nobody listens there
				c.Close()
				t.Error("somebody listens")
			}
			answers, err := net.ListenPacket("udp", host+":7000")
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { answers.Close() })
			for _, answered := range []bool{true, false} {
				c, err := net.Dial("udp", host+":7000")
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { c.Close() })
				if _, err := c.Write([]byte("question")); err != nil {
					t.Error(err)
				}
				if answered {
					if _, err := answers.WriteTo([]byte("answer"), c.LocalAddr()); err != nil {
						t.Error(err)
					}
				}
			}
		}
		table, err := flows.Open()
		if err != nil {
			t.Error(err)
			return
		}
		defer table.Close()
		end := netip.MustParseAddrPort
		control := flows.Flow{
			Transport: helpers.TCP, State: flows.TCPEstablished, Timeout: 500, Helper: "ftp",
			Orig: helpers.Tuple{Src: end("10.3.0.1:4000"), Dst: end("10.3.0.2:21")},
		}
		related := control
		related.Helper, related.Orig.Src, related.Orig.Dst = "", end("10.3.0.1:4001"), end("10.3.0.2:5000")
		related.MasterTransport, related.Master = control.Transport, control.Orig
		if err := errors.Join(table.Create(&control), table.Create(&related)); err != nil {
			t.Error(err)
		}
	})
}

// TestEqualsConntrack compares outputs with conntrack(8)'s on the same table, byte for byte.
func TestEqualsConntrack(t *testing.T) {
	ns := filled(t, "nf_conntrack_acct", "nf_conntrack_timestamp")
	traffic(t, ns)
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

// TestEventsEqualConntrack prints the events of each kind of entry beside conntrack(8), as they happen: those of entries
// that begin, change and end, by programs and by packets.
func TestEventsEqualConntrack(t *testing.T) {
	ns := netnstest.New(t)
	ns.Run("conntrack", "-C") // loads the modules
	for _, s := range []string{"acct", "timestamp", "events"} {
		ns.Sysctl("net.netfilter.nf_conntrack_"+s, "1")
	}
	useLabels(ns)
	// conntrack -b sets the buffer of another socket than that of events, so it loses some of more than 160 at once.
	all, least := some(kinds()), 50
	if *pairwise {
		least = 5
	}
	files := ""
	for n := range (len(all) + 49) / 50 {
		file := fmt.Sprintf("%s/%d", t.TempDir(), n)
		if err := os.WriteFile(file, []byte(strings.Join(all[50*n:min(50*n+50, len(all))], "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		files += " " + file
	}
	compared := []struct{ theirs, ours string }{
		{"", "-o conntrack"},
		{"-o xml", "-o xml"},
		{"-e NEW,DESTROY -o extended,id,labels,ktimestamp", "-e NEW,DESTROY -o extended,id,labels,ktimestamp"},
		{"-e UPDATES -p udp -o xml,labels,userspace", "-e UPDATES -p udp -o xml,labels,userspace"},
	}
	start := ""
	for i, c := range compared {
		start += fmt.Sprintf("conntrack -E %s > $T/theirs%d 2>$T/errors%d & running=\"$running $!\"\n", c.theirs, i, i) +
			fmt.Sprintf("cthelper watch %s > $T/ours%d & running=\"$running $!\"\n", c.ours, i)
	}
	stdout := must(t, ns, start+fmt.Sprintf(`
until awk '$2 == 12 && $4 != "00000000" { n++ } END { exit n != %d }' /proc/net/netlink; do sleep 0.05; done
settle() { before=; until now=$(cat $T/ours* $T/theirs* | wc -c); [ "$before" = "$now" ]; do before=$now; sleep 0.2; done; }
for f in %s; do
	cthelper restore $f 2>/dev/null; settle
	cthelper update -p udp -m 5 2>/dev/null
	bash -c 'echo x > /dev/udp/127.0.0.1/9; : < /dev/tcp/127.0.0.1/9' 2>/dev/null
	conntrack -U -s 10.0.0.1 -p udp -m 3 >/dev/null 2>&1
	cthelper flush 2>/dev/null; settle
done
kill $running; wait $running
cat $T/errors* | grep ENOBUFS
for i in 0 1 2 3; do cat $T/theirs$i; echo -----; cat $T/ours$i; echo -----; done`, 2*len(compared), files))
	outputs := strings.Split(stdout, "-----\n")
	for i, c := range compared {
		t.Run(strings.TrimSpace("conntrack -E "+c.theirs), func(t *testing.T) {
			want, got := passingOfEvents.ReplaceAllString(outputs[2*i], "$1"), passingOfEvents.ReplaceAllString(outputs[2*i+1], "$1")
			if n := strings.Count(want, "\n"); n < least {
				t.Errorf("only %d lines were compared", n)
			}
			different(t, want, got)
		})
	}
}

// passingOfEvents is what depends on when an event is printed: an age, and whether the program that caused it has ended.
var passingOfEvents = regexp.MustCompile(`(delta-time=|<deltatime>)\d+| progname=\S+`)

// different fails the test at the first line in which what was got is not as wanted.
func different(t *testing.T, want, got string) {
	t.Helper()
	if want == got {
		return
	}
	for i, line := range lines(want) {
		if others := lines(got); i >= len(others) || others[i] != line {
			t.Fatalf("line %d is\n%s\nof conntrack(8)\n%s", i+1, slices.Concat(others, make([]string, i+1))[i], line)
		}
	}
	t.Fatalf("more than conntrack(8): %s", got[min(len(want), len(got)):])
}

// TestCause: events name the program that caused them, whatever socket it used, as conntrack(8) does.
func TestCause(t *testing.T) {
	ns := netnstest.New(t)
	ns.Run("conntrack", "-C") // loads the modules
	ns.Sysctl("net.netfilter.nf_conntrack_events", "1")
	var tables [2]*flows.Table // their sockets have different ports: that of the process is one's only
	var err error
	ns.Do(func() {
		for i := range tables {
			if err == nil {
				tables[i], err = flows.Open()
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	happens := make(chan error)
	fifo := t.TempDir() + "/ready"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := os.ReadFile(fifo) // until both listen
		for i, table := range tables {
			f := flows.Flow{
				Transport: helpers.UDP, Timeout: 100,
				Orig: helpers.Tuple{Src: netip.MustParseAddrPort(fmt.Sprintf("10.0.0.1:%d", i+1)), Dst: netip.MustParseAddrPort("10.0.0.2:9")},
			}
			err = errors.Join(err, table.Create(&f))
		}
		happens <- err
	}()
	stdout := must(t, ns, `
conntrack -E -o userspace > $T/a 2>/dev/null & theirs=$!
cthelper watch -o userspace > $T/b & ours=$!
until awk '$2 == 12 && $4 != "00000000" { n++ } END { exit n != 2 }' /proc/net/netlink; do sleep 0.05; done
: > `+fifo+`
until [ $(cat $T/a $T/b | wc -l) = 4 ]; do sleep 0.05; done
kill $theirs $ours; wait $theirs $ours
cat $T/a; echo -----; cat $T/b`)
	if err := <-happens; err != nil {
		t.Error(err)
	}
	for _, table := range tables {
		table.Close()
	}
	want, got, _ := strings.Cut(stdout, "-----\n")
	if strings.Count(want, " progname=") != 2 {
		t.Errorf("conntrack(8) names not each:\n%s", want)
	}
	different(t, want, got)
}

// TestExpectEqualsConntrack compares listings and events of expectations with conntrack(8)'s, byte for byte.
func TestExpectEqualsConntrack(t *testing.T) {
	ns := netnstest.New(t)
	ns.Run("conntrack", "-C") // loads the modules
	ns.Sysctl("net.netfilter.nf_conntrack_events", "1")
	var all []expect.Expectation
	ns.Do(func() { all = expectations(t) })
	if len(all) < 40 {
		t.Fatalf("%d kinds of expectations, want 40", len(all))
	}
	for i, c := range []struct{ theirs, ours string }{
		{"-f ipv4", "-f ipv4 -o conntrack"}, {"-f ipv6 -o xml", "-f ipv6 -o xml"}, {"-f ipv6", "-f ipv6 -o conntrack"}, {"-o xml", "-f ipv4 -o xml"},
	} {
		if *pairwise && i%2 != 0 {
			continue
		}
		t.Run(strings.TrimSpace("conntrack -L expect "+c.theirs), func(t *testing.T) {
			same(t, ns, "conntrack -L expect "+c.theirs, "cthelper expect list "+c.ours, 20)
		})
	}
}

// expectations makes at least one of each kind: protocols, families, masks, zones, classes, flags, helpers, timeouts, NAT.
func expectations(t *testing.T) (all []expect.Expectation) {
	connections, err := flows.Open()
	if err != nil {
		t.Error(err)
		return
	}
	defer connections.Close()
	table, err := expect.Open()
	if err != nil {
		t.Error(err)
		return
	}
	defer table.Close()
	for i, net := range []struct{ client, server, other, part string }{
		{"10.1.%d.1", "10.2.0.9", "192.0.2.1", "255.255.255.0"}, {"fd00:1::%d", "fd00:2::9", "2001:db8::1", "ffff:ffff::"},
	} {
		n := 0
		server, other, part := netip.MustParseAddr(net.server), netip.MustParseAddr(net.other), netip.MustParseAddr(net.part)
		add := func(tr helpers.Transport, change func(master *flows.Flow, x *expect.Expectation)) {
			n++ // the kernel's helpers let each of their connections expect few
			client := netip.MustParseAddr(fmt.Sprintf(net.client, n))
			master := flows.Flow{
				Transport: helpers.TCP, State: flows.TCPEstablished, Timeout: 5000, Helper: "ftp",
				Orig: helpers.Tuple{Src: netip.AddrPortFrom(client, 4000), Dst: netip.AddrPortFrom(server, 21)},
			}
			x := expect.Expectation{
				Transport: tr, Timeout: uint32(1000 + 100*n),
				Tuple: helpers.Tuple{Src: netip.AddrPortFrom(server, 0), Dst: netip.AddrPortFrom(client, 5000)},
			}
			if change != nil {
				change(&master, &x)
			}
			x.MasterTransport, x.Master = master.Transport, master.Orig
			if err := connections.Create(&master); err != nil {
				t.Errorf("%d of family %d: %v", n, i, err)
			}
			if err := table.Create(&x); err != nil {
				t.Errorf("%d of family %d: %v", n, i, err)
			}
			all = append(all, x)
		}
		for _, tr := range []helpers.Transport{helpers.TCP, helpers.UDP, 33, 47, 132, 136} { // DCCP, GRE, SCTP, UDPlite
			add(tr, nil)
			add(tr, func(_ *flows.Flow, x *expect.Expectation) { x.Tuple.Src = netip.AddrPortFrom(server, 7) })
		}
		full := netip.AddrPortFrom(part, 0)
		for _, change := range []func(master *flows.Flow, x *expect.Expectation){
			func(_ *flows.Flow, x *expect.Expectation) { x.Mask.Src = full },
			func(_ *flows.Flow, x *expect.Expectation) { x.Flags = expect.FlagPermanent },
			func(_ *flows.Flow, x *expect.Expectation) { x.Flags = expect.FlagInactive },
			func(_ *flows.Flow, x *expect.Expectation) { x.Flags = expect.FlagPermanent | expect.FlagInactive },
			func(_ *flows.Flow, x *expect.Expectation) { x.Flags = expect.FlagUserspace },
			func(master *flows.Flow, x *expect.Expectation) { master.Zone, x.Zone = 5, 5 },
			func(master *flows.Flow, x *expect.Expectation) { master.Zone, x.Zone = 65535, 65535 },
			func(_ *flows.Flow, x *expect.Expectation) { x.Timeout = 0 }, // the class's
			func(_ *flows.Flow, x *expect.Expectation) { x.Timeout = 432000 },
			func(master *flows.Flow, x *expect.Expectation) {
				x.NAT, x.NATDir = true, helpers.Original
				x.NATTuple = helpers.Tuple{Src: netip.AddrPortFrom(other, 5001), Dst: x.Tuple.Dst}
				x.Function = "nat-follow-master"
			},
			func(master *flows.Flow, x *expect.Expectation) { // the server is behind a translation
				master.Reply = helpers.Tuple{Src: netip.AddrPortFrom(other, 21), Dst: master.Orig.Src}
				master.Status = flows.StatusDstNAT
				x.NAT, x.NATDir, x.NATTuple = true, helpers.Reply, helpers.Tuple{Src: netip.AddrPortFrom(other, 0), Dst: x.Tuple.Dst}
			},
		} {
			add(helpers.TCP, change)
		}
	}
	return all
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
	const tries = 6
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
		different(t, want, got)
		t.Fatal(stderr)
	}
}
