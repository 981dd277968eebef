package sip

import (
	"bytes"
	"errors"

	"github.com/cthelperd/cthelperd/helpers"
)

// method is a request's, or that of the request that a response answers.
type method uint8

const (
	otherMethod method = iota
	invite
	ack
	bye
	cancel
	register
	prack
	update
)

var (
	errStart   = errors.New("not a SIP message")
	errVersion = errors.New("another version of SIP")
	errStatus  = errors.New("status is not 100 to 699")
	errHead    = errors.New("headers without an end")
	errMissing = errors.New("no From, To, Call-ID or CSeq")
	errTwice   = errors.New("a header that must be alone stands there twice")
	errCSeq    = errors.New("malformed CSeq")
	errLength  = errors.New("malformed Content-Length")
	errCallID  = errors.New("empty Call-ID")
	errTooMuch = errors.New("too many addresses")
)

const (
	maxPlaces = 512     // addresses of a message
	maxSeq    = 1 << 32 // RFC 3261, section 8.1.1.5 says 2^31, not all keep to it
)

// brevity is what of a message need not be read.
type brevity uint8

const (
	complete brevity = iota
	nameless         // the URIs of From and To: nothing is sent there
	terse            // nor what only Rewrite looks at: the addresses in headers, but for contacts of REGISTER
)

// message is a view of a SIP message: offsets into the bytes that it was read from. Its slices keep their memory.
type message struct {
	brevity brevity
	facts

	places   []place // all addresses, in the order of their bytes
	contacts []contact
	bodies   []body
	media    []media
	groups   []span // of the present body: mids of a=group:BUNDLE
}

// facts are what a message says once.
type facts struct {
	whole span // start line to the end of the body; a datagram may have more behind it
	head  span // start line and headers, the empty line too
	body  span

	method method
	status int // of a response; 0: a request

	callID, fromTag, toTag span
	toURI                  span
	branch                 span // of the topmost Via
	cseq                   uint32

	expires  int  // the header's, in seconds; -1: none
	length   int  // Content-Length; -1: none
	lengthAt span // its digits
	star     bool // Contact: *
	unframed bool // Content-Length is malformed, or there are several that differ

	contentType span
	encoded     bool // Content-Encoding other than identity: the body is not read

	seen uint16 // headers that must be alone, and lists that have begun
}

// contact is one of Contact's addresses.
type contact struct {
	uri
	expires int // seconds; -1: none
}

// Bits of message.seen.
const (
	seenFrom = 1 << iota
	seenTo
	seenCallID
	seenCSeq
	seenLength
	seenType
	seenVia
	seenRoute
	seenRecordRoute
	seenPath
	seenServiceRoute
	seenMandatory = seenFrom | seenTo | seenCallID | seenCSeq
)

// reset empties m and keeps its memory.
func (m *message) reset() {
	m.facts = facts{expires: -1, length: -1}
	m.places, m.contacts = m.places[:0], m.contacts[:0]
	m.bodies, m.media, m.groups = m.bodies[:0], m.media[:0], m.groups[:0]
}

// failure is a refusal at a place.
func failure(off int, err error) error { return &helpers.ParseError{Off: off, Err: err} }

// parse reads the message that begins at b[off] and is all of the rest but for what is behind its Content-Length. An
// error is a *helpers.ParseError; then nothing of m counts. A datagram that is shorter than that is read as far as it
// goes: whoever refuses it (RFC 3261, section 18.3) says so, which takes the call back.
func (m *message) parse(b []byte, off int) error {
	if err := m.parseHead(b, off); err != nil {
		return err
	}
	return m.parseBody(b[:min(m.end(b), len(b))])
}

// end is where the message ends that has its head in b: that of a datagram without Content-Length with the datagram.
func (m *message) end(b []byte) int {
	if m.length < 0 {
		return len(b)
	}
	return m.head.end + m.length
}

// parseBody reads the body, which is what b has behind the head.
func (m *message) parseBody(b []byte) error {
	m.body = span{m.head.end, len(b)}
	m.whole.end = m.body.end
	m.readBody(b)
	return m.crowded()
}

