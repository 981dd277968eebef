package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// dialogue is a control connection whose every byte the test decides.
type dialogue struct {
	t    testing.TB
	ns   *netnstest.NS
	self netip.Addr
	peer netip.Addr
	conn net.Conn
	text *textproto.Conn
}

// dial opens a control connection from an address of the client. Each write is a segment of its own (TCP_NODELAY).
func (s *site) dial(t testing.TB, from netip.AddrPort, to netip.AddrPort) *dialogue {
	t.Helper()
	d := &dialogue{t: t, ns: s.client, self: from.Addr(), peer: to.Addr()}
	dialer := net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(from)}
	var err error
	s.client.Do(func() { d.conn, err = dialer.Dial("tcp", to.String()) })
	if err != nil {
		t.Fatal(err)
	}
	d.conn.SetDeadline(time.Now().Add(4 * patience))
	d.text = textproto.NewConn(d.conn)
	t.Cleanup(func() { d.conn.Close() })
	return d
}

// login opens a control connection to the FTP server and gives name and password.
func (s *site) login(t testing.TB, from netip.Addr, port uint16) *dialogue {
	t.Helper()
	return s.loginFrom(t, netip.AddrPortFrom(from, 0), port)
}

// loginFrom has a port of its own at the client, too.
func (s *site) loginFrom(t testing.TB, from netip.AddrPort, port uint16) *dialogue {
	t.Helper()
	f := ipv4
	if from.Addr().Is6() {
		f = ipv6
	}
	d := s.dial(t, from, netip.AddrPortFrom(s.host(f), port))
	d.expect(220)
	d.ask(331, "USER "+user)
	d.ask(230, "PASS "+password)
	d.ask(200, "TYPE I")
	return d
}

func (d *dialogue) write(b string) {
	d.t.Helper()
	if _, err := io.WriteString(d.conn, b); err != nil {
		d.t.Fatal(err)
	}
}

func (d *dialogue) expect(code int) string {
	d.t.Helper()
	_, text, err := d.text.ReadResponse(code)
	if err != nil {
		d.t.Fatalf("want %d: %v", code, err)
	}
	return text
}

// ask sends a command and expects the code.
func (d *dialogue) ask(code int, command string) string {
	d.t.Helper()
	d.write(command + "\r\n")
	return d.expect(code)
}

// listen waits for a data connection; port 0 for any.
func (d *dialogue) listen(port uint16) net.Listener {
	d.t.Helper()
	var l net.Listener
	var err error
	d.ns.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(d.self, port).String()) })
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { l.Close() })
	return l
}

// portCommand is PORT for an IPv4 listener.
func portCommand(a netip.AddrPort) string {
	return fmt.Sprintf("PORT %s,%d,%d\r\n", strings.ReplaceAll(a.Addr().String(), ".", ","), a.Port()>>8, a.Port()&255)
}

func endPoint(l net.Listener) netip.AddrPort { return netip.MustParseAddrPort(l.Addr().String()) }

// fetch reads the served file by the listener, which has been announced.
func (d *dialogue) fetch(l net.Listener) error {
	d.t.Helper()
	d.write("RETR down\r\n")
	l.(*net.TCPListener).SetDeadline(time.Now().Add(2 * patience))
	c, err := l.Accept()
	if err != nil {
		return err
	}
	return d.receive(c)
}

// fetchPassive reads it by way of PASV.
func (d *dialogue) fetchPassive() error {
	d.t.Helper()
	text := d.ask(227, "PASV")
	var b [6]byte
	at := strings.IndexByte(text, '(')
	if at < 0 {
		return fmt.Errorf("no address in %q", text)
	}
	if _, err := fmt.Sscanf(text[at:], "(%d,%d,%d,%d,%d,%d)", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]); err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), uint16(b[4])<<8|uint16(b[5]))
	var c net.Conn
	var err error
	d.ns.Do(func() { c, err = net.DialTimeout("tcp", to.String(), 2*patience) })
	if err != nil {
		return err
	}
	d.write("RETR down\r\n")
	return d.receive(c)
}

func (d *dialogue) receive(c net.Conn) error {
	d.t.Helper()
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * patience))
	got, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	d.expect(150)
	d.expect(226)
	if !bytes.Equal(got, shared.content) {
		return errors.New("the file is not the original")
	}
	return nil
}
