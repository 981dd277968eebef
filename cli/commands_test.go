package cli_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// small is a table of 6 connections.
const small = `-I -t 1000 -u SEEN_REPLY,ASSURED -s 10.0.0.1 -d 10.0.0.2 -p tcp --sport 1000 --dport 22 --state ESTABLISHED -m 7
-I -t 2000 -s 10.0.0.1 -d 10.0.0.2 -p tcp --sport 1001 --dport 22 --state SYN_SENT
-I -t 3000 -s 10.0.0.9 -d 10.0.1.2 -p tcp --sport 1002 --dport 80 --state ESTABLISHED
-I -t 4000 -s fd00::1 -d fd00::2 -p tcp --sport 1000 --dport 22 --state SYN_SENT
-I -t 5000 -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 1003 --dport 53 -n 192.0.2.1
-I -t 6000 -s 10.0.0.1 -d 10.0.0.2 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 77
`

// bed is a namespace with the small table before each script.
func bed(t *testing.T) (run func(script string) (code int, stdout, stderr string)) {
	ns := netnstest.New(t)
	file := t.TempDir() + "/small"
	if err := os.WriteFile(file, []byte(small), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(script string) (int, string, string) {
		t.Helper()
		return shell(t, ns, "cthelper flush 2>/dev/null; cthelper restore "+file+" 2>/dev/null || exit 97\n"+script)
	}
}

// master makes a connection with a helper, and an expectation of it.
const master = `cthelper create -p tcp -s 10.0.0.8 -d 10.0.0.2 --sport 1 --dport 21 --state ESTABLISHED -t 900 --helper ftp
cthelper expect create -p tcp -s 10.0.0.8 -d 10.0.0.2 --sport 1 --dport 21 --tuple-src 10.0.0.2 --tuple-dst 10.0.0.8 --tuple-port-dst 5
`

func TestCommands(t *testing.T) {
	run := bed(t)
	for _, x := range some([]struct {
		script         string
		code           int
		stdout, stderr string // parts, with | between
	}{
		{"cthelper list", 0, "PROTO|10.0.0.1:1000|[fd00::1]:1000|type 8 code 0 id 77|s 192.0.2.1:1003|7", ""},
		{"cthelper list | wc -l", 0, "7", ""},
		{"cthelper list --columns source,mark,id | head -1", 0, "SOURCE", ""},
		{"cthelper list --columns sauce", 2, "", "unknown column. Known are event proto|cthelper list --columns sauce\n                          ^"},
		{"cthelper list --sort timeout --columns timeout | tr -d ' ' | tail -6 | sort -rnc", 0, "", ""},
		{"cthelper list --sort timeout --top 2 --columns timeout,proto", 0, "icmp|udp", ""},
		{"cthelper list --sort timeout --reverse --top 1 --columns source", 0, "10.0.0.1:1000\n", ""},
		{"cthelper list --sort nothing", 2, "", "unknown field. Known are proto family|^"},
		{"cthelper list --top 2 -o json | wc -l", 0, "2\n", ""},
		{"cthelper list nonsense", 2, "", "must be one of|^"},
		{"cthelper list -p tcp --orig-port-dst 22x", 2, "", `want a number|` + "  cthelper list -p tcp --orig-port-dst 22x\n                                       ^\n"},
		{"cthelper list -ptcp -s10.0.0.x", 2, "", "want an address|  cthelper list -ptcp -s10.0.0.x\n                        ^\n"},
		{"cthelper list --where 'orig.dport == 22 && foo'", 2, "", "unknown: foo|                                           ^"},
		{"cthelper list --where 'orig.dport =='", 2, "", "Syntax error|^"},
		{"cthelper list --top x", 2, "", "expected a valid 64 bit int|  cthelper list --top x\n                ^\n"},
		{"cthelper list --dport 3 -p", 2, "", "  cthelper list --dport 3 -p\n                          ^\n"},
		{"cthelper expect update", 2, "", "missing flags|Try 'cthelper expect update --help'"},
		{"cthelper list --mask-src 255.0.0.0", 2, "", "needs one address"},
		{"cthelper list -c 3", 2, "", "security contexts"},
		{"cthelper list -o json,xml", 2, "", "there is a kind of output already: json|^"},
		{"cthelper list -o json,id", 2, "", "json goes with nothing else"},
		{"cthelper list -o nothing", 2, "", "want one of table conntrack"},
		{"cthelper list -l nolabel", 2, "", "unknown label"},
		{"cthelper list --explain -p tcp --dport 22 --where 'bytes > 3 || mark == 7'", 0,
			`condition|proto == "6" && orig.dport == 22 && (bytes > 3 || mark == 7)|tested by the kernel|interpreted here       bytes > 3 \|\| mark == 7`, ""},
		{"cthelper count --explain --where 'helper == \"\x1b\"'", 0, `helper == "\x1b"`, ""},
		{"cthelper list --where 'bytes > 3'", 0, "", "bytes is not counted: sysctl -w net.netfilter.nf_conntrack_acct=1"},
		{"cthelper list --where 'age > 3'", 0, "", "sysctl -w net.netfilter.nf_conntrack_timestamp=1"},
		{"cthelper list --sort orig.packets --columns source,age", 0, "10.0.0.1:1000", "nf_conntrack_acct=1|age is not known: sysctl"},
		{"cthelper list -z -o ktimestamp", 0, "10.0.0.1", "packets is not counted|age is not known"},
		{"cthelper list --where '100 / mark > 20' -o conntrack", 1, "", "no value for 5 connections, which were left out: division by zero"},
		{"cthelper list --where '100 / mark > 10' -o conntrack", 1, "mark=7", "no value for 5 connections"},
		{"cthelper count", 0, "6\n", ""},
		{"cthelper count -p tcp", 0, "4\n", ""},
		{"cthelper count -f ipv6", 0, "1\n", ""},
		{"cthelper count --dport 1-100", 0, "5\n", ""},
		{"cthelper count --explain -m 7", 0, "tested by the kernel   mark", ""},
		{"cthelper delete -p tcp --dport 22 --where 'bytes > 3' --explain", 0, "deleted                in batches", ""},
		{"cthelper get -p tcp -s fd00::1 -d fd00::2 --sport 1000 --dport 22 -o conntrack", 0, "src=fd00::1", ""},
		{"cthelper get -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 22", 1, "", "no such connection"},
		{"cthelper get -p tcp", 2, "", "needs --src and --dst|Try 'cthelper get --help'"},
		{"cthelper delete", 2, "", "needs a condition"},
		{"cthelper delete -p tcp --dry-run; cthelper count", 0, "6\n", "would delete 4 connections"},
		{"cthelper delete -p tcp --dry-run -o conntrack", 0, "dport=80|src=fd00::1", "would delete 4"},
		{"cthelper delete -p tcp --orig-port-src 1000; cthelper count", 0, "4\n", "2 connections"},
		{"cthelper delete -p tcp --dport 22 -o conntrack; cthelper count", 0, "sport=1001|\n3\n", "deleted 3 connections"},
		{"cthelper delete -p tcp --dport 23", 1, "", "0 connections"},
		{"cthelper delete --where 'timeout > 4500'; cthelper count", 0, "4\n", "2 connections"},
		{"cthelper delete -m 7 --explain; cthelper count", 0, "deleted|6\n", ""},
		{"cthelper update -p tcp -m 9; cthelper count -m 9", 0, "4\n", "updated 4 connections"},
		{"cthelper update -p tcp --dry-run -m 9; cthelper count -m 9", 0, "0\n", "would update 4 connections"},
		{"cthelper update -p tcp", 2, "", "needs something to change"},
		{"cthelper update --dport 99 -m 1", 1, "", "updated 0 connections"},
		{"cthelper update -p udp -t 77 -u FIXED_TIMEOUT -o conntrack; cthelper count --where fixed", 0, "udp      17 7|1\n", "updated 1 connection"},
		{"cthelper create -p udp -s 10.0.0.7 -d 10.0.0.8 --sport 1 --dport 2 -t 9; cthelper count", 0, "7\n", "created 1 connection\n"},
		{"cthelper create -p udp -s 10.0.0.7 -d 10.0.0.8 --sport 1 --dport 2 -t 9 -g 192.0.2.1:5 -o conntrack", 0, "src=192.0.2.1 dst=10.0.0.7 sport=5 dport=1", ""},
		{"cthelper create -p udp -s 10.0.0.7 -d 10.0.0.8 -t 9", 2, "", "needs --sport and --dport"},
		{"cthelper create -p udp -s 10.0.0.7 -d 10.0.0.8 --sport 1 --dport 2 -t 9 -u ASSURED,EXPECTED", 2, "", "cannot be EXPECTED: want SEEN_REPLY"},
		{"cthelper create -p udp -s 10.0.0.7 -d 10.0.0.8 --sport 1 --dport 2 -t 9 --orig-zone 1 --reply-zone 2", 2, "", "no more than one of --zone"},
		{"cthelper update -p udp -u FIXED_TIMEOUT; cthelper update -p udp -t 5", 1, "", "its timeout is fixed"},
		{"cthelper create -f ipv6 -p udp -s 10.0.0.7 -d 10.0.0.8 --sport 1 --dport 2 -t 9", 2, "", "other family"},
		{"cthelper create -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1000 --dport 22 -t 9 --state CLOSE", 1, "", "there is one with this tuple"},
		{"echo '-A -t 9 -s 10.0.0.x' | cthelper restore -", 2, "", "-:1: |want an address|  -A -t 9 -s 10.0.0.x\n             ^"},
		{"echo '-D -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1000 --dport 22\n-U -p tcp -s fd00::1 -d fd00::2 --sport 1000 --dport 22 -m 4' | cthelper restore -; cthelper count -m 4",
			0, "1\n", "updated 1, deleted 1"},
		{"head -c 70000 /dev/zero | tr '\\0' x | cthelper restore -", 1, "", "-:1: longer than 65536 bytes"},
		{"cthelper list --columns proto,foo", 2, "", "unknown column|  cthelper list --columns proto,foo\n                                ^\n"},
		{"setsid -w cthelper top", 1, "", "needs a terminal"},
		{"cthelper restore /nonexistent", 2, "", "no such file"},
		{"cthelper flush; cthelper count", 0, "0\n", "has been emptied"},
		{"cthelper --help > /dev/full", 1, "", "no space left on device"},
		{"cthelper list > /dev/full", 1, "", "no space left on device"},
		{"cthelper flush --dry-run; cthelper count", 0, "6\n", "would delete 6 connections"},
		{"cthelper stats", 0, "entries|insert_failed", ""},
		{"cthelper stats -o json", 0, `{"entries":6,"max":|"cpus":[{"cpu":0,"found":`, ""},
		{"cthelper fields", 0, "orig.src       address|flags          R related|nf_conntrack_acct=1", ""},
		{"cthelper why -p tcp --dport 80", 0, "tcp 10.0.0.9:1002>10.0.1.2:80 ESTABLISHED\n  related    no: no connection announced it", ""},
		{"cthelper why 'tcp 10.0.0.9:1002>10.0.1.2:80'", 0, "related    no", ""},
		{"cthelper why '10.0.0.9:1002>10.0.1.2'", 2, "", "want an address and a port|^"},
		{"cthelper why 12345", 1, "", "no such connection"},
		{"cthelper why", 2, "", "needs a connection"},
		{"cthelper expect create -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1001 --dport 22 --tuple-src 10.0.0.2 --tuple-dst 10.0.0.1 --tuple-port-dst 5 -t 9", 1, "", "the master connection has no helper"},
		{"cthelper expect create -p tcp -s 10.7.7.7 -d 10.0.0.2 --sport 1001 --dport 22 --tuple-src 10.0.0.2 --tuple-dst 10.0.0.1 --tuple-port-dst 5", 1, "", "no such master"},
		{"cthelper expect create -p tcp", 2, "", "needs --proto, --tuple-src and --tuple-dst|Try 'cthelper expect create --help'"},
		{master + "cthelper expect list; cthelper expect count; cthelper expect list -o json", 0, `tcp    10.0.0.2:*               10.0.0.8:5|"helper":"ftp"`, "created 1 expectation"},
		{master + "cthelper expect get -p tcp --tuple-src 10.0.0.2 --tuple-dst 10.0.0.8 --tuple-port-dst 5 -o conntrack", 0, "proto=6 src=10.0.0.2 dst=10.0.0.8 sport=0 dport=5", ""},
		{master + "cthelper expect update --helper ftp -t 77; cthelper expect list -o conntrack", 0, "7", "updated 1 expectation\n"},
		{master + "cthelper expect delete --tuple-port-dst 1-4; cthelper expect delete --tuple-dst 10.0.0.0/24; cthelper expect count", 0, "0\n", "deleted 0 expectations|deleted 1 expectation\n"},
		{"cthelper expect delete", 2, "", "needs a condition"},
		{master + "cthelper expect flush --dry-run", 0, "", "would delete 1 expectation\n"},
		{"cthelper list --top=-1", 2, "", "want at least 1"},
		{"cthelper watch --count 1 --list", 0, "PRESENT", "began while nobody watched|nf_conntrack_events=1"},
		{master + "cthelper expect flush; cthelper expect count", 0, "0\n", "has been emptied"},
		{master + "cthelper expect watch --count 1 --list", 0, "PRESENT  tcp", "expectations of connections that began while nobody watched"},
		{"cthelper watch -e NOTHING", 2, "", "want ALL, NEW, UPDATES or DESTROY"},
		{"cthelper watch --exec /nonexistent/program", 2, "", "no such file"},
		{"sysctl -qw net.netfilter.nf_conntrack_events=0; cthelper expect watch; code=$?; sysctl -qw net.netfilter.nf_conntrack_events=1; exit $code", 1, "",
			"sysctl -w net.netfilter.nf_conntrack_events=1"},
		{"sysctl -qw net.netfilter.nf_conntrack_events=0; cthelper watch; code=$?; sysctl -qw net.netfilter.nf_conntrack_events=1; exit $code", 1, "",
			"sysctl -w net.netfilter.nf_conntrack_events=1"},
	}) {
		code, stdout, stderr := run(x.script)
		if code != x.code {
			t.Errorf("%s: exit %d, want %d", x.script, code, x.code)
		}
		for want, got := range map[string]string{x.stdout: stdout, x.stderr: stderr} {
			for part := range strings.SplitSeq(strings.ReplaceAll(want, `\|`, "\x00"), "|") {
				if part = strings.ReplaceAll(part, "\x00", "|"); !strings.Contains(got, part) {
					t.Errorf("%s: no %q in\n%s", x.script, part, got)
				}
			}
		}
	}
}

// TestPrograms: what programs read is whole and has the promised names.
func TestPrograms(t *testing.T) {
	run := bed(t)
	_, stdout, stderr := run("cthelper list -o json")
	seen := map[string]bool{}
	for _, line := range lines(stdout) {
		var o struct {
			Family, Proto, State string
			Orig, Reply          struct {
				Src, Dst     string
				Sport, Dport int
			}
			ICMP              *struct{ Type, Code, ID int }
			Status            []string
			Mark, Timeout, ID int
		}
		decoder := json.NewDecoder(strings.NewReader(line))
		if err := decoder.Decode(&o); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, stderr)
		}
		seen[fmt.Sprintf("%s %s %s %d>%d %s %d %v", o.Family, o.Proto, o.Orig.Src, o.Orig.Sport, o.Orig.Dport, o.State, o.Mark, o.ICMP != nil)] = true
		if o.ID == 0 || o.Timeout < 900 || o.Reply.Src == "" || len(o.Status) == 0 {
			t.Errorf("lacks something: %s", line)
		}
	}
	for _, want := range []string{
		"ipv4 tcp 10.0.0.1 1000>22 ESTABLISHED 7 false", "ipv6 tcp fd00::1 1000>22 SYN_SENT 0 false", "ipv4 icmp 10.0.0.1 0>0  0 true",
	} {
		if !seen[want] {
			t.Errorf("no %s in %v", want, seen)
		}
	}
	_, stdout, _ = run("cthelper list -o csv")
	rows, err := csv.NewReader(strings.NewReader(stdout)).ReadAll()
	if err != nil || len(rows) != 7 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	found := false
	for _, r := range rows[1:] {
		found = found || r[column["orig.src"]] == "10.0.0.9" && r[column["orig.dport"]] == "80" && r[column["state"]] == "ESTABLISHED"
	}
	if !found {
		t.Errorf("not in %v", rows)
	}
}

