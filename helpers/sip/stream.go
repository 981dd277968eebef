package sip

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/cthelperd/cthelperd/helpers"
)

// flow is what is known of the directions of one flow.
type flow [2]direction

// direction is the state of what one side sends in a flow.
type direction struct {
	mode mode
	// In a stream: the first bytes of the unfinished message, or line, that were searched for its end, and the length
	// of the message once its headers are there.
	scanned, need uint32
	judged        bool // its first line is a start line
	long          bool // mode lost: in a line that is no start line
	spoke         bool // a message of SIP was seen
}

type mode uint8

const (
	fresh   mode = iota // nothing but keep-alives was seen
	inStep              // at the beginning of a message
	lost                // the next start line is to be found
	foreign             // another protocol: never trusted again
)

// maxLine bounds a line that may be a start line, where one is looked for.
const maxLine = 4096

// datagram reads a datagram: a message, or a keep-alive.
func (s *session) datagram(seg *helpers.Segment, d *direction, out *helpers.Result) {
	if d.mode == foreign || keepAlive(seg.Data) {
		return
	}
	s.steps += len(seg.Data)
	off := 0 // line ends before a message are not part of it (RFC 3261, section 7.5)
	for off < len(seg.Data) && (seg.Data[off] == '\r' || seg.Data[off] == '\n') {
		off++
	}
	m := s.blank(seg)
	err := m.parseHead(seg.Data, off)
	if err == nil {
		if end := min(m.end(seg.Data), len(seg.Data)); end-m.head.end > int(s.all.Body) {
			s.fail(m.head.end, errBody)
		} else {
			err = m.parseBody(seg.Data[:end])
		}
	}
	switch {
	case errors.Is(err, errStart) && d.mode == fresh:
		s.desk.drop(m)
		s.foreign(d, "begins without SIP")
		return
	case err != nil:
		s.desk.drop(m)
		s.failed(err)
	default:
		s.read(seg, m, out)
	}
	if !errors.Is(err, errStart) {
		d.mode = inStep
	}
}

// Of STUN (RFC 8489, section 5).
const (
	stunHead    = 20
	stunCookie  = 0x2112A442
	stunBinding = 1
	stunClass   = 0x0110 // bits of the type that tell requests from answers
)

// keepAlive tells whether a datagram only keeps a path open: a few bytes, or a Binding of STUN (RFC 5626, section
// 3.5.2).
func keepAlive(b []byte) bool {
	if len(b) < stunHead {
		return true
	}
	return binary.BigEndian.Uint32(b[4:]) == stunCookie &&
		binary.BigEndian.Uint16(b)&^stunClass == stunBinding && int(binary.BigEndian.Uint16(b[2:])) == len(b)-stunHead
}

// stream reads the messages that a piece of a stream completes.
func (s *session) stream(seg *helpers.Segment, d *direction, out *helpers.Result) {
	if seg.Gap || d.mode == fresh && seg.Flow.Late {
		*d = direction{mode: lost, spoke: d.spoke}
	}
	off := 0
	for off < len(seg.Data) && d.mode != foreign {
		step := s.message
		if d.mode == lost {
			step = s.search
		}
		n, more := step(seg, d, off, out)
		off += n
		if more {
			break
		}
	}
	if d.mode == foreign {
		off = len(seg.Data)
	}
	out.Consumed, out.Hold = off, max(0, len(seg.Data)-off)
}

// message reads the message that begins at off. n is its length; more: its end is still to come.
func (s *session) message(seg *helpers.Segment, d *direction, off int, out *helpers.Result) (n int, more bool) {
	b, rest := seg.Data, seg.Data[off:]
	if c := b[off]; c == '\r' || c == '\n' { // between messages (RFC 5626, section 3.5.1)
		return 1, false
	}
	if len(rest) < int(d.need) {
		return 0, true
	}
	if d.need == 0 {
		if n, more := s.whole(d, b, off); n > 0 || more || d.mode == foreign {
			return n, more
		}
	}
	m := s.blank(seg)
	err := m.parseHead(b, off)
	if m.head.empty() { // what was saved of this stream was of another one
		s.desk.drop(m)
		*d = direction{mode: lost, spoke: d.spoke}
		return 0, false
	}
	s.steps += m.head.len()
	head := m.head.end - off
	switch size := head + m.length; {
	case m.unframed || m.length < 0:
		// Where the next message begins is not known (RFC 3261, section 18.3).
		if err == nil {
			err = failure(off, errNoLength)
		}
		*d = direction{mode: lost, spoke: true}
		n = head
	case m.length > int(s.all.Body) || m.opaque(b): // nobody waits for the body
		if err == nil {
			if s.read(seg, m, out); !m.opaque(b) {
				err = failure(m.head.end, errBody)
			}
			m = nil
		}
		*d = direction{mode: inStep, spoke: true}
		n = size
	case size > len(rest):
		s.desk.drop(m)
		d.need = uint32(size)
		return 0, true
	default:
		if err == nil {
			err = m.parseBody(b[:off+size])
			s.steps += m.length
		}
		if err == nil {
			s.read(seg, m, out)
			m = nil
		}
		*d = direction{mode: inStep, spoke: true}
		n = size
	}
	if m != nil {
		s.desk.drop(m)
	}
	if err != nil {
		s.failed(err)
	}
	return n, false
}

