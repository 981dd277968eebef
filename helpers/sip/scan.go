package sip

import (
	"bytes"
	"net/netip"
)

// span is a part of the bytes at hand: b[off:end].
type span struct{ off, end int }

func (s span) of(b []byte) []byte { return b[s.off:s.end] }
func (s span) empty() bool        { return s.off == s.end }
func (s span) len() int           { return s.end - s.off }

// trimmed is the span with both ends moved inwards over white space, of which a folded line end is a part (RFC 3261,
// section 7.3.1).
func (s span) trimmed(b []byte) span {
	for s.off < s.end && blank(b[s.off]) {
		s.off++
	}
	for s.end > s.off && blank(b[s.end-1]) {
		s.end--
	}
	return s
}

// blank tells whether c is white space inside of a header field, or of a fold.
func blank(c byte) bool { return c <= ' ' && (c == ' ' || c == '\t' || c == '\r' || c == '\n') }

func digit(c byte) bool { return c-'0' <= 9 }

// lower is c as a small letter.
func lower(c byte) byte {
	if c-'A' <= 'Z'-'A' {
		return c | 0x20
	}
	return c
}

// fold tells whether b is the word in any case. It is quick if b is the word as it is given: as most write it.
func fold(b []byte, word string) bool {
	return len(b) == len(word) && (string(b) == word || sameLetters(b, word))
}

func sameLetters(b []byte, word string) bool {
	for i, c := range b {
		if lower(c) != lower(word[i]) {
			return false
		}
	}
	return true
}

// number reads decimal digits that are all of b; false: it is none, or over most.
func number(b []byte, most uint64) (n uint64, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	for _, c := range b {
		if !digit(c) {
			return 0, false
		}
		if n = n*10 + uint64(c-'0'); n > most {
			return 0, false
		}
	}
	return n, true
}

// address reads an IP address that is all of b. An IPv6 address that stands for an IPv4 one is that.
func address(b []byte) (a netip.Addr) {
	if len(b) == 0 || len(b) > len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255") {
		return a
	}
	if digit(b[0]) {
		if v4, ok := dotted(b); ok {
			return netip.AddrFrom4(v4)
		}
	}
	return colons(b)
}

// dotted reads four decimal numbers.
func dotted(b []byte) (v4 [4]byte, ok bool) {
	at, n, digits := 0, 0, 0
	for _, c := range b {
		switch {
		case digit(c):
			if n = n*10 + int(c-'0'); n > 255 || digits == 3 {
				return v4, false
			}
			digits++
		case c == '.' && digits > 0 && at < 3:
			v4[at] = byte(n)
			at, n, digits = at+1, 0, 0
		default:
			return v4, false
		}
	}
	v4[at] = byte(n)
	return v4, at == 3 && digits > 0
}

// colons reads an IPv6 address (RFC 4291, section 2.2), without a zone.
func colons(b []byte) (none netip.Addr) {
	var v6 [16]byte
	at, gap := 0, -1
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		b, gap = b[2:], 0
	}
	for len(b) > 0 {
		if at == len(v6) {
			return none
		}
		n, digits := 0, 0
		for digits < len(b) && hex(b[digits]) >= 0 {
			if digits == 4 {
				return none
			}
			n = n<<4 | hex(b[digits])
			digits++
		}
		if digits == 0 {
			return none
		}
		if digits < len(b) && b[digits] == '.' {
			v4, ok := dotted(b)
			if !ok || at > len(v6)-len(v4) {
				return none
			}
			at += copy(v6[at:], v4[:])
			break
		}
		v6[at], v6[at+1] = byte(n>>8), byte(n)
		at += 2
		if b = b[digits:]; len(b) == 0 {
			break
		}
		if b[0] != ':' || len(b) == 1 {
			return none
		}
		if b = b[1:]; b[0] == ':' {
			if gap >= 0 {
				return none
			}
			b, gap = b[1:], at
		}
	}
	switch {
	case gap < 0 && at < len(v6), gap >= 0 && at == len(v6):
		return none
	case gap >= 0:
		n := copy(v6[len(v6)-(at-gap):], v6[gap:at])
		clear(v6[gap : len(v6)-n])
	}
	return netip.AddrFrom16(v6).Unmap()
}

