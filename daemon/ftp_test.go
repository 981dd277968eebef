package daemon_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// patience bounds every wait for the other side.
const patience = 30 * time.Second

// file is what every transfer brings.
var file = bytes.Repeat([]byte("0123456789abcdef"), 1<<12)

// ftpServer is an FTP server with one file, for any name.
type ftpServer struct {
	ns       *netnstest.NS
	listener net.Listener
	wait     sync.WaitGroup
	mu       sync.Mutex
	open     []net.Conn
	late     chan struct{} // lets LATE be answered
}

func newFTPServer(t *testing.T, ns *netnstest.NS, addr string) *ftpServer {
	t.Helper()
	s := &ftpServer{ns: ns, listener: listen(t, ns, addr), late: make(chan struct{})}
	s.wait.Go(func() {
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.open = append(s.open, c)
			s.mu.Unlock()
			s.wait.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		s.listener.Close()
		close(s.late)
		s.mu.Lock()
		for _, c := range s.open {
			c.Close()
		}
		s.mu.Unlock()
		s.wait.Wait()
	})
	return s
}

func listen(t *testing.T, ns *netnstest.NS, addr string) (l net.Listener) {
	t.Helper()
	var err error
	ns.Do(func() { l, err = net.Listen("tcp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve is one control connection (RFC 959, RFC 2428).
func (s *ftpServer) serve(c net.Conn) {
	defer c.Close()
	say := func(format string, args ...any) { fmt.Fprintf(c, format+"\r\n", args...) }
	say("220 ready")
	own := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	var passive net.Listener
	var active string
	defer func() {
		if passive != nil {
			passive.Close()
		}
	}()
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		verb, arg, _ := strings.Cut(lines.Text(), " ")
		switch verb {
		case "PASV", "EPSV":
			if passive != nil {
				passive.Close()
			}
			s.ns.Do(func() { passive, _ = net.Listen("tcp", netip.AddrPortFrom(own, 0).String()) })
			active = ""
			port := passive.Addr().(*net.TCPAddr).Port
			if verb == "EPSV" {
				say("229 Entering Extended Passive Mode (|||%d|)", port)
			} else {
				say("227 Entering Passive Mode (%s,%d,%d).", strings.ReplaceAll(own.String(), ".", ","), port>>8, port&255)
			}
		case "PORT":
			n := strings.Split(arg, ",")
			high, _ := strconv.Atoi(n[4])
			low, _ := strconv.Atoi(n[5])
			active = fmt.Sprintf("%s:%d", strings.Join(n[:4], "."), high<<8+low)
			say("200 fine")
		case "RETR":
			say("150 here it comes")
			data, err := s.data(passive, active)
			if err != nil {
				say("425 %v", err)
				continue
			}
			data.Write(file)
			data.Close()
			say("226 done")
		case "EPRT": // |2|address|port|
			n := strings.Split(arg, "|")
			active = net.JoinHostPort(n[2], n[3])
			say("200 fine")
		case "NOOP":
			say("200 fine")
		case "LATE":
			<-s.late // or the end of the test
			say("200 late")
		default:
			say("500 what is %q?", lines.Text())
		}
	}
}

func (s *ftpServer) data(passive net.Listener, active string) (c net.Conn, err error) {
	if active == "" {
		passive.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
		return passive.Accept()
	}
	s.ns.Do(func() { c, err = net.DialTimeout("tcp", active, patience) })
	return c, err
}

// ftpClient is a control connection.
type ftpClient struct {
	t      *testing.T
	ns     *netnstest.NS
	conn   net.Conn
	in     *bufio.Reader
	server netip.AddrPort
	unread int // answers that are still to come
}

func newFTPClient(t *testing.T, ns *netnstest.NS, server string) *ftpClient {
	t.Helper()
	c := &ftpClient{t: t, ns: ns, server: netip.MustParseAddrPort(server)}
	var err error
	ns.Do(func() { c.conn, err = net.DialTimeout("tcp", server, patience) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	c.in = bufio.NewReader(c.conn)
	c.expect("220")
	return c
}

func (c *ftpClient) expect(code string) string {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(patience))
	line, err := c.in.ReadString('\n')
	if err != nil {
		c.t.Fatalf("waiting for %s: %v", code, err)
	}
	if !strings.HasPrefix(line, code) {
		c.t.Fatalf("the server says %q, want %s", line, code)
	}
	return line
}

func (c *ftpClient) say(format string, args ...any) { fmt.Fprintf(c.conn, format+"\r\n", args...) }

// epsv announces a port of the server's and returns its address.
func (c *ftpClient) epsv() string {
	c.t.Helper()
	c.say("EPSV")
	_, rest, _ := strings.Cut(c.expect("229"), "|||")
	port, _, _ := strings.Cut(rest, "|")
	return net.JoinHostPort(c.server.Addr().String(), port)
}

// dial opens a data connection; it fails at once where the firewall rejects it.
func (c *ftpClient) dial(addr string) (data net.Conn, err error) {
	c.ns.Do(func() { data, err = net.DialTimeout("tcp", addr, patience) })
	return data, err
}

// read takes the file from an announced address.
func (c *ftpClient) read(addr string) error {
	c.t.Helper()
	data, err := c.dial(addr)
	if err != nil {
		return err
	}
	defer data.Close()
	c.say("RETR file")
	c.expect("150")
	if err := same(data); err != nil {
		return err
	}
	c.expect("226")
	return nil
}

func same(data net.Conn) error {
	data.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(data)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, file) {
		return fmt.Errorf("%d bytes came, not the file of %d", len(got), len(file))
	}
	return nil
}

// passive gets the file by EPSV.
func (c *ftpClient) passive() error {
	c.t.Helper()
	return c.read(c.epsv())
}

// port makes a listener and announces it.
func (c *ftpClient) port() net.Listener {
	c.t.Helper()
	l := listen(c.t, c.ns, net.JoinHostPort(c.conn.LocalAddr().(*net.TCPAddr).IP.String(), "0"))
	c.announce(l)
	return l
}

func (c *ftpClient) announce(l net.Listener) {
	c.t.Helper()
	a := l.Addr().(*net.TCPAddr)
	if a.IP.To4() == nil {
		c.say("EPRT |2|%s|%d|", a.IP, a.Port)
		c.expect("200")
		return
	}
	c.say("PORT %s,%d,%d", strings.ReplaceAll(a.IP.String(), ".", ","), a.Port>>8, a.Port&255)
	c.expect("200")
}

// active gets the file by PORT.
func (c *ftpClient) active() error {
	c.t.Helper()
	l := c.port()
	defer l.Close()
	return c.accept(l)
}

// accept gets the file at an announced listener.
func (c *ftpClient) accept(l net.Listener) error {
	c.t.Helper()
	c.say("RETR file")
	c.expect("150")
	c.conn.SetReadDeadline(time.Now().Add(patience))
	type result struct {
		conn net.Conn
		err  error
	}
	accepted := make(chan result, 1)
	go func() {
		conn, err := l.Accept()
		accepted <- result{conn, err}
	}()
	// The server's answer comes last if all is well, and at once if it could not connect.
	if line, err := c.in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "226") {
		return fmt.Errorf("the server says %q, %v", line, err)
	}
	r := <-accepted
	if r.err != nil {
		return r.err
	}
	defer r.conn.Close()
	return same(r.conn)
}
