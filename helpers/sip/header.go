package sip

import (
	"bytes"

	"github.com/cthelperd/cthelperd/helpers"
)

// field is a header field that is read.
type field uint8

const (
	otherField field = iota
	fieldVia
	fieldFrom
	fieldTo
	fieldContact
	fieldCallID
	fieldCSeq
	fieldExpires
	fieldContentLength
	fieldContentType
	fieldContentEncoding
	fieldRoute // from here on of use to Rewrite only
	fieldRecordRoute
	fieldPath
	fieldServiceRoute
)

// fieldOf knows a header field by its name or compact form (RFC 3261, section 7.3.3).
func fieldOf(name []byte) field {
	is := func(word string, f field) field {
		if fold(name, word) {
			return f
		}
		return otherField
	}
	switch len(name) {
	case 1:
		switch lower(name[0]) {
		case 'v':
			return fieldVia
		case 'f':
			return fieldFrom
		case 't':
			return fieldTo
		case 'm':
			return fieldContact
		case 'i':
			return fieldCallID
		case 'l':
			return fieldContentLength
		case 'c':
			return fieldContentType
		case 'e':
			return fieldContentEncoding
		}
	case len("To"):
		return is("To", fieldTo)
	case len("Via"):
		return is("Via", fieldVia)
	case len("From"):
		switch lower(name[0]) {
		case 'f':
			return is("From", fieldFrom)
		case 'c':
			return is("CSeq", fieldCSeq)
		case 'p':
			return is("Path", fieldPath)
		}
	case len("Route"):
		return is("Route", fieldRoute)
	case len("Contact"):
		switch lower(name[1]) {
		case 'o':
			return is("Contact", fieldContact)
		case 'a':
			return is("Call-ID", fieldCallID)
		case 'x':
			return is("Expires", fieldExpires)
		}
	case len("Content-Type"):
		if lower(name[0]) == 'c' {
			return is("Content-Type", fieldContentType)
		}
		return is("Record-Route", fieldRecordRoute)
	case len("Service-Route"):
		return is("Service-Route", fieldServiceRoute)
	case len("Content-Length"):
		return is("Content-Length", fieldContentLength)
	case len("Content-Encoding"):
		return is("Content-Encoding", fieldContentEncoding)
	}
	return otherField
}

// mayBegin has the first letters of the header fields that are read. Most that are not have another one.
var mayBegin = setOf("vftmirclepsVFTMIRCLEPS")

// header reads a header field.
func (m *message) header(b []byte, line span) error {
	colon := bytes.IndexByte(line.of(b), ':')
	if colon < 0 {
		return nil // no header field at all; who receives it will judge
	}
	f := fieldOf(span{line.off, line.off + colon}.trimmed(b).of(b))
	if f == otherField || f >= fieldRoute && m.brevity == terse {
		return nil
	}
	value := span{line.off + colon + 1, line.end}.trimmed(b)
	s := scanner{b, value.off, value.end}
	switch f {
	case fieldCallID:
		m.callID = value
		return m.once(seenCallID)
	case fieldExpires:
		m.expires = seconds(value.of(b))
	case fieldContentLength:
		return m.readLength(b, value)
	case fieldContentType:
		m.contentType = value
		return m.once(seenType)
	case fieldContentEncoding:
		m.encoded = m.encoded || !fold(value.of(b), "identity")
	case fieldVia:
		m.readVias(&s)
	case fieldFrom:
		m.readName(&s, from)
		m.fromTag = tag(&s)
		return m.once(seenFrom)
	case fieldTo:
		m.toURI = m.readName(&s, to)
		m.toTag = tag(&s)
		return m.once(seenTo)
	case fieldCSeq:
		if !m.readCSeq(&s) {
			return errCSeq
		}
		return m.once(seenCSeq)
	case fieldContact:
		if m.brevity < terse || m.method == register || m.status > 0 {
			m.readContacts(&s)
		}
	case fieldRoute:
		m.readList(&s, route, seenRoute)
	case fieldRecordRoute:
		m.readList(&s, recordRoute, seenRecordRoute)
	case fieldPath:
		m.readList(&s, path, seenPath)
	case fieldServiceRoute:
		m.readList(&s, serviceRoute, seenServiceRoute)
	}
	return nil
}

// once marks a header that must be alone.
func (m *message) once(bit uint16) error {
	if m.seen&bit != 0 {
		return errTwice
	}
	m.seen |= bit
	return nil
}

// first tells whether a list of this kind begins.
func (m *message) first(bit uint16) bool {
	was := m.seen & bit
	m.seen |= bit
	return was == 0
}

// tag is the tag among the parameters of From and To.
func tag(s *scanner) (t span) {
	for {
		name, value, ok := s.parameter()
		if !ok {
			return t
		}
		if fold(name.of(s.b), "tag") {
			t = value
		}
	}
}