// TestWatch: events are counted, and given to a program that no shell sees; that others print the same is in CONNTRACK.md.
func TestWatch(t *testing.T) {
	run := bed(t)
	const happens = `cthelper create -p udp -s 10.5.0.1 -d 10.5.0.2 --sport 1 --dport 2 -t 90 2>/dev/null
cthelper update -s 10.5.0.1 -m 3 2>/dev/null; cthelper delete -s 10.5.0.1 2>/dev/null`
	_, stdout, stderr := run(watching("cthelper watch --count 2 -o json", happens))
	if n := strings.Count(stdout, "\n"); n != 2 || !strings.Contains(stdout, `{"event":"NEW","time":"`) {
		t.Errorf("%d lines, want 2\n%s%s", n, stdout, stderr)
	}
	const note = `cat > $T/note <<'END'
#!/bin/sh
read line
echo "$CT_EVENT $CT_PROTO $CT_ORIG_SRC $CT_ORIG_DPORT $CT_MARK $1 $line"
END
chmod +x $T/note
`
	const command = `cthelper watch -e NEW,DESTROY --where 'orig.dport == 2' --count 2 --jobs 1 --exec "$T/note a;b"`
	_, stdout, stderr = run(note + watching(command, happens))
	for _, want := range []string{"NEW udp 10.5.0.1 2 0 a;b {\"event\":\"NEW\",", "DESTROY udp 10.5.0.1 2 3 a;b {\"event\":\"DESTROY\","} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s%s", want, stdout, stderr)
		}
	}
	// The root of a container has no say over the size of a socket's buffer.
	_, stdout, stderr = run("cat > $T/inside <<'END'\n" + watching("cthelper watch -e NEW --count 1 -o json", happens) +
		"\nEND\nunshare -Urn sh $T/inside")
	if strings.Count(stdout, "\n") != 1 || !strings.Contains(stdout, "10.5.0.1") {
		t.Errorf("in a user namespace:\n%s%s", stdout, stderr)
	}
	_, _, stderr = run(watching("cthelper watch --count 1 --exec false", happens))
	if !strings.Contains(stderr, "failed 1 times, at first: exit status 1") {
		t.Errorf("standard error: %s", stderr)
	}
	// A program that hangs: the first signal waits for it, the second one kills it and what it has started.
	code, stdout, stderr := run(`cat > $T/hang <<'END'
#!/bin/sh
sleep 1000 &
echo $! > $T/child; wait
END
chmod +x $T/hang; export T
until_() { for i in $(seq 500); do eval "$1" && return; sleep 0.02; done; echo "never: $1"; }
cthelper watch --list -e NEW --jobs 1 --exec $T/hang & watch=$!
until_ '[ -s $T/child ]'
kill -TERM $watch; sleep 0.3; kill -0 $watch && echo waits
kill -TERM $watch; wait $watch; code=$?
until_ '! grep -q "^State:.*[SR] (" /proc/$(cat $T/child)/status 2>/dev/null'
yes x | head -c 3000000 > $T/much
cthelper watch --list --count 1 --shell --exec "cat $T/much" | wc -c
exit $code`)
	if code != 1 || strings.Contains(stdout, "never") || stdout != "waits\n1048576\n" || !strings.Contains(stderr, "failed 1 times, at first: killed, as somebody did not want to wait") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = run("cthelper watch --list -o json --count 6")
	if code != 0 || strings.Count(stdout, `"event":"PRESENT"`) != 6 {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
}

