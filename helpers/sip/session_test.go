package sip

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
)

var (
	phone = netip.MustParseAddrPort("192.0.2.2:5060")
	proxy = netip.MustParseAddrPort("198.51.100.9:5060")
)

// flowOf makes a flow without NAT.
func flowOf(id helpers.FlowID, transport helpers.Transport, src, dst netip.AddrPort) *helpers.Flow {
	t := helpers.Tuple{Src: src, Dst: dst}
	return &helpers.Flow{ID: id, Transport: transport, Orig: t, Reply: t.Turned()}
}

// text makes a message. words: start line, CSeq, caller's and called side's tag, Call-ID; then a body.
func text(start, cseq, caller, called, callID, sdp string) string {
	if called != "" {
		called = ";tag=" + called
	}
	sdp = crlf(sdp)
	kind := ""
	if sdp != "" {
		kind = "Content-Type: application/sdp\r\n"
	}
	return fmt.Sprintf("%s\r\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK%s\r\nFrom: <sip:a@a>;tag=%s\r\nTo: <sip:b@b>%s\r\n"+
		"Call-ID: %s\r\nCSeq: %s\r\n%sContent-Length: %d\r\n\r\n%s",
		start, strings.Fields(cseq)[0], caller, called, callID, cseq, kind, len(sdp), sdp)
}

func lineOf(addr netip.Addr, port int) string {
	return fmt.Sprintf("v=0\nc=IN IP4 %v\nm=audio %d RTP/AVP 0\n", addr, port)
}

// say gives one datagram, or all that is in a stream.
func say(t testing.TB, s helpers.Session, f *helpers.Flow, dir helpers.Dir, data string) helpers.Result {
	t.Helper()
	var out helpers.Result
	if err := s.Inspect(&helpers.Segment{Flow: f, Dir: dir, Data: []byte(data)}, &out); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	return out
}

// A call begins by TCP from one host, is answered there, and ends by UDP from the other; the flow that it began in may
// be gone by then.
func TestCallOverSeveralFlows(t *testing.T) {
	udp, _ := both(t, defaults())
	for _, swapped := range []bool{false, true} {
		a, b := phone, proxy
		if swapped { // which address is lower must not matter
			a, b = b, a
		}
		s := udp.New()
		first := flowOf(1, helpers.TCP, netip.AddrPortFrom(a.Addr(), 40000), b)
		invite := text("INVITE sip:b@b SIP/2.0", "1 INVITE", "a", "", "c", lineOf(a.Addr(), 4000))
		out := say(t, s, first, helpers.Original, invite)
		if len(out.Expect) != 2 || out.Expect[0].Owner != helpers.Original {
			t.Fatalf("INVITE announces %+v", out.Expect)
		}
		group := out.Expect[0].Group.ID
		out = say(t, s, first, helpers.Reply, text("SIP/2.0 200 OK", "1 INVITE", "a", "b", "c", lineOf(b.Addr(), 3000)))
		if len(out.Expect) != 4 || out.Expect[0].Owner != helpers.Reply || out.Expect[2].Owner != helpers.Original ||
			out.Expect[2].From.Addr() != b.Addr() {
			t.Fatalf("200 announces %+v", out.Expect)
		}
		s.Close(1, &out)
		second := flowOf(2, helpers.UDP, b, a)
		// The owner of what the caller announces is the direction of his in this flow.
		change := text("UPDATE sip:a@a SIP/2.0", "7 UPDATE", "b", "a", "c", lineOf(b.Addr(), 3000))
		out = say(t, s, second, helpers.Original, change)
		if len(out.Expect) != 2 || out.Expect[0].Owner != helpers.Original || out.Expect[0].Group.ID != group {
			t.Fatalf("UPDATE announces %+v", out.Expect)
		}
		out = say(t, s, second, helpers.Reply, text("SIP/2.0 200 OK", "7 UPDATE", "b", "a", "c", lineOf(a.Addr(), 4000)))
		if len(out.Expect) != 4 || out.Expect[0].Owner != helpers.Reply || out.Expect[2].Owner != helpers.Original {
			t.Fatalf("200 announces %+v", out.Expect)
		}
		out = say(t, s, second, helpers.Original, text("BYE sip:a@a SIP/2.0", "8 BYE", "b", "a", "c", ""))
		if len(out.Cancel) != 1 || out.Cancel[0] != (helpers.Group{ID: group}) {
			t.Fatalf("BYE cancels %+v, want %d", out.Cancel, group)
		}
	}
}

