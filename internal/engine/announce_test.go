package engine_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/packet"
)

const orig, reply = helpers.Original, helpers.Reply

// step is what happens next in a script: a line that one side says, or a word to the bed.
type step struct {
	dir  helpers.Dir
	text string
}

func TestAnnouncements(t *testing.T) {
	tests := []struct {
		name   string
		config func(*engine.Config)
		conn   func(helpers.Transport) engine.Conn
		steps  []step
		events []string
		asked  []string // requests, without verdicts
	}{
		{"by the client", nil, plainConn, []step{{orig, "open tcp 10.0.0.1:4000 peer\n"}},
			[]string{"expect tcp 198.51.100.9:0>10.0.0.1:4000"}, []string{"place 10.0.0.1:4000"}},
		{"by the server", nil, plainConn, []step{{reply, "open udp 198.51.100.9:4000 peer\n"}},
			[]string{"expect udp 10.0.0.1:0>198.51.100.9:4000"}, []string{"place 198.51.100.9:4000"}},
		{"behind SNAT, by the client", nil, snatConn, []step{{orig, "open tcp 10.0.0.1:4000 peer\n"}},
			[]string{`expect tcp 198.51.100.9:0>10.0.0.1:4000 at 203.0.113.1:4000`, `edit orig 9 "10.0.0.1:4000" "203.0.113.1:4000"`},
			[]string{"place 203.0.113.1:4000", "adjust orig 0/3"}},
		{"behind SNAT, by the server", nil, snatConn, []step{{reply, "open tcp 198.51.100.9:4000 peer\n"}},
			[]string{"expect tcp 10.0.0.1:0>198.51.100.9:4000"}, []string{"place 198.51.100.9:4000"}},
		{"behind SNAT, the outside address itself", nil, snatConn, []step{{orig, "open tcp 203.0.113.1:4000\n"}},
			[]string{"expect tcp *>10.0.0.1:4000 at 203.0.113.1:4000"}, []string{"place 203.0.113.1:4000"}},
		{"behind DNAT, by the server", nil, dnatConn, []step{{reply, "open tcp 192.168.1.9:4000 peer\n"}},
			[]string{`expect tcp 10.0.0.1:0>192.168.1.9:4000 at 203.0.113.9:4000`, `edit reply 9 "192.168.1.9:4000" "203.0.113.9:4000"`},
			[]string{"place 203.0.113.9:4000"}},
		{"behind DNAT, by the client, who knows the server's public address", nil, dnatConn,
			[]step{{orig, "open tcp 10.0.0.1:4000 peer\n"}},
			[]string{"expect tcp 192.168.1.9:0>10.0.0.1:4000"}, []string{"place 10.0.0.1:4000"}},
		{"foreign address", nil, plainConn, []step{{orig, "open tcp 10.0.0.2:4000\n"}},
			[]string{"refuse tcp *>10.0.0.2:4000 foreign-address"}, nil},
		{"foreign address of another family", func(c *engine.Config) { c.Policy.ForeignAny = true }, plainConn,
			[]step{{orig, "open tcp [2001:db8::1]:4000\n"}},
			[]string{"refuse tcp *>[2001:db8::1]:4000 foreign-address"}, nil},
		{"foreign address that is allowed", func(c *engine.Config) { c.Policy.Foreign = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")} }, snatConn,
			[]step{{orig, "open tcp 10.0.0.2:4000\n"}}, []string{"expect tcp *>10.0.0.2:4000"},
			[]string{"place 10.0.0.2:4000"}},
		{"any address", func(c *engine.Config) { c.Policy.ForeignAny = true }, plainConn,
			[]step{{orig, "open tcp 8.8.8.8:4000\n"}}, []string{"expect tcp *>8.8.8.8:4000"},
			[]string{"place 8.8.8.8:4000"}},
		{"from an address of another family", nil, plainConn, []step{{orig, "open tcp 10.0.0.1:4000 from 2001:db8::1+0\n"}},
			[]string{"refuse tcp [2001:db8::1]:0>10.0.0.1:4000 foreign-address"}, nil},
		{"low port", nil, plainConn,
			[]step{{orig, "open tcp 10.0.0.1:1023\n"}}, []string{"refuse tcp *>10.0.0.1:1023 low-port"}, nil},
		{"low port that is allowed", func(c *engine.Config) { c.Policy.MinPort = 20 }, plainConn,
			[]step{{orig, "open tcp 10.0.0.1:20\n"}}, []string{"expect tcp *>10.0.0.1:20"},
			[]string{"place 10.0.0.1:20"}},
		{"refresh", nil, snatConn,
			[]step{{orig, "open tcp 10.0.0.1:4000 group 1\n"}, {orig, "open tcp 10.0.0.1:4000 group 1\n"}},
			[]string{"expect tcp *>10.0.0.1:4000 at 203.0.113.1:4000", `edit orig 9 "10.0.0.1:4000" "203.0.113.1:4000"`,
				`edit orig 9 "10.0.0.1:4000" "203.0.113.1:4000"`},
			[]string{"place 203.0.113.1:4000", "adjust orig 0/3", "adjust orig 3/6"}},
		{"refresh with a narrower From", nil, plainConn,
			[]step{{orig, "open tcp 10.0.0.1:4000 group 1\n"}, {orig, "open tcp 10.0.0.1:4000 group 1 peer\n"}},
			[]string{"expect tcp *>10.0.0.1:4000"}, []string{"place 10.0.0.1:4000", "remove 1", "place 10.0.0.1:4000"}},
		{"refresh with a wider From", nil, plainConn,
			[]step{{orig, "open tcp 10.0.0.1:4000 group 1 peer\n"}, {orig, "open tcp 10.0.0.1:4000 group 1\n"}},
			[]string{"expect tcp 198.51.100.9:0>10.0.0.1:4000"}, []string{"place 10.0.0.1:4000"}},
		{"what nobody wants to know", func(c *engine.Config) {
			c.Wanted = func(kind engine.EventKind) bool { return kind != engine.EventCancel }
		}, plainConn, []step{{orig, "open tcp 10.0.0.1:4000 group 1\n"}, {orig, "cancel 1\n"}},
			[]string{"expect tcp *>10.0.0.1:4000"}, []string{"place 10.0.0.1:4000", "remove 1"}},
		{"cancelled", nil, plainConn, []step{{orig, "open tcp 10.0.0.1:4000 group 1\n"}, {orig, "cancel 1\n"}},
			[]string{"expect tcp *>10.0.0.1:4000", "cancel tcp *>10.0.0.1:4000 ended"}, []string{"place 10.0.0.1:4000", "remove 1"}},
		{"replaced", nil, plainConn,
			[]step{{orig, "open tcp 10.0.0.1:4000 group 1\n"}, {orig, "cancel 1\nopen tcp 10.0.0.1:4001 group 2\n"}},
			[]string{"expect tcp *>10.0.0.1:4000", "cancel tcp *>10.0.0.1:4000 replaced", "expect tcp *>10.0.0.1:4001"},
			[]string{"place 10.0.0.1:4000", "remove 1", "place 10.0.0.1:4001"}},
		{"a part is cancelled", nil, plainConn, []step{
			{orig, "open tcp 10.0.0.1:4000 group 1/1\nopen tcp 10.0.0.1:4001 group 1/2\n"},
			{orig, "cancel 1/2\n"}, {orig, "cancel 1\n"}},
			[]string{"expect tcp *>10.0.0.1:4000", "expect tcp *>10.0.0.1:4001", "cancel tcp *>10.0.0.1:4001 ended", "cancel tcp *>10.0.0.1:4000 ended"},
			[]string{"place 10.0.0.1:4000", "place 10.0.0.1:4001", "remove 2", "remove 1"}},
		{"reserved, then opened by the other side", nil, snatConn, []step{
			{orig, "open udp 10.0.0.1:4000 group 1 reserve\n"}, {reply, "open udp 203.0.113.1:4000 group 1 other\n"}},
			[]string{`edit orig 9 "10.0.0.1:4000" "203.0.113.1:4000"`,
				"expect udp *>10.0.0.1:4000 at 203.0.113.1:4000", `edit reply 9 "203.0.113.1:4000" "10.0.0.1:4000"`},
			[]string{"adjust orig 0/3", "place 203.0.113.1:4000", "adjust reply 0/-3"}},
		{"opened by the other side, unasked", nil, plainConn, []step{{reply, "open udp 10.0.0.1:4000 group 1 other\n"}},
			[]string{"refuse udp *>10.0.0.1:4000 foreign-address"}, nil},
		{"opened by the other side, in another group", nil, plainConn, []step{
			{orig, "open udp 10.0.0.1:4000 group 1 reserve\n"}, {reply, "open udp 10.0.0.1:4000 group 2 other\n"}},
			[]string{"refuse udp *>10.0.0.1:4000 foreign-address"}, nil},
		{"opened for somebody else by the other side", nil, plainConn, []step{
			{orig, "open udp 10.0.0.1:4000 group 1 peer\n"}, {reply, "open udp 10.0.0.1:4000 group 1 other from 198.51.100.77+0\n"}},
			[]string{"expect udp 198.51.100.9:0>10.0.0.1:4000", "expect udp 198.51.100.77:0>10.0.0.1:4000"},
			[]string{"place 10.0.0.1:4000", "place 10.0.0.1:4000"}},
		{"another port where the first is taken by the session itself", nil, snatConn, []step{
			{orig, "open tcp 10.0.0.1:4000 group 1\n"}, {orig, "open tcp 203.0.113.1:4000 group 1\n"}},
			[]string{"expect tcp *>10.0.0.1:4000 at 203.0.113.1:4000", `edit orig 9 "10.0.0.1:4000" "203.0.113.1:4000"`},
			[]string{"place 203.0.113.1:4000", "adjust orig 0/3"}},
		{"foreign protocol", nil, plainConn,
			[]step{{orig, "open tcp 10.0.0.1:4000\nforeign\n"}, {orig, "open tcp 10.0.0.1:4001\n"}},
			[]string{"refuse tcp *>10.0.0.1:4000 lock-in", "error orig 0 foreign"}, nil},
		{"one bad message", nil, plainConn, []step{{orig, "hello\nbad\n"}, {orig, "open tcp 10.0.0.1:4001\n"}},
			[]string{"error orig 6 parse", "expect tcp *>10.0.0.1:4001"}, []string{"place 10.0.0.1:4001"}},
		{"notes", nil, plainConn,
			[]step{{orig, "open tcp 10.0.0.1:4001 group 3\nnote 3 a b\n"}, {reply, "note 0 of nothing\n"}},
			[]string{"expect tcp *>10.0.0.1:4001", `note 3 "a b"`, `note 0 "of nothing"`}, []string{"place 10.0.0.1:4001"}},
		{"skipped bytes", nil, plainConn,
			[]step{{orig, "skip 26\nopen tcp 10.0.0.1:4000\n"}, {orig, "xx\nopen tcp 10.0.0.1:4001\n"}},
			[]string{"expect tcp *>10.0.0.1:4001"}, []string{"place 10.0.0.1:4001"}},
		{"no such class", nil, plainConn,
			[]step{{orig, "open tcp 10.0.0.1:4000 class 7\n"}}, []string{"refuse tcp *>10.0.0.1:4000 contract"}, nil},
		{"more than may be kept", nil, plainConn,
			[]step{{orig, strings.Repeat("x", 300)}, {orig, "\nopen tcp 10.0.0.1:4000\n"}},
			[]string{"error orig 0 contract", "expect tcp *>10.0.0.1:4000"}, []string{"place 10.0.0.1:4000"}},
	}
	for _, tt := range tests {
		for _, transport := range []helpers.Transport{helpers.TCP, helpers.UDP} {
			if strings.Contains(tt.name, "skipped") || strings.Contains(tt.name, "may be kept") {
				transport = helpers.TCP
			}
			t.Run(fmt.Sprint(tt.name, " over ", transport), func(t *testing.T) {
				b := newBed(t, tt.config)
				say := b.talk(tt.conn(transport))
				for _, s := range tt.steps {
					say(s.dir, s.text)
				}
				b.events(tt.events...)
				asked := slices.DeleteFunc(slices.Clone(b.done), func(s string) bool { return strings.HasPrefix(s, "verdict") })
				want := tt.asked
				if transport == helpers.UDP { // a datagram has no numbers
					want = slices.DeleteFunc(slices.Clone(want), func(s string) bool { return strings.HasPrefix(s, "adjust") })
				}
				if d := cmp.Diff(strings.Join(want, "\n"), strings.Join(asked, "\n")); d != "" {
					t.Errorf("requests: -want +got\n%s", d)
				}
				if len(b.open) > 0 {
					t.Errorf("packets %v have no verdict", b.open)
				}
			})
		}
	}
}

// talk opens a connection and gives a way to speak in it.
func (b *bed) talk(c engine.Conn) func(helpers.Dir, string) uint64 {
	if c.Transport == helpers.UDP {
		return func(dir helpers.Dir, text string) uint64 { return b.udp(c, dir, text) }
	}
	return b.tcp(c, 1000).say
}

// from another client that the masquerade shows at another port.
func otherClient(c engine.Conn) engine.Conn {
	c.Orig.Src = netip.MustParseAddrPort("10.0.0.2:50001")
	c.Reply.Dst = netip.AddrPortFrom(c.Reply.Dst.Addr(), 50001)
	return c
}

func TestPortClash(t *testing.T) {
	open := "open udp 10.0.0.1:4000 group 1\n"
	open2 := "open udp 10.0.0.2:4000 group 1\n"
	pair := "open udp 10.0.0.1:4000 group 1/1 paired\nopen udp 10.0.0.1:4001 group 1/2\n"
	pair2 := "open udp 10.0.0.2:4000 group 1/1 paired\nopen udp 10.0.0.2:4001 group 1/2\n"
	taken := func(ports ...uint16) func(engine.Request) error {
		return func(r engine.Request) error {
			if r.Place != nil && slices.Contains(ports, r.Place.At.Port()) {
				return expect.ErrTaken
			}
			return nil
		}
	}
	tests := []struct {
		name          string
		refuse        func(engine.Request) error
		first, second string
		want          string // ports that were announced
		events        string // kinds
	}{
		{"two clients", nil, open, open2, "4000 4001", "expect edit expect edit"},
		{"taken in the kernel", taken(4000, 4001), open, "", "4002", "expect edit"},
		{"all taken", func(r engine.Request) error {
			if r.Place != nil {
				return expect.ErrTaken
			}
			return nil
		}, open, "", "", "refuse"},
		{"table full", func(r engine.Request) error {
			if r.Place != nil {
				return expect.ErrFull
			}
			return nil
		}, open, "", "", "refuse"},
		{"pairs of two clients", nil, pair, pair2, "4000 4001 4002 4003", "expect expect edit edit expect expect edit edit"},
		{"the second half is taken in the kernel", taken(4001), pair, "", "4002 4003", "expect expect edit edit"},
		{"the first half is taken in the kernel", taken(4000), pair, "", "4002 4003", "expect expect edit edit"},
		{"a pair beside a single one", nil, "open udp 10.0.0.1:4001\n", pair2, "4001 4002 4003", "expect edit expect expect edit edit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, nil)
			b.refuse = tt.refuse
			said := b.payload(b.udp(snatConn(helpers.UDP), orig, tt.first))
			if tt.second != "" {
				said += b.payload(b.udp(otherClient(snatConn(helpers.UDP)), orig, tt.second))
			}
			var ports, kinds []string
			for _, w := range strings.Fields(said) {
				if p, ok := strings.CutPrefix(w, "203.0.113.1:"); ok {
					ports = append(ports, p)
				}
			}
			for _, l := range b.log {
				kinds = append(kinds, strings.Fields(l)[0])
			}
			if got := strings.Join(ports, " "); got != tt.want {
				t.Errorf("announced %s, want %s\n%s", got, tt.want, strings.Join(b.done, "\n"))
			}
			if got := strings.Join(kinds, " "); got != tt.events {
				t.Errorf("events %s, want %s", got, tt.events)
			}
			// What the table has is what was said.
			for _, p := range ports {
				c := helpers.Tuple{Src: server, Dst: netip.MustParseAddrPort("203.0.113.1:" + p)}
				if _, ok := b.table.Match(helpers.UDP, c); !ok {
					t.Errorf("port %s was announced and is not expected", p)
				}
			}
		})
	}
}