// parseHead reads start line and headers up to the empty line. After an error the message can be stepped over still, if
// the headers have an end.
func (m *message) parseHead(b []byte, off int) error {
	m.reset()
	at, err := m.startLine(b, off)
	if errors.Is(err, errStart) {
		return err
	}
	for {
		n := bytes.IndexByte(b[at:], '\n')
		if n < 0 {
			return failure(off, errHead)
		}
		end := at + n // of the line, without its end
		next := end + 1
		if end == at || end == at+1 && b[at] == '\r' {
			m.head = span{off, next}
			break
		}
		for next < len(b) && (b[next] == ' ' || b[next] == '\t') { // folded
			n := bytes.IndexByte(b[next:], '\n')
			if n < 0 {
				return failure(off, errHead)
			}
			end = next + n
			next = end + 1
		}
		if mayBegin[b[at]] {
			if wrong := m.header(b, span{at, end}); wrong != nil && err == nil {
				err = failure(at, wrong)
			}
		}
		at = next
	}
	m.whole = span{off, m.head.end}
	m.body = span{m.head.end, m.head.end}
	switch {
	case err != nil:
		return err
	case m.seen&seenMandatory != seenMandatory:
		return failure(off, errMissing)
	case m.callID.empty():
		return failure(off, errCallID)
	}
	return m.crowded()
}

// crowded refuses a message with more addresses than one can mean.
func (m *message) crowded() error {
	if len(m.places) > maxPlaces {
		return failure(m.whole.off, errTooMuch)
	}
	return nil
}

const versionPrefix = "SIP/"

// startLine reads a request line or a status line (RFC 3261, sections 7.1 and 7.2), and says where the headers begin.
// What has no SIP version where one must be is errStart.
func (m *message) startLine(b []byte, off int) (next int, err error) {
	n := bytes.IndexByte(b[off:], '\n')
	if n < 0 {
		n = len(b) - off
	}
	s := scanner{b, off, off + n}
	next = min(s.end+1, len(b))
	for s.end > off && blank(b[s.end-1]) {
		s.end--
	}
	if s.end-off > len(versionPrefix) && fold(b[off:off+len(versionPrefix)], versionPrefix) {
		return next, m.statusLine(&s)
	}
	for s.at < s.end && tokenByte(b[s.at]) {
		s.at++
	}
	name := span{off, s.at}
	last := s.end
	for last > s.at && !blank(b[last-1]) {
		last--
	}
	if name.empty() || last == s.at || s.end-last <= len(versionPrefix) ||
		!fold(b[last:last+len(versionPrefix)], versionPrefix) {
		return next, failure(off, errStart)
	}
	target := span{s.at, last}.trimmed(b)
	if target.empty() || target.off == s.at { // no blank behind the method
		return next, failure(off, errStart)
	}
	if !fold(b[last:s.end], "SIP/2.0") {
		return next, failure(last, errVersion)
	}
	m.method = methodOf(name.of(b))
	if m.brevity == terse {
		return next, nil
	}
	if text := target.of(b); text[0] == '<' && text[len(text)-1] == '>' {
		target = span{target.off + 1, max(target.off+1, target.end-1)}
	}
	m.readURI(b, target, requestURI)
	return next, nil
}

func (m *message) statusLine(s *scanner) error {
	off := s.at
	for s.more() && !blank(s.b[s.at]) {
		s.at++
	}
	version := span{off, s.at}
	s.blanks()
	code := s.token()
	n, ok := number(code.of(s.b), 699)
	switch {
	case code.empty():
		return failure(off, errStart)
	case !fold(version.of(s.b), "SIP/2.0"):
		return failure(off, errVersion)
	case !ok || n < 100:
		return failure(code.off, errStatus)
	}
	m.status = int(n)
	return nil
}

// methodOf knows a method by its name, of which case counts (RFC 3261, section 7.1).
func methodOf(name []byte) method {
	switch string(name) {
	case "INVITE":
		return invite
	case "ACK":
		return ack
	case "BYE":
		return bye
	case "CANCEL":
		return cancel
	case "REGISTER":
		return register
	case "PRACK":
		return prack
	case "UPDATE":
		return update
	}
	return otherMethod
}
