package cli_test

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// base is a table in which every row of CONNTRACK.md finds something.
const base = `-I -t 1000 -u SEEN_REPLY,ASSURED -s 10.0.0.1 -d 10.0.0.2 -p tcp --sport 1000 --dport 22 --state ESTABLISHED -m 7 --label-add one
-I -t 1000 -s 10.0.0.1 -d 10.0.0.2 -p tcp --sport 1001 --dport 22 --state SYN_SENT --label-add one,five
-I -t 1000 -s 10.0.0.9 -d 10.0.1.2 -p tcp --sport 1002 --dport 80 --state ESTABLISHED -m 5 -u SEEN_REPLY
-I -t 1000 -s fd00::1 -d fd00::2 -p tcp --sport 1000 --dport 22 --state SYN_SENT
-I -t 1000 -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 1000 --dport 53 -w 5 -m 1
-I -t 1000 -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 1001 --dport 53 --orig-zone 6
-I -t 1000 -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 1002 --dport 53 --reply-zone 7
-I -t 1000 -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 1003 --dport 53 -n 192.0.2.1
-I -t 1000 -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 1004 --dport 53 -g 192.0.2.1:5353 -u SEEN_REPLY,ASSURED,FIXED_TIMEOUT
-I -t 1000 -s 10.0.0.1 -d 10.0.0.2 -p udplite --sport 1003 --dport 53
-I -t 1000 -s 10.0.0.1 -d 10.0.0.2 -p sctp --sport 1000 --dport 22 --state COOKIE_WAIT --orig-vtag 7 --reply-vtag 8
-I -t 1000 -s 10.0.0.1 -d 10.0.0.2 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 77
-I -t 1000 -s fd00::1 -d fd00::2 -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 77
-I -t 1000 -s 10.0.0.1 -d 10.0.0.2 -p gre --srckey 0x10 --dstkey 0x20
-I -t 1000 -s 10.0.0.1 -d 10.0.0.2 -p 50
-I -t 1000 -s 10.0.0.11 -d 10.0.0.2 -p udp --sport 1000 --dport 53
-I -t 1000 -s 10.0.0.13 -d 10.0.0.2 -p tcp --sport 4000 --dport 21 --state ESTABLISHED --helper ftp
-I -t 1000 -s 10.0.0.12 -d 10.0.0.2 -p udp --sport 1000 --dport 53 --label-add one,five
`

// counterparts are the rows of CONNTRACK.md.
func counterparts(t *testing.T) (rows [][2]string) {
	text, err := os.ReadFile("CONNTRACK.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `(conntrack .*)` \\| `(cthelper .*)` \\|$")
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		rows = append(rows, [2]string{strings.ReplaceAll(m[1], `\|`, "|"), strings.ReplaceAll(m[2], `\|`, "|")})
	}
	if len(rows) < 160 {
		t.Fatalf("found %d rows", len(rows))
	}
	return rows
}

// passing is what differs from one moment, or one namespace, to another; timeouts count to 100 seconds.
var (
	passing = regexp.MustCompile(`^\[\d+\.\d+ *\]\t| (id|use|delta-time)=\d+|\[(start|stop)=[^]]*\]|<(id|use|deltatime)>\d+| \[USERSPACE\].*|cpu=\d+|expect_\w+=\d+|(found|search_restart|clash_resolve|insert)=\d+`)
	timeout = regexp.MustCompile(`^((?:ipv\d +\d+ )?\w+ +\d+ )(\d+)|(<timeout>|-t |^ *\[\w+\] (?:ipv\d +\d+ )?\w+ +\d+ )(\d+)|^( *\[\w+\] )?(\d+)( proto=)`)
)

func steady(output string) []string {
	all := lines(output)
	for i := range all {
		all[i] = timeout.ReplaceAllStringFunc(passing.ReplaceAllString(all[i], ""), func(s string) string {
			m := timeout.FindStringSubmatch(s)
			n, _ := strconv.Atoi(m[2] + m[4] + m[6])
			return m[1] + m[3] + m[5] + strconv.Itoa((n+50)/100*100) + m[7]
		})
	}
	slices.Sort(all)
	return all
}

// watching runs a command that prints events while something happens, and ends it.
func watching(command, happens string) string {
	return command + ` &
pid=$!
until awk '$2 == 12 && $4 != "00000000" { exit 0 } { n++ } END { if (NR == n) exit 1 }' /proc/net/netlink; do sleep 0.05; done
` + happens + `
until awk '$2 == 12 && $5 > 0 { n++ } END { exit n > 0 }' /proc/net/netlink; do sleep 0.05; done # what waits to be read
sleep 0.3
kill -TERM $pid
wait $pid
true`
}

