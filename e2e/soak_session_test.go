package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// soakPatience bounds every wait of a session: under load, and while the daemon does not run, segments are sent again.
const soakPatience = 30 * time.Second

// member is one control connection of a soak. Its errors are returned: they may be excused.
type member struct {
	s      *soak
	n      int
	family family
	conn   net.Conn
	text   *textproto.Conn
	born   time.Time
	random *rand.Rand
	stored int
}

// errWrongBytes is never excused.
var errWrongBytes = errors.New("wrong bytes")

// errControl: the control connection cannot be used any more.
var errControl = errors.New("control connection")

// session logs in and transfers now and then until the soak stops. It keeps its control connection for all of this time.
func (s *soak) session(n int, gate chan struct{}) {
	m := &member{s: s, n: n, family: families[n%2], random: rand.New(rand.NewPCG(2, uint64(n)))}
	mean := float64(*soakSessions) / *soakRate * float64(time.Second)
	login := func() bool {
		for {
			gate <- struct{}{}
			s.calm() // a connection that begins while rules are gone is never read
			err := m.login()
			<-gate
			switch {
			case err == nil:
				return true
			case s.trouble.during(m.born):
			case s.stopped():
				return false
			default:
				s.wrong("session %d: log in: %v", n, err)
				return false
			}
		}
	}
	if !login() {
		return
	}
	defer func() { m.conn.Close() }()
	again := false
	for {
		wait := time.Duration(m.random.ExpFloat64() * mean)
		if again {
			wait = time.Duration(m.random.Int64N(int64(time.Second)))
			s.calm()
		}
		select {
		case <-s.stop:
			m.quit()
			return
		case <-time.After(wait):
		}
		start := time.Now()
		how, size, err := m.transfer()
		switch {
		case err == nil:
			s.done.Add(1)
			s.bytes.Add(int64(size))
			c, _ := s.byMode.LoadOrStore(fmt.Sprint(m.family, " ", how), new(atomic.Int64))
			c.(*atomic.Int64).Add(1)
			if again {
				s.restored.Add(1)
				again = false
			}
		case errors.Is(err, errWrongBytes):
			s.wrong("session %d, %s: %v", n, how, err)
			return
		case s.trouble.flushedSince(m.born):
			// Neither NAT's mapping nor the adjusted numbers are what they were.
			s.lost.Add(1)
			m.conn.Close()
			if !login() {
				return
			}
		case errors.Is(err, errControl):
			s.wrong("session %d, %s: its control connection died: %v", n, how, err)
			return
		case s.trouble.during(start):
			s.failed.Add(1)
			again = true
			if err := m.resume(); err != nil {
				s.wrong("session %d: its control connection died: %v, after %v", n, err, how)
				return
			}
		default:
			s.wrong("session %d, %s, %v after its beginning: %v", n, how, time.Since(start).Round(time.Millisecond), err)
			return
		}
	}
}