// Over TCP nobody waits for a body in which no session description is.
func TestBodyIsAwaited(t *testing.T) {
	for kind, want := range map[string]bool{
		"application/sdp": true, "Application / SDP;charset=x": true, "multipart/mixed;boundary=x": true, "": false,
		"text/plain": false, "application/sdpx": false, "message/sipfrag": false, "application/sdp\r\nContent-Encoding: gzip": false,
	} {
		_, tcp := both(t, defaults())
		invite := text("INVITE sip:b@b SIP/2.0", "1 INVITE", "a", "", "c", lineOf(phone.Addr(), 4000))
		invite = strings.Replace(invite, "application/sdp", kind, 1)
		half := len(invite) - 10
		out := say(t, tcp.New(), flowOf(1, helpers.TCP, phone, proxy), helpers.Original, invite[:half])
		if awaited := out.Consumed == 0 && out.Hold == half; awaited != want || !want && (out.Consumed != len(invite) || out.Hold != 0) {
			t.Errorf("%q: %d of %d bytes are consumed, %d held", kind, out.Consumed, half, out.Hold)
		}
	}
}

// The request comes by one flow, the answer by another: a registration holds all the same.
func TestRegistrationOverTwoFlows(t *testing.T) {
	udp, _ := both(t, defaults())
	s := udp.New()
	register := "REGISTER sip:b SIP/2.0\r\nf: <sip:a@b>;tag=1\r\nt: <sip:a@b>\r\ni: r\r\nCSeq: 1 REGISTER\r\n" +
		"m: <sip:a@192.0.2.2:5060>;expires=60\r\n\r\n"
	say(t, s, flowOf(1, helpers.UDP, phone, proxy), helpers.Original, register)
	answer := strings.Replace(register, "REGISTER sip:b SIP/2.0", "SIP/2.0 200 OK", 1)
	back := flowOf(2, helpers.UDP, proxy, phone)
	out := say(t, s, back, helpers.Original, answer)
	if len(out.Expect) != 1 || out.Expect[0].Owner != helpers.Reply || !out.Expect[0].Permanent || out.Expect[0].Reserve ||
		out.Expect[0].From.Addr() != proxy.Addr() || out.Expect[0].To != phone {
		t.Fatalf("the answer announces %+v", out.Expect)
	}
	// Who is no registrar cannot open anything by an answer to nothing.
	if out := say(t, s, back, helpers.Original, strings.Replace(answer, "i: r", "i: other", 1)); len(out.Expect) > 0 {
		t.Errorf("an answer to nothing announces %+v", out.Expect)
	}
}