// A mapping keeps its port though its expectation was used up, and gives it back with its group.
func TestMapping(t *testing.T) {
	b := newBed(t, nil)
	c := snatConn(helpers.UDP)
	related := engine.Conn{Transport: helpers.UDP}
	related.Orig = helpers.Tuple{Src: server, Dst: netip.MustParseAddrPort("203.0.113.1:4000")}
	related.Reply = related.Orig.Turned()
	b.udp(c, orig, "open udp 10.0.0.1:4000 group 1\n")
	b.udp(c, orig, "note 1 a file\n")
	if _, ok := b.table.Match(helpers.UDP, related.Orig); !ok {
		t.Fatal("nothing is expected")
	}
	b.drive(b.e.Related(related, 77, b.now))
	b.drive(b.e.Related(related, 78, b.now))
	if got := b.payload(b.udp(otherClient(c), orig, "open udp 10.0.0.2:4000 group 1\n")); !strings.Contains(got, ":4001") {
		t.Errorf("another client was announced as %q", got)
	}
	if got := b.payload(b.udp(c, orig, "open udp 10.0.0.1:4000 group 1\n")); !strings.Contains(got, ":4000") {
		t.Errorf("announced again as %q", got)
	}
	b.udp(c, orig, "cancel 1\n")
	third := otherClient(c)
	third.Orig.Src, third.Reply.Dst = netip.MustParseAddrPort("10.0.0.3:50003"), netip.MustParseAddrPort("203.0.113.1:50003")
	if got := b.payload(b.udp(third, orig, "open udp 10.0.0.3:4000 group 1\n")); !strings.Contains(got, ":4000") {
		t.Errorf("after the cancel, a third client was announced as %q", got)
	}
	b.events("expect udp *>10.0.0.1:4000 at 203.0.113.1:4000", `edit orig 9 "10.0.0.1:4000" "203.0.113.1:4000"`, `note 1 "a file"`,
		`related udp *>10.0.0.1:4000 at 203.0.113.1:4000 "a file"`,
		"expect udp *>10.0.0.2:4000 at 203.0.113.1:4001", `edit orig 9 "10.0.0.2:4000" "203.0.113.1:4001"`,
		"expect udp *>10.0.0.1:4000 at 203.0.113.1:4000", `edit orig 9 "10.0.0.1:4000" "203.0.113.1:4000"`,
		"cancel udp *>10.0.0.1:4000 at 203.0.113.1:4000 ended",
		"expect udp *>10.0.0.3:4000 at 203.0.113.1:4000", `edit orig 9 "10.0.0.3:4000" "203.0.113.1:4000"`)
}

