package e2e

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/sip/siptest"
)

// More messages for a firewall that reads SIP: those of a call and a registration whose addresses are the sender's.
var ownMessages = []string{
	"INVITE sip:b@b.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1\r\nFrom: <sip:a@a.example>;tag=1\r\n" +
		"To: <sip:b@b.example>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\nContact: <sip:a@192.0.2.1>\r\nContent-Type: application/sdp\r\n" +
		"Content-Length: 97\r\n\r\nv=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\na=mid:1\r\n",
	"REGISTER sip:b.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK2\r\nFrom: <sip:a@b.example>;tag=1\r\n" +
		"To: <sip:a@b.example>\r\nCall-ID: 2\r\nCSeq: 1 REGISTER\r\nContact: <sip:a@192.0.2.1:5070>\r\nContent-Length: 0\r\n\r\n",
	"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK2\r\nFrom: <sip:a@b.example>;tag=1\r\n" +
		"To: <sip:a@b.example>;tag=2\r\nCall-ID: 2\r\nCSeq: 1 REGISTER\r\nContact: <sip:a@192.0.2.1:5070>\r\nContent-Length: 0\r\n\r\n",
}

var (
	dotted = regexp.MustCompile(`[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+`)
	digits = regexp.MustCompile(`[0-9]+`)
)

// mutated changes some places of a message.
func mutated(rnd *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	odd := []string{"\r\n", "\n", "\x00", " ", ";", ",", "\"", "<", ">", ":", "@", "[", "\xff", "99999999999", "-1", "\r\n\r\n", "%00"}
	for range 1 + rnd.IntN(4) {
		at := rnd.IntN(len(b))
		end := min(len(b), at+1+rnd.IntN(12))
		switch rnd.IntN(5) {
		case 0:
			b = append(b[:at:at], b[end:]...)
		case 1:
			b = append(b[:end:end], b[at:]...)
		case 2:
			b = append(append(b[:at:at], odd[rnd.IntN(len(odd))]...), b[at:]...)
		case 3:
			b[at] = byte(rnd.IntN(256))
		case 4:
			if rnd.IntN(4) == 0 {
				b = b[:end:end]
			}
		}
		if len(b) == 0 {
			return []byte{0}
		}
	}
	return b
}

// torture are messages from one side, who names himself and the reader: as they are, with his addresses, and mutated.
func torture(t *testing.T, rnd *rand.Rand, mutations int, own, reader netip.Addr) (list [][]byte) {
	t.Helper()
	add := func(b []byte) {
		for range mutations {
			list = append(list, mutated(rnd, b))
		}
		list = append(list, b)
	}
	all := siptest.Corpus(t, "../helpers/sip/testdata/rfc4475.msg")
	all = append(all, siptest.Corpus(t, "../helpers/sip/testdata/rfc5118.msg")...)
	for _, text := range ownMessages {
		all = append(all, siptest.Message{Data: []byte(text)})
	}
	for _, m := range all {
		add(m.Data)
		add(dotted.ReplaceAll(m.Data, []byte(own.String())))
		add(dotted.ReplaceAll(m.Data, []byte(reader.String())))
	}
	return list
}

// TestSIPTorture: whatever is said to SIP's port passes, and nothing of it is changed but addresses, ports and lengths under
// NAT. Nothing is opened but what its owner has named, and calls work afterwards as before.
func TestSIPTorture(t *testing.T) {
	for _, n := range nats {
		for _, transport := range transports {
			if *onlyPairs && (n == dnat || (n == routed) != (transport == helpers.UDP)) {
				continue
			}
			t.Run(string(n)+"/"+transport.String(), func(t *testing.T) {
				t.Parallel()
				mutations := 4
				if *onlyPairs {
					mutations = 0
				}
				tortureSite(t, n, transport, mutations)
			})
		}
	}
}

