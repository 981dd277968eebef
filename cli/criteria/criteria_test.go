package criteria

import (
	"encoding"
	"errors"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/cli/where"
)

// TestValues reads what options take, and what is wrong is said with its place.
func TestValues(t *testing.T) {
	for _, x := range []struct {
		to    encoding.TextUnmarshaler
		text  string
		where string // of the field x; or the error's message
		at    int    // of the error; -1: none
	}{
		{&Address{}, "10.0.0.1", `x == "10.0.0.1"`, -1},
		{&Address{}, "2001:DB8::1", `x == "2001:db8::1"`, -1},
		{&Address{}, "10.0.0.0/8", `x.in("10.0.0.0/255.0.0.0")`, -1},
		{&Address{}, "10.0.0.1/255.0.0.255", `x.in("10.0.0.1/255.0.0.255")`, -1},
		{&Address{}, "fd00::/8", `x.in("fd00::/ff00::")`, -1},
		{&Address{}, "10.0.0.1-10.0.0.9", `x.in("10.0.0.1-10.0.0.9")`, -1},
		{&Address{}, "10.0.0", "want an address", 0},
		{&Address{}, "10.0.0.0/33", "want a mask of 32 bits", 9},
		{&Address{}, "10.0.0.0/ff::", "want a mask of 32 bits", 9},
		{&Address{}, "10.0.0.9-10.0.0.1", "ends before it begins", 9},
		{&Address{}, "10.0.0.9-::1", "of the same family", 9},
		{&Address{}, "10.0.0.1-10.0.0.9/8", "a range has no mask", 17},
		{&Address{}, "fe80::1%eth0", "want an address", 0},
		{&Ports{}, "22", "x == 22", -1},
		{&Ports{}, "0x16", "x == 22", -1},
		{&Ports{}, "1024-65535", "x >= 1024 && x <= 65535", -1},
		{&Ports{}, "1024:2048", "x >= 1024 && x <= 2048", -1},
		{&Ports{}, "22x", "want a number", 0},
		{&Ports{}, "22-", "want the range's last number", 3},
		{&Ports{}, "22-21", "ends before it begins", 3},
		{&Ports{}, "65536", "want a number", 0},
		{&Mark{}, "7", "x == 7", -1},
		{&Mark{}, "0x10/0xff", "x.masked(0xff) == 0x10", -1},
		{&Mark{}, "1/x", "want a mask", 2},
		{&Mark{}, "4294967296", "want MARK", 0},
		{&Number{}, "4294967295", "x == 4294967295", -1},
		{&Number{}, "-1", "want a number", 0},
		{&Zone{}, "65535", "x == 65535", -1},
		{&Zone{}, "65536", "want a zone", 0},
	} {
		err := x.to.UnmarshalText([]byte(x.text))
		var wrong *caret.Error
		switch {
		case err == nil && x.at >= 0:
			t.Errorf("%s: no error", x.text)
		case err == nil:
			if got := x.to.(value).Where("x"); got != x.where || !x.to.(value).IsSet() {
				t.Errorf("%s: %s, want %s", x.text, got, x.where)
			}
		case !errors.As(err, &wrong) || wrong.At != x.at || !strings.Contains(wrong.Message, x.where):
			t.Errorf("%s: %v at %d, want %q at %d", x.text, err, wrong.At, x.where, x.at)
		}
	}
}

func TestWords(t *testing.T) {
	var s Status
	if err := s.UnmarshalText([]byte("assured,SEEN_REPLY")); err != nil || s.Where() != `"SEEN_REPLY" in status && "ASSURED" in status` {
		t.Errorf("%q, %v", s.Where(), err)
	}
	var wrong *caret.Error
	if err := s.UnmarshalText([]byte("ASSURED,nothing")); !errors.As(err, &wrong) || wrong.At != 8 {
		t.Errorf("%v", err)
	}
	unset := Status{}
	if err := unset.UnmarshalText([]byte("UNSET")); err != nil || unset.Where() != `!("SEEN_REPLY" in status) && !("ASSURED" in status)` {
		t.Errorf("%q, %v", unset.Where(), err)
	}
	var p Proto
	if err := p.UnmarshalText([]byte("IPv6-ICMP")); err != nil || p.Number != 58 {
		t.Errorf("%d, %v", p.Number, err)
	}
	var l Labels
	for _, text := range []string{"one,5", "last"} {
		if err := l.UnmarshalText([]byte(text)); err != nil {
			t.Error(err)
		}
	}
	if got := l.Where(); got != `"one" in labels && "5" in labels && "last" in labels` {
		t.Error(got)
	}
	m := Mark{Value: 5, Mask: 0xf}
	if got := m.Change(0xff); got != 0xf5 {
		t.Errorf("%#x", got)
	}
}