// Behind a NAT the registrar lists the outside address, and other phones of the same user beside it. These do not keep
// alive what is withdrawn.
func TestRegistrationBehindNAT(t *testing.T) {
	udp, _ := both(t, defaults())
	s := udp.New()
	f := flowOf(1, helpers.UDP, phone, proxy)
	f.Reply.Dst = netip.MustParseAddrPort("203.0.113.7:61000")
	message := func(start, contact string) string {
		return start + "\r\nf: <sip:a@b>;tag=1\r\nt: <sip:a@b>\r\ni: r\r\nCSeq: 1 REGISTER\r\nm: " + contact + "\r\n\r\n"
	}
	say(t, s, f, helpers.Original, message("REGISTER sip:b SIP/2.0", "<sip:a@192.0.2.2>;expires=60"))
	const listed = "<sip:a@203.0.113.99>;expires=9, <sip:a@203.0.113.7:61000>;expires=50"
	out := say(t, s, f, helpers.Reply, message("SIP/2.0 200 OK", listed))
	if len(out.Expect) != 1 || out.Expect[0].To != phone || out.Expect[0].Timeout != 50*time.Second {
		t.Fatalf("the answer announces %+v", out.Expect)
	}
	say(t, s, f, helpers.Original, message("REGISTER sip:b SIP/2.0", "<sip:a@192.0.2.2>;expires=0"))
	out = say(t, s, f, helpers.Reply, message("SIP/2.0 200 OK", listed))
	if len(out.Expect) != 0 || len(out.Cancel) != 1 {
		t.Fatalf("the answer announces %+v and cancels %+v", out.Expect, out.Cancel)
	}
}

// A caller whom a registration led here shares groups with the registration's session: his call must not be its.
func TestGroupsOfFamily(t *testing.T) {
	udp, _ := both(t, defaults())
	child := flowOf(1, helpers.UDP, netip.MustParseAddrPort("203.0.113.5:5060"), phone)
	child.Announced = &helpers.Expectation{Helper: name}
	invite := text("INVITE sip:b@b SIP/2.0", "1 INVITE", "a", "", "c", lineOf(netip.MustParseAddr("203.0.113.5"), 4000))
	one := say(t, udp.New(), child, helpers.Original, invite).Expect[0].Group.ID
	child.Orig.Src = netip.MustParseAddrPort("203.0.113.6:5060")
	child.Reply.Dst = child.Orig.Src
	two := say(t, udp.New(), child, helpers.Original, invite).Expect[0].Group.ID
	if one == two || one <= 1<<32 || two <= 1<<32 {
		t.Errorf("groups %d and %d are not their own", one, two)
	}
}

// TestTrunk has many calls in one flow, ending in random order: each BYE takes down its own.
func TestTrunk(t *testing.T) {
	udp, _ := both(t, defaults())
	s := udp.New()
	f := flowOf(1, helpers.UDP, phone, proxy)
	const calls = 1000
	groups := make([]uint64, calls)
	id := func(i int) string { return fmt.Sprintf("call-%d@trunk", i) }
	for i := range calls {
		invite := text("INVITE sip:b@b SIP/2.0", "1 INVITE", "a", "", id(i), lineOf(phone.Addr(), 10000+4*i))
		out := say(t, s, f, helpers.Original, invite)
		groups[i] = out.Expect[0].Group.ID
	}
	for i := range calls {
		say(t, s, f, helpers.Reply, text("SIP/2.0 200 OK", "1 INVITE", "a", "b", id(i), lineOf(proxy.Addr(), 10000+4*i)))
	}
	state, err := s.(helpers.Snapshotter).AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = udp.Restore(state); err != nil {
		t.Fatal(err)
	}
	for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(calls) {
		out := say(t, s, f, helpers.Dir(i&1), goodbye(i&1 == 1, id(i)))
		if len(out.Cancel) != 1 || out.Cancel[0] != (helpers.Group{ID: groups[i]}) {
			t.Fatalf("BYE of call %d cancels %+v, want %d", i, out.Cancel, groups[i])
		}
	}
	if n := s.(*session).table.used; n > 0 {
		t.Errorf("%d calls are left", n)
	}
}

func goodbye(called bool, id string) string {
	if called {
		return text("BYE sip:a@a SIP/2.0", "9 BYE", "b", "a", id, "")
	}
	return text("BYE sip:b@b SIP/2.0", "2 BYE", "a", "b", id, "")
}

