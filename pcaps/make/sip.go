package main

import (
	"fmt"
	"strings"
)

// sipMessage is one of a call from a to b with audio at media, muxed with its RTCP; empty: it describes nothing.
func sipMessage(start, id, cseq, toTag, branch, media string) string {
	sdp := ""
	if host, port, ok := strings.Cut(media, ":"); ok {
		sdp = strings.Join([]string{"v=0", "o=- 1 1 IN IP4 " + host, "s=-", "c=IN IP4 " + host, "t=0 0",
			"m=audio " + port + " RTP/AVP 0", "a=rtcp-mux-only", ""}, "\r\n")
	}
	return fmt.Sprintf("%s\r\nVia: SIP/2.0/UDP a.example;branch=z9hG4bK%s\r\nFrom: <sip:a@a.example>;tag=a\r\n"+
		"To: <sip:b@b.example>%s\r\nCall-ID: %s\r\nCSeq: %s\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s",
		start, branch, toTag, id, cseq, len(sdp), sdp)
}

// sipCaptures show end points that several calls announce.
func sipCaptures() map[string]func(*wire) {
	const phone, proxy, sip = alice, "198.51.100.9", ":5060"
	return map[string]func(*wire){
		"sip-shared": func(w *wire) { // two calls to one end point, and from one: the newer one ends first
			music, ear := proxy+":30000", phone+":4000"
			for _, id := range []string{"one", "two"} {
				w.udp(phone+sip, proxy+sip, sipMessage("INVITE sip:b@b.example SIP/2.0", id, "1 INVITE", "", id, ear))
				w.udp(proxy+sip, phone+sip, sipMessage("SIP/2.0 200 OK", id, "1 INVITE", ";tag=b", id, music))
			}
			w.udp(phone+sip, proxy+sip, sipMessage("BYE sip:b@b.example SIP/2.0", "two", "2 BYE", ";tag=b", "bye", ""))
			w.udp(proxy+":30000", ear, strings.Repeat("\x80", 172))
			w.udp(phone+sip, proxy+sip, sipMessage("BYE sip:b@b.example SIP/2.0", "one", "2 BYE", ";tag=b", "bye", ""))
		},
		"sip-forked": func(w *wire) { // a proxy calls three phones with the caller's media; the second answers
			const media = proxy + ":30000"
			phones := []string{phone, bob, "192.0.2.4"}
			for i, to := range phones {
				w.udp(proxy+sip, to+sip, sipMessage("INVITE sip:b@b.example SIP/2.0", "fork", "1 INVITE", "", fmt.Sprint(i), media))
			}
			w.udp(phones[1]+sip, proxy+sip, sipMessage("SIP/2.0 200 OK", "fork", "1 INVITE", ";tag=b", "1", phones[1]+":4000"))
			for _, i := range []int{0, 2} {
				w.udp(proxy+sip, phones[i]+sip, sipMessage("CANCEL sip:b@b.example SIP/2.0", "fork", "1 CANCEL", "", fmt.Sprint(i), ""))
				w.udp(phones[i]+sip, proxy+sip, sipMessage("SIP/2.0 487 Request Terminated", "fork", "1 INVITE", ";tag=c", fmt.Sprint(i), ""))
			}
			w.udp(phones[1]+":4000", media, strings.Repeat("\x80", 172))
		},
	}
}
