package sip

import (
	"bytes"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"

	sipgo "github.com/emiago/sipgo/sip"
	"github.com/pion/sdp/v3"
)

// Others read the same messages. They are stricter, and in places laxer: what they accept is compared as far as it is
// valid by the grammar of RFC 3261 and RFC 8866.

// FuzzAgainstSipgo: what sipgo accepts and understands is understood the same.
func FuzzAgainstSipgo(f *testing.F) {
	for _, name := range []string{"rfc3665", "rfc4475", "rfc5118"} {
		for _, m := range corpus(f, name) {
			f.Add(m.Data)
		}
	}
	f.Add(phoneCall)
	f.Add(invitation)
	f.Fuzz(func(t *testing.T, data []byte) {
		if why := differsFromSipgo(data); why != "" {
			t.Fatalf("%s\n%q", why, data)
		}
	})
}

// differsFromSipgo says what is understood otherwise; empty: nothing that counts.
func differsFromSipgo(data []byte) string {
	theirs, _, err := sipgo.NewParser().Parse(data, false)
	if err != nil || !valid(theirs, data) {
		return ""
	}
	var m message
	if err := m.parse(data, 0); err != nil {
		return "sipgo accepts it: " + err.Error()
	}
	var w differences
	w.same("Call-ID", unfolded(m.callID.of(data)), unfolded([]byte(theirs.CallID().Value())))
	w.same("CSeq", strconv.FormatUint(uint64(m.cseq), 10), strconv.FormatUint(uint64(theirs.CSeq().SeqNo), 10))
	w.same("body", string(m.body.of(data)), string(theirs.Body()))
	length := "-1"
	if head, _, err := sipgo.NewParser().ParseHeaders(data, false); err == nil && head.ContentLength() != nil {
		length = head.ContentLength().Value()
	}
	w.same("Content-Length", strconv.Itoa(m.length), length)
	switch x := theirs.(type) {
	case *sipgo.Request:
		w.uri("Request-URI", &m, data, requestURI, x.Recipient)
	case *sipgo.Response:
		w.same("status", strconv.Itoa(m.status), strconv.Itoa(x.StatusCode))
	}
	if list := theirs.GetHeaders("Contact"); len(list) > 0 {
		if c, ok := list[0].(*sipgo.ContactHeader); ok && !c.Address.Wildcard {
			w.uri("Contact", &m, data, contactURI, c.Address)
		}
	}
	if v := theirs.Via(); v != nil && v.ProtocolName == "SIP" && v.ProtocolVersion == "2.0" && token(v.Transport) {
		w.host("Via", &m, data, via, v.Host, v.Port)
	}
	w.addresses(&m, data, theirs)
	return w.String()
}

// What is valid by RFC 3261, section 25.1, but for white space within parameters: of that sipgo has more than is there.
const (
	tokenForm = "[-A-Za-z0-9.!%*_+`'~]+"
	hostForm  = `(?:[A-Za-z0-9](?:[-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,39}\])`
	portForm  = `(?::[1-9][0-9]{0,3})?`
	paramForm = `(?: ?;` + tokenForm + `(?:=` + tokenForm + `)?)*`
	uriForm   = `sips?:(?:[-A-Za-z0-9_.!~*'()&=+$,;?/%]+(?::[-A-Za-z0-9_.!~*'()&=+$,%]*)?@)?` + hostForm + portForm +
		`(?:;` + tokenForm + `(?:=` + tokenForm + `)?)*`
	nameForm   = `(?:(?:` + tokenForm + ` )*|"[^"\\\x00-\x1f\x7f]*" ?)<` + uriForm + `>`
	sentByForm = `SIP/2\.0/` + tokenForm + ` ` + hostForm + portForm +
		`(?:;` + tokenForm + `(?:=` + tokenForm + `)?` + paramForm + `)?`
)

var (
	validList = regexp.MustCompile(`^` + nameForm + paramForm + `(?:, ?` + nameForm + paramForm + `)*$`)
	folds     = regexp.MustCompile(`[ \t]*\r\n[ \t]+`)
	validVias = regexp.MustCompile(`^` + sentByForm + `(?:, ?` + sentByForm + `)*$`)
)

// unfoldedHead is start line and headers without folds.
func unfoldedHead(data []byte) string {
	head, _, _ := bytes.Cut(data, []byte("\r\n\r\n"))
	return folds.ReplaceAllString(string(head), " ")
}

// validField tells whether all header fields of a name, or its compact form, are of a form.
func validField(head, name, compact string, form *regexp.Regexp) bool {
	for _, line := range strings.Split(head, "\r\n")[1:] {
		key, value, _ := strings.Cut(line, ":")
		key = strings.TrimSpace(key)
		if (strings.EqualFold(key, name) || strings.EqualFold(key, compact)) && !form.MatchString(strings.TrimSpace(value)) {
			return false
		}
	}
	return true
}