// Many calls that each want much do not get what one would.
func TestManyMedia(t *testing.T) {
	o := defaults()
	o.Calls, o.Media = 64, 128
	udp, _ := both(t, o)
	s := udp.New()
	f := flowOf(1, helpers.UDP, phone, proxy)
	var lines strings.Builder
	for i := range 60 {
		fmt.Fprintf(&lines, "m=audio %d RTP/AVP 0\n", 2000+2*i)
	}
	total := 0
	for i := range o.Calls {
		invite := text("INVITE sip:b@b SIP/2.0", "1 INVITE", "a", "", fmt.Sprint(i), "v=0\nc=IN IP4 192.0.2.2\n"+lines.String())
		var out helpers.Result
		_ = s.Inspect(&helpers.Segment{Flow: f, Data: []byte(invite)}, &out)
		total += len(out.Expect)
	}
	if most := 4*8*int(o.Calls) + int(o.Calls)*fewParts; total < 120 || total > most {
		t.Errorf("%d end points are remembered, want 120 to %d", total, most)
	}
}

// TestTable compares the table with a map: adding, finding, removing in any order; and who was heard of when.
func TestTable(t *testing.T) {
	seed := maphash.MakeSeed()
	rnd := rand.New(rand.NewPCG(1, 2))
	var tab table
	want := map[string]uint64{}
	var order []string // oldest first
	forget := func(name string) {
		for i, o := range order {
			if o == name {
				order = append(order[:i], order[i+1:]...)
				return
			}
		}
	}
	for n := range uint64(20000) {
		name := fmt.Sprint(rnd.IntN(100 + int(n/100)))
		k := key{callID: []byte(name), tag: 1}
		c := tab.find(seed, &k)
		if (c != nil) != (want[name] > 0) || c != nil && c.id != want[name] {
			t.Fatalf("%s: found %+v, want %d", name, c, want[name])
		}
		forget(name)
		switch {
		case c == nil:
			c = tab.add(seed, &k)
			c.id, want[name] = n+1, n+1
			order = append(order, name)
		case rnd.IntN(2) == 0:
			tab.remove(c)
			delete(want, name)
		default:
			order = append(order, name)
		}
		if tab.used != len(want) {
			t.Fatalf("%d entries, want %d", tab.used, len(want))
		}
		for i, n := range tab.inOrder() {
			if string(tab.entries[n].key.callID) != order[i] {
				t.Fatalf("in order of hearing %d is %s, want %s", i, tab.entries[n].key.callID, order[i])
			}
		}
		if old := tab.used - lot; tab.used > 0 && old <= 0 && string(tab.oldest().key.callID) != order[0] {
			t.Fatalf("the oldest is not %s", order[0])
		}
	}
}

// What announces nothing allocates nothing, what does at most 6 times: a new call has its own memory.
func TestAllocations(t *testing.T) {
	udp, _ := both(t, defaults())
	f := flowOf(1, helpers.UDP, phone, proxy)
	for _, tt := range []struct {
		name string
		most float64
		says func(i int) []string
	}{
		{"OPTIONS", 0, func(int) []string { return []string{text("OPTIONS sip:b@b SIP/2.0", "1 OPTIONS", "a", "", "o", "")} }},
		{"what belongs to no call", 0, func(i int) []string { return []string{goodbye(false, "x")} }},
		{"refresh", 0, func(int) []string { return []string{string(invitation)} }},
		{"a new call", 6, func(i int) []string {
			return []string{text("INVITE sip:b@b SIP/2.0", "1 INVITE", "a", "", fmt.Sprint(i), offer)}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := udp.New()
			var out helpers.Result
			const runs = 200
			var segs []helpers.Segment
			for i := range runs + 1 {
				for _, d := range tt.says(i) {
					segs = append(segs, helpers.Segment{Flow: f, Data: []byte(d)})
				}
			}
			say(t, s, f, helpers.Original, string(segs[0].Data))
			out.Expect = make([]helpers.Expectation, 0, 16)
			per := len(segs) / (runs + 1)
			next := 0
			n := testing.AllocsPerRun(runs, func() {
				for range per {
					out.Reset()
					if err := s.Inspect(&segs[next], &out); err != nil {
						t.Fatal(err)
					}
					next++
				}
			})
			if n > tt.most {
				t.Errorf("%v allocations, want at most %v", n, tt.most)
			}
		})
	}
}

