package e2e

import (
	"bytes"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
)

// carry sends bytes as they are, and wants them on the other side as they are.
func (k *link) carry(from int, b []byte) {
	k.t.Helper()
	if _, err := k.ends[from].Write(b); err != nil {
		k.t.Fatal(err)
	}
	got := make([]byte, len(b))
	k.ends[1-from].SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(k.ends[1-from], got); err != nil || !bytes.Equal(got, b) {
		k.t.Fatalf("%.40q arrived as %.40q, error %v", b, got, err)
	}
}

func (k *link) close() {
	k.ends[0].Close()
	k.ends[1].Close()
}

// said is what one side sends.
type said struct {
	from int
	data []byte
}

// TestH323Attacks: whatever is said to ports of H.323 passes; it opens nothing that is not its owner's word, each refusal
// is counted, and when the connection ends all is closed.
func TestH323Attacks(t *testing.T) {
	t.Parallel()
	s := newSiteWith(t, routed, "th dport 1719-1720", nil)
	client, server := &party{t, s.client, ipv4.client()}, &party{t, s.server, ipv4.server()}
	l := server.listen(1720)
	d := s.daemon("--config", s.config("log: {level: debug}\npolicy: {limits: {rate: 100000}}\n"))

	signal := func(from int, reference uint16, kind byte, body string, v h323test.V, control ...h323test.V) said {
		pdu := h323test.V{"h323-message-body": h323test.V{body: v}}
		for _, c := range control {
			all, _ := pdu["h245Control"].([]any)
			pdu["h245Control"] = append(all, h323test.Control(c))
		}
		return said{from, h323test.TPKT(h323test.Signalling(kind, reference, from == 1, h323test.V{"h323-uu-pdu": pdu}))}
	}
	begin := signal(0, 7, setup, "setup", h323test.V{})
	h245At := func(from int, a string) said {
		return signal(from, 7, facility, "facility", h323test.V{"h245Address": netip.MustParseAddrPort(a)})
	}
	olc := func(channel, port int) h323test.V {
		return h323test.V{"request": h323test.V{"openLogicalChannel": h323test.V{
			"forwardLogicalChannelNumber": channel,
			"forwardLogicalChannelParameters": h323test.V{"multiplexParameters": h323test.V{"h2250LogicalChannelParameters": h323test.V{
				"sessionID": 1, "mediaControlChannel": h323test.V{"unicastAddress": netip.AddrPortFrom(client.addr, uint16(port))},
			}}},
		}}}
	}
	many := []said{begin}
	for i := 0; i < 2000; i += 50 {
		var all []h323test.V
		for j := range 50 {
			all = append(all, olc(1+i+j, 20001+2*(i+j)))
		}
		many = append(many, signal(0, 7, facility, "facility", h323test.V{}, all...))
	}
	whole := h245At(0, "10.1.0.2:5000").data[4:]
	cut := []said{begin}
	for i := range whole {
		cut = append(cut, said{0, h323test.TPKT(whole[:i])})
	}
	lying := func(length int) []said {
		frame := bytes.Clone(begin.data)
		frame[2], frame[3] = byte(length>>8), byte(length)
		return []said{{0, frame}, h245At(0, "10.1.0.2:5000")}
	}

	counted := func(name, reason string, told int) { // the log follows the packet
		t.Helper()
		until(t, name+": the log tells of "+reason, func() bool { return strings.Count(d.out.String(), reason) > told })
	}
	for _, a := range []struct {
		name   string
		says   []said
		reason string // in the log
		open   int    // at most
	}{
		{"a page, its body padded to a segment of its own", []said{
			{0, []byte("POST / HTTP/1.1\r\nHost: x:1720\r\nContent-Length: 9999\r\n\r\n")}, {0, bytes.Repeat([]byte("x"), 1400)}, begin, h245At(0, "10.1.0.2:5000"),
		}, "reason=foreign", 0},
		{"a page's server that calls itself", []said{
			{0, []byte("POST / HTTP/1.1\r\n\r\n")}, {1, begin.data}, h245At(1, "10.1.0.2:5000"), h245At(0, "10.1.0.2:5000"),
		}, "reason=foreign", 0},
		{"a frame of another version", []said{{0, []byte("\x04\x00\x00\x08abcd")}, begin, h245At(0, "10.1.0.2:5000")}, "reason=foreign", 0},
		{"a length under the header's", lying(3), "reason=foreign", 0},
		{"a length that ends in the message", lying(40), "reason=foreign", 0},
		{"a length beyond all", lying(65535), "reason=foreign", 0},
		{"frames cut at every byte", cut, "ends early", 0},
		{"a third host", []said{begin, h245At(0, "10.1.0.3:5000")}, "reason=foreign-address", 0},
		{"the firewall", []said{begin, h245At(0, "10.1.0.1:5000")}, "reason=foreign-address", 0},
		{"the called side names a third host", []said{begin, h245At(1, "192.168.200.1:5000")}, "reason=foreign-address", 0},
		{"loopback", []said{begin, h245At(0, "127.0.0.1:5000")}, "reason=foreign-address", 0},
		{"multicast", []said{begin, h245At(0, "224.0.0.1:5000")}, "reason=foreign-address", 0},
		{"IPv6", []said{begin, h245At(0, "[fd01::2]:5000")}, "reason=foreign-address", 0},
		{"IPv4 in IPv6", []said{begin, h245At(0, "[::ffff:10.1.0.2]:5000")}, "reason=foreign-address", 0},
		{"a port of the system's", []said{begin, h245At(0, "10.1.0.2:22")}, "reason=low-port", 0},
		{"no call", []said{h245At(0, "10.1.0.2:5000")}, "no such call", 0},
		{"a call that is over", []said{begin, signal(0, 7, releaseComplete, "releaseComplete", h323test.V{}, olc(1, 20001)), h245At(0, "10.1.0.2:5000")}, "no such call", 0},
		{"thousands of channels", many, "reason=limit-flow", 32},
		{"thousands of channels, then the end of the call", append(many, signal(1, 7, releaseComplete, "releaseComplete", h323test.V{})), "reason=limit-flow", 0},
	} {
		k, err := client.connect(netip.AddrPortFrom(server.addr, 1720), l)
		if err != nil {
			t.Fatal(err)
		}
		told := strings.Count(d.out.String(), a.reason)
		for _, x := range a.says {
			k.carry(x.from, x.data)
		}
		if n := s.expectations(); n > a.open || a.open > 0 && n == 0 {
			t.Errorf("%s: %d expectations, want %d", a.name, n, a.open)
		}
		counted(a.name, a.reason, told)
		k.close()
		until(t, a.name+": nothing is open any more", func() bool { return s.expectations() == 0 })
	}

	keeper := server.datagrams(rasPort)
	at := func(a string) []any { return []any{netip.MustParseAddrPort(a)} }
	answer := func(kind string, n int, field, a string) h323test.V {
		v := h323test.V{"requestSeqNum": n}
		if v[field] = any(netip.MustParseAddrPort(a)); field == "callSignalAddress" && kind != "locationConfirm" {
			v[field] = at(a)
		}
		return h323test.V{kind: v}
	}
	for _, a := range []struct {
		name         string
		asks, answer h323test.V
		reason       string
	}{
		{"an answer to nothing", h323test.V{"infoRequestResponse": h323test.V{"requestSeqNum": 1}},
			answer("admissionConfirm", 2, "destCallSignalAddress", "192.168.200.102:1730"), "answers no such request"},
		{"an answer to another question", answer("admissionRequest", 2, "srcCallSignalAddress", "10.1.0.2:1730"),
			answer("locationConfirm", 2, "callSignalAddress", "192.168.200.102:1730"), "answers no such request"},
		{"a third host is to be called", answer("admissionRequest", 2, "srcCallSignalAddress", "10.1.0.2:1730"),
			answer("admissionConfirm", 2, "destCallSignalAddress", "192.168.200.1:1730"), "reason=foreign-address"},
		{"a registration of a third host", answer("registrationRequest", 3, "callSignalAddress", "10.1.0.3:1730"),
			answer("registrationConfirm", 3, "callSignalAddress", "192.168.200.1:1730"), "reason=foreign-address"},
		{"the gatekeeper registers the endpoint", h323test.V{"gatekeeperRequest": h323test.V{"requestSeqNum": 4}},
			answer("registrationRequest", 5, "callSignalAddress", "10.1.0.2:1730"), "reason=foreign-address"},
	} {
		g := &gate{t: t, endpoint: client.datagrams(0), keeper: keeper}
		g.to = keeper.LocalAddr()
		told := strings.Count(d.out.String(), a.reason)
		g.asks(a.asks)
		g.answers(a.answer)
		if n := s.expectations(); n > 0 {
			t.Errorf("%s: %d expectations", a.name, n)
		}
		counted(a.name, a.reason, told)
	}
	if n := s.counter("related"); n > 0 {
		t.Errorf("%d packets were related", n)
	}
	d.ended()
}
