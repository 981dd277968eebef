package ftp

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cthelperd/cthelperd/helpers"
)

// codeLen is the length of a reply code (RFC 959, section 4.2).
const codeLen = 3

var (
	errUnasked = errors.New("answers no such command")
	errServer  = errors.New("not the server's own address, and the command is lost")
)

// readReply reads a line of the server.
func (s *session) readReply(seg *helpers.Segment, off int, line []byte, out *helpers.Result) {
	b, index := s.strip(line)
	code, last := replyCode(b)
	if s.multi != 0 {
		// RFC 959, section 4.2: only the same code and a blank end it; anything else is text.
		if code != int(s.multi) || !last {
			return
		}
		s.multi = 0
	}
	switch {
	case code == 0:
		if bytes.HasPrefix(b, []byte("HTTP/")) {
			s.lock(seg.Dir, "a status line of HTTP")
		}
	case !last:
		s.multi = uint16(code)
	default:
		s.answer(seg, off, line, b, index, code, out)
	}
}

// replyCode reads the code of a reply line; last: no hyphen follows. 0: it is not one.
func replyCode(b []byte) (code int, last bool) {
	if len(b) < codeLen {
		return 0, false
	}
	for _, c := range b[:codeLen] {
		if !digit(c) {
			return 0, false
		}
		code = code*10 + int(c-'0')
	}
	switch {
	case code < 100 || code > 699: // 6yz: RFC 2228, section 6
		return 0, false
	case len(b) == codeLen || blank(b[codeLen]):
		return code, true
	case b[codeLen] == '-':
		return code, false
	}
	return 0, false
}

// answer takes a whole reply to the command that it answers.
func (s *session) answer(seg *helpers.Segment, off int, line, b []byte, index []uint16, code int, out *helpers.Result) {
	if code < 200 { // preliminary: the command's own reply is still to come
		if code == 120 && s.greet == silent {
			s.greet = waiting
		}
		return
	}
	if s.greet != greeted {
		if code == 220 {
			s.greet = greeted
		}
		return
	}
	c, known := s.take(code)
	if f, note, ok := opening(code); ok {
		switch {
		case known && opens(c.kind, code):
			s.opened(seg, off, line, b, index, f, note, false, out)
		case s.blind && !s.dirs[helpers.Reply].early:
			s.opened(seg, off, line, b, index, f, note, true, out)
		default:
			s.fail(off+place(index, 0), fmt.Errorf("%d: %w", code, errUnasked))
		}
	}
	if !known {
		return
	}
	done := code < 300
	switch c.kind {
	case active:
		s.settle(c.group, done, out)
	case epsvAll:
		s.epsvAll = s.epsvAll || done
	case secure:
		if code == 234 || code == 334 { // RFC 4217, section 4; 334 in its drafts
			for i := range s.dirs {
				if d := &s.dirs[i]; d.mode == text {
					d.mode, d.scanned, d.begun = records, 0, false
				}
			}
			s.clear()
			s.tellTLS("AUTH "+c.how.String(), out)
		}
	case restart: // RFC 959, section 4.1.1: as after the greeting
		if done {
			s.epsvAll = false
			s.effect = 0
			if !s.loose {
				s.drop(out, superseded)
			}
		}
	}
}

// take finds the command that a reply answers and takes it, and those before it, out of the queue.
func (s *session) take(code int) (c command, known bool) {
	reply := &s.dirs[helpers.Reply]
	if s.loose {
		if _, _, ok := opening(code); ok {
			for i, c := range s.outstanding()[:reply.known] {
				if opens(c.kind, code) {
					s.pop(i + 1)
					return c, true
				}
			}
			return command{}, false
		}
	}
	for reply.known > 0 {
		c = s.sent.commands[0]
		switch fits(c.kind, code) {
		case answers:
			s.pop(1)
			return c, true
		case unanswered:
			s.pop(1)
		case extra:
			return command{}, false
		}
	}
	if len(s.outstanding()) == 0 && s.overflows() {
		s.sent.overflow--
		s.rest()
	}
	return command{}, false
}

