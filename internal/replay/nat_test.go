package replay

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

var byValue = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}), cmpopts.EquateEmpty()}

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func tuple(src, dst string) helpers.Tuple { return helpers.Tuple{Src: addr(src), Dst: addr(dst)} }

func TestParseTranslation(t *testing.T) {
	tests := []struct {
		in   string
		want Translation
		bad  bool
	}{
		{"192.0.2.2=203.0.113.1", Translation{netip.MustParsePrefix("192.0.2.2/32"), netip.MustParseAddr("203.0.113.1")}, false},
		{"192.0.2.77/24=203.0.113.1", Translation{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParseAddr("203.0.113.1")}, false},
		{"fd00::2=2001:db8::1", Translation{netip.MustParsePrefix("fd00::2/128"), netip.MustParseAddr("2001:db8::1")}, false},
		{"192.0.2.2", Translation{}, true},
		{"=203.0.113.1", Translation{}, true},
		{"192.0.2.2=", Translation{}, true},
		{"192.0.2.2/33=203.0.113.1", Translation{}, true},
		{"192.0.2.2=203.0.113.0/24", Translation{}, true},
		{"192.0.2.2=2001:db8::1", Translation{}, true},
		{"fe80::1%eth0=2001:db8::1", Translation{}, true},
		{"fd00::2=fe80::1%eth0", Translation{}, true},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseTranslation(tt.in)
			if (err != nil) != tt.bad {
				t.Fatalf("error %v", err)
			}
			if d := cmp.Diff(tt.want, got, byValue); d != "" && !tt.bad {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func TestTuples(t *testing.T) {
	rules := []Translation{
		{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParseAddr("203.0.113.1")},
		{netip.MustParsePrefix("10.0.0.9/32"), netip.MustParseAddr("203.0.113.9")},
	}
	tests := []struct {
		name        string
		captured    helpers.Tuple
		taken       []helpers.Tuple
		before      []helpers.Tuple // connections made earlier
		announced   map[string]string
		orig, reply helpers.Tuple
	}{
		{
			name:     "no translation",
			captured: tuple("198.51.100.2:50000", "198.51.100.9:21"),
			orig:     tuple("198.51.100.2:50000", "198.51.100.9:21"), reply: tuple("198.51.100.9:21", "198.51.100.2:50000"),
		},
		{
			name:     "initiator",
			captured: tuple("192.0.2.2:50000", "198.51.100.9:21"),
			orig:     tuple("192.0.2.2:50000", "198.51.100.9:21"), reply: tuple("198.51.100.9:21", "203.0.113.1:50000"),
		},
		{
			name:     "initiator whose port is taken",
			captured: tuple("192.0.2.2:50000", "198.51.100.9:21"),
			taken:    []helpers.Tuple{tuple("198.51.100.9:21", "203.0.113.1:50000"), tuple("198.51.100.9:21", "203.0.113.1:50001")},
			orig:     tuple("192.0.2.2:50000", "198.51.100.9:21"), reply: tuple("198.51.100.9:21", "203.0.113.1:50002"),
		},
		{
			name:     "initiator whose port, the last one, is taken",
			captured: tuple("192.0.2.2:65535", "198.51.100.9:21"),
			taken:    []helpers.Tuple{tuple("198.51.100.9:21", "203.0.113.1:65535")},
			orig:     tuple("192.0.2.2:65535", "198.51.100.9:21"), reply: tuple("198.51.100.9:21", "203.0.113.1:1024"),
		},
		{
			name:     "responder",
			captured: tuple("198.51.100.2:50000", "192.0.2.9:21"),
			orig:     tuple("198.51.100.2:50000", "203.0.113.1:21"), reply: tuple("192.0.2.9:21", "198.51.100.2:50000"),
		},
		{
			name:     "responder whose port another one has",
			captured: tuple("198.51.100.2:50000", "192.0.2.9:21"),
			before:   []helpers.Tuple{tuple("198.51.100.2:50000", "192.0.2.8:21")},
			orig:     tuple("198.51.100.2:50000", "203.0.113.1:1024"), reply: tuple("192.0.2.9:21", "198.51.100.2:50000"),
		},
		{
			name:     "responder at the same place as before",
			captured: tuple("198.51.100.2:50001", "192.0.2.9:21"),
			before:   []helpers.Tuple{tuple("198.51.100.2:50000", "192.0.2.9:21"), tuple("198.51.100.2:50000", "192.0.2.8:21")},
			orig:     tuple("198.51.100.2:50001", "203.0.113.1:21"), reply: tuple("192.0.2.9:21", "198.51.100.2:50001"),
		},
		{
			name:      "responder who was announced",
			captured:  tuple("198.51.100.2:20", "192.0.2.9:50001"),
			announced: map[string]string{"192.0.2.9:50001": "203.0.113.1:50007"},
			orig:      tuple("198.51.100.2:20", "203.0.113.1:50007"), reply: tuple("192.0.2.9:50001", "198.51.100.2:20"),
		},
		{
			name:     "both, by different translations",
			captured: tuple("192.0.2.2:50000", "10.0.0.9:21"),
			orig:     tuple("192.0.2.2:50000", "203.0.113.9:21"), reply: tuple("10.0.0.9:21", "203.0.113.1:50000"),
		},
		{
			name:     "both on the same side",
			captured: tuple("192.0.2.2:50000", "192.0.2.9:21"),
			orig:     tuple("192.0.2.2:50000", "192.0.2.9:21"), reply: tuple("192.0.2.9:21", "192.0.2.2:50000"),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newTranslator(rules)
			for own, at := range tt.announced {
				n.announce(&expect.Request{Transport: helpers.TCP, To: addr(own), At: addr(at)})
			}
			inUse := func(reply helpers.Tuple) bool {
				for _, u := range tt.taken {
					if u == reply {
						return true
					}
				}
				return false
			}
			for _, b := range tt.before {
				n.tuples(helpers.TCP, b, inUse)
			}
			orig, reply := n.tuples(helpers.TCP, tt.captured, inUse)
			if orig != tt.orig || reply != tt.reply {
				t.Errorf("got %v and %v, want %v and %v", orig, reply, tt.orig, tt.reply)
			}
		})
	}
}

// What was withdrawn is seen at its own port again.
func TestWithdraw(t *testing.T) {
	n := newTranslator([]Translation{{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParseAddr("203.0.113.1")}})
	own := end{helpers.TCP, addr("192.0.2.2:50001")}
	seen := func() string { return n.publish(own, n.rules[0].To).String() }
	place := func(id expect.ID, session uint64, at string) {
		n.announce(&expect.Request{ID: id, Master: expect.Master{Session: session}, Transport: helpers.TCP, To: own.addr, At: addr(at)})
	}
	place(1, 7, "203.0.113.1:50005")
	if got := seen(); got != "203.0.113.1:50005" {
		t.Errorf("announced, but seen at %s", got)
	}
	n.withdraw(func(id expect.ID, _ uint64) bool { return id == 1 })
	if got := seen(); got != "203.0.113.1:50001" {
		t.Errorf("withdrawn, but seen at %s", got)
	}
	place(2, 7, "203.0.113.1:50006")
	n.withdraw(func(_ expect.ID, session uint64) bool { return session == 7 })
	if got := seen(); got != "203.0.113.1:50001" {
		t.Errorf("its session is over, but seen at %s", got)
	}
}
