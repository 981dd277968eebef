package nfnl

import (
	"errors"
	"math"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// side is a family's addresses for the tests against the kernel.
type side struct {
	name                           string
	client, public, server, ones   string
	family                         uint8
	clientAddr, publicAddr, allOne netip.Addr
}

func sides() []side {
	all := []side{
		{
			name: "IPv4", client: "192.0.2.2", public: "203.0.113.7", server: "10.0.0.9",
			ones: "255.255.255.255", family: unix.AF_INET,
		},
		{
			name: "IPv6", client: "2001:db8:1::2", public: "2001:db8:3::7", server: "fd00::9",
			ones: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", family: unix.AF_INET6,
		},
	}
	for i := range all {
		s := &all[i]
		s.clientAddr, s.publicAddr = netip.MustParseAddr(s.client), netip.MustParseAddr(s.public)
		s.allOne = netip.MustParseAddr(s.ones)
	}
	return all
}

// shadow is a master with port 0 that no packet meets, under DNAT, the client's port telling one from another.
func (s *side) shadow(helper string, l4 uint8, port uint16) Connection {
	return Connection{
		Orig:    Tuple{Src: s.clientAddr, SrcPort: port, Dst: s.publicAddr, Proto: l4},
		Reply:   Tuple{Src: netip.MustParseAddr(s.server), Dst: s.clientAddr, DstPort: port, Proto: l4},
		Timeout: 600, Mark: 9, Helper: helper,
	}
}

// expectation is one from the client's any port to port at the public address.
func (s *side) expectation(master Tuple, port uint16) Expectation {
	return Expectation{
		Master: master,
		Tuple:  Tuple{Src: s.clientAddr, Dst: s.publicAddr, DstPort: port, Proto: unix.IPPROTO_TCP},
		Mask:   Tuple{Src: s.allOne, Dst: s.allOne, DstPort: math.MaxUint16, Proto: unix.IPPROTO_TCP},
	}
}

// carrier creates a shadow with the first helper that the kernel has, or skips.
func (s *side) carrier(t *testing.T, c *Conn, port uint16) Connection {
	t.Helper()
	e := s.carrierOrNone(c, port)
	if e.Helper == "" {
		t.Skip("the kernel has no conntrack helper: CONFIG_NF_CONNTRACK_H323, _SANE or _FTP")
	}
	return e
}

// carrierOrNone is carrier for those who cannot skip.
func (s *side) carrierOrNone(c *Conn, port uint16) Connection {
	for _, helper := range []struct {
		name string
		l4   uint8
	}{{"RAS", unix.IPPROTO_UDP}, {"Q.931", unix.IPPROTO_TCP}, {"sane", unix.IPPROTO_TCP}, {"ftp", unix.IPPROTO_TCP}} {
		e := s.shadow(helper.name, helper.l4, port)
		if err := c.CreateConnection(&e); err == nil {
			return e
		}
	}
	return Connection{}
}

// list gives the expectations of a family.
func list(t *testing.T, c *Conn, family uint8) (all []Expectation) {
	t.Helper()
	if err := c.Expectations(family, func(e *Expectation) { all = append(all, *e) }); err != nil {
		t.Fatal(err)
	}
	return all
}

// dial opens a socket in a namespace of the test's own.
func dial(t *testing.T) *Conn {
	t.Helper()
	var c *Conn
	var err error
	netnstest.New(t).Do(func() { c, err = Dial() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestKernelFacts holds what the project relies on in ctnetlink, each fact with the errno or the value that the kernel
// answers with.
func TestKernelFacts(t *testing.T) {
	facts := []struct {
		name  string
		check func(*testing.T, *Conn, *side)
	}{
		{"an entry that no packet made is found by both tuples", func(t *testing.T, c *Conn, s *side) {
			e := s.carrier(t, c, 50000)
			for _, tuple := range []Tuple{e.Orig, e.Reply} {
				got, err := c.Get(tuple, 0)
				if err != nil {
					t.Fatal(err)
				}
				if got.Orig != e.Orig || got.Reply != e.Reply || got.Helper != e.Helper || got.Mark != e.Mark {
					t.Errorf("%+v, want %+v", got, e)
				}
				if want := uint32(StatusConfirmed | StatusSeenReply | StatusAssured); got.Status&want != want {
					t.Errorf("status %#x, want %#x among it", got.Status, want)
				}
			}
		}},
		{"a second entry with its tuple: EEXIST", func(t *testing.T, c *Conn, s *side) {
			e := s.carrier(t, c, 50000)
			errno(t, c.CreateConnection(&e), unix.EEXIST)
		}},
		{"an entry is another one in another zone", func(t *testing.T, c *Conn, s *side) {
			e := s.carrier(t, c, 50000)
			e.Zone = 5
			errno(t, c.CreateConnection(&e), 0)
			errno(t, c.DeleteConnection(e.Orig, 5), 0)
			_, err := c.Get(e.Orig, 0)
			errno(t, err, 0)
		}},
		{"no entry: ENOENT", func(t *testing.T, c *Conn, s *side) {
			e := s.shadow("", unix.IPPROTO_TCP, 1)
			_, err := c.Get(e.Orig, 0)
			errno(t, err, unix.ENOENT)
			b := c.Begin()
			b.Prolong(&e.Orig, 0, 1, 0)
			errno(t, b.Do(), unix.ENOENT)
			errno(t, c.DeleteConnection(e.Orig, 0), unix.ENOENT)
		}},
		{"an expectation is kept as it was written", func(t *testing.T, c *Conn, s *side) {
			master := s.carrier(t, c, 50000).Orig
			want := s.expectation(master, 40001)
			want.NAT, want.NATDir, want.Function = true, 1, "nat-follow-master"
			want.NATTuple = want.Tuple
			want.NATTuple.SrcPort = 40000
			// The function is a module's, which a chain of NAT loads.
			netnstest.New(t).Run("nft", "table ip t { chain c { type nat hook postrouting priority 0; }; }")
			errno(t, c.CreateExpectation(&want), 0)
			all := list(t, c, s.family)
			if len(all) != 1 {
				t.Fatalf("%d expectations, want 1", len(all))
			}
			got := all[0]
			// The kernel keeps the tuple's source only; it shows the master's protocol (ctnetlink_exp_dump_expect).
			want.NATTuple.Proto = master.Proto
			want.ID, want.Helper = got.ID, got.Helper // the kernel's and the master's
			got.Timeout, got.NATTuple.Dst, got.NATTuple.DstPort = 0, want.NATTuple.Dst, want.NATTuple.DstPort
			if diff := cmp.Diff(want, got, addresses); diff != "" {
				t.Error(diff)
			}
		}},
		{"an equal expectation, of another master too: EEXIST", func(t *testing.T, c *Conn, s *side) {
			one, other := s.carrier(t, c, 50000), s.carrier(t, c, 50001)
			e := s.expectation(one.Orig, 40001)
			errno(t, c.CreateExpectation(&e), 0)
			errno(t, c.CreateExpectation(&e), unix.EEXIST)
			e.Master = other.Orig
			errno(t, c.CreateExpectation(&e), unix.EEXIST)
		}},
		{"one that a common connection could meet: EBUSY", func(t *testing.T, c *Conn, s *side) {
			one, other := s.carrier(t, c, 50000), s.carrier(t, c, 50001)
			e := s.expectation(one.Orig, 40001)
			e.Tuple.SrcPort, e.Mask.SrcPort = 7, math.MaxUint16
			errno(t, c.CreateExpectation(&e), 0)
			wide := s.expectation(other.Orig, 40001)
			errno(t, c.CreateExpectation(&wide), unix.EBUSY)
		}},
		{"no master: ENOENT", func(t *testing.T, c *Conn, s *side) {
			e := s.expectation(s.shadow("", unix.IPPROTO_TCP, 1).Orig, 40001)
			errno(t, c.CreateExpectation(&e), unix.ENOENT)
		}},
		{"a master without a helper: EOPNOTSUPP", func(t *testing.T, c *Conn, s *side) {
			master := s.shadow("", unix.IPPROTO_UDP, 50000)
			b := c.Begin()
			b.open("create", CTNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, s.family)
			b.out = master.Reply.put(master.Orig.put(b.out, ctaTupleOrig), ctaTupleReply)
			b.out = putUint32(putUint32(b.out, ctaStatus, StatusConfirmed), ctaTimeout, master.Timeout)
			err := b.Do()
			errno(t, err, 0)
			e := s.expectation(master.Orig, 40001)
			errno(t, c.CreateExpectation(&e), unix.EOPNOTSUPP)
		}},
		{"a class that the helper has not: EINVAL", func(t *testing.T, c *Conn, s *side) {
			e := s.expectation(s.carrier(t, c, 50000).Orig, 40001)
			e.Class = 200
			errno(t, c.CreateExpectation(&e), unix.EINVAL)
		}},
		{"the timeout is the class's until it is changed", func(t *testing.T, c *Conn, s *side) {
			e := s.expectation(s.carrier(t, c, 50000).Orig, 40001)
			e.Timeout = 20
			errno(t, c.CreateExpectation(&e), 0)
			if all := list(t, c, s.family); len(all) != 1 || all[0].Timeout <= 100 {
				t.Errorf("%+v, want one with the class's timeout, which is above 100 s for every carrier", all)
			}
			errno(t, c.ChangeExpectation(&e), 0)
			if all := list(t, c, s.family); len(all) != 1 || all[0].Timeout > 20 || all[0].Timeout < 15 {
				t.Errorf("%+v, want one with the 20 s asked for", all)
			}
		}},
		{"a deleted expectation is gone: ENOENT", func(t *testing.T, c *Conn, s *side) {
			e := s.expectation(s.carrier(t, c, 50000).Orig, 40001)
			errno(t, c.CreateExpectation(&e), 0)
			errno(t, c.DeleteExpectation(e.Tuple, 0), 0)
			errno(t, c.DeleteExpectation(e.Tuple, 0), unix.ENOENT)
		}},
		{"a deleted master takes its expectations along", func(t *testing.T, c *Conn, s *side) {
			one, other := s.carrier(t, c, 50000), s.carrier(t, c, 50001)
			for i, master := range []Tuple{one.Orig, other.Orig} {
				e := s.expectation(master, 40001+uint16(i))
				errno(t, c.CreateExpectation(&e), 0)
			}
			errno(t, c.DeleteConnection(one.Orig, 0), 0)
			if all := list(t, c, s.family); len(all) != 1 || all[0].Master != other.Orig {
				t.Errorf("left: %+v, want the other master's alone", all)
			}
		}},
	}
	for _, s := range sides() {
		for _, fact := range facts {
			t.Run(s.name+"/"+fact.name, func(t *testing.T) { fact.check(t, dial(t), &s) })
		}
	}
}

// errno asks that err is the kernel's errno in an *Error; 0: that there is none.
func errno(t *testing.T, err error, want unix.Errno) {
	t.Helper()
	var e *Error
	if want == 0 && err != nil || want != 0 && (!errors.As(err, &e) || e.Errno != want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

// TestHelperObjects registers an object of a name of its own, and takes it out: the list is the machine's.
func TestHelperObjects(t *testing.T) {
	c := dial(t)
	o := HelperObject{
		Name: "cth-nfnltest", L3: unix.AF_INET, L4: unix.IPPROTO_TCP, Classes: []HelperClass{{"data", 3, 77}},
	}
	err := c.CreateHelper(&o)
	if errors.Is(err, ErrNoHelperObjects) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		errno(t, c.DeleteHelper(&o), 0)
		// nfnl_cthelper_del: to delete one that is not there is no error, if there are none at all. Other tests leave some.
		all, err := c.Helpers()
		if err != nil {
			t.Fatal(err)
		}
		want := unix.Errno(0)
		if len(all) > 0 {
			want = unix.ENOENT
		}
		errno(t, c.DeleteHelper(&o), want)
		if n := listed(t, c, &o); n != 0 {
			t.Errorf("deleted, but listed %d times", n)
		}
	}()
	errno(t, c.CreateHelper(&o), unix.EEXIST)
	if n := listed(t, c, &o); n != 1 {
		t.Errorf("listed %d times, want once", n)
	}
	s := sides()[0]
	master := s.shadow(o.Name, o.L4, 50000)
	errno(t, c.CreateConnection(&master), 0)
	for port := range uint16(5) { // two more than the class keeps
		e := s.expectation(master.Orig, 40000+port)
		errno(t, c.CreateExpectation(&e), 0)
	}
	kept := list(t, c, s.family)
	if len(kept) != 3 {
		t.Errorf("%d expectations kept, want the class's 3", len(kept))
	}
	for _, e := range kept {
		if e.Tuple.DstPort < 40002 {
			t.Errorf("%d was kept, which is among the oldest", e.Tuple.DstPort)
		}
		if e.Timeout > 77 || e.Timeout < 70 {
			t.Errorf("timeout %d s, want the class's 77", e.Timeout)
		}
	}
}

// listed counts the helper objects with o's name and place.
func listed(t *testing.T, c *Conn, o *HelperObject) (n int) {
	t.Helper()
	all, err := c.Helpers()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range all {
		if h.Name == o.Name && h.L3 == o.L3 && h.L4 == o.L4 {
			n++
		}
	}
	return n
}
