package main

import (
	"net/netip"
	"strings"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
)

// v is a SEQUENCE or CHOICE of ASN.1.
type v = h323test.V

// Hosts of H.323: alice and bob are endpoints, keeper is a gatekeeper that routes calls.
const (
	keeper  = "198.51.100.9"
	ras     = ":1719"
	keeper6 = "2001:db8:2::9"
)

func at(host, port string) netip.AddrPort {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return netip.MustParseAddrPort(host + port)
}

// rasPair is RAS between an endpoint and its gatekeeper.
type rasPair struct {
	w                *wire
	endpoint, keeper netip.AddrPort
}

func (r rasPair) asks(kind string, values v) {
	r.w.udp(r.endpoint.String(), r.keeper.String(), string(h323test.RAS(v{kind: values})))
}

func (r rasPair) answers(kind string, values v) {
	r.w.udp(r.keeper.String(), r.endpoint.String(), string(h323test.RAS(v{kind: values})))
}

// register is a registration for a minute.
func (w *wire) register(endpoint, signalling, gatekeeper netip.AddrPort) rasPair {
	r := rasPair{w, endpoint, gatekeeper}
	r.asks("gatekeeperRequest", v{"requestSeqNum": 1, "rasAddress": endpoint})
	r.answers("gatekeeperConfirm", v{"requestSeqNum": 1, "rasAddress": gatekeeper})
	r.asks("registrationRequest", v{
		"requestSeqNum": 2, "callSignalAddress": []any{signalling}, "rasAddress": []any{endpoint}, "timeToLive": 60,
	})
	r.answers("registrationConfirm", v{
		"requestSeqNum": 2, "callSignalAddress": []any{netip.AddrPortFrom(gatekeeper.Addr(), 1720)}, "timeToLive": 60,
	})
	return r
}

// signal is a frame of call signalling.
func signal(side int, kind byte, body string, values, pdu v) string {
	if pdu == nil {
		pdu = v{}
	}
	pdu["h323-message-body"] = v{body: values}
	if values == nil {
		pdu["h323-message-body"] = v{body: nil}
	}
	return string(h323test.TPKT(h323test.Signalling(kind, 7, side == server, v{"h323-uu-pdu": pdu})))
}

func frame(messages ...v) string { return string(h323test.TPKT(h323test.Control(messages...))) }

// stream are the parameters of a channel's media.
func stream(session int, rtp, rtcp netip.AddrPort) v {
	s := v{"sessionID": session, "mediaControlChannel": v{"unicastAddress": rtcp}}
	if rtp.IsValid() {
		s["mediaChannel"] = v{"unicastAddress": rtp}
	}
	return s
}

func openChannel(number, session int, rtcp netip.AddrPort) v {
	return v{"request": v{"openLogicalChannel": v{
		"forwardLogicalChannelNumber":     number,
		"forwardLogicalChannelParameters": v{"multiplexParameters": v{"h2250LogicalChannelParameters": stream(session, netip.AddrPort{}, rtcp)}},
	}}}
}

func acceptChannel(number, session int, rtp, rtcp netip.AddrPort) v {
	return v{"response": v{"openLogicalChannelAck": v{
		"forwardLogicalChannelNumber":   number,
		"forwardMultiplexAckParameters": v{"h2250LogicalChannelAckParameters": stream(session, rtp, rtcp)},
	}}}
}

func closeChannel(number int) v {
	return v{"request": v{"closeLogicalChannel": v{"forwardLogicalChannelNumber": number}}}
}

var endSession = v{"command": v{"endSessionCommand": v{"disconnect": nil}}}

// proposal is an element of fastStart: towards the called side, or from it.
func proposal(number, session int, toCalled bool, rtp, rtcp netip.AddrPort) []byte {
	p := v{"multiplexParameters": v{"h2250LogicalChannelParameters": stream(session, rtp, rtcp)}}
	if toCalled {
		return h323test.OLC(v{"forwardLogicalChannelNumber": number, "forwardLogicalChannelParameters": p})
	}
	return h323test.OLC(v{
		"forwardLogicalChannelNumber":     number,
		"forwardLogicalChannelParameters": v{"dataType": v{"nullData": nil}},
		"reverseLogicalChannelParameters": p,
	})
}

