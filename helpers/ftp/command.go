package ftp

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cthelperd/cthelperd/helpers"
)

// kind is what a reply to a command means.
type kind uint8

const (
	other    kind = iota // nothing
	nothing              // an empty line: some servers answer it with 500
	abort                // ABOR: answered, or lost in the transfer's own reply
	transfer             // uses the data connection
	active               // PORT, EPRT, LPRT
	pasv
	lpsv
	epsv
	epsvAll
	secure // AUTH with a mechanism that means TLS
	restart
	kinds
)

func (k kind) passive() bool { return k >= pasv && k <= epsvAll }
func (k kind) setup() bool   { return k >= active && k <= epsv }

// command is one that the client has sent and the server has not answered.
type command struct {
	group groupID // of active: what it announced; 0: nothing
	name  nameID  // of transfer: what to note when the passive reply before it is there
	kind  kind
	how   mechanism // of secure
}

// nameID is the place of a note in desk.parts, from 1; 0: none.
type nameID uint8

// part is a part of desk.names.
type part struct{ off, end uint16 }

// text is a note.
func (d *desk) text(id nameID) []byte {
	if id == 0 {
		return nil
	}
	p := d.parts[id-1]
	return d.names[p.off:p.end]
}

// add makes an empty note, to which f appends; 0: there are too many.
func (d *desk) add(f func(b []byte) []byte) nameID {
	if len(d.names) > maxNames-maxNote || len(d.parts) == maxParts {
		return 0
	}
	off := len(d.names)
	d.names = f(d.names)
	d.parts = append(d.parts, part{uint16(off), uint16(len(d.names))})
	return nameID(len(d.parts))
}

// mechanism is one of AUTH's that means TLS (RFC 4217, section 4; TLS-C and TLS-P, SSL of its drafts).
type mechanism uint8

const mechanisms = 5 // the first one is none

func (m mechanism) String() string { return [mechanisms]string{"", "TLS", "SSL", "TLS-C", "TLS-P"}[m] }

var (
	errVerb     = errors.New("not a command")
	errGreeting = errors.New("announced before the server's greeting")
	errEPSVAll  = errors.New("announced after EPSV ALL")
)

