package ftp

import (
	"net/netip"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
)

// Sessions that announce at the same time leave few desks behind, and none sees another's.
func TestDesks(t *testing.T) {
	list, err := Protocol().Helpers(nil)
	if err != nil {
		t.Fatal(err)
	}
	orig := helpers.Tuple{Src: netip.MustParseAddrPort("10.0.0.1:5000"), Dst: netip.MustParseAddrPort("198.51.100.9:21")}
	flow := helpers.Flow{Transport: helpers.TCP, Orig: orig, Reply: orig.Turned()}
	say := func(s *session, dir helpers.Dir, text string) (out helpers.Result) {
		if err := s.Inspect(&helpers.Segment{Flow: &flow, Dir: dir, Data: []byte(text)}, &out); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		return out
	}
	all := make([]*session, 3*maxFree)
	var shared *desks
	owners := map[*desk]bool{}
	for i := range all {
		all[i] = list[0].New().(*session)
		shared = all[i].desk.all
		say(all[i], helpers.Reply, "220 ready\r\n")
		if out := say(all[i], helpers.Original, "PORT 10,0,0,1,200,10\r\n"); len(out.Expect) != 1 {
			t.Fatalf("%d announced", len(out.Expect))
		}
		owners[all[i].desk] = true
	}
	if len(owners) != len(all) {
		t.Errorf("%d sessions share %d desks", len(all), len(owners))
	}
	for _, s := range all {
		say(s, helpers.Reply, "200 fine\r\n")
		if s.working() {
			t.Fatal("an idle session has a desk")
		}
	}
	if n := shared.free.Len(); n == 0 || n > maxFree {
		t.Errorf("%d desks are kept, at most %d are wanted", n, maxFree)
	}
}