// hex is the value of a hexadecimal digit; -1: it is none.
func hex(c byte) int {
	switch {
	case digit(c):
		return int(c - '0')
	case lower(c)-'a' < 6:
		return int(lower(c)-'a') + 10
	}
	return -1
}

// scanner walks through a part of the bytes.
type scanner struct {
	b       []byte
	at, end int
}

func (s *scanner) more() bool { return s.at < s.end }

// blanks steps over white space.
func (s *scanner) blanks() {
	at := s.at
	for at < s.end && blank(s.b[at]) {
		at++
	}
	s.at = at
}

// set holds bytes.
type set [256]bool

func setOf(all string) (s set) {
	for _, c := range []byte(all) {
		s[c] = true
	}
	return s
}

// until steps to the next byte of a set, or to the end, and gives what lies before it.
func (s *scanner) until(stop *set) span {
	from, at, b := s.at, s.at, s.b[:s.end]
	for at < len(b) && !stop[b[at]] {
		at++
	}
	s.at = at
	return span{from, at}
}

// accept steps over c, and white space before it, if that is next.
func (s *scanner) accept(c byte) bool {
	at := s.at
	for at < s.end && blank(s.b[at]) {
		at++
	}
	if at == s.end || s.b[at] != c {
		return false
	}
	s.at = at + 1
	return true
}

// token is what is next up to white space or one of the separators of header fields.
func (s *scanner) token() span { return s.until(&separator) }

// tokenByte tells whether a method may have c in it.
func tokenByte(c byte) bool { return c > ' ' && c < 0x7f && !separator[c] }

var (
	// separator has what ends a token: white space, and what RFC 3261, section 25.1 lists but for [ ] : which hosts have.
	separator = setOf(" \t\r\n()<>@,;\\\"/?={}")
	// endsHost has what ends a host outside of brackets.
	endsHost = setOf(" \t\r\n()<>@,;\\\"/?={}:")
	// endsValue has what ends the value of a parameter: some write there what no token may have.
	endsValue = setOf(" \t\r\n;,")
	// marksAddress has what ends a display name, or an address without brackets.
	marksAddress = setOf("\"<,;")
	// marksElement has what ends an element of a list, or may hold a comma.
	marksElement = setOf(",\"<")
	space        = setOf(" ")
)

// quoted steps over a quoted string (RFC 3261, section 25.1) and gives its inside; false: it has no end.
func (s *scanner) quoted() (inside span, ok bool) {
	from, b := s.at+1, s.b[:s.end]
	for at := from; at < len(b); at++ {
		switch b[at] {
		case '"':
			s.at = at + 1
			return span{from, at}, true
		case '\\':
			at++
		}
	}
	s.at = s.end
	return span{from, s.end}, false
}

// parameter reads the next ;name=value. A quoted value comes without its quotes. false: there is none.
func (s *scanner) parameter() (name, value span, ok bool) {
	if !s.accept(';') {
		return name, value, false
	}
	s.blanks()
	name = s.token()
	value = span{s.at, s.at}
	if !s.accept('=') {
		return name, value, true
	}
	s.blanks()
	if s.at < s.end && s.b[s.at] == '"' {
		value, _ = s.quoted()
		return name, value, true
	}
	return name, s.until(&endsValue), true
}

// element steps to the next element of a list, behind the comma that ends the present one; false: it was the last.
func (s *scanner) element() bool {
	for s.until(&marksElement); s.at < s.end; s.until(&marksElement) {
		switch s.b[s.at] {
		case ',':
			s.at++
			s.blanks()
			return s.at < s.end
		case '"':
			s.quoted()
		case '<':
			n := bytes.IndexByte(s.b[s.at:s.end], '>')
			if n < 0 {
				n = s.end - s.at
			}
			s.at += n
		}
	}
	return false
}
