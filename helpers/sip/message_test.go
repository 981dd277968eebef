package sip

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
)

// crlf ends the lines of a text as SIP does.
func crlf(text string) string {
	return strings.ReplaceAll(strings.TrimPrefix(text, "\n"), "\n", "\r\n")
}

const offer = `v=0
o=alice 53655765 2353687637 IN IP4 192.0.2.2
s=-
c=IN IP4 192.0.2.2
t=0 0
m=audio 49172 RTP/AVP 0 8
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=ptime:20
a=sendrecv
m=video 49174 RTP/AVP 31
a=rtpmap:31 H261/90000
`

// invitation is an INVITE of usual size.
var invitation = withBody(`
INVITE sip:bob@biloxi.example.com SIP/2.0
Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK74bf9;rport
Max-Forwards: 70
From: "Alice" <sip:alice@atlanta.example.com>;tag=9fxced76sl
To: Bob <sip:bob@biloxi.example.com>
Call-ID: 3848276298220188511@atlanta.example.com
CSeq: 1 INVITE
Contact: <sip:alice@192.0.2.2:5060;transport=udp>
Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY
Supported: replaces, timer
User-Agent: phone 1.0
Content-Type: application/sdp
`, offer)

func withBody(head, text string) []byte {
	text = crlf(text)
	return []byte(crlf(head) + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(text)) + text)
}

