package ftp

import (
	"errors"
	"net/netip"
	"strconv"
)

// form is how an end point is written.
type form uint8

const (
	short    form = iota // h1,h2,h3,h4,p1,p2 (RFC 959, section 4.1.2): PORT, 227
	long                 // af,hal,h1…,pal,p1,p2 (RFC 1639): LPRT, 228
	extended             // |proto|address|port| (RFC 2428, section 2): EPRT
	portOnly             // |||port| (RFC 2428, section 3): 229
)

var (
	errSyntax   = errors.New("malformed end point")
	errNumber   = errors.New("number over 255")
	errFamily   = errors.New("unknown address family")
	errAddress  = errors.New("malformed address")
	errPort     = errors.New("port is not 1 to 65535")
	errNone     = errors.New("no end point in the reply")
	errLong     = errors.New("line too long")
	errLongText = errors.New("announcement too long")
)

// A span is a part of a line.
type span struct{ off, end int }

// maxNumbers is one more than the longest list (21, of an IPv6 LPRT).
const maxNumbers = 22

// endPoint is an end point and where its parts stand in the line.
type endPoint struct {
	to   netip.AddrPort
	form form
	n    int              // numbers, in the short and long form
	num  [maxNumbers]span // of the short and long form: each number
	val  [maxNumbers]byte // its value
	over bool             // a number is over 255
	host span             // of the extended form: the address. Of the others: the indexes of its numbers
	port span             // likewise, the port
}

func digit(c byte) bool { return c >= '0' && c <= '9' }
func blank(c byte) bool { return c == ' ' || c == '\t' }

// list reads the numbers with commas between them that begin at the digit b[i], and returns their end. Blanks may stand
// around a comma: the scanf of servers and clients allows it.
func (e *endPoint) list(b []byte, i int) int {
	for e.n, e.over = 0, false; ; {
		start, v := i, 0
		for ; i < len(b) && digit(b[i]); i++ {
			if i < start+4 {
				v = v*10 + int(b[i]-'0')
			}
		}
		if e.n < maxNumbers {
			e.num[e.n], e.val[e.n] = span{start, i}, byte(v)
			e.over = e.over || v > 255 || i > start+3
			e.n++
		}
		next := i
		for next < len(b) && blank(b[next]) {
			next++
		}
		if next == len(b) || b[next] != ',' {
			return i
		}
		next++
		for next < len(b) && blank(b[next]) {
			next++
		}
		if next == len(b) || !digit(b[next]) {
			return i
		}
		i = next
	}
}

// decode makes an address of the numbers of the short or long form.
func (e *endPoint) decode(f form) error {
	e.form = f
	v := &e.val
	switch {
	case f == short && e.n == 6:
		e.host, e.port = span{0, 4}, span{4, 6}
	case f == long && e.n == 9 && v[0] == 4 && v[1] == 4 && v[6] == 2:
		e.host, e.port = span{2, 6}, span{7, 9}
	case f == long && e.n == 21 && v[0] == 6 && v[1] == 16 && v[18] == 2:
		e.host, e.port = span{2, 18}, span{19, 21}
	case f == long && e.n > 0 && v[0] != 4 && v[0] != 6:
		return errFamily
	default:
		return errSyntax
	}
	if e.over {
		return errNumber
	}
	addr, _ := netip.AddrFromSlice(v[e.host.off:e.host.end])
	port := uint16(v[e.port.off])<<8 | uint16(v[e.port.off+1])
	if port == 0 {
		return errPort
	}
	e.to = netip.AddrPortFrom(addr, port)
	return nil
}

// argument reads the end point that is all of b[i:], but for blanks behind it.
func (e *endPoint) argument(b []byte, i int, f form) error {
	end := len(b)
	for end > i && blank(b[end-1]) {
		end--
	}
	if i == end {
		return errSyntax
	}
	if f == extended {
		return e.delimited(b[:end], i)
	}
	if !digit(b[i]) || e.list(b, i) != end {
		return errSyntax
	}
	return e.decode(f)
}

// delimited reads the argument of EPRT: its first byte is the delimiter.
func (e *endPoint) delimited(b []byte, i int) error {
	e.form = extended
	d := b[i]
	if d <= ' ' || d >= 0x7f {
		return errSyntax
	}
	var field [3]span
	for f := range field {
		i++
		start := i
		for i < len(b) && b[i] != d {
			i++
		}
		if i == len(b) {
			return errSyntax
		}
		field[f] = span{start, i}
	}
	if i != len(b)-1 {
		return errSyntax
	}
	e.host, e.port = field[1], field[2]
	proto := b[field[0].off:field[0].end]
	if len(proto) != 1 || proto[0] != '1' && proto[0] != '2' {
		return errFamily
	}
	addr, err := netip.ParseAddr(string(b[e.host.off:e.host.end]))
	if err != nil || addr.Zone() != "" || addr.Is4() != (proto[0] == '1') {
		return errAddress
	}
	port, ok := decimal(b[e.port.off:e.port.end])
	if !ok {
		return errPort
	}
	e.to = netip.AddrPortFrom(addr, port)
	return nil
}

// decimal reads a port.
func decimal(b []byte) (uint16, bool) {
	if len(b) == 0 || len(b) > 5 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if !digit(c) {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return uint16(n), n > 0 && n <= 65535
}

// search finds the end point in the text of a reply from b[i] on, whatever stands around it (RFC 1123, section
// 4.1.2.6). The address of the port-only form is left to the caller.
func (e *endPoint) search(b []byte, i int, f form) error {
	if f == portOnly {
		return e.searchPort(b, i)
	}
	err := errNone
	for ; i < len(b); i++ {
		if !digit(b[i]) {
			continue
		}
		i = e.list(b, i)
		switch {
		case f == short && e.n == 6, f == long && (e.n == 9 || e.n == 21):
			return e.decode(f)
		case e.n > 1:
			err = errSyntax
		}
	}
	return err
}

// searchPort finds <d><d><d><port><d>.
func (e *endPoint) searchPort(b []byte, i int) error {
	e.form = portOnly
	for ; i+3 < len(b); i++ {
		d := b[i]
		if d <= ' ' || d >= 0x7f || digit(d) || b[i+1] != d || b[i+2] != d || !digit(b[i+3]) {
			continue
		}
		end := i + 3
		for end < len(b) && digit(b[end]) {
			end++
		}
		if end == len(b) || b[end] != d {
			i = end - 1
			continue
		}
		e.port = span{i + 3, end}
		port, ok := decimal(b[e.port.off:e.port.end])
		if !ok {
			return errPort
		}
		e.to = netip.AddrPortFrom(netip.Addr{}, port)
		return nil
	}
	return errNone
}

// parse reads the end point of a whole line again: the way that Rewrite finds what to change.
func (e *endPoint) parse(b []byte, f form, reply bool) error {
	if reply {
		return e.search(b, codeLen, f)
	}
	_, arg := verb(b)
	return e.argument(b, arg, f)
}

func appendNumber(b []byte, v byte) []byte { return strconv.AppendUint(b, uint64(v), 10) }