// State that is wrong though its checksum is right (another program's, a mistake of ours) may be refused or taken, but
// a session made of it keeps its bounds.
func TestRestoreWrong(t *testing.T) {
	udp, _ := both(t, defaults())
	s := udp.New()
	datagrams, stream := flowOf(1, helpers.UDP, phone, proxy), flowOf(2, helpers.TCP, phone, proxy)
	invite := text("INVITE sip:b@b SIP/2.0", "1 INVITE", "a", "", "c", lineOf(phone.Addr(), 4000))
	ok := text("SIP/2.0 200 OK", "1 INVITE", "a", "b", "c", lineOf(proxy.Addr(), 3000))
	register := "REGISTER sip:b SIP/2.0\r\nf: <sip:a@b>;tag=1\r\nt: <sip:a@b>\r\ni: r\r\nCSeq: 1 REGISTER\r\n" +
		"m: <sip:a@192.0.2.2:5060>;expires=60\r\nl: 0\r\n\r\n"
	registered := strings.Replace(register, "REGISTER sip:b SIP/2.0", "SIP/2.0 200 OK", 1)
	say(t, s, datagrams, helpers.Original, invite)
	say(t, s, datagrams, helpers.Reply, ok)
	say(t, s, datagrams, helpers.Original, register)
	say(t, s, stream, helpers.Original, invite[:len(invite)-10])
	state, err := s.(helpers.Snapshotter).AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	body := state[:len(state)-4]
	taken := 0
	for i := range body {
		for bit := 0; bit < 256; bit += 3 {
			wrong := bytes.Clone(body)
			wrong[i] ^= byte(bit)
			r, err := udp.Restore(binary.BigEndian.AppendUint32(wrong, crc32.ChecksumIEEE(wrong)))
			if err != nil {
				continue
			}
			taken++
			var out helpers.Result
			for _, seg := range []helpers.Segment{
				{Flow: stream, Data: []byte(strings.Repeat("x\n", 400))}, {Flow: stream, Data: []byte(invite)},
				{Flow: datagrams, Dir: helpers.Reply, Data: []byte(ok)},
				{Flow: datagrams, Dir: helpers.Reply, Data: []byte(registered)}, {Flow: datagrams, Data: []byte(goodbye(false, "c"))},
				{Flow: datagrams, Data: []byte(strings.Replace(invite, "Call-ID: c", "Call-ID: d", 1))},
			} {
				out.Reset()
				_ = r.Inspect(&seg, &out)
				if n := len(seg.Data); seg.Flow == stream && (out.Consumed < 0 || out.Hold < 0 || out.Hold > max(0, n-out.Consumed)) {
					t.Fatalf("byte %d: Consumed %d, Hold %d of %d", i, out.Consumed, out.Hold, n)
				}
			}
			if _, err := r.(helpers.Snapshotter).AppendBinary(nil); err != nil {
				t.Errorf("byte %d: AppendBinary: %v", i, err)
			}
		}
	}
	if taken == 0 {
		t.Error("no state was taken, not even the right one")
	}
	for i := range body {
		if _, err := udp.Restore(binary.BigEndian.AppendUint32(bytes.Clone(body[:i]), crc32.ChecksumIEEE(body[:i]))); err == nil {
			t.Errorf("the first %d bytes of %d are taken", i, len(body))
		}
	}
	long := append(bytes.Clone(body), 0)
	if _, err := udp.Restore(binary.BigEndian.AppendUint32(long, crc32.ChecksumIEEE(long))); err == nil {
		t.Error("a byte too many is taken")
	}
}
