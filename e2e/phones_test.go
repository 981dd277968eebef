package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// proxy starts kamailio as registrar and proxy at own.
func (s *site) proxy(own netip.Addr) *process {
	s.t.Helper()
	folder := s.t.TempDir()
	conf, lib := filepath.Join(folder, "kamailio.cfg"), shared.servers+"/usr/lib/x86_64-linux-gnu/kamailio/modules/"
	at := netip.AddrPortFrom(own, 5060)
	s.write(conf, fmt.Sprintf(`#!KAMAILIO
debug=1
log_stderror=yes
children=1
tcp_children=1
auto_aliases=no
dns=off
rev_dns=off
listen=udp:%[1]s
listen=tcp:%[1]s
mpath="%[2]s"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
modparam("usrloc", "db_mode", 0)
request_route {
	if (!mf_process_maxfwd_header("10")) { sl_send_reply("483", "Too Many Hops"); exit; }
	if (has_totag()) {
		if (loose_route()) { t_relay(); exit; }
		if (is_method("ACK")) { if (t_check_trans()) t_relay(); exit; }
		sl_send_reply("404", "Not here");
		exit;
	}
	if (is_method("CANCEL")) { if (t_check_trans()) t_relay(); exit; }
	if (is_method("REGISTER")) { save("location"); exit; }
	if (is_method("INVITE")) record_route();
	if (!lookup("location")) { sl_send_reply("404", "Not Found"); exit; }
	t_relay();
}
`, at, lib))
	program, args := telephony("/usr/sbin/kamailio")
	args = append(args, "-f", conf, "-DD", "-E", "-w", folder, "-Y", folder, "-P", filepath.Join(folder, "pid"), "-m", "16", "-M", "4")
	p := startFamily(s.t, s.server, program, args...)
	p.until("listens", func() bool { return strings.Contains(s.server.Run("ss", "-Hnlt", "sport = 5060"), ":5060") })
	return p
}

// softphone is a baresip that is registered at the proxy and answers by itself. It plays a tone.
type softphone struct {
	*process
	ns *netnstest.NS
}

// Ports of phones: where they speak SIP, and by which they are told what to do.
const (
	phonePort = 5070
	tellPort  = 4444
)

// phone starts one. account is what else its account says, as parameters.
func (s *site) phone(ns *netnstest.NS, user string, own, proxy netip.Addr, t helpers.Transport, media int, account string) *softphone {
	s.t.Helper()
	folder := s.t.TempDir()
	s.write(filepath.Join(folder, "tone.wav"), tone(30*time.Second))
	s.write(filepath.Join(folder, "config"), fmt.Sprintf(`poll_method epoll
sip_listen %s
audio_player aubridge,nil
audio_alert aubridge,nil
audio_source aufile,%s/tone.wav
rtp_ports %d-%d
module_path %s/usr/lib/baresip/modules
module g711.so
module ice.so
module aufile.so
module aubridge.so
module ctrl_tcp.so
module_tmp account.so
module_app menu.so
ctrl_tcp_listen 127.0.0.1:%d
`, netip.AddrPortFrom(own, phonePort), folder, media, media+100, shared.servers, tellPort))
	host, only := proxy.String(), "-4"
	if proxy.Is6() {
		host, only = "["+host+"]", "-6"
	}
	s.write(filepath.Join(folder, "accounts"), fmt.Sprintf("<sip:%s@%s;transport=%s>;regint=600;answermode=auto;audio_codecs=PCMU%s\n",
		user, host, t, account))
	s.write(filepath.Join(folder, "contacts"), "")
	program, args := telephony("/usr/bin/baresip")
	p := &softphone{start(s.t, ns, program, append(args, only, "-f", folder)...), ns}
	p.says("[1 binding]", 1)
	return p
}

