package sip

import (
	"bytes"
	"net/netip"

	"github.com/cthelperd/cthelperd/helpers"
)

// body is a session description (RFC 8866).
type body struct {
	text       span
	origin     int // o=, in message.places; -1: none
	connection int // c= of the session; -1: none
	setup      setup
}

// media is an m= line with what belongs to it.
type media struct {
	body       int
	line       int // the m= line's port, in message.places
	connection int // c= that holds for it, its own or the session's; -1: none
	rtcp       int // a=rtcp:; -1: none
	kind       mediaKind
	count      int // ports, as in port/count
	setup      setup
	name       span // audio, video …
	mux        bool // a=rtcp-mux
	muxOnly    bool // a=rtcp-mux-only (RFC 8858)
	bundleOnly bool // a=bundle-only
	bundled    bool // of a BUNDLE group, but not its first (RFC 9143)
	ice        bool // it has candidates
	own        bool // connection is its own
	mid        span
}

// mediaKind is what is expected for an m= line.
type mediaKind uint8

const (
	unknownMedia mediaKind = iota // a transport that is not known here
	rtpMedia                      // RTP and RTCP over UDP, plain or encrypted
	udpMedia                      // one UDP port: UDPTL, BFCP, data channels
	tcpMedia                      // TCP: MSRP, BFCP, T.38, RTP in TCP (RFC 4571)
)

// setup is who opens a TCP connection (RFC 4145, section 4).
type setup uint8

const (
	noSetup setup = iota
	active
	passive
	actpass
	holdconn
)

// content is what matters of a content type.
type content uint8

const (
	otherContent content = iota
	sdpContent
	multipart
)

// What an ICE candidate is (RFC 8839, section 5.1).
const (
	noCandidate = iota
	hostCandidate
	reflexiveCandidate // server-reflexive or peer-reflexive
	relayedCandidate
)

const (
	maxNested = 3  // multipart in multipart
	maxGroups = 16 // mids of a session's BUNDLE groups that are followed
)

// opaque tells whether the body, by what the head says of it, has no session descriptions.
func (m *message) opaque(b []byte) bool {
	_, kind := contentKind(b, m.contentType)
	return m.encoded || kind == otherContent
}

// readBody reads the session descriptions of the body.
func (m *message) readBody(b []byte) {
	if !m.encoded && !m.body.empty() {
		m.readPart(b, m.body, m.contentType, maxNested)
	}
}

// readPart reads a body, or a part of one, of a content type.
func (m *message) readPart(b []byte, text, contentType span, depth int) {
	s, kind := contentKind(b, contentType)
	switch {
	case kind == sdpContent:
		m.readSDP(b, text)
	case kind == multipart && depth > 0:
		for {
			name, value, ok := s.parameter()
			if !ok {
				return
			}
			if fold(name.of(b), "boundary") && !value.empty() {
				m.readMultipart(b, text, value.of(b), depth-1)
				return
			}
		}
	}
}

// contentKind is what a content type, whose parameters are next in s, says of a body.
func contentKind(b []byte, contentType span) (s scanner, kind content) {
	if fold(contentType.of(b), "application/sdp") {
		return s, sdpContent
	}
	s = scanner{b, contentType.off, contentType.end}
	main := s.token()
	if !s.accept('/') {
		return s, otherContent
	}
	s.blanks()
	sub := s.token()
	switch {
	case fold(main.of(b), "application") && fold(sub.of(b), "sdp"):
		return s, sdpContent
	case fold(main.of(b), "multipart"):
		return s, multipart
	}
	return s, otherContent
}

// readMultipart reads the parts of a multipart body (RFC 2046, section 5.1).
func (m *message) readMultipart(b []byte, text span, boundary []byte, depth int) {
	part := span{-1, -1} // the present one's begin
	for at := text.off; ; {
		n := bytes.Index(b[at:text.end], boundary)
		if n < 0 {
			return // a part without an end is none
		}
		off := at + n
		at = off + len(boundary)
		line := off - len("--")
		if line < text.off || b[line] != '-' || b[line+1] != '-' || line > text.off && b[line-1] != '\n' {
			continue
		}
		if part.off >= 0 {
			part.end = line
			for range len("\r\n") { // the line end before a boundary belongs to it
				if part.end > part.off && (b[part.end-1] == '\n' || b[part.end-1] == '\r') {
					part.end--
				}
			}
			m.readBodyPart(b, part, depth)
		}
		n = bytes.IndexByte(b[at:text.end], '\n')
		if n < 0 || text.end-at >= 2 && b[at] == '-' && b[at+1] == '-' {
			return
		}
		at += n + 1
		part = span{at, at}
		at-- // the next boundary may follow at once
	}
}

