package sip

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/helpertest"
)

// golden compares text with testdata/<name>.golden.
func golden(t *testing.T, name, text string) {
	t.Helper()
	file := "testdata/" + name + ".golden"
	if *updated {
		if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, got := strings.Split(string(b), "\n"), strings.Split(text, "\n")
	for i := range max(len(want), len(got)) {
		w, g := at(want, i), at(got, i)
		if w != g {
			t.Errorf("line %d of %s:\n- %s\n+ %s", i+1, file, w, g)
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

var (
	kindNames = map[kind]string{
		requestURI: "request-uri", via: "via", viaReceived: "received", viaRPort: "rport", viaMaddr: "maddr",
		from: "from", to: "to",
		contactURI: "contact", recordRoute: "record-route", route: "route", path: "path", serviceRoute: "service-route",
		uriMaddr: "uri-maddr", uriReceived: "uri-received", origin: "o=", connection: "c=",
		mediaPort: "m=",
		rtcp:      "a=rtcp", candidate: "a=candidate", related: "raddr", msrpPath: "a=path",
	}
	methodNames = map[method]string{
		otherMethod: "another method", invite: "INVITE", ack: "ACK", bye: "BYE", cancel: "CANCEL", register: "REGISTER",
		prack: "PRACK", update: "UPDATE",
	}
	mediaNames = map[mediaKind]string{unknownMedia: "unknown", rtpMedia: "rtp", udpMedia: "udp", tcpMedia: "tcp"}
)

// understood is what is read of a message, in words.
func understood(data []byte) string {
	var m message
	var w strings.Builder
	if err := m.parse(data, 0); err != nil {
		return fmt.Sprintf("  refused %v\n", err)
	}
	fmt.Fprintf(&w, "  %s", methodNames[m.method])
	if m.status > 0 {
		fmt.Fprintf(&w, " %d", m.status)
	}
	fmt.Fprintf(&w, ", CSeq %d, Call-ID %q, tags %q %q, branch %q", m.cseq, m.callID.of(data), m.fromTag.of(data),
		m.toTag.of(data), m.branch.of(data))
	if m.expires >= 0 {
		fmt.Fprintf(&w, ", expires %d", m.expires)
	}
	fmt.Fprintf(&w, ", body %d of %d bytes", m.body.end-m.body.off, m.length)
	if rest := len(data) - m.whole.end; rest > 0 {
		fmt.Fprintf(&w, ", %d left over", rest)
	}
	w.WriteString("\n")
	for _, p := range m.places {
		fmt.Fprintf(&w, "  %s", kindNames[p.kind])
		if p.top {
			w.WriteString(" first")
		}
		if !p.host.empty() {
			fmt.Fprintf(&w, " %q", p.host.of(data))
		}
		if !p.port.empty() {
			fmt.Fprintf(&w, " port %q", p.port.of(data))
		}
		if p.addr.Addr().IsValid() {
			fmt.Fprintf(&w, " is %v", p.addr)
		}
		w.WriteString("\n")
	}
	for _, c := range m.contacts {
		if c.expires >= 0 {
			fmt.Fprintf(&w, "  contact %q expires %d\n", c.whole.of(data), c.expires)
		}
	}
	for _, x := range m.media {
		fmt.Fprintf(&w, "  media %s %v\n", mediaNames[x.kind], m.places[x.line].addr)
	}
	return w.String()
}

// invalid are the messages that are wrong by their RFC, and why they are read all the same; "": they are refused.
var invalid = map[string]string{
	"badinv01":   "empty parameters and list elements say nothing, and hide nothing",
	"clerr":      "a datagram ends where it ends; who refuses it for its length says so, which takes the call back",
	"ncl":        "",
	"scalar02":   "",
	"scalarlg":   "",
	"quotbal":    "a display name is of no use, and To has a tag or not in any case",
	"ltgtruri":   "RFC 4475 has who is liberal take the URI out of the brackets",
	"lwsruri":    "white space in the Request-URI is behind its host",
	"lwsstart":   "RFC 4475 has who is liberal read the start line with more spaces",
	"trws":       "likewise behind the start line",
	"escruri":    "headers in a Request-URI are behind its host",
	"baddate":    "Date is not read",
	"regbadct":   "headers in Contact's URI are behind its host",
	"badaspec":   "RFC 4475 has who is liberal drop the spaces",
	"baddn":      "", // for its missing end: the comma in its display name is no harm
	"badvers":    "",
	"mismatch01": "",
	"mismatch02": "",
	"bigcode":    "",
	"insuf":      "",
	"multi01":    "",
	"mcl01":      "",
	"ipv6-bad":   "the Request-URI is taken for that of a host called 2001, and left alone",
}

// answers are the "=" lines of each of a script's segments.
func answers(t *testing.T, h helpers.Helper, s *helpertest.Script) [][]string {
	t.Helper()
	text, err := helpertest.Annotate(h, s.String())
	if err != nil {
		t.Fatal(err)
	}
	var lines [][]string
	for line := range strings.SplitSeq(text, "\n") {
		said, ok := strings.CutPrefix(line, "= ")
		switch {
		case ok:
			lines[len(lines)-1] = append(lines[len(lines)-1], said)
		case strings.HasPrefix(line, "C: "), strings.HasPrefix(line, "S: "):
			lines = append(lines, nil)
		}
	}
	return lines
}

func dialogue(client, server string) *helpertest.Script {
	return &helpertest.Script{
		Client: netip.AddrPortFrom(netip.MustParseAddr(client), signalPort),
		Server: netip.AddrPortFrom(netip.MustParseAddr(server), signalPort),
	}
}

// What is understood of the torture messages, and what is announced.
func TestTorture(t *testing.T) {
	udp, _ := both(t, defaults())
	for name, ends := range map[string][2]string{
		"rfc4475": {"192.0.2.1", "198.51.100.9"}, "rfc5118": {"2001:db8::20", "2001:db8::10"},
	} {
		var w strings.Builder
		for _, m := range corpus(t, name) {
			fmt.Fprintf(&w, "%s %s %s\n%s", m.Section, m.Name, m.Title, understood(m.Data))
			script := dialogue(ends[0], ends[1])
			script.Says = []helpertest.Say{{Data: m.Data}}
			for _, line := range answers(t, udp, script)[0] {
				fmt.Fprintf(&w, "  = %s\n", line)
			}
			var read message
			err := read.parse(m.Data, 0)
			if why, listed := invalid[m.Name]; (err != nil) != (listed && why == "") {
				t.Errorf("%s %s: %v, invalid %v", m.Section, m.Name, err, listed)
			}
		}
		golden(t, name, w.String())
	}
}

// elements are the addresses of RFC 3665, section 1.3, and of the redirect server, which has none there.
var elements = map[string]string{
	"Alice": "192.0.2.101", "Bob": "192.0.2.201", "Proxy 1": "192.0.2.111", "Proxy 2": "192.0.2.222",
	"Proxy 3":    "192.0.2.233",
	"SIP Server": "192.0.2.222", "SIP ALG": "192.0.2.128", "Redirect Server": "192.0.2.112",
}

// What is announced in the call flows of RFC 3665, of each pair of elements by itself. What TLS would hide is read too.
func TestCallFlows(t *testing.T) {
	type hop struct {
		*helpertest.Script
		name, client string
		helper       helpers.Helper
		said         []string
	}
	udp, tcp := both(t, defaults())
	var hops []*hop
	for _, m := range corpus(t, "rfc3665") {
		sender, receiver, _ := strings.Cut(m.Title, " > ")
		if elements[sender] == "" || elements[receiver] == "" {
			t.Fatalf("%s %s: who is %q", m.Section, m.Name, m.Title)
		}
		i := slices.IndexFunc(hops, func(h *hop) bool {
			return h.name == m.Section+" "+sender+", "+receiver || h.name == m.Section+" "+receiver+", "+sender
		})
		if i < 0 {
			i = len(hops)
			h := &hop{
				Script: dialogue(elements[sender], elements[receiver]),
				name:   m.Section + " " + sender + ", " + receiver, client: sender, helper: tcp,
			}
			if bytes.Contains(m.Data, []byte("SIP/2.0/UDP")) {
				h.helper = udp
			}
			hops = append(hops, h)
		}
		h, dir := hops[i], helpers.Original
		if sender != h.client {
			dir = helpers.Reply
		}
		line, _, _ := bytes.Cut(m.Data, []byte("\r\n"))
		h.said = append(h.said, fmt.Sprintf("%s %s: %s", m.Name, sender, line))
		h.Says = append(h.Says, helpertest.Say{Dir: dir, Data: m.Data})
	}
	var w strings.Builder
	for _, h := range hops {
		fmt.Fprintf(&w, "%s, %v\n", h.name, h.helper.Transport)
		for i, lines := range answers(t, h.helper, h.Script) {
			fmt.Fprintf(&w, "  %s\n", h.said[i])
			for _, l := range lines {
				fmt.Fprintf(&w, "    = %s\n", l)
			}
		}
		for seed := range uint64(2) {
			if err := helpertest.Verify(h.helper, h.Script, seed); err != nil {
				t.Errorf("%s: %v", h.name, err)
			}
		}
	}
	golden(t, "rfc3665", w.String())
}

// What is read where nobody rewrites is the same as where somebody does.
func TestTerse(t *testing.T) {
	compared := 0
	for _, name := range []string{"rfc3665", "rfc4475", "rfc5118"} {
		for _, x := range corpus(t, name) {
			all, terse, nameless := message{}, message{brevity: terse}, message{brevity: nameless}
			err := all.parse(x.Data, 0)
			for _, m := range []*message{&terse, &nameless} {
				if short := m.parse(x.Data, 0); fmt.Sprint(short) != fmt.Sprint(err) {
					t.Errorf("%s %s: %v, want %v", name, x.Name, short, err)
				}
			}
			if err != nil {
				continue
			}
			said := func(m *message) string {
				var w strings.Builder
				for _, s := range []span{m.whole, m.body, m.callID, m.fromTag, m.toTag, m.branch} {
					fmt.Fprintln(&w, s)
				}
				fmt.Fprintln(&w, m.method, m.status, m.cseq, m.expires, m.length, m.lengthAt, m.star)
				if m.method == register {
					for _, c := range m.contacts {
						fmt.Fprintln(&w, c.whole, c.user, c.expires, c.transport, c.secure)
						if c.place >= 0 {
							fmt.Fprintln(&w, m.places[c.place].addr)
						}
					}
				}
				for _, p := range m.places {
					if p.body >= 0 && p.kind != origin {
						fmt.Fprintln(&w, p.kind, p.host, p.port, p.addr)
					}
				}
				return w.String()
			}
			compared++
			for _, m := range []*message{&terse, &nameless} {
				if a, b := said(&all), said(m); a != b {
					t.Errorf("%s %s:\n%s\nin brief:\n%s", name, x.Name, a, b)
				}
			}
			named := false // with the parameters of a URI
			all.places = slices.DeleteFunc(all.places, func(p place) bool {
				named = p.kind == from || p.kind == to || named && (p.kind == uriMaddr || p.kind == uriReceived)
				return named
			})
			if a, b := describe(&all, x.Data), describe(&nameless, x.Data); a != b {
				t.Errorf("%s %s:\n%s\nnameless:\n%s", name, x.Name, a, b)
			}
		}
	}
	if compared < 200 {
		t.Errorf("only %d messages", compared)
	}
}

// Wherever a stream is cut in two, what is announced is the same.
func TestCutAtEveryByte(t *testing.T) {
	_, tcp := both(t, defaults())
	f := flowOf(1, helpers.TCP, phone, proxy)
	var out helpers.Result
	announced := 0
	play := func(pieces ...[]byte) string {
		s, kept, skip := tcp.New(), []byte(nil), 0
		var w strings.Builder
		for _, piece := range pieces {
			n := min(skip, len(piece))
			skip -= n
			kept = append(kept, piece[n:]...)
			out.Reset()
			err := s.Inspect(&helpers.Segment{Flow: f, Data: kept, Time: time.Unix(1, 0)}, &out)
			announced += len(out.Expect)
			for _, e := range out.Expect {
				fmt.Fprintf(&w, "%+v\n", e)
			}
			var wrong *helpers.ParseError
			if errors.As(err, &wrong) {
				err = wrong.Err
			}
			if err != nil {
				fmt.Fprintln(&w, err)
			}
			n = min(out.Consumed, len(kept))
			skip, kept = out.Consumed-n, kept[n:]
			if errors.Is(err, helpers.ErrForeign) {
				break
			}
		}
		return w.String()
	}
	for _, name := range []string{"rfc3665", "rfc4475", "rfc5118"} {
		for _, m := range corpus(t, name) {
			if name == "rfc3665" && m.Section > "3.2" {
				continue // there is nothing in them that others have not
			}
			want := play(m.Data)
			for at := range m.Data {
				if got := play(m.Data[:at], m.Data[at:]); got != want {
					t.Fatalf("%s %s, cut at %d: got\n%swant\n%s", m.Section, m.Name, at, got, want)
				}
			}
		}
	}
	if announced < 5000 {
		t.Errorf("only %d announcements", announced)
	}
}