// TestOverruns: who reads too slowly is told what was lost, and what is there.
func TestOverruns(t *testing.T) {
	run := bed(t)
	const many = `for i in $(seq 1500); do echo "-A -t 900 -p udp -s 10.6.$((i / 250)).$((i % 250)) -d 10.6.0.1 --sport 1 --dport 2"; done | cthelper restore - 2>/dev/null`
	const known = `
for i in $(seq 300); do
	[ $(grep -o '"orig":{"src":"10.6[^"]*' $T/out | sort -u | wc -l) = 1500 ] && grep -q SYNCED $T/out && break
	sleep 0.1
done`
	const slow = "mkfifo $T/f\n(sleep 2; cat) < $T/f > $T/out 2>/dev/null &\n"
	_, stdout, stderr := run(slow + watching("cthelper watch -b 4096 -o json > $T/f", many+known) + "\ncat $T/out")
	var lost, synced int
	seen := map[string]bool{}
	for _, line := range lines(stdout) {
		var e struct {
			Event string
			Lost  int
			Orig  struct{ Src string }
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			continue // the last one may be cut off
		}
		switch e.Event {
		case "OVERRUN":
			lost += e.Lost
		case "PRESENT", "NEW":
			seen[e.Orig.Src] = true
		case "SYNCED":
			synced++
		}
	}
	if lost == 0 || synced == 0 || len(seen) < 1500 {
		t.Errorf("%d lost, %d known, %d times in step again\n%s", lost, len(seen), synced, stderr)
	}
}

