package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// wantsNothing checks that nothing was announced, and that the kernel has no expectation. It stops the daemon: all of the
// log is written then.
func (s *site) wantsNothing(d *process) {
	s.t.Helper()
	if out := s.firewall.Run("conntrack", "-L", "expect"); strings.Contains(out, "mask-src=") {
		s.t.Errorf("expectations in the kernel:\n%s", out)
	}
	d.stop()
	if strings.Contains(d.out.String(), "msg=expect ") {
		s.t.Error("something was announced")
	}
}

// TestPort: servers at other ports, by configuration.
func TestPort(t *testing.T) {
	t.Parallel()
	const port = 2121
	s := newSiteWith(t, masquerade, "tcp dport 2121", nil)
	s.serve(serverKinds[0], port, false)
	d := s.daemon("--config", s.config("helpers:\n  ftp:\n    ports: [2121]\n"))
	s.works(t, d, clientKinds[0], ipv4, modePORT, port)
	s.works(t, d, clientKinds[0], ipv6, modeEPSV, port)
	d.stop()
}

// TestRefused: what may not be announced passes, is refused with its reason, and opens nothing.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, routed)
	s.serve(serverKinds[0], 21, true) // a server that would connect to anybody
	d := s.daemon()
	c := s.login(t, ipv4.client(), 21)
	for _, row := range []struct{ name, command, reason string }{
		{"FXP", "PORT 10,1,0,1,200,1", "foreign-address"},
		{"FXP, EPRT", "EPRT |1|10.1.0.1|51201|", "foreign-address"},
		{"port of a service", "PORT 10,1,0,2,3,255", "low-port"},
		{"port of a service, EPRT", "EPRT |1|10.1.0.2|22|", "low-port"},
	} {
		before := strings.Count(d.out.String(), "reason="+row.reason)
		c.write(row.command + "\r\n")
		if _, _, err := c.text.ReadResponse(0); err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		d.says("reason="+row.reason, before+1)
	}
	c.ask(200, "NOOP")
	s.wantsNothing(d)
	if n := s.counter("related"); n != 0 {
		t.Errorf("%d packets of related connections", n)
	}
}

// TestSlipstream: a browser is made to send an FTP command in a body (NAT slipstreaming). Client lines count only after
// a greeting, and a request line of HTTP says what the stream is.
func TestSlipstream(t *testing.T) {
	t.Parallel()
	s := newSite(t, masquerade)
	d := s.daemon()
	serveLines(s, func(c net.Conn, r *bufio.Reader) {
		io.Copy(c, r) // a server of the attacker's: it answers anything
	})
	c := s.dial(t, netip.AddrPortFrom(ipv4.client(), 0), netip.AddrPortFrom(s.host(ipv4), 21))
	body := "PORT 10,1,0,2,200,1\r\n"
	request := fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	for _, text := range []string{request, body, "220 hello\r\n", body} {
		c.write(text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(c.text.R, got); err != nil {
			t.Fatal(err)
		}
		if string(got) != text {
			t.Errorf("%q came back as %q", text, got)
		}
	}
	s.wantsNothing(d)
}

// selfSigned makes a key and a certificate for it.
func selfSigned(t *testing.T) (key *ecdsa.PrivateKey, certificate []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err = x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, certificate
}

// TestTLS: after AUTH TLS the control connection cannot be read. It goes on untouched, and says so once.
func TestTLS(t *testing.T) {
	t.Parallel()
	key, certificate := selfSigned(t)
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}}
	s := newSite(t, bothWays)
	serveLines(s, func(c net.Conn, r *bufio.Reader) {
		io.WriteString(c, "220 ready\r\n")
		r.ReadString('\n')
		io.WriteString(c, "234 go on\r\n")
		secret := tls.Server(c, config)
		io.Copy(secret, secret)
	})
	d := s.daemon()
	c := s.dial(t, netip.AddrPortFrom(ipv4.client(), 0), netip.AddrPortFrom(s.host(ipv4), 21))
	c.expect(220)
	c.ask(234, "AUTH TLS")
	secret := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	for i := range 100 {
		text := fmt.Sprintf("%d PORT 10,1,0,2,200,1\r\n227 Entering Passive Mode (192,168,200,102,200,2)\r\n", i)
		if _, err := io.WriteString(secret, text); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(secret, got); err != nil {
			t.Fatal(err)
		}
		if string(got) != text {
			t.Fatalf("%q came back as %q", text, got)
		}
	}
	s.wantsNothing(d)
	if n := strings.Count(d.out.String(), "TLS"); n != 1 {
		t.Errorf("the log speaks of TLS %d times, want once", n)
	}
}