// verb finds the first word of a line and its argument; a word that is not a verb is empty.
func verb(b []byte) (word span, arg int) {
	for word.off < len(b) && blank(b[word.off]) {
		word.off++
	}
	word.end = word.off
	for word.end < len(b) && letter(b[word.end]) {
		word.end++
	}
	arg = word.end
	if arg < len(b) && !blank(b[arg]) {
		return span{word.off, word.off}, word.off
	}
	for arg < len(b) && blank(b[arg]) {
		arg++
	}
	return word, arg
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// maxVerb is the longest word that means something here.
const maxVerb = 8

// upper is a verb in capitals; the rest of the array is zero.
func upper(b []byte) (v [maxVerb]byte) {
	if len(b) <= maxVerb {
		for i, c := range b {
			v[i] = c &^ 0x20
		}
	}
	return v
}

// name is an array's text, for a switch without allocation.
func name(v *[maxVerb]byte) []byte {
	if n := bytes.IndexByte(v[:], 0); n >= 0 {
		return v[:n]
	}
	return v[:]
}

// announcing tells how a verb's argument is written; false: it announces nothing.
func announcing(v []byte) (f form, note string, ok bool) {
	switch string(v) {
	case "PORT":
		return short, "PORT", true
	case "EPRT":
		return extended, "EPRT", true
	case "LPRT":
		return long, "LPRT", true
	}
	return 0, "", false
}

// readCommand reads a line of the client. torn: it may be the end of one only.
func (s *session) readCommand(seg *helpers.Segment, off int, line []byte, torn bool, out *helpers.Result) {
	b, index := s.strip(line)
	word, arg := verb(b)
	if word.off == word.end {
		switch {
		case word.off == len(b):
			s.push(command{kind: nothing})
		case header(b[word.off:]):
			s.lock(seg.Dir, "a header field")
		default:
			s.pushWhole(command{}, torn)
			s.fail(off+place(index, word.off), errVerb)
		}
		return
	}
	v := upper(b[word.off:word.end])
	verb := name(&v)
	if request(verb, b[arg:]) {
		s.lock(seg.Dir, "a request line")
		return
	}
	if f, note, ok := announcing(verb); ok {
		s.active(seg, off, line, b, index, arg, f, note, out)
		return
	}
	if len(line) == maxLine && line[maxLine-1] != '\n' {
		s.fail(off, errLong)
	}
	switch string(verb) {
	case "RETR", "STOR", "STOU", "APPE", "LIST", "NLST", "MLSD":
		s.transfer(verb, b[arg:], torn, out)
	case "PASV", "CPSV": // CPSV (servers of encrypted FXP): PASV for the side that speaks TLS as a client
		s.push(command{kind: pasv})
	case "LPSV":
		s.push(command{kind: lpsv})
	case "EPSV":
		if bytes.EqualFold(bytes.TrimRight(b[arg:], " \t"), []byte("ALL")) {
			s.push(command{kind: epsvAll})
		} else {
			s.push(command{kind: epsv})
		}
	case "ABOR":
		s.push(command{kind: abort})
	case "REIN":
		s.push(command{kind: restart})
	case "AUTH":
		s.push(authentication(b[arg:]))
	default:
		s.pushWhole(command{}, torn)
	}
}

// active reads PORT, EPRT and LPRT.
func (s *session) active(seg *helpers.Segment, off int, line, b []byte, index []uint16, arg int, f form, note string,
	out *helpers.Result) {
	var e endPoint
	var err error
	switch {
	case len(line) > maxAnnouncement:
		err = errLongText
	case s.dirs[helpers.Original].early:
		err = errGreeting
	case s.epsvAll:
		err = errEPSVAll
	default:
		err = e.argument(b, arg, f)
	}
	if err != nil {
		s.fail(off+place(index, arg), fmt.Errorf("%s: %w", note, err))
		s.push(command{kind: active})
		return
	}
	g := s.announce(seg, e.to, note, site{form: f, start: off, end: off + len(line)}, out)
	if s.push(command{kind: active, group: g.id}) {
		g.asks++
	}
}

// transfer links a transfer with the announcement that it uses: that of the last set-up command before it.
func (s *session) transfer(verb, arg []byte, torn bool, out *helpers.Result) {
	if torn {
		s.push(command{kind: transfer})
		return
	}
	id, pipelined, wait := s.effect, 0, false
	for _, c := range s.outstanding() {
		switch {
		case c.kind == active:
			id, wait = c.group, false
		case c.kind.setup():
			id, wait = 0, true
		case c.name > 0:
			pipelined++
		}
	}
	c := command{kind: transfer}
	switch {
	case s.overflows():
	case wait && pipelined < maxPipelined:
		c.name = s.keep(verb, arg, pipelined == 0)
	case !wait && id != 0:
		var text [maxNote]byte
		out.Notes = append(out.Notes, helpers.Note{
			Group: id.group(),
			Text:  string(describe(text[:0], verb, arg, maxNote)),
		})
	}
	s.push(c)
}

// describe appends a transfer's note, "RETR pub/file", of at most n bytes.
func describe(b, verb, arg []byte, n int) []byte {
	b = append(b, verb...)
	if len(arg) > 0 {
		b = append(append(b, ' '), arg[:min(len(arg), n-len(verb)-1)]...)
	}
	return b
}

// keep puts a transfer's note aside. first: no other is needed any more.
func (s *session) keep(verb, arg []byte, first bool) nameID {
	d := s.work()
	if first {
		d.names, d.parts = d.names[:0], d.parts[:0]
	}
	return d.add(func(b []byte) []byte { return describe(b, verb, arg, maxNote) })
}

// authentication is an AUTH command. Only the mechanisms that mean TLS encrypt the stream itself; GSSAPI and others wrap
// commands in verbs of their own, which mean nothing here.
func authentication(arg []byte) command {
	if m := mechanismOf(bytes.TrimRight(arg, " \t")); m != 0 {
		return command{kind: secure, how: m}
	}
	return command{}
}

// mechanismOf is 0 for what is none that means TLS.
func mechanismOf(name []byte) mechanism {
	for m := mechanism(1); m < mechanisms; m++ {
		if bytes.EqualFold(name, []byte(m.String())) {
			return m
		}
	}
	return 0
}

// push puts a command behind those that wait for their reply; false: there are too many.
func (s *session) push(c command) bool {
	q := s.send()
	full := len(q.commands) == maxOutstanding
	switch {
	case s.loose && full: // replies were lost: the oldest was likely answered by one of them
		s.pop(1)
	case !s.loose && (full || q.overflow > 0):
		q.overflow++ // it wraps after 4 Gi commands without a reply
		return false
	}
	q.commands = append(q.commands, c)
	return true
}

// pushWhole is push unless the line may be a piece.
func (s *session) pushWhole(c command, torn bool) {
	if !torn {
		s.push(c)
	}
}

// pop takes the n oldest commands out.
func (s *session) pop(n int) {
	waiting := s.outstanding()
	for _, c := range waiting[:n] {
		if g := s.byID(c.group); c.kind == active && g != nil {
			g.asks--
		}
	}
	s.sent.commands = waiting[:copy(waiting, waiting[n:])]
	s.rest()
	reply := &s.dirs[helpers.Reply]
	reply.known = uint8(max(0, int(reply.known)-n))
}

// header tells a header field of HTTP, SIP or mail ("Host: …") from a command: no verb of FTP has a colon.
func header(b []byte) bool {
	for i, c := range b {
		switch {
		case c == ':':
			return i > 0
		case !letter(c) && !digit(c) && c != '-':
			return false
		}
	}
	return false
}

// request tells the request line of HTTP, RTSP or SIP. A browser made to send one to an FTP port can be made to send
// FTP commands behind it (NAT slipstreaming).
func request(verb, arg []byte) bool {
	switch string(verb) {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PRI", // HTTP
		"PROPFIND", "DESCRIBE", "SETUP", "PLAY", "INVITE", "REGISTER":
	default:
		return false
	}
	arg = bytes.TrimRight(arg, " \t")
	last := arg[bytes.LastIndexAny(arg, " \t")+1:]
	for _, p := range [...]string{"HTTP/", "RTSP/", "SIP/"} {
		if len(last) > len(p) && bytes.EqualFold(last[:len(p)], []byte(p)) && digit(last[len(p)]) {
			return true
		}
	}
	return false
}