// readBodyPart reads the headers of a part, and the part.
func (m *message) readBodyPart(b []byte, part span, depth int) {
	contentType, encoded := span{}, false
	for at := part.off; at < part.end; {
		n := bytes.IndexByte(b[at:part.end], '\n')
		if n < 0 {
			return
		}
		line := span{at, at + n}.trimmed(b)
		at += n + 1
		if line.empty() {
			if !contentType.empty() && !encoded {
				m.readPart(b, span{at, part.end}, contentType, depth)
			}
			return
		}
		colon := bytes.IndexByte(line.of(b), ':')
		if colon < 0 {
			continue
		}
		name := span{line.off, line.off + colon}.trimmed(b)
		value := span{line.off + colon + 1, line.end}.trimmed(b)
		switch {
		case fieldOf(name.of(b)) == fieldContentType:
			contentType = value
		case fieldOf(name.of(b)) == fieldContentEncoding:
			encoded = encoded || !fold(value.of(b), "identity")
		case fold(name.of(b), "content-transfer-encoding"):
			encoded = encoded || fold(value.of(b), "base64") || fold(value.of(b), "quoted-printable")
		}
	}
}

// readSDP reads a session description.
func (m *message) readSDP(b []byte, text span) {
	d := description{m: m, b: b, index: len(m.bodies), first: len(m.media), current: -1}
	m.bodies = append(m.bodies, body{text: text, origin: -1, connection: -1})
	m.groups = m.groups[:0]
	for at := text.off; at < text.end && len(m.places) <= maxPlaces; {
		end, next := text.end, text.end
		if n := bytes.IndexByte(b[at:text.end], '\n'); n >= 0 {
			end = at + n
			next = end + 1
			if n > 0 && b[end-1] == '\r' {
				end--
			}
		}
		if end-at > 2 && b[at+1] == '=' {
			switch c := b[at]; {
			case c == 'a':
				if end-at > 4 && attribute(b[at+2:end]) {
					d.attribute(&scanner{b, at + 2, end})
				}
			case c == 'm':
				d.mediaLine(&scanner{b, at + 2, end})
			case c == 'c':
				d.connectionLine(&scanner{b, at + 2, end})
			case c == 'o' && m.brevity < terse:
				d.originLine(&scanner{b, at + 2, end})
			}
		}
		at = next
	}
	d.settle()
}

// attribute tells whether an attribute may be one that is read, by its first letters.
func attribute(line []byte) bool {
	switch string(line[:3]) {
	case "rtc", "can", "set", "mid", "gro", "bun", "pat":
		return true
	}
	return false
}

// description is a session description that is being read.
type description struct {
	m       *message
	b       []byte
	index   int // in m.bodies
	first   int // in m.media
	current int // in m.media; -1: the part that is about the session
}

func (d *description) body() *body { return &d.m.bodies[d.index] }

// newPlace appends a place of the present part.
func (d *description) newPlace(k kind) *place {
	p := d.m.newPlace(k)
	p.body, p.media = int16(d.index), int16(d.current)
	return p
}

// word is what is next, up to a blank.
func (s *scanner) word() span {
	for s.more() && s.b[s.at] == ' ' {
		s.at++
	}
	return s.until(&space)
}

// host reads "IN IP4 address"; a /ttl behind the address does not belong to it.
func (p *place) hostLine(s *scanner) {
	s.word() // IN
	family := s.word().of(s.b)
	p.host = s.word()
	if i := bytes.IndexByte(p.host.of(s.b), '/'); i >= 0 {
		p.host.end = p.host.off + i
	}
	p.port = span{p.host.end, p.host.end}
	a := address(p.host.of(s.b))
	if fold(family, "IP4") == dots(p.host.of(s.b)) {
		p.addr = netip.AddrPortFrom(a, 0)
	}
}