// The messages of RFC 3665 are compared with all their addresses.
func TestOracleCompares(t *testing.T) {
	compared := map[string]int{}
	for _, x := range corpus(t, "rfc3665") {
		head := unfoldedHead(x.Data)
		for name, form := range map[string]*regexp.Regexp{"From": validList, "To": validList, "Via": validVias} {
			if validField(head, name, "", form) {
				compared[name]++
			}
		}
	}
	for _, name := range []string{"From", "To", "Via"} {
		if compared[name] < 150 {
			t.Errorf("%s of %d messages only", name, compared[name])
		}
	}
}

// addresses compares all hosts and ports, and the tags, of fields that are valid.
func (w *differences) addresses(m *message, data []byte, theirs sipgo.Message) {
	head := unfoldedHead(data)
	for _, f := range []struct {
		name, compact string
		kind          kind
		form          *regexp.Regexp
	}{
		{"From", "f", from, validList}, {"To", "t", to, validList}, {"Contact", "m", contactURI, validList},
		{"Route", "", route, validList}, {"Record-Route", "", recordRoute, validList}, {"Via", "v", via, validVias},
	} {
		if !validField(head, f.name, f.compact, f.form) {
			continue
		}
		var here, there []string
		for i := range m.places {
			if p := &m.places[i]; p.kind == f.kind {
				here = append(here, string(p.host.of(data))+" "+strconv.Itoa(int(p.addr.Port())))
			}
		}
		for _, h := range theirs.GetHeaders(f.name) {
			host, port := "", 0
			switch h := h.(type) {
			case *sipgo.FromHeader:
				host, port = h.Address.Host, h.Address.Port
				w.tag("tag of From", m.fromTag.of(data), h.Params)
			case *sipgo.ToHeader:
				host, port = h.Address.Host, h.Address.Port
				w.tag("tag of To", m.toTag.of(data), h.Params)
			case *sipgo.ContactHeader:
				host, port = h.Address.Host, h.Address.Port
			case *sipgo.RouteHeader:
				host, port = h.Address.Host, h.Address.Port
			case *sipgo.RecordRouteHeader:
				host, port = h.Address.Host, h.Address.Port
			case *sipgo.ViaHeader:
				host, port = h.Host, h.Port
			}
			there = append(there, strings.Trim(host, "[]")+" "+strconv.Itoa(port))
		}
		w.same(f.name, strings.Join(here, ", "), strings.Join(there, ", "))
	}
}

// valid tells whether a message that sipgo has read is one by the grammar, as far as it is compared.
func valid(m sipgo.Message, data []byte) bool {
	head, _, _ := bytes.Cut(data, []byte("\r\n\r\n"))
	_, first, _ := bytes.Cut(head, []byte("\n"))
	if len(first) > 0 && blank(first[0]) {
		return false // the start line is not folded
	}
	if !plain(head) || m.CallID() == nil || m.CSeq() == nil || m.From() == nil || m.To() == nil {
		return false
	}
	alone := []string{"Call-ID", "i", "CSeq", "From", "f", "To", "t", "Content-Length", "l", "Content-Type", "c"}
	for _, name := range alone {
		if len(m.GetHeaders(name)) > 1 {
			return false // must be alone: RFC 3261, section 20
		}
	}
	switch x := m.(type) {
	case *sipgo.Request:
		return x.SipVersion == "SIP/2.0" && x.CSeq().MethodName == x.Method && token(string(x.Method)) &&
			bytes.HasPrefix(data, []byte(x.Method)) // not in small letters: section 7.1
	case *sipgo.Response:
		return x.SipVersion == "SIP/2.0" && x.StatusCode >= 100 && x.StatusCode < 700 && token(string(x.CSeq().MethodName))
	}
	return false
}

// plain tells whether b is text of which every reader sees the same lines and words: CR stands before LF only, LF
// behind CR only or before the white space of a fold, and white space is SP and HTAB.
func plain(b []byte) bool {
	for i, c := range b {
		switch {
		case c == '\r' && i+1 < len(b) && b[i+1] == '\n', c == '\n' && i > 0 && b[i-1] == '\r':
		case c == '\n' && i > 0 && b[i-1] != '\n' && i+1 < len(b) && (b[i+1] == ' ' || b[i+1] == '\t'):
		case c == '\r', c == '\n', c == '\v', c == '\f', c == 0:
			return false
		}
	}
	return bytes.IndexFunc(b, func(r rune) bool { return r >= 0x80 && unicode.IsSpace(r) }) < 0
}

func token(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || separator[c] || c == ':' || c == '[' || c == ']' {
			return false
		}
	}
	return s != ""
}

func unfolded(b []byte) string { return strings.Join(strings.Fields(string(b)), " ") }

// differences gathers what is not the same.
type differences struct{ strings.Builder }

func (w *differences) same(what, here, there string) {
	if here != there {
		w.WriteString(what + " is " + strconv.Quote(here) + ", of the other " + strconv.Quote(there) + "\n")
	}
}

// tag compares a tag. Names of parameters are read in any case (RFC 3261, section 7.3.1), which sipgo does not do; none
// stands there twice.
func (w *differences) tag(what string, here []byte, there sipgo.HeaderParams) {
	var tags []string
	for _, p := range there {
		if strings.EqualFold(p.K, "tag") {
			tags = append(tags, strings.TrimSpace(p.V))
		}
	}
	if len(tags) < 2 {
		w.same(what, string(here), strings.Join(tags, ""))
	}
}