// whole looks whether start line and headers at off have come, and are SIP. n is what is not, more: there is too
// little to say. Neither: they are there.
func (s *session) whole(d *direction, b []byte, off int) (n int, more bool) {
	rest := b[off:]
	if !tokenByte(rest[0]) {
		return s.garbage(d, off, 1, true)
	}
	seen := min(len(rest), maxHead)
	was := min(int(d.scanned), seen)
	for at := max(0, was-len("\n\r")); ; {
		n := bytes.IndexByte(rest[at:seen], '\n')
		if n < 0 {
			break
		}
		at += n + 1
		if at < seen && rest[at] == '\n' || at+1 < seen && rest[at] == '\r' && rest[at+1] == '\n' {
			if n := s.startless(b, off); n > 0 {
				return s.garbage(d, off, n, false)
			}
			return 0, false
		}
	}
	s.steps += seen - was
	if line := bytes.IndexByte(rest[was:seen], '\n'); line >= 0 && !d.judged {
		d.judged = true
		if n := s.startless(b, off); n > 0 {
			return s.garbage(d, off, n, false)
		}
	}
	d.scanned = uint32(seen)
	if len(rest) < maxHead {
		return 0, true
	}
	if d.judged {
		s.fail(off, errTooLong)
		*d = direction{mode: lost, long: true, spoke: true}
		return maxHead, false
	}
	return s.garbage(d, off, maxHead, true)
}

// startless tells whether the line at off is no start line: its length, else 0.
func (s *session) startless(b []byte, off int) int {
	m := s.desk.blank()
	next, err := m.startLine(b, off)
	s.desk.drop(m)
	s.steps += next - off
	if errors.Is(err, errStart) {
		return next - off
	}
	return 0
}

// garbage steps over n bytes where a message should begin. torn: they do not end with a line.
func (s *session) garbage(d *direction, off, n int, torn bool) (int, bool) {
	if d.mode == fresh {
		s.foreign(d, "begins without SIP")
		return 0, false
	}
	s.fail(off, errStart)
	*d = direction{mode: lost, long: torn, spoke: d.spoke}
	return n, false
}

// search looks for the next start line. n bytes are not a part of it; more: too few are there to say.
func (s *session) search(seg *helpers.Segment, d *direction, off int, _ *helpers.Result) (n int, more bool) {
	rest := seg.Data[off:]
	if !d.long {
		d.long = !tokenByte(rest[0]) // no start line begins so
	}
	if d.long {
		n := bytes.IndexByte(rest, '\n') + 1
		if d.long = n == 0; d.long {
			n = len(rest)
		}
		s.steps += n
		return n, false
	}
	seen := min(len(rest), maxLine)
	was := min(int(d.scanned), seen)
	n = bytes.IndexByte(rest[was:seen], '\n')
	if n < 0 {
		s.steps += seen - was
		if d.scanned = uint32(seen); seen < maxLine {
			return 0, true
		}
		d.scanned, d.long = 0, true
		return seen, false
	}
	n += was + 1
	d.scanned = 0
	switch {
	case s.startless(seg.Data, off) == 0:
		*d = direction{mode: inStep, spoke: d.spoke}
		return 0, false
	case !d.spoke && otherProtocol(rest[:n]):
		s.foreign(d, "not SIP")
	}
	return n, false
}

// otherProtocol tells whether a line is one of HTTP: such a stream, joined late, may carry SIP in a body.
func otherProtocol(line []byte) bool {
	line = bytes.TrimRight(line, "\r\n")
	begins := func(word string) bool { return len(line) >= len(word) && fold(line[:len(word)], word) }
	n := len(line) - len(" http/1.1")
	return begins("http/") || begins("host:") || begins("user-agent: mozilla") ||
		n >= 0 && fold(line[n:n+len(" http/1.")], " http/1.")
}