// A connection that meets an expectation just before a narrower one takes its place leaves nothing open: the table would
// keep the narrower one, which nobody takes back, as it is said to be used.
func TestUsedWhileNarrowed(t *testing.T) {
	b := newBed(t, nil)
	c := plainConn(helpers.UDP)
	related := engine.Conn{Transport: helpers.UDP, Orig: helpers.Tuple{Src: server, Dst: netip.MustParseAddrPort("10.0.0.1:4000")}}
	related.Reply = related.Orig.Turned()
	b.udp(c, orig, "open udp 10.0.0.1:4000 group 1\n")
	if _, ok := b.table.Match(helpers.UDP, related.Orig); !ok {
		t.Fatal("nothing is expected")
	}
	b.udp(c, orig, "open udp 10.0.0.1:4000 group 1 peer\n")
	b.drive(b.e.Related(related, 0, b.now)) // the kernel's word of it comes now
	b.udp(c, orig, "cancel 1\n")
	if _, ok := b.table.Match(helpers.UDP, related.Orig); ok {
		t.Error("something is open after the end")
	}
	b.events("expect udp *>10.0.0.1:4000", `related udp 198.51.100.9:0>10.0.0.1:4000 "open"`)
}

// What is announced again waits as long as if it were new, and stays as narrow as it was; a copy changes nothing.
func TestProlonged(t *testing.T) {
	b := newBed(t, nil)
	c := snatConn(helpers.UDP)
	b.udp(c, orig, "open udp 10.0.0.1:4000 group 1 peer\n")
	b.pass(500 * time.Millisecond)
	b.udp(c, orig, "open udp 10.0.0.1:4000 group 1 peer\n")
	if n := len(b.done); n != 3 { // placed, and two verdicts
		t.Errorf("a copy asks for something: %q", b.done)
	}
	b.pass(59 * time.Second)
	b.udp(c, orig, "open udp 10.0.0.1:4000 group 1\n")
	b.pass(59 * time.Second)
	b.events(`expect udp 198.51.100.9:0>10.0.0.1:4000 at 203.0.113.1:4000`, `edit orig 9 "10.0.0.1:4000" "203.0.113.1:4000"`,
		`edit orig 9 "10.0.0.1:4000" "203.0.113.1:4000"`, `edit orig 9 "10.0.0.1:4000" "203.0.113.1:4000"`)
	stranger := helpers.Tuple{Src: netip.MustParseAddrPort("198.51.100.77:1"), Dst: netip.MustParseAddrPort("203.0.113.1:4000")}
	if _, ok := b.table.Match(helpers.UDP, stranger); ok {
		t.Error("anybody may connect now")
	}
	if s := b.e.Stats(); s.Pending != 1 || s.Announced != 1 {
		t.Errorf("%+v", s)
	}
	b.pass(time.Second)
	b.events("cancel udp 198.51.100.9:0>10.0.0.1:4000 at 203.0.113.1:4000 expired")
}