// describe lists a message's places.
func describe(m *message, b []byte) string {
	var w strings.Builder
	for _, p := range m.places {
		fmt.Fprintf(&w, "%d %q %q %v\n", p.kind, p.host.of(b), p.port.of(b), p.addr)
	}
	return w.String()
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name, head, want string
	}{
		{"lists, names, quotes", `
OPTIONS sips:;x=@[2001:db8::1]:5061;maddr=192.0.2.9?h=a%40b SIP/2.0
v:SIP / 2.0 / UDP 192.0.2.2 : 5060 ;branch=z9;received=2001:db8::9;rport=33, SIP/2.0/TCP host
t: sip:a@192.0.2.3;tag=1
f: "a, <sip:no@203.0.113.1> \"" <sip:u;p@192.0.2.4:99>;tag = "x"
m: <sip:1@192.0.2.5:7>;expires=5,sip:2@192.0.2.6;expires=6 , <tel:+1>
i: a@b
CSeq: 00009
 OPTIONS
Record-Route: <sip:192.0.2.7;lr>,
  <sip:[::ffff:192.0.2.8]:8;lr>
Route: <sip:host.example:70000>
Service-Route: <sip:192.0.2.10>
Path: <sip:192.0.2.11;received=sip:192.0.2.12:5>
`, `0 "2001:db8::1" "5061" [2001:db8::1]:5061
12 "192.0.2.9" "" 192.0.2.9:0
1 "192.0.2.2" "5060" 192.0.2.2:5060
2 "2001:db8::9" "" [2001:db8::9]:0
3 "" "33" invalid AddrPort
1 "host" "" invalid AddrPort
6 "192.0.2.3" "" 192.0.2.3:0
5 "192.0.2.4" "99" 192.0.2.4:99
7 "192.0.2.5" "7" 192.0.2.5:7
7 "192.0.2.6" "" 192.0.2.6:0
8 "192.0.2.7" "" 192.0.2.7:0
8 "::ffff:192.0.2.8" "8" 192.0.2.8:8
9 "host.example" "70000" invalid AddrPort
11 "192.0.2.10" "" 192.0.2.10:0
10 "192.0.2.11" "" 192.0.2.11:0
13 "192.0.2.12" "5" 192.0.2.12:5
`},
		{"what no token may have", `
OPTIONS sip:a@192.0.2.1:1A SIP/2.0
v: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK1@host/"x;received=192.0.2.3;rport=4
t: <sip:a@b>
f: <sip:a@b>
i: a
CSeq: 1 OPTIONS
`, `0 "192.0.2.1" "1" invalid AddrPort
1 "192.0.2.2" "" 192.0.2.2:0
2 "192.0.2.3" "" 192.0.2.3:0
3 "" "4" invalid AddrPort
6 "b" "" invalid AddrPort
5 "b" "" invalid AddrPort
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := []byte(crlf(tt.head) + "\r\n")
			var m message
			if err := m.parse(b, 0); err != nil {
				t.Fatal(err)
			}
			if got := describe(&m, b); got != tt.want {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
		})
	}
}

func TestParseInvitation(t *testing.T) {
	b := invitation
	var m message
	if err := m.parse(b, 0); err != nil {
		t.Fatal(err)
	}
	if m.method != invite || m.status != 0 || m.cseq != 1 || m.length != len(m.body.of(b)) || len(m.media) != 2 {
		t.Fatalf("%+v", m)
	}
	for i, want := range []string{"192.0.2.2:49172", "192.0.2.2:49174"} {
		x := m.media[i]
		if got := m.places[x.line].addr; got != netip.MustParseAddrPort(want) || x.kind != rtpMedia {
			t.Errorf("media %d: %v, want %s", i, got, want)
		}
	}
	if got := string(m.callID.of(b)); got != "3848276298220188511@atlanta.example.com" {
		t.Errorf("Call-ID %q", got)
	}
	if from, to := string(m.fromTag.of(b)), m.toTag; from != "9fxced76sl" || !to.empty() {
		t.Errorf("tags %q %v", from, to)
	}
}

func TestParseSDP(t *testing.T) {
	head := `
SIP/2.0 200 OK
v: SIP/2.0/UDP 192.0.2.2
f: <sip:a@b>;tag=1
t: <sip:a@b>;tag=2
i: x
CSeq: 1 INVITE
c: multipart/mixed; boundary="b b"
`
	text := `preamble, --b b
--b b
Content-Type: text/plain

c=IN IP4 203.0.113.9
--b b
c: application/SDP
Content-Disposition: session

v=0
o=- 1 1 IN IP6 2001:db8::1
c=IN IP6 2001:db8::1
a=group:BUNDLE 0 1
a=setup:actpass
m=audio 4000/2 UDP/TLS/RTP/SAVPF 0
c=IN IP4 192.0.2.1/127
a=mid:0
a=rtcp:4010
a=rtcp-mux
a=candidate:1 1 udp 2130706431 192.0.2.1 8998 typ srflx raddr 10.0.1.1 rport 8999
m=message 7000 TCP/MSRP *
a=setup:passive
a=mid:1
a=path:msrp://a@[2001:db8::1]:7000/x;tcp
m=image 0 udptl t38
a=rtcp:5 IN IP4 192.0.2.8
--b b--
`
	b := withBody(head, text)
	var m message
	if err := m.parse(b, 0); err != nil {
		t.Fatal(err)
	}
	want := `1 "192.0.2.2" "" 192.0.2.2:0
5 "b" "" invalid AddrPort
6 "b" "" invalid AddrPort
14 "2001:db8::1" "" [2001:db8::1]:0
15 "2001:db8::1" "" [2001:db8::1]:0
16 "" "4000" 192.0.2.1:4000
15 "192.0.2.1" "" 192.0.2.1:0
17 "" "4010" 192.0.2.1:4010
18 "192.0.2.1" "8998" 192.0.2.1:8998
19 "10.0.1.1" "8999" 10.0.1.1:8999
16 "" "7000" [2001:db8::1]:7000
20 "2001:db8::1" "7000" [2001:db8::1]:7000
16 "" "0" [2001:db8::1]:0
17 "192.0.2.8" "5" 192.0.2.8:5
`
	if got := describe(&m, b); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	type short struct {
		kind    mediaKind
		count   int
		setup   setup
		mux     bool
		bundled bool
	}
	for i, want := range []short{
		{rtpMedia, 2, actpass, true, false}, {tcpMedia, 1, passive, false, true}, {udpMedia, 1, actpass, false, false},
	} {
		x := m.media[i]
		if got := (short{x.kind, x.count, x.setup, x.mux, x.bundled}); got != want {
			t.Errorf("media %d: %+v, want %+v", i, got, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good := "OPTIONS sip:a@b SIP/2.0\nf: <sip:a@b>\nt: <sip:a@b>\ni: x\nCSeq: 1 OPTIONS\n\n"
	for _, tt := range []struct {
		old, new string
		want     error
	}{
		{"", "", nil},
		{"SIP/2.0", "HTTP/1.1", errStart},
		{"OPTIONS sip:a@b ", "", errStart},
		{"SIP/2.0", "SIP/3.0", errVersion},
		{"i: x\n", "", errMissing},
		{"i: x\n", "i: x\ni: y\n", errTwice},
		{"i: x", "i: ", errCallID},
		{"1 OPTIONS", "OPTIONS", errCSeq},
		{"1 OPTIONS", "1 INVITE", errCSeq},
		{"1 OPTIONS", "4294967296 OPTIONS", errCSeq},
		{"i: x\n", "i: x\nl: -1\n", errLength},
		{"\n\n", "\n", errHead},
		{"OPTIONS sip:a@b SIP/2.0", "SIP/2.0 4294967301 x", errStatus},
	} {
		var m message
		if err := m.parse([]byte(strings.Replace(good, tt.old, tt.new, 1)), 0); !errors.Is(err, tt.want) {
			t.Errorf("%q for %q: error %v, want %v", tt.new, tt.old, err, tt.want)
		}
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	var m message
	if n := testing.AllocsPerRun(100, func() {
		if err := m.parse(invitation, 0); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestAddress: what netip reads is read the same; what it does not is not, but for leading zeros.
func TestAddress(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	seeds := []string{"192.0.2.1", "::", "::1", "1::", "2001:db8::192.0.2.1", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4", "1::2::3"}
	read := 0
	for range 200000 {
		b := []byte(seeds[rnd.IntN(len(seeds))])
		for range rnd.IntN(4) {
			switch i := rnd.IntN(len(b)); rnd.IntN(3) {
			case 0:
				b[i] = "0123456789abcdefF:.% "[rnd.IntN(21)]
			case 1:
				b = append(b[:i:i], append([]byte{b[i]}, b[i:]...)...)
			default:
				b = append(b[:i:i], b[min(len(b)-1, i+rnd.IntN(4)):]...)
			}
		}
		got := address(b)
		want, err := netip.ParseAddr(string(b))
		switch {
		case err == nil && want.Zone() == "" && got != want.Unmap():
			t.Fatalf("%q: %v, want %v", b, got, want)
		case err != nil && got.IsValid() && !strings.Contains(err.Error(), "leading zero"):
			t.Fatalf("%q: %v, want %v", b, got, err)
		case err == nil:
			read++
		}
	}
	if read < 20000 {
		t.Errorf("only %d addresses were right", read)
	}
}

// FuzzParse: whatever is read lies in the bytes, in order.
func FuzzParse(f *testing.F) {
	f.Add(invitation)
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		err := m.parse(b, 0)
		var perr *helpers.ParseError
		if err != nil && (!errors.As(err, &perr) || perr.Off < 0 || perr.Off > len(b)) {
			t.Fatalf("error %v", err)
		}
		if err != nil {
			return
		}
		at := 0
		for _, p := range m.places {
			first, second := p.host, p.port
			if p.kind == rtcp && !p.host.empty() {
				first, second = second, first
			}
			for _, s := range []span{first, second} {
				if s.off < at || s.end < s.off || s.end > len(b) {
					t.Fatalf("place %+v behind %d of %d bytes", p, at, len(b))
				}
				at = s.end
			}
		}
	})
}