func (d *description) originLine(s *scanner) {
	s.word() // user
	s.word() // session
	s.word() // version
	if d.current < 0 && d.body().origin < 0 {
		d.body().origin = len(d.m.places)
	}
	d.newPlace(origin).hostLine(s)
}

func (d *description) connectionLine(s *scanner) {
	at := len(d.m.places)
	p := d.newPlace(connection)
	p.hostLine(s)
	if p.host.empty() {
		return
	}
	if d.current < 0 {
		if d.body().connection < 0 {
			d.body().connection = at
		}
	} else if x := &d.m.media[d.current]; !x.own { // more of them are layers of multicast (RFC 8866, section 5.7)
		x.connection, x.own = at, true
	}
}

// mediaLine reads "audio 49170/2 RTP/AVP 0".
func (d *description) mediaLine(s *scanner) {
	d.current = len(d.m.media)
	x := media{
		name: s.word(), body: d.index, line: len(d.m.places), connection: d.body().connection, rtcp: -1, count: 1,
		setup: d.body().setup,
	}
	p := d.newPlace(mediaPort)
	p.port = s.word()
	for i, c := range p.port.of(s.b) {
		if c == '/' {
			n, _ := number(s.b[p.port.off+i+1:p.port.end], 1<<16-1)
			x.count = max(1, int(n))
			p.port.end = p.port.off + i
			break
		}
	}
	p.host = span{p.port.off, p.port.off}
	p.addr = portOnly(portOf(p.port.of(s.b)))
	x.kind = mediaKindOf(s.word().of(s.b))
	p.transport = helpers.UDP
	if x.kind == tcpMedia {
		p.transport = helpers.TCP
	}
	d.m.media = append(d.m.media, x)
}

// mediaKindOf knows a transport by the registered name (IANA, "proto" of SDP).
func mediaKindOf(proto []byte) mediaKind {
	if string(proto) == "RTP/AVP" { // mostly
		return rtpMedia
	}
	first, rest, _ := bytes.Cut(proto, []byte("/"))
	switch {
	case fold(first, "RTP"):
		return rtpMedia
	case fold(first, "UDP"):
		if bytes.Contains(rest, []byte("RTP")) {
			return rtpMedia
		}
		return udpMedia
	case fold(first, "UDPTL"), fold(first, "DTLS"):
		return udpMedia
	case fold(first, "TCP"), fold(first, "TCPTL"):
		return tcpMedia
	}
	return unknownMedia
}

// attribute reads "name:value".
func (d *description) attribute(s *scanner) {
	name := s.b[s.at:s.end]
	if n := bytes.IndexByte(name, ':'); n >= 0 {
		name = name[:n]
		s.at++ // the colon
	}
	s.at += len(name)
	var x *media
	if d.current >= 0 {
		x = &d.m.media[d.current]
	}
	switch string(name) {
	case "rtcp":
		d.rtcpAttribute(s, x)
	case "rtcp-mux":
		if x != nil {
			x.mux = true
		}
	case "rtcp-mux-only":
		if x != nil {
			x.mux, x.muxOnly = true, true
		}
	case "candidate":
		if x != nil {
			x.ice = true
			d.candidateAttribute(s)
		}
	case "setup":
		if now := setupOf(s.word().of(s.b)); x != nil {
			x.setup = now
		} else {
			d.body().setup = now
		}
	case "mid":
		if x != nil {
			x.mid = s.word()
		}
	case "group":
		if d.current < 0 && string(s.word().of(s.b)) == "BUNDLE" {
			d.group(s)
		}
	case "bundle-only":
		if x != nil {
			x.bundleOnly = true
		}
	case "path":
		if x != nil {
			d.pathAttribute(s)
		}
	}
}

func setupOf(word []byte) setup {
	switch string(word) {
	case "active":
		return active
	case "passive":
		return passive
	case "actpass":
		return actpass
	case "holdconn":
		return holdconn
	}
	return noSetup
}