// A message may name one end point twice, by its inside and its outside address, be it new or known for long: it is opened
// once, for whom the narrower one says, and closed with its group.
func TestNamedTwice(t *testing.T) {
	for _, known := range []bool{false, true} {
		for _, from := range []string{"", " peer"} {
			b := newBed(t, nil)
			c := snatConn(helpers.UDP)
			if known {
				b.udp(c, orig, "open udp 10.0.0.1:4000 group 1/1\n")
				b.pass(5 * time.Second)
			}
			b.udp(c, orig, "open udp 203.0.113.1:4000 group 1/2\nopen udp 10.0.0.1:4000 group 1/1"+from+"\n")
			if s := b.e.Stats(); len(s.Refused) > 0 || s.Pending != 1 {
				t.Errorf("known %t%s: %+v\n%q", known, from, s, b.done)
			}
			stranger := helpers.Tuple{Src: netip.MustParseAddrPort("198.51.100.77:1"), Dst: netip.MustParseAddrPort("203.0.113.1:4000")}
			if from != "" {
				if _, ok := b.table.Match(helpers.UDP, stranger); ok {
					t.Errorf("known %t: anybody may connect", known)
				}
			}
			b.udp(c, orig, "cancel 1\n")
			if _, ok := b.table.Match(helpers.UDP, helpers.Tuple{Src: server, Dst: stranger.Dst}); ok {
				t.Errorf("known %t%s: something is open after the end", known, from)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	var many strings.Builder
	for i := range 12 {
		fmt.Fprintf(&many, "open tcp 10.0.0.1:%d group %d class 1\n", 4000+i, i+1)
	}
	tests := []struct {
		name   string
		limits engine.Limits
		text   string
		want   int // announced
		reason engine.Reason
	}{
		{"class", engine.Limits{}, strings.ReplaceAll(many.String(), " class 1", ""), 8, engine.RefuseLimitFlow},
		{"peer", engine.Limits{PerPeer: 5}, many.String(), 5, engine.RefuseLimitPeer},
		{"total", engine.Limits{Total: 3}, many.String(), 3, engine.RefuseLimitTotal},
		{"rate", engine.Limits{Rate: 2}, many.String(), 4, engine.RefuseRate},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, func(c *engine.Config) { c.Limits = tt.limits })
			f := b.tcp(plainConn(helpers.TCP), 1000)
			f.say(orig, tt.text)
			s := b.e.Stats()
			if int(s.Announced) != tt.want || s.Pending != tt.want || s.Refused[tt.reason] != uint64(12-tt.want) {
				t.Errorf("%d announced, %d pending, refused %v", s.Announced, s.Pending, s.Refused)
			}
			b.pass(2 * time.Second) // class 1 waits for a second
			if tt.name == "class" {
				b.pass(time.Minute)
			}
			if s := b.e.Stats(); s.Pending != 0 {
				t.Errorf("%d are pending after their time", s.Pending)
			}
			f.say(orig, "open tcp 10.0.0.1:5000\n")
			if s := b.e.Stats(); s.Pending != 1 {
				t.Errorf("nothing can be announced after the others have run out: %v", b.log)
			}
		})
	}
}

func TestLate(t *testing.T) {
	tests := []struct {
		name     string
		existing bool
		refuse   bool
		overflow bool
		missed   bool
		want     string
	}{
		{"existed", true, false, false, false, "expect tcp *>10.0.0.1:4000"},
		{"existed, policy refuses", true, true, false, false, "refuse tcp *>10.0.0.1:4000 late"},
		{"new", false, false, false, false, "refuse tcp *>10.0.0.1:4000 late"},
		{"missed by an overflow", false, false, true, false, "expect tcp *>10.0.0.1:4000"},
		{"missed, as is said when asked", false, false, false, true, "expect tcp *>10.0.0.1:4000"},
		{"missed, policy refuses", false, true, false, true, "refuse tcp *>10.0.0.1:4000 late"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, func(c *engine.Config) {
				c.Policy.RefuseLate = tt.refuse
				c.Missed = func() uint64 {
					if tt.missed {
						return 3
					}
					return 0
				}
			})
			c := plainConn(helpers.TCP)
			c.Existing = tt.existing
			if tt.overflow {
				b.e.Overflowed(b.now)
			}
			b.late(c, 1000).say(orig, "open tcp 10.0.0.1:4000\n")
			b.events(tt.want)
		})
	}
}

// What was lost excuses the connections that were there then, not all that come ever after: also in the next process.
func TestExcuseEnds(t *testing.T) {
	for _, moved := range []bool{false, true} {
		b := newBed(t, nil)
		b.e.Overflowed(b.now)
		b.pass(59 * time.Minute)
		if moved {
			b.move(nil)
		}
		b.late(plainConn(helpers.TCP), 1000).say(orig, "open tcp 10.0.0.1:4000\n")
		b.pass(time.Minute)
		b.late(otherClient(plainConn(helpers.TCP)), 1000).say(orig, "open tcp 10.0.0.2:4000\n")
		b.events("expect tcp *>10.0.0.1:4000", "cancel tcp *>10.0.0.1:4000 expired", "refuse tcp *>10.0.0.2:4000 at 10.0.0.1:4000 late")
	}
}

// A connection that is joined at a keep-alive, whose number is one too low, has no hole: what it announces does not wait.
func TestLateAtKeepAlive(t *testing.T) {
	for _, answered := range []bool{false, true} {
		b := newBed(t, nil)
		c := plainConn(helpers.TCP)
		c.Existing = true
		f := b.late(c, 1000)
		f.raw(orig, packet.ACK, f.next[orig]-1, f.acked(reply), "")
		if answered {
			f.send(reply, packet.ACK, "")
		}
		f.say(orig, "open tcp 10.0.0.1:4000\n")
		b.events("expect tcp *>10.0.0.1:4000")
		if gaps := b.e.Stats().Gaps; gaps != 0 {
			t.Errorf("answered %t: %d gaps", answered, gaps)
		}
	}
}

