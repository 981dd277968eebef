package sim

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/cthelperd/cthelperd/expect"
)

// line is a line of the dialogue, and what it announces.
type line struct {
	text string         // as its sender writes it
	to   netip.AddrPort // what it announces; not valid: nothing
	form string         // how it is written: with the end point that the reader must see
	bad  bool           // policy must refuse it
}

// script is an FTP dialogue: what the client says, and what the server answers to each line.
type script struct {
	commands []line
	replies  [][]line // by command
	greeting []line
	said     int // commands that the client has said
	served   int // commands that the server has answered
	crashed  bool
	used     map[netip.AddrPort]bool
}

// write fills an end point into a form.
func write(form string, a netip.AddrPort) string {
	switch {
	case strings.Contains(form, "%host"):
		host := strings.ReplaceAll(a.Addr().String(), ".", ",")
		return strings.Replace(form, "%host", fmt.Sprintf("%s,%d,%d", host, a.Port()>>8, a.Port()&255), 1)
	case strings.Contains(form, "%eprt"):
		family := 1
		if a.Addr().Is6() {
			family = 2
		}
		return strings.Replace(form, "%eprt", fmt.Sprintf("|%d|%s|%d|", family, a.Addr(), a.Port()), 1)
	default:
		return strings.Replace(form, "%port", fmt.Sprint(a.Port()), 1)
	}
}

func newScript(w *world) *script {
	s := &script{used: map[netip.AddrPort]bool{}}
	s.greeting = []line{{text: "220-Welcome\r\n"}, {text: "220 PORT 1,2,3,4,5,6 ready\r\n"}}
	for range 1 + w.IntN(12) {
		s.add(w)
	}
	s.commands = append(s.commands, line{text: "QUIT\r\n"})
	s.replies = append(s.replies, []line{{text: "221 bye\r\n"}})
	return s
}

func (s *script) add(w *world) {
	own, c := w.kernel.conn.Orig.Src.Addr(), &w.kernel.conn
	v4 := own.Is4()
	port := func() uint16 { return uint16(1024 + w.IntN(64000)) }
	fresh := func(a netip.Addr) netip.AddrPort {
		for {
			if p := netip.AddrPortFrom(a, port()); !s.used[p] {
				s.used[p] = true
				return p
			}
		}
	}
	announce := func(form string, to netip.AddrPort, bad bool) line {
		return line{text: write(form, to), form: form, to: to, bad: bad}
	}
	var command line
	var replies []line
	switch w.IntN(9) {
	case 0, 1:
		form := "PORT %host\r\n"
		if !v4 {
			form = "EPRT %eprt\r\n"
		}
		command, replies = announce(form, fresh(own), false), []line{{text: "200 fine\r\n"}}
	case 2:
		command, replies = announce("eprt %eprt\r\n", fresh(own), false), []line{{text: "200 fine\r\n"}}
	case 3, 4:
		server := fresh(c.Reply.Src.Addr())
		if v4 && w.IntN(2) == 0 {
			form := []string{"227 Entering Passive Mode (%host).\r\n", "227 =%host\r\n", "227 go to %host now\r\n"}[w.IntN(3)]
			command = line{text: "PASV\r\n"}
			replies = []line{announce(form, server, false)}
		} else {
			command = line{text: "EPSV\r\n"}
			replies = []line{announce("229 Extended Passive Mode OK (|||%port|)\r\n", server, false)}
		}
	case 5: // a host that is not the client, a port of the system's
		to := netip.AddrPortFrom(own, uint16(1+w.IntN(1023)))
		if w.IntN(2) == 0 {
			to = netip.AddrPortFrom(netip.MustParseAddr("9.8.7.6"), port())
			if !v4 {
				to = netip.AddrPortFrom(netip.MustParseAddr("2001:db8:9::9"), port())
			}
		}
		form := "PORT %host\r\n"
		if !v4 {
			form = "EPRT %eprt\r\n"
		}
		command, replies = announce(form, to, true), []line{{text: "200 fine\r\n"}}
	case 6: // an answer that nobody has asked for
		command = line{text: "NOOP\r\n"}
		replies = []line{announce("227 Entering Passive Mode (%host)\r\n", fresh(c.Reply.Src.Addr()), true)}
		if !v4 {
			replies = []line{announce("229 Extended (|||%port|)\r\n", fresh(c.Reply.Src.Addr()), true)}
		}
	case 7:
		command = line{text: "RETR pub/" + strings.Repeat("x", w.IntN(100)) + "\r\n"}
		replies = []line{{text: "150 here\r\n"}, {text: "226 done\r\n"}}
	default:
		command = line{text: "FEAT\r\n"}
		replies = []line{{text: "211-Features\r\n"}, {text: " EPSV\r\n"}, {text: " 227 (1,2,3,4,5,6)\r\n"}, {text: "211 End\r\n"}}
	}
	s.commands, s.replies = append(s.commands, command), append(s.replies, replies)
}

