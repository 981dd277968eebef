package e2e

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/sip"
	"github.com/cthelperd/cthelperd/pcaps"
)

// TestSIPRecorded records calls of real programs on the inside of a firewall, through the daemon, and replays them: what
// tshark reads in them is found. -record keeps the captures.
func TestSIPRecorded(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Fatal(err)
	}
	fax := func() (caller, called []string) {
		invite := func(n int, media string) []string {
			return []string{request("INVITE", n, description(n, media)), await(200), request("ACK", n, nothing)}
		}
		caller = append(append(invite(1, playing), play, pause(2*played)), invite(2, t38(20020))...)
		called = []string{awaitRequest("INVITE"), response("200 OK", description(1, echoing)), awaitRequest("ACK"),
			awaitRequest("INVITE"), response("200 OK", description(2, t38(30020))), awaitRequest("ACK"),
			awaitRequest("BYE"), response("200 OK", nothing)}
		return append(caller, request("BYE", 3, nothing), await(200)), called
	}
	plain := func() ([]string, []string) { return caller(), called() }
	for _, row := range []struct {
		name      string
		nat       nat
		transport helpers.Transport
		steps     func() (caller, called []string) // nil: two phones at a proxy
	}{
		{"sipp-udp", routed, helpers.UDP, plain}, {"sipp-tcp", routed, helpers.TCP, plain}, {"sipp-masquerade", masquerade, helpers.UDP, plain},
		{"sipp-fax", masquerade, helpers.UDP, fax},
		{"baresip-udp", masquerade, helpers.UDP, nil}, {"baresip-tcp", routed, helpers.TCP, nil},
	} {
		if *onlyPairs && row.name != "sipp-fax" && row.name != "baresip-tcp" {
			continue
		}
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newExchange(t, row.nat)
			file := filepath.Join(s.folder, "sip-"+row.name+".pcap")
			if *recordTo != "" {
				file = filepath.Join(*recordTo, filepath.Base(file))
			}
			stop := recordAt(t, s.client, "c", file, "port 5060 or udp portrange 20000-39999")
			d := s.daemon()
			if row.steps != nil {
				caller, called := row.steps()
				s.answer(s.server, ipv4.server(), row.transport, s.scenario("called", called...), "-m", "1")
				err := s.call(s.client, ipv4.client(), ipv4.server(), row.transport, s.scenario("caller", caller...), "-m", "1")
				if err != nil {
					t.Fatal(err)
				}
			} else {
				s.comeAndGo(row.transport)
			}
			stop()
			d.stop()
			truth := truthOfSIP(t, file)
			if len(truth.Announced) < 2 || len(truth.Used) == 0 {
				t.Errorf("tshark reads %+v", truth)
			}
			for _, wrong := range truth.Compare(pcaps.Records(t, file, nil, sip.Protocol())).Wrong {
				t.Error(wrong)
			}
			text, err := json.MarshalIndent(truth, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			s.write(file+".truth.json", string(text)+"\n")
		})
	}
}

// comeAndGo has a phone inside register, call and be called.
func (s *site) comeAndGo(transport helpers.Transport) {
	proxy := ipv4.server()
	s.proxy(proxy)
	bob := s.phone(s.server, "bob", proxy, proxy, transport, calledMedia, iceAccounts["plain"])
	alice := s.phone(s.client, "alice", ipv4.client(), proxy, transport, callerMedia, iceAccounts["plain"])
	for i, from := range []*softphone{alice, bob} {
		before, _ := heard(s.t, s.client)
		from.dial([]string{"bob", "alice"}[i], proxy, transport)
		until(s.t, "media come", func() bool { n, _ := heard(s.t, s.client); return n >= before+5 })
		from.tell("hangup", "")
		until(s.t, "only the registration is open", func() bool { return s.expectations() == 1 })
	}
}

// truthOfSIP is what tshark reads: media lines, contacts that are registered, and who sends to them first.
func truthOfSIP(t *testing.T, file string) *pcaps.Truth {
	t.Helper()
	args := []string{"-n", "-r", file, "-T", "fields", "-E", "aggregator=,"}
	for _, f := range []string{"frame.number", "ip.src", "ip.dst", "udp.srcport", "udp.dstport", "tcp.srcport", "tcp.dstport",
		"sip.CSeq.method", "sip.Status-Code", "sdp.connection_info.address", "sdp.media.port", "sdp.media.media", "sip.contact.uri"} {
		args = append(args, "-e", f)
	}
	out, err := exec.Command("tshark", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	truth := &pcaps.Truth{Protocol: "sip"}
	flows, open, used := map[string]string{}, map[string]uint64{}, map[string]bool{}
	announce := func(a pcaps.Announced) {
		open[a.To] = a.Frame
		truth.Announced = append(truth.Announced, a)
	}
	for _, line := range bytes.Split(bytes.TrimSuffix(out, []byte("\n")), []byte("\n")) {
		f := strings.Split(string(line), "\t")
		frame, err := strconv.ParseUint(f[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		transport, src, dst := "udp", f[1]+":"+f[3], f[2]+":"+f[4]
		if f[5] != "" {
			transport, src, dst = "tcp", f[1]+":"+f[5], f[2]+":"+f[6]
		}
		there, back := transport+" "+src+">"+dst, transport+" "+dst+">"+src
		if flows[there] == "" {
			flows[there], flows[back] = there, there
			if from, ok := open[dst]; ok && !used[dst] {
				used[dst] = true
				truth.Used = append(truth.Used, pcaps.Used{Frame: frame, Transport: transport, From: src, To: dst, AnnouncedFrame: from})
			}
		}
		a := pcaps.Announced{Frame: frame, Flow: flows[there], Dir: "orig", Transport: "udp"}
		if flows[there] != there {
			a.Dir = "reply"
		}
		if f[10] != "" {
			port, err := strconv.Atoi(f[10])
			if err != nil {
				t.Fatal(err)
			}
			host := netip.MustParseAddr(f[9])
			a.To, a.Kind = netip.AddrPortFrom(host, uint16(port)).String(), f[11]
			announce(a)
			a.To, a.Kind, a.Optional = netip.AddrPortFrom(host, uint16(port+1)).String(), f[11]+" rtcp", true
			announce(a)
		}
		if f[7] == "REGISTER" && f[8] == "200" {
			uri, _, _ := strings.Cut(f[12], ";")
			_, a.To, _ = strings.Cut(uri, "@")
			a.Dir, a.Transport, a.Kind = "orig", transport, "contact"
			announce(a)
		}
	}
	return truth
}