// No verdict before the answers, and nothing else of the flow overtakes.
func TestVerdictComesLast(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(snatConn(helpers.TCP), 1000)
	b.answers = false
	seq := f.next[orig]
	text := "open tcp 10.0.0.1:4000\n"
	first := f.say(orig, text)
	if b.ticket == 0 || len(b.out) != 3 {
		t.Fatalf("ticket %d, %d verdicts", b.ticket, len(b.out))
	}
	ticket, asked := b.ticket, b.asked
	copied := f.raw(orig, packet.ACK, seq, f.next[reply], text)
	next := f.say(orig, "hello\n")
	answer := f.raw(reply, packet.ACK, f.next[reply], f.next[orig], "")
	if b.ticket != 0 || len(b.open) != 4 {
		t.Fatalf("ticket %d, open %v", b.ticket, b.open)
	}
	b.ticket, b.asked = ticket, asked
	b.resume() // placed
	if len(b.open) != 4 || len(b.asked) != 1 || b.asked[0].Adjust == nil {
		t.Fatalf("asked %v, open %v", b.asked, b.open)
	}
	b.resume()
	if len(b.open) > 0 || b.ticket != 0 {
		t.Fatalf("open %v", b.open)
	}
	want := "open tcp 203.0.113.1:4000\n"
	if a, c, n := b.payload(first), b.payload(copied), b.payload(next); a != want || c != want || n != "hello\n" {
		t.Errorf("left: %q, %q, %q", a, c, n)
	}
	if s, _ := b.seqs(next); s != seq+uint32(len(want)) {
		t.Errorf("the next segment left at %d, want %d", s, seq+uint32(len(want)))
	}
	order := []string{"place 203.0.113.1:4000", "adjust orig 0/3"}
	for _, id := range []uint64{first, copied, next, answer} {
		order = append(order, fmt.Sprintf("verdict %d", id))
	}
	if got := b.done[len(b.done)-6:]; !slices.Equal(got, order) {
		t.Errorf("order: %q, want %q", got, order)
	}
}

// A packet's bytes are the caller's again while the kernel is asked.
func TestBytesWhileTheKernelIsAsked(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(snatConn(helpers.TCP), 1000)
	b.answers = false
	first := f.say(orig, "open tcp 10.0.0.1:4000\nopen tcp 10.0.")
	b.resume() // the expectation, then the adjustment
	b.resume()
	b.answers = true
	second := f.say(orig, "0.1:4001\n")
	if got, want := b.payload(first)+b.payload(second), "open tcp 203.0.113.1:4000\nopen tcp 203.0.113.1:4001\n"; got != want {
		t.Errorf("left: %q, want %q", got, want)
	}
}

// Nothing is done any more for a flow that has gone: its place may be another's.
func TestTimerOfAFlowThatHasGone(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(plainConn(helpers.TCP), 1000)
	f.send(orig, packet.RST, "")
	if b.e.Next().IsZero() {
		t.Fatal("a closed flow is kept for ever")
	}
	b.drive(b.e.Ended(helpers.TCP, f.conn.Orig, 0, b.now))
	if next := b.e.Next(); !next.IsZero() {
		t.Errorf("there is something to do at %v", next)
	}
}

// At most 64 packets wait for a session; more pass, and are read later.
func TestQueueIsBounded(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(plainConn(helpers.TCP), 1000)
	b.answers = false
	f.say(orig, "open tcp 10.0.0.1:4000\n")
	ticket, asked := b.ticket, b.asked
	for range 70 {
		f.say(orig, "hello\n")
	}
	f.say(orig, "open tcp 10.0.0.1:4001\n")
	if len(b.open) != 65 {
		t.Errorf("%d packets wait", len(b.open))
	}
	b.ticket, b.asked = ticket, asked
	b.resume()
	b.resume()
	b.events("expect tcp *>10.0.0.1:4000", "expect tcp *>10.0.0.1:4001")
	if len(b.open) != 0 {
		t.Errorf("%d packets still wait", len(b.open))
	}
}

// The control connection's own end point has a port outside already, and keeps it.
func TestOwnEndPoint(t *testing.T) {
	c := snatConn(helpers.UDP)
	c.Reply.Dst = netip.MustParseAddrPort("203.0.113.1:61000")
	b := newBed(t, nil)
	if got := b.payload(b.udp(c, orig, "open udp 10.0.0.1:50000 group 1 reserve permanent\n")); !strings.Contains(got, " 203.0.113.1:61000 ") {
		t.Errorf("announced as %q", got)
	}
	b.udp(c, reply, "open udp 203.0.113.1:61000 group 1 other permanent\n")
	b.udp(otherClient(c), orig, "open udp 10.0.0.2:61000 group 1\n")
	b.events(`edit orig 9 "10.0.0.1:50000" "203.0.113.1:61000"`, "expect udp *>10.0.0.1:50000 at 203.0.113.1:61000",
		`edit reply 9 "203.0.113.1:61000" "10.0.0.1:50000"`,
		"expect udp *>10.0.0.2:61000 at 203.0.113.1:61001", `edit orig 9 "10.0.0.2:61000" "203.0.113.1:61001"`)
}

// What an announcement leads to is translated as its control connection is, unless it goes to somebody else.
func TestForeignUnderNAT(t *testing.T) {
	for to, want := range map[string]bool{"10.0.0.1:4000": true, "10.0.0.2:4000": false} {
		b := newBed(t, func(c *engine.Config) { c.Policy.ForeignAny = true })
		placed, follows := false, false
		b.refuse = func(r engine.Request) error {
			if r.Place != nil {
				placed, follows = true, r.Place.NAT
			}
			return nil
		}
		b.udp(snatConn(helpers.UDP), orig, "open tcp "+to+" peer\n")
		if !placed || follows != want {
			t.Errorf("%s: placed %t, follows its master %t, want %t", to, placed, follows, want)
		}
	}
}

func TestChildren(t *testing.T) {
	b := newBed(t, func(c *engine.Config) { c.Helpers = append(c.Helpers, toyHelper("child", helpers.TCP)) })
	f := b.tcp(plainConn(helpers.TCP), 1000)
	f.say(reply, "open tcp 198.51.100.9:4000 group 1 helper child peer\n")
	parent, last := f, f
	for depth := range 6 {
		c := plainConn(helpers.TCP)
		c.Orig.Src = netip.AddrPortFrom(c.Orig.Src.Addr(), 50100+uint16(depth))
		c.Orig.Dst = netip.AddrPortFrom(c.Orig.Dst.Addr(), 4000+uint16(depth))
		c.Reply = c.Orig.Turned()
		if depth%2 == 0 { // either may come first
			b.drive(b.e.Related(c, 0, b.now))
		}
		f = b.tcp(c, 5000)
		if depth < 4 {
			last = f
		}
		if depth%2 == 1 {
			b.drive(b.e.Related(c, 0, b.now))
		}
		f.say(reply, fmt.Sprintf("open tcp 198.51.100.9:%d group %d helper child peer\n", 4001+depth, depth+2))
	}
	last.say(reply, "open tcp 198.51.100.9:6000 group 9 peer\n")
	parent.say(orig, "cancel 9\n") // groups are the family's
	var kinds []string
	for _, l := range b.log {
		kinds = append(kinds, strings.Fields(l)[0])
	}
	// The fourth child's announcement is met, but its child is not read.
	if got := strings.Join(kinds, " "); got != strings.Repeat("expect related ", 5)+"expect cancel" {
		t.Errorf("events %s", got)
	}
	if s := b.e.Stats(); s.Sessions != 5 {
		t.Errorf("%d sessions", s.Sessions)
	}
}