// TestCounterparts runs each row of CONNTRACK.md: both print the same, end with the same code and leave the same table.
func TestCounterparts(t *testing.T) {
	theirs, ours := netnstest.New(t), netnstest.New(t)
	file := t.TempDir() + "/base"
	if err := os.WriteFile(file, []byte(base), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ns := range []*netnstest.NS{theirs, ours} {
		ns.Run("conntrack", "-C") // loads the modules
		ns.Sysctl("net.netfilter.nf_conntrack_acct", "1")
		ns.Sysctl("net.netfilter.nf_conntrack_timestamp", "1")
		ns.Sysctl("net.netfilter.nf_conntrack_events", "1") // also of what began before somebody watched
		useLabels(ns)
	}
	run := func(ns *netnstest.NS, command string) (code int, stdout string) {
		code, stdout, stderr := shell(t, ns, "cthelper flush 2>/dev/null; cthelper restore "+file+" 2>/dev/null || exit 97\n"+
			"cthelper expect flush; cthelper expect create -p tcp -s 10.0.0.13 -d 10.0.0.2 --sport 4000 --dport 21 "+
			"--tuple-src 10.0.0.2 --tuple-dst 10.0.0.13 --tuple-port-dst 5000 -t 200 || exit 96\n"+command)
		if code > 90 {
			t.Fatalf("%s: exit %d\n%s", command, code, stderr)
		}
		return code, stdout
	}
	reads := regexp.MustCompile(`^conntrack -[LGCS] ([^z|;]|-z.)*$`)
	var reading, changing [][2]string
	for _, row := range some(counterparts(t)) {
		if reads.MatchString(row[0] + " ") {
			reading = append(reading, row)
		} else {
			changing = append(changing, row)
		}
	}
	silent := 0
	// Those that change nothing are run on one table.
	answers := func(ns *netnstest.NS, column int) []string {
		script := ""
		for _, row := range reading {
			script += "{ " + row[column] + "\n}; echo exit $?; echo =====\n"
		}
		_, stdout := run(ns, script)
		return strings.Split(stdout, "=====\n")
	}
	want, got := answers(theirs, 0), answers(ours, 1)
	for i, row := range reading {
		if want, got := steady(want[i]), steady(got[i]); !slices.Equal(want, got) {
			t.Errorf("%s prints\n%s\n%s prints\n%s", row[0], strings.Join(want, "\n"), row[1], strings.Join(got, "\n"))
		}
		if want[i] == "exit 0\n" {
			silent++
			t.Logf("%s: prints nothing", row[0])
		}
	}
	outcome := func(ns *netnstest.NS, command string) (code int, printed, left []string) {
		if strings.Contains(command, " -E") || strings.Contains(command, " watch") {
			command = watching(command, `conntrack -I -p udp -s 10.9.0.1 -d 10.9.0.2 --sport 9 --dport 9 -t 100
conntrack -U -s 10.0.0.9 -m 3 >&2; conntrack -D -s 10.0.0.9 >&2; conntrack -D -w 5 >&2; conntrack -D -f ipv6 >&2; conntrack -F expect`)
		}
		code, stdout := run(ns, "{ "+command+"\n}\ncode=$?; echo =====; conntrack -L -o labels 2>/dev/null; conntrack -L expect 2>/dev/null; exit $code")
		before, after, _ := strings.Cut(stdout, "=====\n")
		return code, steady(before), steady(after)
	}
	_, _, untouched := outcome(theirs, "true")
	for _, row := range changing {
		code, printed, left := outcome(theirs, row[0])
		gotCode, gotPrinted, gotLeft := outcome(ours, row[1])
		if gotCode != code {
			t.Errorf("%s: exit %d\n%s: exit %d", row[0], code, row[1], gotCode)
		}
		if !slices.Equal(printed, gotPrinted) {
			t.Errorf("%s prints\n%s\n%s prints\n%s", row[0], strings.Join(printed, "\n"), row[1], strings.Join(gotPrinted, "\n"))
		}
		if !slices.Equal(left, gotLeft) {
			t.Errorf("%s leaves\n%s\n%s leaves\n%s", row[0], strings.Join(left, "\n"), row[1], strings.Join(gotLeft, "\n"))
		}
		if code == 0 && len(strings.Join(printed, "")) == 0 && slices.Equal(left, untouched) {
			silent++
			t.Logf("%s: prints and changes nothing", row[0])
		}
	}
	if silent > 6 { // tables that are empty, what is there already
		t.Errorf("%d rows have nothing to do", silent)
	}
}
