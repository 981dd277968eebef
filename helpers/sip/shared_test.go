package sip_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// plain is a message of a call between a and b, with audio at media if that is not empty.
func plain(start, id, cseq, toTag string, branch int, media string) []byte {
	var sdp string
	if host, port, ok := strings.Cut(media, ":"); ok {
		sdp = fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio %s RTP/AVP 0\r\na=rtcp-mux-only\r\n",
			host, host, port)
	}
	return fmt.Appendf(nil, "%s\r\nVia: SIP/2.0/UDP a.example;branch=z9hG4bK%d\r\nFrom: <sip:a@a.example>;tag=a\r\n"+
		"To: <sip:b@b.example>%s\r\nCall-ID: %s\r\nCSeq: %s\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s",
		start, branch, toTag, id, cseq, len(sdp), sdp)
}

// froms are for whom an end point is open, seen at at.
func (w *firewall) froms(at string) (list []string) {
	for _, p := range w.placed {
		if p.At == netip.MustParseAddrPort(at) {
			list = append(list, p.From.Addr().String())
		}
	}
	slices.Sort(list)
	return list
}

// A host that announces one end point in two calls has it open as long as one of them lasts.
func TestSharedEndPoint(t *testing.T) {
	for _, s := range []site{{name: "routed"}, {name: "SNAT", snat: true, port: true}} {
		for _, ends := range []string{"one", "two"} {
			t.Run(s.name+", first ends "+ends, func(t *testing.T) {
				w := newFirewall(t, options(false))
				k := w.connect(s.conn(helpers.UDP, 0))
				at := netip.AddrPortFrom(k.conn.Reply.Dst.Addr(), 4000).String()
				for i, id := range []string{"one", "two"} {
					left := k.say(0, plain("INVITE sip:b@b.example SIP/2.0", id, "1 INVITE", "", i, "10.0.0.1:4000"))
					if !strings.Contains(string(left), "m=audio 4000 ") {
						t.Errorf("call %s leaves as\n%s", id, left)
					}
					k.say(1, plain("SIP/2.0 200 OK", id, "1 INVITE", ";tag=b", i, "198.51.100.9:30000"))
				}
				hangUp := func(id string) {
					k.say(0, plain("BYE sip:b@b.example SIP/2.0", id, "2 BYE", ";tag=b", 9, ""))
				}
				want := []string{"198.51.100.9"}
				if got := w.froms(at); !slices.Equal(got, want) {
					t.Errorf("during both calls open for %v", got)
				}
				hangUp(ends)
				if got := w.froms(at); !slices.Equal(got, want) {
					t.Errorf("during the other call open for %v", got)
				}
				if got := w.froms("198.51.100.9:30000"); len(got) != 1 {
					t.Errorf("the other side is open for %v", got)
				}
				hangUp(map[string]string{"one": "two", "two": "one"}[ends])
				if len(w.placed) > 0 || len(w.refused) > 0 {
					t.Errorf("left: %v, refused: %v", w.placed, w.refused)
				}
			})
		}
	}
}

// A proxy that forks a call announces its media to several phones; one answers, the others are cancelled, before or after.
func TestForkingProxy(t *testing.T) {
	const offered = "198.51.100.9:30000"
	proxy := netip.MustParseAddrPort("198.51.100.9:5060")
	for _, first := range []string{"answered", "cancelled"} {
		w := newFirewall(t, options(false))
		var legs []*connection
		for i := range 3 {
			o := helpers.Tuple{Src: proxy, Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}), 5060)}
			k := w.connect(engine.Conn{Transport: helpers.UDP, Orig: o, Reply: o.Turned()})
			k.say(0, plain("INVITE sip:b@b.example SIP/2.0", "fork", "1 INVITE", "", i, offered))
			legs = append(legs, k)
		}
		steps := []func(){
			func() { legs[1].say(1, plain("SIP/2.0 200 OK", "fork", "1 INVITE", ";tag=b", 1, "192.0.2.11:4000")) },
			func() {
				for _, i := range []int{0, 2} {
					legs[i].say(0, plain("CANCEL sip:b@b.example SIP/2.0", "fork", "1 CANCEL", "", i, ""))
					legs[i].say(1, plain("SIP/2.0 487 Request Terminated", "fork", "1 INVITE", ";tag=c", i, ""))
				}
			},
		}
		if first == "cancelled" {
			slices.Reverse(steps)
		}
		for _, do := range steps {
			if got := w.froms(offered); len(got) == 0 {
				t.Errorf("%s first: the caller's media are not open", first)
			}
			do()
		}
		if got := w.froms(offered); !slices.Equal(got, []string{"192.0.2.11"}) {
			t.Errorf("%s first: the caller's media are open for %v", first, got)
		}
		legs[1].say(0, plain("BYE sip:b@b.example SIP/2.0", "fork", "2 BYE", ";tag=b", 9, ""))
		if len(w.placed) > 0 || len(w.refused) > 0 {
			t.Errorf("%s first: left %v, refused %v", first, w.placed, w.refused)
		}
	}
}