// TestCondition: all options together are an expression of package where.
func TestCondition(t *testing.T) {
	set := func(u encoding.TextUnmarshaler, text string) {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	m, more := &Match{}, &More{}
	set(&m.Proto, "tcp")
	set(&m.Family, "ipv4")
	set(&m.Src, "10.0.0.0/8")
	set(&m.Dst, "10.0.0.2")
	m.MaskDst.UnmarshalText([]byte("255.255.0.0"))
	set(&m.ReplySrc, "10.0.0.1-10.0.0.5")
	set(&m.Sport, "1000-2000")
	set(&m.Dport, "22")
	set(&m.State, "established")
	set(&m.SrcNAT, "192.0.2.1:99")
	set(&m.AnyNAT, "192.0.2.1")
	set(&m.Zone, "5")
	set(&m.Label, "one")
	set(&more.Mark, "1/3")
	set(&more.Status, "ASSURED")
	set(&more.Timeout, "9")
	text, err := m.Condition(more)
	if err != nil {
		t.Fatal(err)
	}
	want := `family == "ipv4" && orig.src.in("10.0.0.0/255.0.0.0") && orig.dst.in("10.0.0.2/255.255.0.0") && ` +
		`reply.src.in("10.0.0.1-10.0.0.5") && proto == "6" && orig.sport >= 1000 && orig.sport <= 2000 && orig.dport == 22 && ` +
		`state == "ESTABLISHED" && zone == 5 && zonedir == "both" && snat && reply.dst == "192.0.2.1" && reply.dport == 99 && ` +
		`(snat && reply.dst == "192.0.2.1" || dnat && reply.src == "192.0.2.1") && "one" in labels && mark.masked(0x3) == 0x1 && ` +
		`timeout == 9 && "ASSURED" in status`
	if text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	labels, _ := names.ReadLabels(strings.NewReader("1 one"))
	if _, err := where.Compile(text, labels); err != nil {
		t.Error(err)
	}
	if _, err := (&Match{MaskSrc: m.MaskDst}).Condition(nil); err == nil {
		t.Error("a mask without an address is no error")
	}
	if text, err := (&Match{}).Condition(&More{}); text != "" || err != nil {
		t.Errorf("nothing is %q, %v", text, err)
	}
}

// TestLines reads lines of save files.
func TestLines(t *testing.T) {
	l := NewLines()
	for _, x := range []struct {
		line string
		part string // the error is where part begins
		want string // its message; empty: the line is right
	}{
		{"-A -t 9 -u SEEN_REPLY,ASSURED -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 -p tcp --sport 1 --dport 2 --reply-port-src 2 --reply-port-dst 1 --state CLOSE", "", ""},
		{"-A -t 9 -u UNSET -s 10.0.0.1 -d 10.0.0.2 -g 192.0.2.1 -q 10.0.0.1 -p udp --sport 1 --dport 2 --reply-port-src 5 --reply-port-dst 1", "", ""},
		{"--create conntrack --timeout=9 --src fd00::1 --dst fd00::2 --protonum icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 7", "", ""},
		{"-I -p gre -t 9\t-s 10.0.0.1 -d 10.0.0.2 --srckey 0x10 --dstkey 32 -m 7 --label-add 1,2 --helper ftp", "", ""},
		{"-A -t 9 -s 10.0.0.x", "10.0.0.x", "-s: want an address"},
		{"-A -t 9 -s 10.0.0.1/99", "99", "want a mask"},
		{"-A --timeout=x", "x", "want a number"},
		{"-A --nonsense 3", "--nonsense", "unknown option"},
		{"-A -t", "-t", "needs a value"},
		{"-A -D -t 3", "-D", "second command"},
		{`-A -p udp -t9 -s "10.0.0.1" -d 10.0.0.2 --sport "1" --dport=2`, "", ""},
		{`-A -p udp -tx`, "x", "number"},
		{`-A -p udp -s "10.0.0.x" -t 3`, "10.0.0.x\"", "want an address"},
		{`-A "" -p udp`, `""`, "unknown option"},
		{`-A -s "10.0.0.1`, `"10`, "want an address"},
		{"-t 3", "-t", "want a command"},
	} {
		_, draft, err := l.Parse(x.line)
		if x.want == "" {
			if err == nil {
				_, err = draft.Flow(nil)
			}
			if err != nil {
				t.Errorf("%s: %v", x.line, err)
			}
			continue
		}
		var wrong *caret.Error
		if !errors.As(err, &wrong) || !strings.Contains(wrong.Message, x.want) || !strings.HasPrefix(wrong.Text[wrong.At:], x.part) && x.part != "-t" {
			t.Errorf("%s: %v, want %q at %q", x.line, err, x.want, x.part)
		}
	}
}

// TestDraft says what a connection lacks.
func TestDraft(t *testing.T) {
	l := NewLines()
	for line, want := range map[string]string{
		"-A -t 9 -s 10.0.0.1 -d 10.0.0.2":                                              "--proto",
		"-A -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2":                        "--timeout",
		"-A -p udp -t 9 -s 10.0.0.1 --sport 1 --dport 2":                               "--src and --dst",
		"-A -p udp -t 9 -s 10.0.0.1 -d fd00::1 --sport 1 --dport 2":                    "one family",
		"-A -p udp -t 9 -s 10.0.0.1 -d 10.0.0.2 -n fd00::1 --sport 1 --dport 2":        "one family",
		"-A -p udp -t 9 -s 10.0.0.1 -d 10.0.0.2":                                       "--sport and --dport",
		"-A -p udp -t 9 -s 10.0.0.0/8 -d 10.0.0.2 --sport 1 --dport 2":                 "want one address",
		"-A -p udp -t 9 -s 10.0.0.1 -d 10.0.0.2 --sport 1-9 --dport 2":                 "want one number",
		"-A -p tcp -t 9 -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2":                   "--state",
		"-A -p tcp -t 9 -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 --state OPEN":      "want a state of tcp",
		"-A -p udp -t 9 -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 --state CLOSE":     "only tcp, sctp and dccp",
		"-A -p icmp -t 9 -s 10.0.0.1 -d 10.0.0.2":                                      "--icmp-type",
		"-A -p icmp -t 9 -s 10.0.0.1 -d 10.0.0.2 --icmp-type 3 --icmp-code 0":          "queries only",
		"-A -p icmp -t 9 -s 10.0.0.1 -d 10.0.0.2 --icmp-type 8 --icmp-code 256":        "0 to 255",
		"-A -p udp -t 9 -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 --label-add nolbl": "unknown label",
	} {
		_, draft, err := l.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := draft.Flow(nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}

// FuzzLine: any line is read, or refused with a place in it.
func FuzzLine(f *testing.F) {
	f.Add("-A -t 9 -u SEEN_REPLY,ASSURED -w 5 -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 -p tcp --sport 1 --dport 2 --state CLOSE")
	f.Add("-I conntrack --timeout=9 -s fd00::1 -d fd00::2 -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 7 -n 1::1 -g [::2]:9")
	f.Add("-U -p gre --srckey 0x10 --dstkey 32 --label-add 1,2 --helper a\x1b")
	f.Add("-D -p dccp --role server --orig-vtag 3 --reply-zone 9")
	l := NewLines()
	f.Fuzz(func(t *testing.T, line string) {
		_, draft, err := l.Parse(line)
		if err != nil {
			var wrong *caret.Error
			if !errors.As(err, &wrong) || wrong.Text != line || wrong.At < 0 || wrong.At > len(line) {
				t.Fatalf("%q: %#v", line, err)
			}
			caret.Show(wrong.Text, wrong.At)
			return
		}
		if flow, err := draft.Flow(nil); err == nil && (!flow.Orig.Src.IsValid() || flow.Orig.Src.Addr().BitLen() != flow.Reply.Dst.Addr().BitLen()) {
			t.Fatalf("%q: %+v", line, flow)
		}
	})
}

// FuzzOptions: any values of options make a condition that package where takes, or are refused with a place in them.
func FuzzOptions(f *testing.F) {
	f.Add("10.0.0.0/8", "1-2", "7/0xff", "ASSURED,UNSET", "one,5", "tcp", "192.0.2.1:9")
	f.Add("fd00::1-fd00::9", "0x10", "1", "EXPECTED", "127", "255", "[::1]:9")
	labels, err := names.ReadLabels(strings.NewReader("1 one"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, address, port, mark, status, label, proto, nat string) {
		m, more := &Match{}, &More{}
		for text, u := range map[*string]encoding.TextUnmarshaler{
			&address: &m.Src, &port: &m.Dport, &mark: &more.Mark, &status: &more.Status, &label: &m.Label, &proto: &m.Proto, &nat: &m.AnyNAT,
		} {
			err := u.UnmarshalText([]byte(*text))
			var wrong *caret.Error
			if err != nil && (!errors.As(err, &wrong) || wrong.At < 0 || wrong.At > len(*text)) {
				t.Fatalf("%q: %#v", *text, err)
			}
			if err != nil {
				return
			}
		}
		text, err := m.Condition(more)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := where.Compile(text, labels); err != nil && !strings.Contains(err.Error(), "unknown label") && !strings.Contains(err.Error(), "longer than") {
			t.Fatalf("%s: %v", text, err)
		}
	})
}