// readCSeq reads number and method (RFC 3261, section 20.16). A request's own method is known already.
func (m *message) readCSeq(s *scanner) bool {
	digits := s.token()
	n, ok := number(digits.of(s.b), maxSeq-1)
	m.cseq = uint32(n)
	s.blanks()
	name := s.token()
	if !ok || name.off == digits.end || name.empty() || s.more() {
		return false
	}
	called := methodOf(name.of(s.b))
	if m.status > 0 {
		m.method = called
	}
	return called == m.method
}

func (m *message) readLength(b []byte, value span) error {
	if m.seen&seenLength != 0 {
		m.unframed = true
		return errTwice
	}
	m.seen |= seenLength
	n, ok := number(value.of(b), 1<<30)
	if !ok {
		m.unframed = true
		return errLength
	}
	m.length, m.lengthAt = int(n), value
	return nil
}

// seconds reads a number of seconds; -1: it is none. More than a kernel's timer takes is as good as for ever.
func seconds(b []byte) int {
	n := uint64(0)
	for _, c := range b {
		if !digit(c) {
			return -1
		}
		n = min(n*10+uint64(c-'0'), 1<<32-1)
	}
	if len(b) == 0 {
		return -1
	}
	return int(n)
}

// readList reads addresses that are behind each other.
func (m *message) readList(s *scanner, k kind, bit uint16) {
	top := m.first(bit)
	for s.more() && len(m.places) <= maxPlaces {
		if u := m.readAddress(s, k); u.place >= 0 {
			m.places[u.place].top, top = top, false
		}
		if !s.element() {
			return
		}
	}
}

func (m *message) readContacts(s *scanner) {
	if s.end-s.at == 1 && s.b[s.at] == '*' {
		m.star = true
		return
	}
	for s.more() && len(m.places) <= maxPlaces && len(m.contacts) <= maxPlaces {
		c := contact{uri: m.readAddress(s, contactURI), expires: -1}
		for {
			name, value, ok := s.parameter()
			if !ok {
				break
			}
			if fold(name.of(s.b), "expires") {
				c.expires = seconds(value.of(s.b))
			}
		}
		m.contacts = append(m.contacts, c)
		if !s.element() {
			return
		}
	}
}

// readName reads From or To, up to its parameters, and gives its URI.
func (m *message) readName(s *scanner, k kind) span {
	whole := addressSpan(s)
	if m.brevity == complete {
		m.readURI(s.b, whole, k)
	}
	return whole
}

// readVias reads a list of Via (RFC 3261, section 20.42).
func (m *message) readVias(s *scanner) {
	if m.brevity == terse {
		if m.first(seenVia) {
			m.branch = branch(s)
		}
		return
	}
	for s.more() && len(m.places) <= maxPlaces {
		s.blanks()
		s.protocol()
		transport, _ := transportOf(s.token().of(s.b), false)
		top := m.first(seenVia)
		p := m.newPlace(via)
		p.top, p.transport = top, transport
		p.readHost(s)
		m.viaParameters(s, top, transport)
		if !s.element() {
			return
		}
	}
}

// protocol steps over "SIP/2.0/", in which white space may stand.
func (s *scanner) protocol() {
	const usual = "SIP/2.0/"
	if s.end-s.at > len(usual) && string(s.b[s.at:s.at+len(usual)]) == usual {
		s.at += len(usual)
	} else {
		s.token()
		s.accept('/')
		s.blanks()
		s.token()
		s.accept('/')
	}
	s.blanks()
}

// branch is that of the first of a list of Via.
func branch(s *scanner) (value span) {
	n := bytes.IndexByte(s.b[s.at:s.end], ';')
	if n < 0 || bytes.IndexByte(s.b[s.at:s.at+n], ',') >= 0 {
		return span{}
	}
	s.at += n
	for {
		name, value, ok := s.parameter()
		if !ok {
			return span{}
		}
		if fold(name.of(s.b), "branch") {
			return value
		}
	}
}

func (m *message) viaParameters(s *scanner, top bool, transport helpers.Transport) {
	for {
		name, value, ok := s.parameter()
		if !ok {
			return
		}
		before := len(m.places)
		switch n := name.of(s.b); len(n) {
		case len("rport"):
			if fold(n, "rport") && !value.empty() {
				p := m.newPlace(viaRPort)
				p.host, p.port = span{value.off, value.off}, value
				p.addr = portOnly(portOf(value.of(s.b)))
			} else if fold(n, "maddr") {
				m.parameterPlace(s.b, viaMaddr, value)
			}
		case len("branch"):
			if top && fold(n, "branch") {
				m.branch = value
			}
		case len("received"):
			if fold(n, "received") {
				m.parameterPlace(s.b, viaReceived, value)
			}
		}
		if len(m.places) > before {
			p := &m.places[before]
			p.top, p.transport = top, transport
		}
	}
}