// Message types of Q.931.
const (
	alerting   = 0x01
	proceeding = 0x02
	setup      = 0x05
	connect    = 0x07
	released   = 0x5a
	facility   = 0x62
)

// rtp sends a packet of media each way, and of RTCP.
func (w *wire) rtp(a, b netip.AddrPort) {
	const packet = "\x80\x00\x00\x01\x00\x00\x00\xa0\x00\x00\x00\x01" // RFC 3550, section 5.1
	w.udp(a.String(), b.String(), packet+strings.Repeat("\xd5", 20))
	next := func(x netip.AddrPort) string { return netip.AddrPortFrom(x.Addr(), x.Port()+1).String() }
	w.udp(next(a), next(b), "\x80\xc9\x00\x01\x00\x00\x00\x01")
}

// channels opens one channel each way by H.245, sends media, and closes them.
func (w *wire) channels(a, b string, say func(side int, messages ...v)) {
	say(client, openChannel(1, 1, at(a, ":4001")))
	say(server, acceptChannel(1, 1, at(b, ":6000"), at(b, ":6001")), openChannel(1, 1, at(b, ":6001")))
	say(client, acceptChannel(1, 1, at(a, ":4000"), at(a, ":4001")))
	w.rtp(at(a, ":4000"), at(b, ":6000"))
	say(client, closeChannel(1))
	say(server, closeChannel(1))
	say(client, endSession)
	say(server, endSession)
}

// fastCall is a call of which everything is in fastStart: two sessions proposed, one accepted.
func (w *wire) fastCall(a, b string) {
	c := w.open(at(a, ":50000").String(), at(b, ":1720").String())
	var none netip.AddrPort
	c.says(client, signal(client, setup, "setup", v{
		"sourceCallSignalAddress": at(a, ":50000"), "destCallSignalAddress": at(b, ":1720"),
		"fastStart": []any{
			proposal(10, 1, true, none, at(a, ":4001")), proposal(20, 1, false, at(a, ":4000"), at(a, ":4001")),
			proposal(11, 2, true, none, at(a, ":4003")), proposal(21, 2, false, at(a, ":4002"), at(a, ":4003")),
		}}, nil))
	c.says(server, signal(server, alerting, "alerting", v{}, nil))
	c.says(server, signal(server, connect, "connect", v{"fastStart": []any{
		proposal(10, 1, true, at(b, ":6000"), at(b, ":6001")), proposal(20, 1, false, none, at(b, ":6001")),
	}}, nil))
	w.rtp(at(a, ":4000"), at(b, ":6000"))
	c.says(client, signal(client, released, "releaseComplete", v{}, nil))
	c.close()
}