// A session for two hosts has many flows.
func TestPairs(t *testing.T) {
	b := newBed(t, func(c *engine.Config) { c.Helpers[1].PerPair = true })
	c := plainConn(helpers.UDP)
	d := c
	d.Orig.Src = netip.AddrPortFrom(c.Orig.Src.Addr(), 50500)
	d.Reply = d.Orig.Turned()
	b.udp(c, orig, "open udp 10.0.0.1:4000 group 1\n")
	b.udp(d, orig, "cancel 1\n")
	b.events("expect udp *>10.0.0.1:4000", "cancel udp *>10.0.0.1:4000 ended")
	if s := b.e.Stats(); s.Sessions != 1 || s.Flows != 2 {
		t.Errorf("%d sessions, %d flows", s.Sessions, s.Flows)
	}
	b.udp(c, orig, "open udp 10.0.0.1:4000 group 1\n")
	b.drive(b.e.Ended(helpers.UDP, c.Orig, 0, b.now))
	b.drive(b.e.Ended(helpers.UDP, d.Orig, 0, b.now))
	if s := b.e.Stats(); s.Sessions != 1 || s.Flows != 0 || s.Pending != 1 {
		t.Errorf("a silent flow ends a call: %+v", s)
	}
	b.pass(2 * time.Minute)
	if s := b.e.Stats(); s.Sessions != 0 || s.Pending != 0 || b.done[len(b.done)-1] != "forget" {
		t.Errorf("the session does not end: %+v, %q", s, b.done)
	}
}

// A session for two hosts reads both transports, and outlives the end of a connection.
func TestPairOfTransports(t *testing.T) {
	pairs := func(c *engine.Config) {
		for i := range c.Helpers {
			c.Helpers[i].Name, c.Helpers[i].PerPair = "toy", true
		}
	}
	b := newBed(t, pairs)
	f := b.tcp(plainConn(helpers.TCP), 1000)
	f.say(orig, "open udp 10.0.0.1:4000 group 1\n")
	f.send(orig, packet.ACK|packet.FIN, "")
	f.send(reply, packet.ACK|packet.FIN, "")
	b.events("expect udp *>10.0.0.1:4000")
	b.udp(plainConn(helpers.UDP), reply, "cancel 1\n")
	b.events("cancel udp *>10.0.0.1:4000 ended")
	if s := b.e.Stats(); s.Sessions != 1 {
		t.Errorf("%d sessions", s.Sessions)
	}
	b.move(pairs)
	if s := b.e.Stats(); s.Sessions != 1 || s.Flows != 2 {
		t.Errorf("after a restart: %d sessions, %d flows", s.Sessions, s.Flows)
	}
}

func TestEnd(t *testing.T) {
	ends := map[string]func(*peerflow){
		"FIN": func(f *peerflow) {
			f.send(orig, packet.ACK|packet.FIN, "bye\n")
			f.send(reply, packet.ACK|packet.FIN, "")
		},
		"RST":       func(f *peerflow) { f.send(reply, packet.RST, "") },
		"conntrack": func(f *peerflow) { f.b.drive(f.b.e.Ended(helpers.TCP, f.conn.Orig, 0, f.b.now)) },
		"another with its tuple": func(f *peerflow) {
			g := f.b.tcp(f.conn, 777777)
			g.send(reply, packet.RST, "")
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, nil)
			f := b.tcp(plainConn(helpers.TCP), 1000)
			f.say(orig, "open tcp 10.0.0.1:4000\n")
			end(f)
			b.events("expect tcp *>10.0.0.1:4000", "cancel tcp *>10.0.0.1:4000 flow-ended")
			if s := b.e.Stats(); s.Pending != 0 || s.Sessions != 0 {
				t.Errorf("%+v", s)
			}
			if !slices.Contains(b.done, "forget") {
				t.Errorf("the shadow stays: %q", b.done)
			}
			b.pass(3 * time.Minute)
			if s := b.e.Stats(); s.Flows != 0 || len(b.open) > 0 {
				t.Errorf("%+v, open %v", s, b.open)
			}
			if next := b.e.Next(); !next.IsZero() {
				t.Errorf("something waits until %v", next)
			}
		})
	}
}

func TestGoneAndExpired(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(plainConn(helpers.TCP), 1000)
	f.say(orig, "open tcp 10.0.0.1:4000\nopen tcp 10.0.0.1:4001 class 1\n")
	b.drive(b.e.Gone(1, b.now))
	b.drive(b.e.Gone(1, b.now))
	b.drive(b.e.Gone(99, b.now))
	if want := b.now.Add(time.Second); !b.e.Next().Equal(want) {
		t.Errorf("next at %v, want %v", b.e.Next(), want)
	}
	b.pass(time.Second)
	b.pass(time.Second)
	b.events("expect tcp *>10.0.0.1:4000", "expect tcp *>10.0.0.1:4001",
		"cancel tcp *>10.0.0.1:4000 evicted", "cancel tcp *>10.0.0.1:4001 expired")
}

// Nothing is known of a connection that conntrack does not have.
func TestNotTracked(t *testing.T) {
	b := newBed(t, func(c *engine.Config) {
		c.Lookup = func(helpers.Transport, helpers.Tuple) (engine.Conn, error) {
			return engine.Conn{}, fmt.Errorf("look up: %w", engine.ErrNotTracked)
		}
	})
	for i, tu := range []helpers.Tuple{{Src: client, Dst: server}, {Src: server, Dst: client}} {
		id := uint64(i + 1)
		data := udpPacket(tu, "open udp "+netip.AddrPortFrom(tu.Src.Addr(), 4000).String()+"\n")
		b.open[id] = sent{data: data}
		b.drive(b.e.Handle(engine.Packet{ID: id, Time: b.now, Data: data}))
	}
	data := tcpPacket(helpers.Tuple{Src: client, Dst: server}, packet.SYN, 1, 0, "")
	b.open[9] = sent{data: data}
	b.drive(b.e.Handle(engine.Packet{ID: 9, Time: b.now, Data: data}))
	b.events()
	if s := b.e.Stats(); s.Unknown != 3 || s.Flows != 0 || len(b.open) > 0 {
		t.Errorf("%+v", s)
	}
}

func TestNewRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*helpers.Helper)
		want   string
	}{
		{"long name", func(h *helpers.Helper) { h.Name = "abcdefghijkl" }, `"abcdefghijkl"`},
		{"no name", func(h *helpers.Helper) { h.Name = "" }, "no name"},
		{"same name", func(h *helpers.Helper) { h.Name, h.Transport, h.Ports = "toy", helpers.TCP, nil }, `"toy"`},
		{"same name, another transport, other classes", func(h *helpers.Helper) { h.Name, h.Classes = "toy", h.Classes[:1] }, `"toy"`},
		{"same name, another transport, pairs", func(h *helpers.Helper) { h.Name, h.PerPair = "toy", true }, `"toy"`},
		{"same port", func(h *helpers.Helper) { h.Transport = helpers.TCP }, "2100"},
		{"no classes", func(h *helpers.Helper) { h.Classes = nil }, "0 classes"},
		{"port 0", func(h *helpers.Helper) { h.Ports = []uint16{0} }, "port 0"},
		{"no constructor", func(h *helpers.Helper) { h.New = nil }, "no New"},
		{"transport", func(h *helpers.Helper) { h.Transport = 132 }, "132"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := toyHelper("toyu", helpers.UDP, 2100)
			tt.change(&h)
			_, err := engine.New(engine.Config{Helpers: []helpers.Helper{toyHelper("toy", helpers.TCP, 2100), h}})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %s", err, tt.want)
			}
		})
	}
}