func (s *script) greet(w *world) {
	for _, l := range s.greeting {
		w.server.out = append(w.server.out, l.text...)
	}
	w.server.push()
}

// proceed lets the client say the next commands: one by one, or several at once.
func (s *script) proceed(w *world) {
	have, answered := lines(w.client.in), len(s.greeting)
	for i := 0; i < s.said; i++ {
		for _, l := range s.replies[i] {
			if answered++; answered <= have {
				s.opened(w, l)
			}
		}
	}
	if have < answered || s.said == len(s.commands) {
		return
	}
	if w.event != "" && w.IntN(3) == 0 {
		s.crashed = s.crashed || w.event == "crash"
		s.strike(w)
		return
	}
	s.speak(w)
}

func (s *script) speak(w *world) {
	n := 1
	for w.IntN(4) == 0 {
		n++
	}
	for ; n > 0 && s.said < len(s.commands); n-- {
		w.client.out = append(w.client.out, s.commands[s.said].text...)
		s.said++
	}
	if s.said == len(s.commands) {
		w.client.fin = true
	}
	w.client.push()
}

// strike waits for a quiet moment, does something to the daemon, and goes on.
func (s *script) strike(w *world) {
	if !w.quiet() {
		w.after(50, func() { s.strike(w) })
		return
	}
	w.happen()
	s.speak(w)
}

// serve lets the server answer what has come.
func (s *script) serve(w *world) {
	for ; s.served < lines(w.server.in) && s.served < len(s.replies); s.served++ {
		s.opened(w, s.commands[s.served])
		for _, l := range s.replies[s.served] {
			w.server.out = append(w.server.out, l.text...)
		}
	}
	w.server.push()
}

// opened checks that the way is open when an announcement has arrived: its reader may connect at once.
func (s *script) opened(w *world, l line) {
	if !l.to.IsValid() || l.bad || w.heldOut[l.to] || s.lenient(w) {
		return
	}
	for i := range w.ever {
		if w.ever[i].To == l.to {
			return
		}
	}
	w.failf("%q has arrived, and nothing is open", l.text)
}

// lenient says that announcements may have failed, or passed while nobody looked.
func (s *script) lenient(w *world) bool {
	return w.missed || w.full > 0 || w.taken > 0 || s.crashed
}

// judge checks a placement that the engine asks for.
func (s *script) judge(w *world, p *expect.Request) {
	for i := range s.commands {
		for dir, all := range [][]line{s.commands[i : i+1], s.replies[i]} {
			for _, l := range all {
				lost := dir == 1 && (w.missed || s.crashed) // who has not seen the question must believe the answer
				if l.to != p.To || l.bad && !lost {
					continue
				}
				if p.At.Addr() != w.kernel.outside(dir).Addr() {
					w.failf("%v is placed at %v, the other side sees %v", p.To, p.At, w.kernel.outside(dir))
				}
				if want := []netip.Addr{w.kernel.conn.Reply.Src.Addr(), w.kernel.conn.Orig.Src.Addr()}[dir]; p.From.Addr() != want {
					w.failf("%v is opened from %v, its peer is %v", p.To, p.From, want)
				}
				return
			}
		}
	}
	w.failf("%v was not announced, or had to be refused", p.To)
}

// check compares what a receiver got with what the sender said, announcements translated as they were placed.
func (s *script) check(w *world, dir int, got []byte) {
	said := s.greeting
	if dir == 0 {
		said = s.commands
	} else {
		for _, r := range s.replies {
			said = append(said[:len(said):len(said)], r...)
		}
	}
	rest := string(got)
	for _, l := range said {
		var forms []string
		placed := false
		for i := range w.ever {
			if p := &w.ever[i]; l.to.IsValid() && p.To == l.to {
				placed = true
				forms = append(forms, write(l.form, p.At))
			}
		}
		// What failed, or passed while nobody looked, must be as it was.
		if !placed || w.heldOut[l.to] || s.lenient(w) {
			forms = append(forms, l.text)
		}
		if l.to.IsValid() && !l.bad && !placed && !w.heldOut[l.to] && !s.lenient(w) && w.refused == 0 {
			w.failf("%q was never placed", l.text)
			return
		}
		found := false
		for _, f := range forms {
			if strings.HasPrefix(rest, f) {
				rest, found = rest[len(f):], true
				break
			}
		}
		if !found {
			w.failf("direction %d: want one of %q, got %q", dir, forms, rest[:min(len(rest), 80)])
			return
		}
	}
	if rest != "" {
		w.failf("direction %d: %d bytes too many: %q", dir, len(rest), rest[:min(len(rest), 80)])
	}
}
