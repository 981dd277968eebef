package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// telephony is a program of SIP, with the libraries that lie beside it.
func telephony(program string) (name string, before []string) {
	lib := shared.servers + "/usr/lib/x86_64-linux-gnu"
	path := strings.Join([]string{lib, shared.servers + "/lib/x86_64-linux-gnu", lib + "/kamailio"}, ":")
	return "env", []string{"LD_LIBRARY_PATH=" + path, shared.servers + program}
}

// sipp's keywords for what a side says of itself.
const (
	contact = "Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>\n"
	// Both sides' SDP of a media line: sipp plays from this port, and echoes what comes to that one.
	playing = "m=audio [rtpstream_audio_port] RTP/AVP 0\na=rtpmap:0 PCMU/8000\n"
	echoing = "m=audio [media_port] RTP/AVP 0\na=rtpmap:0 PCMU/8000\n"
)

// description is a body of SDP with media lines.
func description(version int, media string) string {
	return fmt.Sprintf(`Content-Type: application/sdp
Content-Length: [len]

v=0
o=sipp 1 %d IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
%s`, version, media)
}

const nothing = "Content-Length: 0\n"

// request is one of a caller's in a call. On a busy machine sipp takes a copy that comes late for an error, so it makes none
// unless something is lost.
func request(method string, cseq int, body string) string {
	tag, retrans := "[peer_tag_param]", ` retrans="8000"`
	if method == "INVITE" && cseq == 1 {
		tag = ""
	}
	if method == "ACK" {
		retrans = ""
	}
	return fmt.Sprintf(`<send%s><![CDATA[
%s sip:[service]@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:caller@[local_ip]:[local_port]>;tag=[pid]caller[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>%s
Call-ID: [call_id]
CSeq: %d %s
Max-Forwards: 70
%s%s
]]></send>
`, retrans, method, tag, cseq, method, contact, body)
}

// response is one of the called side's.
func response(status, body string) string {
	retrans := ""
	if strings.HasPrefix(status, "200") && body != nothing {
		retrans = ` retrans="8000"`
	}
	return fmt.Sprintf(`<send%s><![CDATA[
SIP/2.0 %s
[last_Via:]
[last_From:]
[last_To:];tag=[pid]called[call_number]
[last_Call-ID:]
[last_CSeq:]
%s%s
]]></send>
`, retrans, status, contact, body)
}

func awaitRequest(method string) string { return fmt.Sprintf("<recv request=%q/>\n", method) }
func await(status int) string {
	optional := ""
	for _, s := range []int{100, 180, 183} {
		if s != status {
			optional += fmt.Sprintf("<recv response=\"%d\" optional=\"true\"/>\n", s)
		}
	}
	return optional + fmt.Sprintf("<recv response=\"%d\"/>\n", status)
}

func pause(d time.Duration) string {
	return fmt.Sprintf("<pause milliseconds=\"%d\"/>\n", d.Milliseconds())
}

// playedPackets is how many packets of RTP play sends: 20 ms each.
const (
	playedPackets = 10
	played        = playedPackets * 20 * time.Millisecond
)

// play sends the file audio as RTP.
const play = `<nop><action><exec rtp_stream="audio,1,0,PCMU/8000"/></action></nop>
`

func (s *site) scenario(name string, steps ...string) string {
	s.t.Helper()
	path := filepath.Join(s.folder, name+".xml")
	s.write(path, fmt.Sprintf("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<scenario name=%q>\n%s</scenario>\n", name, strings.Join(steps, "")))
	s.write(filepath.Join(s.folder, "audio"), strings.Repeat("\x7f", playedPackets*160))
	return path
}

// Usual calls: one side plays, the other one echoes.
func caller() []string {
	return []string{
		request("INVITE", 1, description(1, playing)), await(200), request("ACK", 1, nothing), play,
		pause(played + time.Second), request("BYE", 2, nothing), await(200),
	}
}

func called() []string {
	return []string{
		awaitRequest("INVITE"), response("180 Ringing", nothing), response("200 OK", description(1, echoing)), awaitRequest("ACK"),
		awaitRequest("BYE"), response("200 OK", nothing),
	}
}

// Ports of SIP's media in these tests.
const (
	callerMedia = 20000
	calledMedia = 30000
)

// sipp's arguments. All calls share one socket: a trunk.
func sippArgs(own netip.Addr, t helpers.Transport, media int, scenario string, more ...string) []string {
	at := own.String()
	if own.Is6() {
		at = "[" + at + "]"
	}
	return append([]string{
		"-sf", scenario, "-i", at, "-mi", own.String(), "-mp", fmt.Sprint(media), "-t", choose(t == helpers.UDP, "u1", "t1"), "-nostdin",
		"-timeout", "60", "-timeout_error", "-trace_err", "-error_file", scenario + ".errors",
	}, more...)
}

func choose(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

// answer starts the called side, which echoes media.
func (s *site) answer(ns *netnstest.NS, own netip.Addr, t helpers.Transport, scenario string, more ...string) *process {
	s.t.Helper()
	program, args := telephony("/usr/bin/sipp")
	p := start(s.t, ns, program, append(append(args, sippArgs(own, t, calledMedia, scenario, "-rtp_echo")...), more...)...)
	p.until("listens", func() bool { return strings.Contains(ns.Run("ss", "-Hnlu", "-lt", "sport = 5060"), ":5060") })
	return p
}

// call runs the calling side to its end.
func (s *site) call(ns *netnstest.NS, own, to netip.Addr, t helpers.Transport, scenario string, more ...string) error {
	s.t.Helper()
	program, args := telephony("/usr/bin/sipp")
	args = append(args, sippArgs(own, t, callerMedia, scenario, more...)...)
	_, err := run(ns, time.Minute, s.folder, nil, program, append(args, netip.AddrPortFrom(to, 5060).String())...)
	if err != nil {
		errors, _ := os.ReadFile(scenario + ".errors")
		err = fmt.Errorf("%w\n%s", err, errors)
	}
	return err
}