// What a Rewriter asks of addresses that belong to no announcement.
func TestTranslate(t *testing.T) {
	snat, dnat := snatConn(helpers.UDP), dnatConn(helpers.UDP)
	snat.Reply.Dst = netip.MustParseAddrPort("203.0.113.1:61000") // the port changes, too
	tests := []struct {
		name      string
		conn      engine.Conn
		dir       helpers.Dir
		via, want string
	}{
		{"the sender himself", snat, orig, "10.0.0.1:50000", "203.0.113.1:61000"},
		{"another port of his", snat, orig, "10.0.0.1:5060", "203.0.113.1:5060"},
		{"what he announced", snat, orig, "10.0.0.1:4000", "203.0.113.1:4001"},
		{"somebody else", snat, orig, "10.0.0.77:5060", "10.0.0.77:5060"},
		{"the reader, as the sender knows him", snat, reply, "203.0.113.1:61000", "10.0.0.1:50000"},
		{"what the reader announced", snat, reply, "203.0.113.1:4001", "10.0.0.1:4000"},
		{"the server, by his public address", dnat, orig, "203.0.113.9:2100", "192.168.1.9:2100"},
		{"the server himself", dnat, reply, "192.168.1.9:2100", "203.0.113.9:2100"},
		{"the client, who is not translated", dnat, orig, "10.0.0.1:50000", "10.0.0.1:50000"},
		{"a neighbour of the reader's", snat, reply, "203.0.113.1:4007", "10.0.0.2:4007"},
		{"a neighbour of the sender's", snat, orig, "203.0.113.1:4007", "203.0.113.1:4007"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, nil)
			b.refuse = func(r engine.Request) error {
				if r.Place != nil && r.Place.At.Port() == 4000 {
					return expect.ErrTaken
				}
				return nil
			}
			if tt.conn == snat {
				b.udp(otherClient(snat), orig, "open tcp 10.0.0.2:4007\n")
				b.udp(tt.conn, orig, "open udp 10.0.0.1:4000\n")
			}
			if got := b.payload(b.udp(tt.conn, tt.dir, "via "+tt.via+"\n")); got != "via "+tt.want+"\n" {
				t.Errorf("left: %q, want via %s", got, tt.want)
			}
		})
	}
}

// What is lasting outlives its connection, and its session goes when it does.
func TestLasting(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(plainConn(helpers.TCP), 1000)
	f.say(orig, "open tcp 10.0.0.1:4000 group 1\nopen tcp 10.0.0.1:4001 lasting group 2\n")
	b.events("expect tcp *>10.0.0.1:4000", "expect tcp *>10.0.0.1:4001")
	b.drive(b.e.Ended(helpers.TCP, f.conn.Orig, 0, b.now))
	b.events("cancel tcp *>10.0.0.1:4000 flow-ended")
	b.pass(time.Minute + time.Second)
	b.events("cancel tcp *>10.0.0.1:4001 expired")
	if n := b.e.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// What is open to a host it may pass on to another, who reaches it without the NAT that both stand behind.
func TestRelayed(t *testing.T) {
	const refused = "foreign-address"
	tests := []struct {
		name      string
		conn      func(helpers.Transport) engine.Conn
		neighbour string   // says, line by line
		say       string   // says the server to the client
		events    []string // that follow
	}{
		{"behind NAT", snatConn, "open udp 10.0.0.2:4000 peer\n", "open udp 203.0.113.1:4000 peer relayed\n",
			[]string{"expect udp 10.0.0.1:0>10.0.0.2:4000", `edit reply 9 "203.0.113.1:4000" "10.0.0.2:4000"`}},
		{"routed", plainConn, "open udp 10.0.0.2:4000 peer\n", "open udp 10.0.0.2:4000 peer relayed\n",
			[]string{"expect udp 10.0.0.1:0>10.0.0.2:4000"}},
		{"what is open to anybody, behind NAT", snatConn, "open udp 10.0.0.2:4000\n", "open udp 203.0.113.1:4000 peer relayed\n",
			[]string{"expect udp 10.0.0.1:0>10.0.0.2:4000", `edit reply 9 "203.0.113.1:4000" "10.0.0.2:4000"`}},
		{"what is open to anybody", plainConn, "open udp 10.0.0.2:4000\n", "open udp 10.0.0.2:4000 peer relayed\n", nil},
		{"open to the reader already", plainConn, "open udp 10.0.0.2:4000 from 10.0.0.1+0\n", "open udp 10.0.0.2:4000 peer relayed\n", nil},
		{"not meant so", snatConn, "open udp 10.0.0.2:4000 peer\n", "open udp 203.0.113.1:4000 peer\n",
			[]string{"refuse udp 10.0.0.1:0>203.0.113.1:4000 " + refused}},
		{"for another", plainConn, "open udp 10.0.0.2:4000 peer\n", "open udp 10.0.0.2:4000 other relayed\n",
			[]string{"refuse udp *>10.0.0.2:4000 " + refused}},
		{"open to somebody else", plainConn, "open udp 10.0.0.2:4000 from 198.51.100.10+0\n", "open udp 10.0.0.2:4000 peer relayed\n",
			[]string{"refuse udp 10.0.0.1:0>10.0.0.2:4000 " + refused}},
		{"open to one of his ports", plainConn, "open udp 10.0.0.2:4000 from 198.51.100.9+7\n", "open udp 10.0.0.2:4000 peer relayed\n",
			[]string{"refuse udp 10.0.0.1:0>10.0.0.2:4000 " + refused}},
		{"another port", plainConn, "open udp 10.0.0.2:4000 peer\n", "open udp 10.0.0.2:4001 peer relayed\n",
			[]string{"refuse udp 10.0.0.1:0>10.0.0.2:4001 " + refused}},
		{"closed again", plainConn, "open udp 10.0.0.2:4000 group 1 peer\ncancel 1\n", "open udp 10.0.0.2:4000 peer relayed\n",
			[]string{"refuse udp 10.0.0.1:0>10.0.0.2:4000 " + refused}},
		{"only reserved", snatConn, "open udp 10.0.0.2:4000 peer reserve\n", "open udp 203.0.113.1:4000 peer relayed\n",
			[]string{"refuse udp 10.0.0.1:0>203.0.113.1:4000 " + refused}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, nil)
			c := tt.conn(helpers.UDP)
			neighbour := otherClient(c)
			if c.Reply == c.Orig.Turned() {
				neighbour.Reply = neighbour.Orig.Turned()
			}
			for line := range strings.Lines(tt.neighbour) {
				b.udp(neighbour, orig, line)
			}
			b.udp(c, orig, "hello\n")
			b.log = nil
			b.udp(c, reply, tt.say)
			b.events(tt.events...)
		})
	}
	t.Run("said back to its owner", func(t *testing.T) {
		b := newBed(t, nil)
		say := b.talk(snatConn(helpers.UDP))
		say(orig, "open udp 10.0.0.1:4000 peer\n")
		b.log = nil
		say(reply, "open udp 203.0.113.1:4000 peer relayed\n")
		b.events()
	})
}