// A phone registers by UDP, from a port that the masquerade changes, and is to be called by TCP at that port: the Contact
// leaves as what was reserved for TCP, not as the port of the flow (RFC 3261, section 19.1.2: the transport is the URI's).
func TestContactOfOtherTransport(t *testing.T) {
	w := newFirewall(t, options(false))
	k := w.connect(site{snat: true, port: true}.conn(helpers.UDP, 0))
	const contact = "Contact: <sip:a@%s;transport=tcp>;expires=60\r\n"
	message := func(start, at string) []byte {
		return fmt.Appendf(nil, "%s\r\nFrom: <sip:a@b.example>;tag=a\r\nTo: <sip:a@b.example>\r\nCall-ID: r\r\nCSeq: 1 REGISTER\r\n"+
			contact+"Content-Length: 0\r\n\r\n", start, at)
	}
	left := k.say(0, message("REGISTER sip:b.example SIP/2.0", "10.0.0.1:5060"))
	if want := message("REGISTER sip:b.example SIP/2.0", "203.0.113.1:5060"); string(left) != string(want) {
		t.Errorf("left as\n%s", left)
	}
	k.say(1, message("SIP/2.0 200 OK", "203.0.113.1:5060"))
	if at := netip.MustParseAddrPort; !w.leads(helpers.TCP, at("203.0.113.1:5060"), at("10.0.0.1:5060")) {
		t.Errorf("open are %v", w.placed)
	}
}

// Of several pairs of ports only those are told that are one behind the other outside (RFC 8866, section 5.14): here a
// neighbour has the second.
func TestPortCount(t *testing.T) {
	for _, neighbour := range []bool{false, true} {
		w := newFirewall(t, options(false))
		s := site{snat: true, port: true}
		if neighbour {
			w.connect(s.conn(helpers.UDP, 1)).say(0, plain("INVITE sip:b@b.example SIP/2.0", "n", "1 INVITE", "", 1, "10.0.0.2:4002"))
		}
		left := string(w.connect(s.conn(helpers.UDP, 0)).say(0,
			plain("INVITE sip:b@b.example SIP/2.0", "one", "1 INVITE", "", 0, "10.0.0.1:4000/2")))
		want := map[bool]string{false: "m=audio 4000/2 RTP", true: "m=audio 4000 RTP"}[neighbour]
		if !strings.Contains(left, want) {
			t.Errorf("neighbour %v: no %q in\n%s", neighbour, want, left)
		}
		head, body, _ := strings.Cut(left, "\r\n\r\n")
		if !strings.Contains(head, fmt.Sprintf("Content-Length: %d", len(body))) {
			t.Errorf("of %d bytes:\n%s", len(body), head)
		}
	}
}

// A telephone with two lines can be called as long as one of them is registered, whichever ends first, under NAT too.
func TestTwoLines(t *testing.T) {
	for _, s := range []site{{name: "routed"}, {name: "SNAT", snat: true, port: true}} {
		for _, order := range [][]string{{"one", "two"}, {"two", "one"}} {
			t.Run(s.name+", first ends "+order[0], func(t *testing.T) {
				w := newFirewall(t, options(false))
				k := w.connect(s.conn(helpers.UDP, 0))
				at := k.conn.Reply.Dst.String()
				cseq := 0
				register := func(line string, expires int) {
					cseq++
					own, seen := k.conn.Orig.Src, k.conn.Reply.Dst
					text := "%s\r\nVia: SIP/2.0/UDP %v;branch=z9hG4bK1\r\nFrom: <sip:%s@b.example>;tag=a\r\nTo: <sip:%[3]s@b.example>\r\n" +
						"Call-ID: %[3]s\r\nCSeq: %[4]d REGISTER\r\nContact: <sip:%[3]s@%[2]v>;expires=%[5]d\r\nContent-Length: 0\r\n\r\n"
					k.say(0, fmt.Appendf(nil, text, "REGISTER sip:b.example SIP/2.0", own, line, cseq, expires))
					answer := fmt.Sprintf(text, "SIP/2.0 200 OK", seen, line, cseq, expires)
					if expires == 0 {
						head, rest, _ := strings.Cut(answer, "Contact: ")
						_, rest, _ = strings.Cut(rest, "\r\n")
						answer = head + rest
					}
					k.say(1, []byte(answer))
				}
				for range 2 { // and renewed
					register("one", 600)
					register("two", 600)
				}
				for i, line := range order {
					if got := w.froms(at); len(got) != 1 {
						t.Errorf("%d lines have ended: open for %v", i, got)
					}
					register(line, 0)
				}
				if len(w.placed) > 0 || len(w.refused) > 0 {
					t.Errorf("left: %v, refused: %v", w.placed, w.refused)
				}
			})
		}
	}
}

// A telephone that learns the port of its connection registers that in the place of the other one: as the registrar lists it
// alone, in the words of which side ever, the first one is closed.
func TestOtherContact(t *testing.T) {
	for _, s := range []site{{name: "routed"}, {name: "SNAT", snat: true}} {
		w := newFirewall(t, options(false))
		k := w.connect(s.conn(helpers.TCP, 0))
		own, seen := k.conn.Orig.Src.Addr(), k.conn.Reply.Dst.Addr()
		const text = "%s\r\nVia: SIP/2.0/TCP %v;branch=z9hG4bK%d\r\nFrom: <sip:a@b.example>;tag=a\r\nTo: sip:a@b.example\r\n" +
			"Call-ID: r\r\nCSeq: %[3]d REGISTER\r\nContact: <sip:a@%[2]v:%[4]d;transport=tcp>\r\nExpires: 600\r\nContent-Length: 0\r\n\r\n"
		for i, port := range []int{5070, 49448} {
			k.say(0, fmt.Appendf(nil, text, "REGISTER sip:b.example SIP/2.0", own, i, port))
			k.say(1, fmt.Appendf(nil, text, "SIP/2.0 200 OK", seen, i, port))
			if at := netip.AddrPortFrom(seen, uint16(port)); len(w.placed) != 1 || len(w.froms(at.String())) != 1 {
				t.Errorf("%s, contact %v: open is %v", s.name, at, w.placed)
			}
		}
	}
}