// TestNoRights: every command that needs rights says which.
func TestNoRights(t *testing.T) {
	const tuple = " -p tcp --tuple-src 10.0.0.2 --tuple-dst 10.0.0.1"
	all := some([]string{
		"list", "list dying", "list unconfirmed", "list -z", "count", "count -p tcp", "get -p gre -s 10.0.0.1 -d 10.0.0.2",
		"delete -p tcp", "delete -p tcp --explain", "delete -p tcp --dry-run", "update -p tcp -m 1", "update -p tcp -m 1 -o conntrack",
		"create -p gre -s 10.0.0.1 -d 10.0.0.2 -t 9", "create $T/save", "restore $T/save", "flush", "stats", "why 1", "watch", "top",
		"expect list", "expect count", "expect get" + tuple,
		"expect create" + tuple + " -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 21", "expect update" + tuple + " -t 9",
		"expect delete" + tuple, "expect flush", "expect watch", "expect stats",
	})
	// The test program may lie where the user may not go.
	script := "cp -L $(command -v cthelper) $T/cthelper; chmod 755 $T $T/.. $T/cthelper; chmod o+x $T/../..\n" +
		"echo -A -p gre -s 10.0.0.1 -d 10.0.0.2 -t 9 > $T/save\n"
	for _, command := range all {
		script += "setpriv --reuid=65534 --regid=65534 --clear-groups $T/cthelper " + command + " > $T/out 2> $T/err\n" +
			"echo $? $(wc -c < $T/out) $(cat $T/err)\n"
	}
	said := lines(must(t, netnstest.New(t), script))
	if len(said) != len(all) {
		t.Fatalf("%d lines of %d commands:\n%s", len(said), len(all), strings.Join(said, "\n"))
	}
	for i, command := range all {
		if !strings.HasPrefix(said[i], "1 0 ") || !strings.Contains(said[i], " table: not permitted: it needs CAP_NET_ADMIN") {
			t.Errorf("%s: exit status, bytes printed and error: %s", command, said[i])
		}
	}
}
