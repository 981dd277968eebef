package sip

import (
	"bytes"
	"net/netip"

	"github.com/cthelperd/cthelperd/helpers"
)

// kind is where in a message an address stands.
type kind uint8

const (
	requestURI  kind = iota
	via              // sent-by (RFC 3261, section 18.1.1)
	viaReceived      // received= (section 18.2.1)
	viaRPort         // rport= with a value (RFC 3581): a port alone
	viaMaddr
	from
	to
	contactURI
	recordRoute
	route
	path         // RFC 3327
	serviceRoute // RFC 3608
	uriMaddr     // maddr= of a URI
	uriReceived  // received= of a URI, as proxies write it into Path and Record-Route
	origin       // o= (RFC 8866, section 5.2)
	connection   // c= (section 5.7)
	mediaPort    // m= (section 5.14): a port alone
	rtcp         // a=rtcp: (RFC 3605): a port, and maybe an address
	candidate    // a=candidate: (RFC 8839, section 5.1)
	related      // raddr and rport of a candidate
	msrpPath     // a=path: (RFC 4975, section 8)
)

// place is an address in the text of a message.
type place struct {
	kind  kind
	boxed bool // an IPv6 address in brackets
	top   bool // of the topmost Via; the first of the other lists
	// secure: a sips URI, or one with transport=tls: what goes there cannot be read.
	secure    bool
	transport helpers.Transport // as Via, a URI's parameter or a candidate says; 0: nothing, or neither UDP nor TCP

	// Of an ICE candidate: host, reflexive or relayed; 1 for RTP, 2 for RTCP; it only opens connections.
	candidate, component uint8
	active               bool

	host span // as written, an IPv6 address without its brackets; empty: none there
	port span // the digits; empty: none there, off is where ":port" would have to go

	// addr is what it says. Without Addr it is a host name, or wrong. Port 0: none is written, or it is wrong. A port
	// alone in SDP has the address of the connection that holds for it.
	addr netip.AddrPort

	body, media int16 // of SDP: in message.bodies, message.media; -1: none
	expect      int16 // in Result.Expect: the announcement of addr; -1: none
}

// usable tells whether a place says an end point.
func (p *place) usable() bool {
	return p.addr.Addr().IsValid() && p.addr.Port() > 0
}

// newPlace appends a place.
func (m *message) newPlace(k kind) *place {
	n := len(m.places)
	if n < cap(m.places) {
		m.places = m.places[:n+1]
	} else {
		m.places = append(m.places, place{})
	}
	p := &m.places[n]
	*p = place{kind: k, body: -1, media: -1, expect: -1}
	return p
}

// readHost reads a host and, behind a colon, a port. Inside of header fields white space may stand around the colon.
func (p *place) readHost(s *scanner) {
	s.blanks()
	if s.more() && s.b[s.at] == '[' {
		from := s.at + 1
		if n := bytes.IndexByte(s.b[from:s.end], ']'); n >= 0 {
			s.at = from + n
		} else {
			s.at = s.end
		}
		p.host, p.boxed = span{from, s.at}, true
		if s.more() {
			s.at++
		}
	} else {
		p.host = s.until(&endsHost)
	}
	addr := address(p.host.of(s.b))
	if p.boxed && dots(p.host.of(s.b)) {
		addr = netip.Addr{} // brackets are for IPv6
	}
	p.port = span{s.at, s.at}
	port := uint16(0)
	if s.accept(':') {
		s.blanks()
		p.port.off = s.at
		for s.more() && digit(s.b[s.at]) {
			s.at++
		}
		p.port.end = s.at
		port = portOf(p.port.of(s.b))
		if port == 0 || s.more() && !separator[s.b[s.at]] {
			addr = netip.Addr{} // whatever it is, it is no end point
		}
	}
	p.addr = netip.AddrPortFrom(addr, port)
}

// dots tells whether b has no colon: it is a dotted address.
func dots(b []byte) bool { return bytes.IndexByte(b, ':') < 0 }

// portOf is the number of a port; 0: it is none.
func portOf(b []byte) uint16 {
	n, ok := number(b, 1<<16-1)
	if !ok {
		return 0
	}
	return uint16(n)
}

