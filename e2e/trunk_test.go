package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
)

// TestTrunk: hundreds of calls at once over one flow, which end in random order. Each plays just before its end, when many
// others have ended: all packets of all calls arrive, so an end takes down nothing of the others. In the end nothing is open.
func TestTrunk(t *testing.T) {
	const calls, rate, control = 200, 100, 10
	for _, row := range []struct {
		nat       nat
		transport helpers.Transport
		pairwise  bool // too
	}{
		{routed, helpers.UDP, false}, {masquerade, helpers.UDP, true}, {dnat, helpers.UDP, false},
		{routed, helpers.TCP, true}, {masquerade, helpers.TCP, false}, {dnat, helpers.TCP, true},
	} {
		if *onlyPairs && !row.pairwise {
			continue
		}
		t.Run(fmt.Sprintf("%s/%s", row.nat, row.transport), func(t *testing.T) {
			t.Parallel()
			s := newSiteWith(t, row.nat, sipControl, nil)
			countMedia(s.client)
			countMedia(s.server)
			s.server.Run("nft", "add", "rule", "inet", "media", "input", "udp", "dport", "20000-39999", "drop") // nobody listens
			all := calls * time.Second / time.Duration(rate)
			wait := fmt.Sprintf("<pause distribution=\"uniform\" min=\"%d\" max=\"%d\"/>\n", (all + time.Second).Milliseconds(),
				(all + 3*time.Second).Milliseconds())
			caller := s.scenario("caller", request("INVITE", 1, description(1, auto)), await(200), request("ACK", 1, nothing), wait,
				play, pause(played+300*time.Millisecond), request("BYE", 2, nothing), await(200))
			called := s.scenario("called", awaitRequest("INVITE"), response("183 Session Progress", description(1, auto)),
				response("200 OK", description(1, auto)), awaitRequest("ACK"), awaitRequest("BYE"), response("200 OK", nothing))
			s.answer(s.server, s.serverAddr(ipv4), row.transport, called)
			call := func(n int) error {
				return s.call(s.client, ipv4.client(), s.host(ipv4), row.transport, caller, "-m", fmt.Sprint(n),
					"-r", fmt.Sprint(rate), "-l", fmt.Sprint(n))
			}
			if err := call(control); err != nil {
				t.Fatal(err)
			}
			if packets, _ := heard(t, s.server); packets > 0 || s.counter("rejected") < control*playedPackets {
				t.Fatalf("without the daemon %d packets of media passed, %d were refused", packets, s.counter("rejected"))
			}
			d := s.daemon()
			done := make(chan error, 1)
			go func() { done <- call(calls) }()
			most := 0
			for ended := false; !ended; {
				select {
				case err := <-done:
					if ended = true; err != nil {
						t.Error(err)
					}
				case <-time.After(100 * time.Millisecond):
					most = max(most, s.expectations())
				}
			}
			if packets, ports := heard(t, s.server); packets != calls*playedPackets || ports != calls {
				t.Errorf("%d packets of media came to %d ports, want %d to %d", packets, ports, calls*playedPackets, calls)
			}
			if most < 3*calls { // RTP and RTCP of both sides are four
				t.Errorf("at most %d expectations were there: the calls were not there at once", most)
			}
			until(t, "nothing is open any more", func() bool { return s.expectations() == 0 })
			d.stop()
		})
	}
}

// auto is a media line with a port for each call.
const auto = "m=audio [auto_media_port] RTP/AVP 0\na=rtpmap:0 PCMU/8000\n"