// calm waits until there is no trouble.
func (s *soak) calm() {
	for s.trouble.now() && !s.stopped() {
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *soak) stopped() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

func (m *member) login() (err error) {
	m.born = time.Now()
	m.conn, err = m.dial(netip.AddrPortFrom(m.s.host(m.family), 21))
	if err != nil {
		return err
	}
	m.text = textproto.NewConn(m.conn)
	m.conn.SetDeadline(time.Now().Add(2 * soakPatience))
	if _, _, err = m.text.ReadResponse(220); err == nil {
		for _, c := range []struct {
			code    int
			command string
		}{{331, "USER " + user}, {230, "PASS " + password}, {200, "TYPE I"}} {
			if _, err = m.ask(c.code, "%s", c.command); err != nil {
				break
			}
		}
	}
	if err != nil {
		m.conn.Close()
	}
	return err
}

// resume reads replies that a broken transfer has left.
func (m *member) resume() error {
	text, err := m.ask(200, "NOOP")
	for range 3 {
		if errors.Is(err, errControl) || strings.Contains(text, "NOOP") {
			return err
		}
		text, err = m.reply(200)
	}
	return err
}

func (m *member) quit() {
	m.ask(221, "QUIT")
	m.conn.Close()
}

// ask sends a command and waits for its reply. Another reply than the one wanted is an error, a connection that gives none
// is errControl.
func (m *member) ask(code int, format string, args ...any) (string, error) {
	m.conn.SetDeadline(time.Now().Add(m.patience()))
	if err := m.text.PrintfLine(format, args...); err != nil {
		return "", fmt.Errorf("%w: %w", errControl, err)
	}
	return m.reply(code)
}

func (m *member) reply(code int) (string, error) {
	m.conn.SetDeadline(time.Now().Add(m.patience()))
	_, text, err := m.text.ReadResponse(code)
	if other := (*textproto.Error)(nil); err != nil && !errors.As(err, &other) {
		return "", fmt.Errorf("%w: %w", errControl, err)
	}
	return text, err
}

// patience is short for a connection that is probably dead.
func (m *member) patience() time.Duration {
	if m.s.trouble.flushedSince(m.born) {
		return soakPatience / 6
	}
	return soakPatience
}

func (m *member) dial(to netip.AddrPort) (c net.Conn, err error) {
	m.s.client.Do(func() { c, err = net.DialTimeout("tcp", to.String(), soakPatience/2) })
	return c, err
}

// transfer fetches or stores a file in a random mode, and compares it.
func (m *member) transfer() (how mode, size int, err error) {
	how = modes[m.random.IntN(len(modes))]
	for !speaks(m.family, how) {
		how = modes[m.random.IntN(len(modes))]
	}
	for range m.random.IntN(3) { // what sessions say besides
		if _, err := m.ask(257, "PWD"); err != nil {
			return how, 0, err
		}
	}
	file := m.random.IntN(soakFiles)
	store := m.random.IntN(2) == 0
	command := fmt.Sprint("RETR down", file)
	if store {
		m.stored++
		command = fmt.Sprintf("STOR up/%d-%d", m.n, m.stored)
	}
	if how.active() {
		return how, len(m.s.files[file]), m.active(how, command, file, store)
	}
	return how, len(m.s.files[file]), m.passive(how, command, file, store)
}

func (m *member) active(how mode, command string, file int, store bool) error {
	var l net.Listener
	var err error
	own := m.conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	m.s.client.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(own, 0).String()) })
	if err != nil {
		return err
	}
	defer l.Close()
	at := endPoint(l)
	if how == modePORT {
		_, err = m.ask(200, "PORT %s", hostPort(at))
	} else {
		_, err = m.ask(200, "EPRT |%d|%s|%d|", map[family]int{ipv4: 1, ipv6: 2}[m.family], own, at.Port())
	}
	if err != nil {
		return err
	}
	// The server says 150 when it is connected, 425 when it cannot; then the connection waits to be accepted, or none comes.
	if _, err = m.ask(150, "%s", command); err != nil {
		return err
	}
	l.(*net.TCPListener).SetDeadline(time.Now().Add(soakPatience))
	c, err := l.Accept()
	if err != nil {
		return err
	}
	return m.carry(c, command, file, store)
}

func (m *member) passive(how mode, command string, file int, store bool) error {
	var to netip.AddrPort
	if how == modeEPSV {
		text, err := m.ask(229, "EPSV")
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(text, "|||")
		var port uint16
		if _, err := fmt.Sscanf(rest, "%d|", &port); err != nil {
			return fmt.Errorf("%q: %w", text, err)
		}
		to = netip.AddrPortFrom(m.s.host(m.family), port)
	} else {
		text, err := m.ask(227, "PASV")
		if err != nil {
			return err
		}
		var b [6]byte
		at := max(strings.IndexByte(text, '('), 0)
		if _, err := fmt.Sscanf(text[at:], "(%d,%d,%d,%d,%d,%d)", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]); err != nil {
			return fmt.Errorf("%q: %w", text, err)
		}
		to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), uint16(b[4])<<8|uint16(b[5]))
	}
	c, err := m.dial(to)
	if err != nil {
		return err
	}
	if _, err := m.ask(150, "%s", command); err != nil {
		c.Close()
		return err
	}
	return m.carry(c, command, file, store)
}

// carry transfers by the data connection and waits for the server to say that all is done.
func (m *member) carry(c net.Conn, command string, file int, store bool) error {
	defer c.Close()
	c.SetDeadline(time.Now().Add(soakPatience))
	want := m.s.files[file]
	if !store {
		got, err := io.ReadAll(c)
		c.Close()
		if _, e := m.reply(226); e != nil || err != nil {
			return errors.Join(e, err)
		}
		return m.compare(command, got, file)
	}
	if _, err := io.Copy(c, bytes.NewReader(want)); err != nil {
		c.Close()
		_, e := m.reply(226)
		return errors.Join(e, err)
	}
	c.Close()
	if _, err := m.reply(226); err != nil {
		return err
	}
	path := filepath.Join(m.s.folder, "soak", strings.TrimPrefix(command, "STOR "))
	defer os.Remove(path)
	got, err := os.ReadFile(path)
	// The server may close the file after it has said that all is there.
	for deadline := time.Now().Add(time.Second); err == nil && len(got) < len(want) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
		got, err = os.ReadFile(path)
	}
	if err != nil {
		return err
	}
	return m.compare(command, got, file)
}

func (m *member) compare(command string, got []byte, file int) error {
	if sha256.Sum256(got) != m.s.sums[file] {
		return fmt.Errorf("%w: %s: %d came, of %d", errWrongBytes, command, len(got), len(m.s.files[file]))
	}
	return nil
}