// tell gives it a command of its menu, as a netstring (baresip's module ctrl_tcp).
func (p *softphone) tell(command, params string) {
	p.t.Helper()
	var c net.Conn
	var err error
	p.ns.Do(func() { c, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", tellPort)) })
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	text, err := json.Marshal(map[string]string{"command": command, "params": params})
	if err != nil {
		p.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "%d:%s,", len(text), text)
	if _, err := c.Read(make([]byte, 1)); err != nil {
		p.t.Fatalf("%s: %s: %v", p.name, command, err)
	}
}

// dial calls somebody through the proxy.
func (p *softphone) dial(user string, proxy netip.Addr, t helpers.Transport) {
	p.t.Helper()
	p.tell("dial", fmt.Sprintf("sip:%s@%s;transport=%s", user, strings.TrimSuffix(netip.AddrPortFrom(proxy, 0).String(), ":0"), t))
}

// tone is a WAV file (RIFF, PCM, 8 kHz, 16 bits).
func tone(d time.Duration) string {
	const rate = 8000
	var w strings.Builder
	number := func(n, size int) {
		for ; size > 0; size-- {
			w.WriteByte(byte(n))
			n >>= 8
		}
	}
	samples := int(d.Seconds() * rate)
	w.WriteString("RIFF")
	number(36+2*samples, 4)
	w.WriteString("WAVEfmt ")
	for _, f := range [][2]int{{16, 4}, {1, 2}, {1, 2}, {rate, 4}, {2 * rate, 4}, {2, 2}, {16, 2}} {
		number(f[0], f[1])
	}
	w.WriteString("data")
	number(2*samples, 4)
	for i := range samples {
		number(int(8000*math.Sin(float64(i)/5)), 2)
	}
	return w.String()
}

// TestPhones: two phones call each other through a proxy at which they are registered, one of them behind the firewall.
// The one outside calls when the flow of the registration is forgotten: what opens the way is the registration. With ICE
// they speak where their checks have met each other; without the daemon no check arrives.
func TestPhones(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		nat       nat
		family    family
		transport helpers.Transport
		ice       string
	}{
		{masquerade, ipv4, helpers.UDP, "plain"}, {routed, ipv4, helpers.UDP, "plain"},
		{masquerade, ipv4, helpers.TCP, "plain"}, {routed, ipv6, helpers.UDP, "plain"},
		{masquerade, ipv6, helpers.TCP, "plain"},
		{masquerade, ipv4, helpers.UDP, "ice"}, {routed, ipv4, helpers.TCP, "ice"}, {routed, ipv6, helpers.UDP, "ice"},
		{masquerade, ipv6, helpers.TCP, "ice"}, {masquerade, ipv4, helpers.TCP, "stun"},
	} {
		if *onlyPairs && row.nat == routed {
			continue
		}
		t.Run(fmt.Sprintf("%s/%s/%s/%s", row.nat, row.family, row.transport, row.ice), func(t *testing.T) {
			t.Parallel()
			s := newExchange(t, row.nat)
			proxy := row.family.server()
			s.proxy(proxy)
			if row.ice == "stun" {
				s.stun()
			}
			ice, account := row.ice != "plain", iceAccounts[row.ice]
			d := s.daemon("--config", s.config(fmt.Sprintf("helpers: {sip: {ice: %t}}\n", ice)))
			bob := s.phone(s.server, "bob", proxy, proxy, row.transport, calledMedia, account)
			alice := s.phone(s.client, "alice", row.family.client(), proxy, row.transport, callerMedia, account)
			for i, call := range []struct {
				from *softphone
				to   string
			}{{alice, "bob"}, {bob, "alice"}} {
				if i == 1 && row.transport == helpers.UDP {
					s.firewall.Run("conntrack", "-D", "-f", string(row.family), "-p", "udp", "--orig-port-dst", "5060")
				}
				call.from.dial(call.to, proxy, row.transport)
				alice.says("Call established", i+1)
				bob.says("Call established", i+1)
				near, _ := heard(t, s.client)
				far, _ := heard(t, s.server)
				until(t, "both hear each other", func() bool {
					n, _ := heard(t, s.client)
					f, _ := heard(t, s.server)
					return n >= near+20 && f >= far+20
				})
				call.from.tell("hangup", "")
				until(t, "only the registration is open", func() bool { return s.expectations() == 1 })
			}
			d.stop()
			// A port may be used again, by chance: the way of the earlier call's media must not be there any more.
			s.firewall.Run("conntrack", "-D", "-f", string(row.family), "-p", "udp")
			refused := s.counter("rejected") // without the daemon
			near, _ := heard(t, s.client)
			far, _ := heard(t, s.server)
			alice.dial("bob", proxy, row.transport)
			alice.says("Call established", 3)
			few := 20
			if ice { // checks are repeated more slowly than media
				few = 4
			}
			until(t, "media are refused", func() bool { return s.counter("rejected") >= refused+few })
			n, _ := heard(t, s.client)
			if f, _ := heard(t, s.server); n > near || f > far {
				t.Errorf("without the daemon %d packets of media passed", n-near+f-far)
			}
		})
	}
}
