package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestLongMessages: messages over TCP under NAT, the first of their connections and longer than what a sender may have
// under way without an acknowledgement. None waits for its end in vain: what has a session description leaves as it is when
// the sender's clock runs out, what has none is rewritten and not held. The connection goes on as others.
func TestLongMessages(t *testing.T) {
	t.Parallel()
	s := newExchange(t, masquerade)
	client, server := &party{t, s.client, ipv4.client()}, &party{t, s.server, ipv4.server()}
	l := server.listen(5060)
	inside := []byte(ipv4.client().String())
	port, daemon := callerMedia, false
	carry := func(kind string, n int) (changed bool) {
		t.Helper()
		port += 4
		k, err := client.connect(netip.AddrPortFrom(s.host(ipv4), 5060), l)
		if err != nil {
			t.Fatal(err)
		}
		defer k.close()
		long, short := ownInvite(kind, port, n), ownInvite("application/sdp", port+2, 0)
		first, second := k.message(long), k.message(short)
		if withoutNumbers(first) != withoutNumbers(long) || withoutNumbers(second) != withoutNumbers(short) {
			t.Errorf("%s of %d bytes\n%q\nand\n%q\narrive as\n%q\nand\n%q", kind, n, long, short, first, second)
		}
		if rewritten := !bytes.Contains(second, inside); rewritten != daemon {
			t.Errorf("behind %s of %d bytes: rewritten %v, want %v", kind, n, rewritten, daemon)
		}
		return !bytes.Equal(first, long)
	}
	lengths := []int{0, 8000, 12000, 20000, 32000, 100000}
	for _, n := range lengths {
		if carry("application/sdp", n) {
			t.Errorf("%d bytes are rewritten without the daemon", n)
		}
	}
	for _, kind := range []string{"text/plain", "application/sdp"} {
		d := s.daemon()
		daemon = true
		for _, n := range lengths {
			// A body that is longer than max-body passes unread, and its head is rewritten.
			want := kind != "application/sdp" || n <= 8000 || n > 32768
			if got := carry(kind, n); got != want {
				t.Errorf("%s of %d bytes: rewritten %v, want %v", kind, n, got, want)
			}
			d.says(fmt.Sprintf("to=%v:%d ", ipv4.client(), port+2), 1)
		}
		d.stop()
		if none := strings.Contains(d.out.String(), " held-out=0 "); none != (kind == "text/plain") {
			t.Errorf("%s: no packet was held in vain: %v", kind, none)
		}
	}
}

// message sends one of SIP, and gives it as it arrives.
func (k *link) message(text []byte) []byte {
	k.t.Helper()
	go k.ends[0].Write(text)
	k.ends[1].SetReadDeadline(time.Now().Add(patience))
	buffer := make([]byte, 4096)
	for got := []byte(nil); ; {
		head, body, whole := bytes.Cut(got, []byte("\r\n\r\n"))
		if _, length, _ := bytes.Cut(head, []byte("Content-Length: ")); whole && string(length) == fmt.Sprint(len(body)) {
			return got
		}
		n, err := k.ends[1].Read(buffer)
		if got = append(got, buffer[:n]...); err != nil {
			k.t.Fatalf("%d bytes arrive as %d: %v", len(text), len(got), err)
		}
	}
}

// ownInvite is a call of the client whose body has about n bytes, or few more than it needs.
func ownInvite(kind string, port, n int) []byte {
	own := ipv4.client()
	body := fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %v\r\ns=-\r\nc=IN IP4 %v\r\nt=0 0\r\nm=audio %d RTP/AVP 0\r\n", own, own, port)
	line := "a=fmtp:96 x=" + strings.Repeat("y", 50) + "\r\n"
	body += strings.Repeat(line, max(0, n-len(body))/len(line))
	return fmt.Appendf(nil, "INVITE sip:b@b.example SIP/2.0\r\nVia: SIP/2.0/TCP %v;branch=z9hG4bK%d\r\nFrom: <sip:a@a.example>;tag=1\r\n"+
		"To: <sip:b@b.example>\r\nCall-ID: %d\r\nCSeq: 1 INVITE\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
		own, port, port, kind, len(body), body)
}