// uri is a URI that was read.
type uri struct {
	whole     span
	user      span
	place     int // in message.places; -1: no host in it (tel:), or another scheme
	transport helpers.Transport
	secure    bool
}

// readURI reads a URI that is all of whole: sip: and sips: (RFC 3261, section 19.1). Parameters are its own.
func (m *message) readURI(b []byte, whole span, k kind) uri {
	u := uri{whole: whole, place: -1}
	scheme, _, ok := bytes.Cut(whole.of(b), []byte(":"))
	switch {
	case !ok:
		return u
	case fold(scheme, "sip"):
	case fold(scheme, "sips"):
		u.secure = true
	default:
		return u
	}
	at := whole.off + len(scheme) + 1
	u.user = span{at, at}
	if i := bytes.LastIndexByte(b[at:whole.end], '@'); i >= 0 { // behind the user it must be escaped
		u.user.end = at + i
		at += i + 1
	}
	s := scanner{b, at, whole.end}
	u.place = len(m.places)
	m.newPlace(k).readHost(&s)
	for {
		name, value, ok := s.parameter()
		if !ok {
			break
		}
		m.uriParameter(b, &u, name, value)
	}
	p := &m.places[u.place]
	p.transport, p.secure = u.transport, u.secure
	return u
}

func (m *message) uriParameter(b []byte, u *uri, name, value span) {
	switch n := name.of(b); len(n) {
	case len("maddr"):
		if fold(n, "maddr") {
			m.parameterPlace(b, uriMaddr, value)
		}
	case len("received"):
		if fold(n, "received") {
			m.receivedURI(b, value)
		}
	case len("transport"):
		if fold(n, "transport") {
			u.transport, u.secure = transportOf(value.of(b), u.secure)
		}
	}
}

// receivedURI reads received= of a URI: an address, or a URI in it.
func (m *message) receivedURI(b []byte, value span) {
	if text := value.of(b); len(text) > 4 && fold(text[:4], "sip:") {
		value.off += 4
	}
	m.parameterPlace(b, uriReceived, value)
}

// parameterPlace reads a parameter that is an address, an IPv6 one with brackets or without (RFC 5118, section 4.5).
func (m *message) parameterPlace(b []byte, k kind, value span) {
	p := m.newPlace(k)
	if a := address(value.of(b)); a.IsValid() {
		p.host, p.port, p.addr = value, span{value.end, value.end}, netip.AddrPortFrom(a, 0)
		return
	}
	p.readHost(&scanner{b, value.off, value.end})
}

// transportOf reads the name of a transport. What TLS hides is of no use, and makes a URI secure.
func transportOf(name []byte, secure bool) (helpers.Transport, bool) {
	switch {
	case fold(name, "udp"):
		return helpers.UDP, secure
	case fold(name, "tcp"):
		return helpers.TCP, secure
	case fold(name, "tls"), fold(name, "wss"):
		return 0, true
	}
	return 0, secure
}

// readAddress reads a name-addr or addr-spec (RFC 3261, section 20.10), up to the parameters of the header field.
func (m *message) readAddress(s *scanner, k kind) uri {
	return m.readURI(s.b, addressSpan(s), k)
}

// addressSpan steps over a name-addr or addr-spec, and gives its URI.
func addressSpan(s *scanner) span {
	s.blanks()
	from := s.at
	for {
		s.until(&marksAddress)
		switch {
		case s.more() && s.b[s.at] == '"':
			s.quoted()
		case s.more() && s.b[s.at] == '<':
			s.at++
			inside := span{s.at, s.end}
			if n := bytes.IndexByte(s.b[s.at:s.end], '>'); n >= 0 {
				inside.end = s.at + n
			}
			s.at = min(inside.end+1, s.end)
			return inside.trimmed(s.b)
		default: // without brackets, parameters and the next one are not the URI's
			return span{from, s.at}.trimmed(s.b)
		}
	}
}

// withPort is a, with a port if it has none.
func withPort(a netip.AddrPort, port uint16) netip.AddrPort {
	if a.Port() == 0 {
		return netip.AddrPortFrom(a.Addr(), port)
	}
	return a
}

// portOnly is a port of an address that is not known.
func portOnly(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.Addr{}, port) }