// rtcpAttribute reads "53020" or "53020 IN IP4 192.0.2.1".
func (d *description) rtcpAttribute(s *scanner, x *media) {
	if x == nil || x.rtcp >= 0 {
		return
	}
	x.rtcp = len(d.m.places)
	p := d.newPlace(rtcp)
	p.transport = helpers.UDP
	port := s.word()
	if s.more() {
		p.hostLine(s)
	} else {
		p.host = span{port.off, port.off}
	}
	p.port = port
	p.addr = netip.AddrPortFrom(p.addr.Addr(), portOf(port.of(s.b)))
}

// candidateAttribute reads "1 1 UDP 2130706431 192.0.2.1 8998 typ host" with what may follow.
func (d *description) candidateAttribute(s *scanner) {
	s.word() // foundation
	component, _ := number(s.word().of(s.b), 256)
	transport, _ := transportOf(s.word().of(s.b), false)
	s.word() // priority
	at := len(d.m.places)
	p := d.newPlace(candidate)
	p.transport, p.component = transport, uint8(min(component, 255))
	p.host, p.port = s.word(), s.word()
	p.addr = netip.AddrPortFrom(address(p.host.of(s.b)), portOf(p.port.of(s.b)))
	var raddr span
	for s.more() {
		name, value := s.word(), s.word()
		switch string(name.of(s.b)) {
		case "typ":
			d.m.places[at].candidate = candidateType(value.of(s.b))
		case "raddr":
			raddr = value
		case "rport":
			if !raddr.empty() {
				r := d.newPlace(related)
				r.host, r.port, r.transport = raddr, value, transport
				r.addr = netip.AddrPortFrom(address(raddr.of(s.b)), portOf(value.of(s.b)))
				raddr = span{}
			}
		case "tcptype":
			d.m.places[at].active = string(value.of(s.b)) == "active"
		}
	}
}

func candidateType(word []byte) uint8 {
	switch string(word) {
	case "host":
		return hostCandidate
	case "srflx", "prflx":
		return reflexiveCandidate
	case "relay":
		return relayedCandidate
	}
	return noCandidate
}

// pathAttribute reads "msrp://192.0.2.1:7777/session;tcp", of which there may be several.
func (d *description) pathAttribute(s *scanner) {
	for s.more() && len(d.m.places) <= maxPlaces {
		word := s.word()
		colon := bytes.Index(word.of(s.b), []byte("://"))
		if colon < 0 {
			continue
		}
		p := d.newPlace(msrpPath)
		p.secure, p.transport = fold(s.b[word.off:word.off+colon], "msrps"), helpers.TCP
		at := word.off + colon + len("://")
		for i := word.end - 1; i >= at; i-- {
			if s.b[i] == '@' {
				at = i + 1
			}
		}
		p.readHost(&scanner{s.b, at, word.end})
	}
}

// group keeps the mids of a BUNDLE group, its end marked by an empty one.
func (d *description) group(s *scanner) {
	for len(d.m.groups) < maxGroups {
		mid := s.word()
		d.m.groups = append(d.m.groups, mid)
		if mid.empty() {
			return
		}
	}
}

// settle completes what is only known at the end: the address of ports that stand alone, and who is bundled.
func (d *description) settle() {
	m := d.m
	for i := d.first; i < len(m.media); i++ {
		x := &m.media[i]
		if x.connection >= 0 {
			a := m.places[x.connection].addr.Addr()
			line := &m.places[x.line]
			line.addr = netip.AddrPortFrom(a, line.addr.Port())
			if x.rtcp >= 0 {
				if p := &m.places[x.rtcp]; p.host.empty() {
					p.addr = netip.AddrPortFrom(a, p.addr.Port())
				}
			}
		}
		x.bundled = d.isBundled(x.mid)
	}
}

// isBundled tells whether a mid stands in a BUNDLE group, but not first.
func (d *description) isBundled(mid span) bool {
	if mid.empty() {
		return false
	}
	first := true
	for _, g := range d.m.groups {
		if g.empty() {
			first = true
			continue
		}
		if !first && bytes.Equal(g.of(d.b), mid.of(d.b)) {
			return true
		}
		first = false
	}
	return false
}