func tortureSite(t *testing.T, n nat, transport helpers.Transport, mutations int) {
	s := newExchange(t, n)
	calling, answering := s.scenario("caller", caller()...), s.scenario("called", called()...)
	call := func() (far, near int) {
		t.Helper()
		p := s.answer(s.server, ipv4.server(), transport, answering, "-m", "1")
		if err := s.call(s.client, ipv4.client(), s.host(ipv4), transport, calling, "-m", "1"); err != nil {
			t.Fatal(err)
		}
		p.until("ends", func() bool { return s.server.Run("ss", "-Hnlu", "-lt", "sport = 5060") == "" })
		far, _ = heard(t, s.server)
		near, _ = heard(t, s.client)
		return far, near
	}
	if far, near := call(); far+near > 0 {
		t.Fatalf("without the daemon %d and %d packets of media passed", far, near)
	}
	d := s.daemon("--config", s.config("log: {level: debug}\npolicy: {limits: {rate: 100000}}\n"))
	client, server := &party{t, s.client, ipv4.client()}, &party{t, s.server, ipv4.server()}
	seenClient, seenServer := ipv4.client(), s.host(ipv4) // by the other side
	if n == masquerade {
		seenClient = ipv4.outside()
	}
	carry, done := datagrams(client, server, netip.AddrPortFrom(seenServer, 5060))
	if transport == helpers.TCP {
		done()
		carry, done = connections(client, server, netip.AddrPortFrom(seenServer, 5060))
	}
	rnd := rand.New(rand.NewPCG(4475, uint64(transport)))
	named := map[int]bool{5060: true, 5061: true}
	for from, list := range [][][]byte{
		torture(t, rnd, mutations, ipv4.client(), seenServer), torture(t, rnd, mutations, ipv4.server(), seenClient),
	} {
		for _, b := range list {
			for _, x := range digits.FindAll(b, -1) {
				if p, err := strconv.Atoi(string(x)); err == nil {
					named[p], named[p+1] = true, true // and its RTCP
				}
			}
			got := carry(from, b)
			if !bytes.Equal(got, b) && (n == routed || withoutNumbers(got) != withoutNumbers(b)) {
				t.Fatalf("from side %d\n%q\narrived as\n%q", from, b, got)
			}
		}
	}
	done()
	opened := regexp.MustCompile(`msg=expect .*\bto="?([0-9.]+:[0-9]+)`).FindAllStringSubmatch(d.out.String(), -1)
	for _, m := range opened {
		to := netip.MustParseAddrPort(m[1])
		if to.Addr() != ipv4.client() && to.Addr() != ipv4.server() || !named[int(to.Port())] {
			t.Errorf("%v was opened", to)
		}
	}
	if x := s.expectations(); len(opened) == 0 || x > len(opened) {
		t.Errorf("%d were opened, the kernel has %d", len(opened), x)
	}
	told := map[string]int{}
	for _, what := range []string{"msg=refuse", "msg=error", "msg=edit"} {
		told[what] = strings.Count(d.out.String(), what)
		if told[what] == 0 && (n != routed || what != "msg=edit") {
			t.Errorf("no %s in the log", what)
		}
	}
	t.Logf("%d opened, %v", len(opened), told)
	if far, near := call(); far != playedPackets || near != playedPackets {
		t.Errorf("afterwards %d packets of media came to the called side, %d back; want %d", far, near, playedPackets)
	}
	d.stop()
}

// withoutNumbers is a message without what NAT changes: addresses, ports and lengths.
func withoutNumbers(b []byte) string {
	text := string(b)
	for _, a := range []netip.Addr{ipv4.client(), ipv4.outside(), ipv4.inside(), ipv4.server()} {
		text = strings.ReplaceAll(text, a.String(), "@")
	}
	return digits.ReplaceAllString(text, "#")
}

// datagrams carries them one by one between two sockets.
func datagrams(client, server *party, to netip.AddrPort) (carry func(from int, b []byte) []byte, done func()) {
	t := client.t
	ends := [2]*net.UDPConn{client.datagrams(5062), server.datagrams(5060)}
	buffer := make([]byte, 65536)
	peer := [2]netip.AddrPort{1: to} // the client speaks first
	carry = func(from int, b []byte) []byte {
		t.Helper()
		if _, err := ends[from].WriteToUDPAddrPort(b, peer[1-from]); err != nil {
			t.Fatal(err)
		}
		ends[1-from].SetReadDeadline(time.Now().Add(patience))
		n, source, err := ends[1-from].ReadFromUDPAddrPort(buffer)
		if err != nil {
			t.Fatalf("%q does not arrive: %v", b, err)
		}
		peer[from] = source
		return buffer[:n]
	}
	return carry, func() { ends[0].Close(); ends[1].Close() }
}

// connections carries each message in a TCP connection of its own, in pieces.
func connections(client, server *party, to netip.AddrPort) (carry func(from int, b []byte) []byte, done func()) {
	t, l := client.t, server.listen(5060)
	carry = func(from int, b []byte) []byte {
		t.Helper()
		k, err := client.connect(to, l)
		if err != nil {
			t.Fatal(err)
		}
		defer k.close()
		for _, part := range [][]byte{b[:len(b)/3], b[len(b)/3:]} {
			if _, err := k.ends[from].Write(part); err != nil {
				t.Fatal(err)
			}
		}
		k.ends[from].(*net.TCPConn).CloseWrite()
		k.ends[1-from].SetReadDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(k.ends[1-from])
		if err != nil {
			t.Fatalf("%q arrives as %q: %v", b, got, err)
		}
		return got
	}
	return carry, func() { l.Close() }
}