// TestTLSServer: a real server and a real client, whose announcements nobody between them can read: what needs no data
// connection works, the rules refuse the rest.
func TestTLSServer(t *testing.T) {
	t.Parallel()
	key, certificate := selfSigned(t)
	s := newSite(t, bothWays)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.folder, "vsftpd.pem")
	s.write(file, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))+
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})))
	s.serve(serverKind{"vsftpd", func(s *site, port uint16, lax bool) *process {
		return vsftpdWith(s, port, lax, "ssl_enable=YES\nallow_anon_ssl=YES\nrequire_ssl_reuse=NO\nssl_ciphers=HIGH\nrsa_cert_file="+file+"\n")
	}}, 21, false)
	d := s.daemon()
	curl := func(more ...string) (string, error) {
		args := append([]string{"-sS", "--max-time", "20", "--ssl-reqd", "-k", "-u", user + ":" + password}, more...)
		return run(s.client, transferTime, s.folder, nil, "curl", append(args, "ftp://"+netip.AddrPortFrom(s.host(ipv4), 21).String()+"/down")...)
	}
	out, err := curl("--head")
	if want := fmt.Sprintf("Content-Length: %d", fileSize); err != nil || !strings.Contains(out, want) {
		t.Errorf("size of the file: %v, %q, want %q", err, out, want)
	}
	if n := s.counter("rejected"); n != 0 {
		t.Errorf("the rules refused %d packets", n)
	}
	if _, err := curl("-o", "got"); err == nil || s.counter("rejected") == 0 {
		t.Errorf("a transfer that nobody can read the announcement of: %v, %d packets refused", err, s.counter("rejected"))
	}
	s.wantsNothing(d)
}

// serveLines answers connections to port 21 of the server.
func serveLines(s *site, answer func(net.Conn, *bufio.Reader)) {
	s.t.Helper()
	var l net.Listener
	var err error
	s.server.Do(func() { l, err = net.Listen("tcp", ":21") })
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				answer(c, bufio.NewReader(c))
			}()
		}
	}()
}

// TestOutOfTree: a daemon of another module, with a TFTP helper, passes a transfer.
func TestOutOfTree(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			s := newSiteWith(t, routed, "udp dport 69", nil)
			startFamily(t, s.server, shared.servers+"/usr/sbin/in.tftpd", "--foreground", "--secure", "--user", "nobody",
				"--address", netip.AddrPortFrom(f.server(), 69).String(), shared.root)
			get := func(within time.Duration) error {
				folder := t.TempDir()
				got := filepath.Join(folder, "got")
				if out, err := run(s.client, within, folder, nil, "tftp", "-m", "binary", f.server().String(), "-c", "get", "down", got); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return sameFile(got)
			}
			until(t, "the TFTP server listens", func() bool {
				return strings.Contains(s.server.Run("ss", "-Hlun", "sport = 69"), ":69")
			})
			// tftp waits for an answer that the rules refuse: what is there is one refused packet.
			if err := get(2500 * time.Millisecond); err == nil {
				t.Fatal("the transfer works without the daemon")
			}
			if s.counter("rejected") == 0 {
				t.Error("it failed, but not because the rules refused something")
			}
			d := s.daemonOf(shared.foreign)
			if err := get(patience); err != nil {
				t.Fatal(err)
			}
			d.says("msg=related", 1)
			if s.counter("related") == 0 {
				t.Error("no packet was of a related connection")
			}
			d.stop()
		})
	}
}