// h323Captures are those of H.323.
func h323Captures() map[string]func(*wire) {
	return map[string]func(*wire){
		"h323-slow": func(w *wire) { // registered, admitted, H.245 on a connection of its own
			r := w.register(at(alice, ":50000"), at(alice, ":1720"), at(keeper, ras))
			r.asks("admissionRequest", v{"requestSeqNum": 3, "callReferenceValue": 7, "srcCallSignalAddress": at(alice, ":1720")})
			r.answers("admissionConfirm", v{"requestSeqNum": 3, "destCallSignalAddress": at(keeper, ":1730")})
			c := w.open(alice+":50001", keeper+":1730")
			c.says(client, signal(client, setup, "setup", v{"sourceCallSignalAddress": at(alice, ":1720")}, nil))
			c.says(server, signal(server, proceeding, "callProceeding", v{}, nil))
			c.says(server, signal(server, connect, "connect", v{"h245Address": at(keeper, ":5000")}, nil))
			h := w.open(alice+":50002", keeper+":5000")
			w.channels(alice, keeper, func(side int, messages ...v) { h.says(side, frame(messages...)) })
			h.close()
			c.says(client, signal(client, released, "releaseComplete", v{}, nil))
			c.close()
			r.asks("disengageRequest", v{"requestSeqNum": 4, "callReferenceValue": 7})
			r.answers("disengageConfirm", v{"requestSeqNum": 4})
			r.asks("unregistrationRequest", v{"requestSeqNum": 5, "callSignalAddress": []any{at(alice, ":1720")}})
			r.answers("unregistrationConfirm", v{"requestSeqNum": 5})
		},
		"h323-called": func(w *wire) { // the gatekeeper calls a registered endpoint, which then vanishes
			w.register(at(alice, ":50000"), at(alice, ":1820"), at(keeper, ras))
			c := w.open(keeper+":40000", alice+":1820")
			c.says(client, signal(client, setup, "setup", v{"h245Address": at(keeper, ":5000")}, nil))
			h := w.open(alice+":50002", keeper+":5000")
			w.channels(alice, keeper, func(side int, messages ...v) { h.says(side, frame(messages...)) })
			c.says(server, signal(server, released, "releaseComplete", v{}, nil))
			c.close()
		},
		"h323-fast":  func(w *wire) { w.fastCall(alice, keeper) },
		"h323-fast6": func(w *wire) { w.fastCall(alice6, keeper6) },
		"h323-tunnelled": func(w *wire) { // headers apart from what they announce, several frames in a segment
			c := w.open(alice+":50000", keeper+":1720")
			tunnel := func(side int, kind byte, body string, values v, messages ...v) string {
				pdu := v{"h245Tunnelling": true}
				if len(messages) > 0 {
					pdu["h245Control"] = []any{h323test.Control(messages...)}
				}
				return signal(side, kind, body, values, pdu)
			}
			s := tunnel(client, setup, "setup", v{"parallelH245Control": []any{h323test.Control(openChannel(1, 1, at(alice, ":4001")))}})
			c.says(client, s[:4])
			c.says(client, s[4:])
			c.says(server, tunnel(server, proceeding, "callProceeding", v{})+tunnel(server, connect, "connect", v{},
				acceptChannel(1, 1, at(keeper, ":6000"), at(keeper, ":6001"))))
			c.says(server, tunnel(server, facility, "empty", nil, openChannel(1, 1, at(keeper, ":6001"))))
			c.says(client, tunnel(client, facility, "empty", nil, acceptChannel(1, 1, at(alice, ":4000"), at(alice, ":4001"))))
			w.rtp(at(alice, ":4000"), at(keeper, ":6000"))
			c.says(client, tunnel(client, facility, "empty", nil, endSession)+tunnel(client, released, "releaseComplete", v{}))
			c.close()
		},
		"h323-neighbours": func(w *wire) { // both endpoints stand behind the address that the gatekeeper knows; see the .args
			a := w.register(at(alice, ":50000"), at(alice, ":1720"), at(keeper, ras))
			w.register(at(bob, ":50000"), at(bob, ":1720"), at(keeper, ras))
			a.asks("admissionRequest", v{"requestSeqNum": 3, "callReferenceValue": 7})
			a.answers("admissionConfirm", v{"requestSeqNum": 3, "destCallSignalAddress": at("203.0.113.1", ":1721")})
			w.fastCall(alice, bob)
		},
		"h323-forward": func(w *wire) { // the called side sends the caller to another host
			c := w.open(alice+":50000", keeper+":1720")
			c.says(client, signal(client, setup, "setup", v{}, nil))
			c.says(server, signal(server, facility, "facility",
				v{"alternativeAddress": at("198.51.100.10", ":1720"), "reason": v{"callForwarded": nil}}, nil))
			c.close()
			w.fastCall(alice, "198.51.100.10")
		},
		"h323-slipstream": func(w *wire) { // a web page has the browser send what looks like a call, and a registration
			c := w.open(alice+":50000", keeper+":1720")
			call := signal(client, setup, "setup", v{"h245Address": at(alice, ":4444")}, nil)
			c.says(client, "POST / HTTP/1.1\r\nHost: "+keeper+":1720\r\n\r\n"+call)
			c.says(client, call)
			w.udp(alice+":50000", keeper+ras, "\x01\x01\x00\x08\x21\x12\xa4\x42slipstreamed")
			w.udp(alice+":50000", keeper+ras, string(h323test.RAS(v{"registrationRequest": v{
				"requestSeqNum": 1, "callSignalAddress": []any{at(alice, ":4445")}, "rasAddress": []any{at(alice, ":50000")}}})))
			w.udp(keeper+ras, alice+":50000", string(h323test.RAS(v{"registrationConfirm": v{"requestSeqNum": 1, "callSignalAddress": []any{}}})))
		},
	}
}