type fit uint8

const (
	answers    fit = iota
	unanswered     // the command got no reply; this one is of a later command
	extra          // the reply belongs to no command: a transfer's second one, or the end of a transfer after an ABOR
)

// fits tells whether a final reply can be that of a command. Replies come in the order of the commands; this allows
// for the ones that servers leave out or send twice.
func fits(k kind, code int) fit {
	switch {
	case k == nothing && code < 500:
		return unanswered
	case k == abort && code < 400 && code != 225 && code != 226 && code != 250:
		return unanswered
	case k.passive() && code < 400 && !opens(pasv, code) && !opens(lpsv, code) && !opens(epsv, code) &&
		!(k == epsvAll && code == 200):
		return extra
	case k == active && (code >= 300 && code < 400 || code == 225 || code == 226 || code == 250):
		return extra
	}
	return answers
}

// opening tells how a reply code's text is written; false: it announces nothing.
func opening(code int) (f form, note string, ok bool) {
	switch code {
	case 227:
		return short, "PASV", true
	case 228:
		return long, "LPSV", true
	case 229:
		return portOnly, "EPSV", true
	}
	return 0, "", false
}

// opens tells whether a command may be answered by an announcement with this code.
func opens(k kind, code int) bool {
	switch k {
	case pasv:
		return code == 227
	case lpsv:
		return code == 228
	case epsv, epsvAll:
		return code == 229
	}
	return false
}

// opened reads 227, 228 and 229. own: only the server's own address counts.
func (s *session) opened(seg *helpers.Segment, off int, line, b []byte, index []uint16, f form, note string, own bool,
	out *helpers.Result) {
	var e endPoint
	var err error
	switch {
	case len(line) > maxAnnouncement:
		err = errLongText
	case s.epsvAll && f != portOnly:
		err = errEPSVAll
	default:
		err = e.search(b, codeLen, f)
	}
	if err == nil && f == portOnly {
		e.to = portAt(seg.Flow, e.to.Port())
	} else if a := e.to.Addr(); err == nil && own &&
		a != seg.Flow.Own(helpers.Reply).Addr() && a != seg.Flow.Peer(helpers.Original).Addr() {
		err = errServer
	}
	if err != nil {
		s.fail(off+place(index, 0), fmt.Errorf("answer to %s: %w", note, err))
		return
	}
	g := s.announce(seg, e.to, note, site{form: f, start: off, end: off + len(line)}, out)
	s.accept(g, out)
	waiting := s.outstanding()
	for i := range waiting { // transfers that were sent with the command
		c := &waiting[i]
		if c.kind.setup() {
			break
		}
		if c.name > 0 {
			out.Notes = append(out.Notes, helpers.Note{
				Group: g.id.group(),
				Text:  string(s.desk.text(c.name)),
			})
			c.name = 0
		}
	}
}

// settle takes the reply to PORT, EPRT or LPRT.
func (s *session) settle(id groupID, done bool, out *helpers.Result) {
	g := s.byID(id)
	switch {
	case id == 0 && done && !s.loose:
		// The server agreed to what was refused here: transfers go elsewhere.
		s.effect = 0
		s.drop(out, superseded)
	case g == nil:
	case done:
		s.accept(g, out)
	case !s.loose:
		s.drop(out, func(g *group) bool { return g.id == id && g.is&accepted == 0 && g.asks == 0 })
	}
}

// countable tells whether an announcement with this code would count if its line were whole.
func (s *session) countable(code int) bool {
	if s.greet != greeted || s.epsvAll && code != 229 {
		return false
	}
	reply := &s.dirs[helpers.Reply]
	if s.blind && !reply.early {
		return true
	}
	for _, c := range s.outstanding()[:reply.known] {
		if opens(c.kind, code) {
			return true
		}
	}
	return false
}