func (w *differences) uri(what string, m *message, data []byte, k kind, there sipgo.Uri) {
	if !strings.EqualFold(there.Scheme, "sip") && !strings.EqualFold(there.Scheme, "sips") {
		return
	}
	w.host(what, m, data, k, there.Host, there.Port)
}

// host compares the first place of a kind, if it is an IPv4 address: of brackets sipgo takes more than is valid.
func (w *differences) host(what string, m *message, data []byte, k kind, host string, port int) {
	a, err := netip.ParseAddr(host)
	if err != nil || !a.Is4() || port < 0 || port > 65535 || bytes.Contains(data, []byte(host+"]")) {
		return
	}
	for _, p := range m.places {
		if p.kind == k {
			if port == 0 && bytes.Contains(data, []byte(host+":")) {
				return // sipgo has no port where it cannot read it
			}
			w.same(what, string(p.host.of(data))+":"+strconv.Itoa(int(p.addr.Port())), host+":"+strconv.Itoa(port))
			return
		}
	}
}

// FuzzAgainstPion: what pion's SDP accepts and understands is understood the same.
func FuzzAgainstPion(f *testing.F) {
	for _, name := range []string{"rfc3665", "rfc4475", "rfc5118"} {
		for _, x := range corpus(f, name) {
			if _, body, ok := bytes.Cut(x.Data, []byte("\r\n\r\n")); ok && len(body) > 0 {
				f.Add(body)
			}
		}
	}
	f.Add([]byte(crlf(`v=0
o=- 1 1 IN IP4 192.0.2.1
s=-
t=0 0
m=audio 4000/2 RTP/AVP 0
c=IN IP4 192.0.2.2/127
a=rtcp:4100 IN IP4 192.0.2.3
a=rtcp-mux
a=candidate:1 1 UDP 1 192.0.2.4 4000 typ host
m=video 0 RTP/AVP 31
`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if why := differsFromPion(data); why != "" {
			t.Fatalf("%s\n%q", why, data)
		}
	})
}

// unended is a line in which pion sees the next one begin: it has it begin behind any white space.
var unended = regexp.MustCompile(`(?m)^[^asi]=.* [a-z]=`)

func differsFromPion(data []byte) string {
	var theirs sdp.SessionDescription
	// Either end of a line will do; words are apart by SP alone.
	lines := bytes.ReplaceAll(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
	if !plain(lines) || bytes.IndexByte(data, '\t') >= 0 || unended.Match(data) || theirs.Unmarshal(data) != nil {
		return ""
	}
	var m message
	m.reset()
	m.readSDP(data, span{0, len(data)})
	if m.crowded() != nil {
		return ""
	}
	var w differences
	w.same("m= lines", strconv.Itoa(len(m.media)), strconv.Itoa(len(theirs.MediaDescriptions)))
	if w.Len() > 0 {
		return w.String()
	}
	for i, x := range theirs.MediaDescriptions {
		where := "media " + strconv.Itoa(i) + ": "
		line := m.places[m.media[i].line]
		signed := bytes.ContainsAny(line.port.of(data), "+-") // strconv takes a sign
		if port := x.MediaName.Port.Value; port >= 0 && port <= 65535 && !signed {
			w.same(where+"port", strconv.Itoa(int(line.addr.Port())), strconv.Itoa(port))
		}
		if n := x.MediaName.Port.Range; n != nil && *n > 0 && *n <= 65535 {
			w.same(where+"ports", strconv.Itoa(m.media[i].count), strconv.Itoa(*n))
		}
		c := x.ConnectionInformation
		if c == nil {
			c = theirs.ConnectionInformation
		}
		lines := 0
		for _, p := range m.places {
			if p.kind == connection && int(p.media) == i && !p.host.empty() {
				lines++
			}
		}
		if a := pionAddress(c); a.IsValid() && lines <= 1 { // netip takes no 192.0.2.01; more lines are layers of multicast
			w.same(where+"address", line.addr.Addr().String(), a.String())
		}
		_, mux := x.Attribute("rtcp-mux")
		w.same(where+"mux", strconv.FormatBool(m.media[i].mux), strconv.FormatBool(mux))
		if text, ok := x.Attribute("rtcp"); ok {
			port, _, _ := strings.Cut(text, " ")
			n, err := strconv.ParseUint(port, 10, 16)
			if err == nil && m.media[i].rtcp >= 0 {
				w.same(where+"rtcp", strconv.Itoa(int(m.places[m.media[i].rtcp].addr.Port())), strconv.Itoa(int(n)))
			} else if err == nil {
				w.same(where+"rtcp", "", port)
			}
		}
	}
	return w.String()
}

// pionAddress is the address of a c= line, if it is one.
func pionAddress(c *sdp.ConnectionInformation) (none netip.Addr) {
	if c == nil || c.Address == nil {
		return none
	}
	text, _, _ := strings.Cut(c.Address.Address, "/")
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || strings.EqualFold(c.AddressType, "IP4") == strings.Contains(text, ":") {
		return none
	}
	return a.Unmap()
}
