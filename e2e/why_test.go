package e2e

import (
	"bytes"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/cli"
	"github.com/cthelperd/cthelperd/helpers"
)

// why runs cthelper's command in the firewall. log is what the daemon has written.
func (s *site) why(log string, args ...string) (text string, code int) {
	var out bytes.Buffer
	s.firewall.Do(func() {
		code = cli.Run(append([]string{"why", "--log", "-"}, args...), strings.NewReader(log), &out, &out)
	})
	return out.String(), code
}

// TestWhy: while the daemon works, and after its end, cthelper tells of live data connections who announced them, and how.
func TestWhy(t *testing.T) {
	t.Parallel()
	const shadow = `, a shadow of cthelperd's: no packet belongs to it\n`
	whole := func(t *testing.T, text, pattern string) {
		t.Helper()
		if !regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString(text) {
			t.Errorf("got\n%s\nwant\n%s", text, pattern)
		}
	}
	t.Run("ftp", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, masquerade)
		s.serve(serverKinds[0], 21, false)
		d := s.daemon()
		c := s.login(t, ipv4.client(), 21)
		if text, code := s.why("", "--where", "related"); code != 1 || !strings.Contains(text, "no such connection") {
			t.Errorf("before an announcement: exit %d, %s", code, text)
		}
		l := c.listen(0)
		c.write(portCommand(endPoint(l)))
		c.expect(200)
		c.write("RETR down\r\n") // and nobody reads it: the connection stays
		data, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer data.Close()
		d.says("msg=related", 1)
		own := regexp.QuoteMeta(c.conn.LocalAddr().String())
		const rest = `  announced  at \S+ by ftp on tcp 10\.1\.0\.2:\d+>192\.168\.200\.102:21 \(orig\): data "PORT"\n` +
			`  expected   tcp 192\.168\.200\.102:\*>10\.1\.0\.2:\d+, under NAT at 192\.168\.200\.101:\d+\n` +
			`  used       at \S+ for "RETR down"\n`
		related := `tcp 192\.168\.200\.102:\d+>192\.168\.200\.101:\d+ ESTABLISHED\n  related    yes: .*\n`
		text, code := s.why(d.out.String(), "--where", "related")
		whole(t, text, related+`  master     (?:tc|ud)p `+own+`>192\.168\.200\.102:0`+shadow+`  helper     \S+, .*cthelperd.*\n`+
			`  control    tcp `+own+`>192\.168\.200\.102:21 ESTABLISHED\n`+rest)
		if code != 0 {
			t.Errorf("exit code %d", code)
		}
		name, _, _ := strings.Cut(text, " ESTABLISHED")
		if again, _ := s.why(d.out.String(), name); again != text {
			t.Errorf("by its name:\n%s", again)
		}
		text, code = s.why("", "--where", "!related && orig.dport == 21")
		whole(t, text, `tcp `+own+`>192\.168\.200\.102:21 ESTABLISHED\n  related    no: no connection announced it\n`)
		if code != 0 {
			t.Errorf("exit code %d", code)
		}
		d.stop()
		text, _ = s.why(d.out.String(), "--where", "related")
		whole(t, text, related+`  master     (?:tc|ud)p `+own+`>192\.168\.200\.102:0, a shadow of cthelperd's that is gone\n`+
			`  control    tcp `+own+`>192\.168\.200\.102:21 ESTABLISHED\n`+rest)
	})
	t.Run("sip", func(t *testing.T) {
		t.Parallel()
		s := newExchange(t, dnat)
		d := s.daemon()
		s.answer(s.server, s.serverAddr(ipv4), helpers.UDP, s.scenario("called", called()...), "-m", "1")
		lasting := append(caller()[:4], pause(time.Minute)) // up to the played media
		program, args := telephony("/usr/bin/sipp")
		args = append([]string{"-C", s.folder}, append(args, sippArgs(ipv4.client(), helpers.UDP, callerMedia, s.scenario("caller", lasting...), "-m", "1")...)...)
		start(t, s.client, program, append(args, netip.AddrPortFrom(s.host(ipv4), 5060).String())...)
		until(t, "media pass", func() bool { n, _ := heard(t, s.client); return n > 0 })
		d.says("msg=related", 1)
		text, _ := s.why(d.out.String(), "--where", "related")
		whole(t, text, `udp 10\.1\.0\.2:20000>10\.1\.0\.1:30000\n  related    yes: .*\n`+
			`  master     udp 10\.1\.0\.2:5060>10\.1\.0\.1:0`+shadow+`  helper     .*cthelperd.*\n`+
			`  control    udp 10\.1\.0\.2:5060>10\.1\.0\.1:5060\n(?:  pending    udp .*\n)*`+
			`  announced  at \S+ by sip on udp 10\.1\.0\.2:5060>10\.1\.0\.1:5060 \(reply\): media "audio"\n`+
			`  expected   udp 10\.1\.0\.2:\*>192\.168\.200\.102:30000, under NAT at 10\.1\.0\.1:30000\n`+
			`  used       at \S+ for "audio"\n`)
	})
	t.Run("h323", func(t *testing.T) {
		t.Parallel()
		s := newSiteWith(t, routed, "udp dport 1719", nil)
		d := s.daemon()
		client, server := &party{t, s.client, ipv4.client()}, &party{t, s.server, s.serverAddr(ipv4)}
		callee := server.listen(callPort)
		g, _, _ := client.register(s.host(ipv4), server.datagrams(rasPort), 60)
		k, err := client.connect(g.admit(netip.AddrPortFrom(server.addr, callPort)), callee)
		if err != nil {
			t.Fatal(err)
		}
		c := &call{t, k, [2]*phone{client.phone(20000), server.phone(20100)}, 7}
		err = styles[0].make(c, func(all []media) {
			all[0].pass(t, patience)
			d.says("msg=related", 4)
			text, _ := s.why(d.out.String(), "--where", "related && orig.dport == 20102")
			h245 := `tcp 10\.1\.0\.2:\d+>192\.168\.200\.102:\d+`
			whole(t, text, `udp 10\.1\.0\.2:20000>192\.168\.200\.102:20102\n  related    yes: .*\n`+
				`  master     (?:tc|ud)p 10\.1\.0\.2:\d+>192\.168\.200\.102:0`+shadow+`  helper     .*cthelperd.*\n`+
				`  control    `+h245+` ESTABLISHED\n  above      tcp 10\.1\.0\.2:\d+>192\.168\.200\.102:1730 ESTABLISHED\n`+
				`  above      udp 10\.1\.0\.2:\d+>192\.168\.200\.102:1719\n(?:  pending    .*\n)+`+
				`  announced  at \S+ by h245 on `+h245+` \(reply\): media "RTP"\n`+
				`  expected   udp 10\.1\.0\.2:\*>192\.168\.200\.102:20102\n  used       at \S+ for "RTP"\n`)
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