// A datagram that nobody could send if it were rewritten leaves as it came, and opens nothing.
func TestOverlong(t *testing.T) {
	six := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	ipv6 := engine.Conn{
		Transport: helpers.UDP,
		Orig:      helpers.Tuple{Src: six("[fd00::1]:50000"), Dst: six("[2001:db8:9::9]:2100")},
		Reply:     helpers.Tuple{Src: six("[2001:db8:9::9]:2100"), Dst: six("[2001:db8:1111:2222:3333::1]:50000")},
	}
	for _, tt := range []struct {
		name string
		conn engine.Conn
		size int
		ok   bool
	}{
		{"IPv4, a frame", snatConn(helpers.UDP), 1472, true}, // its fragments are put together
		{"IPv4, all that can be said", snatConn(helpers.UDP), 65507, false},
		{"IPv6, less than a frame", ipv6, 1400, true},
		{"IPv6, a frame", ipv6, 1452, false},
		{"IPv6, in fragments", ipv6, 1453, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, nil)
			own := tt.conn.Orig.Src
			text := fmt.Sprintf("open udp %v\n", netip.AddrPortFrom(own.Addr(), 4000))
			text += strings.Repeat("x", tt.size-len(text)-1) + "\n"
			at := netip.AddrPortFrom(tt.conn.Reply.Dst.Addr(), 4000)
			want := text
			if tt.ok {
				want = strings.Replace(text, netip.AddrPortFrom(own.Addr(), 4000).String(), at.String(), 1)
			}
			if got := b.payload(b.udp(tt.conn, orig, text)); got != want {
				t.Errorf("%d bytes left as %d: %.60q", len(text), len(got), got)
			}
			initiator := helpers.Tuple{Src: netip.AddrPortFrom(tt.conn.Orig.Dst.Addr(), 7), Dst: at}
			if _, open := b.table.Match(helpers.UDP, initiator); open != tt.ok {
				t.Errorf("open %v, want %v", open, tt.ok)
			}
			if n := b.e.Stats().Refused[engine.RefuseNoAdjust]; (n == 0) != tt.ok {
				t.Errorf("%d refused", n)
			}
		})
	}
}

// What is released before its answers come leaves unchanged, and what the answers made is taken back.
func TestReleaseBeforeTheAnswers(t *testing.T) {
	for _, phase := range []string{"placing", "adjusting"} {
		t.Run(phase, func(t *testing.T) {
			b := newBed(t, nil)
			f := b.tcp(snatConn(helpers.TCP), 1000)
			b.answers = false
			first := f.say(orig, "open tcp 10.0.0.1:4000\n")
			if phase == "adjusting" {
				b.resume()
			}
			ticket, asked := b.ticket, b.asked
			second := f.say(orig, "hello\n")
			b.drive(b.e.Release())
			b.Do(b.asked, make([]error, len(b.asked)))
			if a, c := b.payload(first), b.payload(second); a != "open tcp 10.0.0.1:4000\n" || c != "hello\n" {
				t.Errorf("left: %q, %q", a, c)
			}
			b.ticket, b.asked, b.answers = ticket, asked, true
			b.resume()
			meets := helpers.Tuple{Src: server, Dst: netip.MustParseAddrPort("203.0.113.1:4000")}
			if _, ok := b.table.Match(helpers.TCP, meets); ok {
				t.Errorf("it is still expected: %q", b.done)
			}
			if k := b.adjust(f.conn.Orig)[orig]; k.Before != 0 || k.After != 0 {
				t.Errorf("numbers are still adjusted: %+v", k)
			}
			if s := b.e.Stats(); s.Pending != 0 || s.Announced != 0 {
				t.Errorf("%+v", s)
			}
			if got := b.payload(f.say(orig, "open tcp 10.0.0.1:4001\n")); got != "open tcp 203.0.113.1:4001\n" {
				t.Errorf("the next announcement left as %q", got)
			}
		})
	}
}

// Mappings that nobody uses any more give way.
func TestMappingsAreBounded(t *testing.T) {
	b := newBed(t, nil)
	c := snatConn(helpers.UDP)
	for i := range 200 {
		b.now = b.now.Add(20 * time.Millisecond) // the rate is limited
		b.udp(c, orig, fmt.Sprintf("open udp 10.0.0.1:%d group %d\n", 4000+i, i+1))
		related := engine.Conn{Transport: helpers.UDP}
		related.Orig = helpers.Tuple{Src: server, Dst: addPort(netip.MustParseAddrPort("203.0.113.1:4000"), i)}
		b.drive(b.e.Related(related, 0, b.now))
	}
	if n := b.e.Mappings(); n > 40 {
		t.Errorf("%d mappings are kept", n)
	}
	if s := b.e.Stats(); s.Announced != 200 || s.Related != 200 || s.Pending != 0 {
		t.Errorf("%+v", s)
	}
}

// What the engine knows of connections, for who has to compare it with the kernel's table.
func TestConnections(t *testing.T) {
	b := newBed(t, nil)
	c := snatConn(helpers.UDP)
	b.udp(c, orig, "hello\n")
	b.udp(otherClient(c), orig, "hello\n")
	if d := cmp.Diff([]engine.Conn{c, otherClient(c)}, slices.Collect(b.e.Connections()), cmp.Comparer(sameAddr)); d != "" {
		t.Errorf("connections: -want +got\n%s", d)
	}
}

func sameAddr(a, b netip.AddrPort) bool { return a == b }

// A connection whose numbers the kernel adjusts already goes on, and the next change adds to it.
func TestTakeOverAdjusted(t *testing.T) {
	b := newBed(t, nil)
	c := snatConn(helpers.TCP)
	c.Existing = true
	f := b.late(c, 1000)
	k := engine.SeqAdjust{Pos: 900, Before: 2, After: 7}
	b.adjust(c.Orig)[orig], f.conn.Adjust[orig] = k, k
	id := f.say(orig, "hello\n")
	if seq, _ := b.seqs(id); seq != 1001+7 {
		t.Errorf("the first segment leaves at %d", seq)
	}
	f.say(orig, "open tcp 10.0.0.1:4000\n")
	end := f.next[orig]
	id = f.say(orig, "hello\n")
	if seq, _ := b.seqs(id); seq != end+10 {
		t.Errorf("what follows the change leaves at %d, want %d", seq, end+10)
	}
	if _, ack := b.seqs(f.raw(reply, packet.ACK, f.next[reply], end+10, "")); ack != end {
		t.Errorf("the sender is told %d, want %d", ack, end)
	}
	if b.done[len(b.done)-4] != "adjust orig 7/10" {
		t.Errorf("done: %q", b.done)
	}
}
