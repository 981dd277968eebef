package e2e

import (
	"fmt"
	"testing"
)

// speaks says whether a family has the mode: RFC 959's PORT and PASV have room for an IPv4 address only.
func speaks(f family, m mode) bool { return f == ipv4 || m == modeEPRT || m == modeEPSV }

// TestWithoutDaemon is the negative control: the rules alone let no data connection through, whatever the mode, family
// and kind of NAT, and it is they that refuse it.
func TestWithoutDaemon(t *testing.T) {
	t.Parallel()
	for _, n := range nats {
		t.Run(string(n), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, n)
			// Behind a masquerade a strict server would refuse the client's own address before any packet is sent.
			s.serve(serverKind{"vsftpd", vsftpd}, 21, true)
			for _, f := range families {
				for _, m := range modes {
					if !speaks(f, m) {
						continue
					}
					t.Run(fmt.Sprintf("%s/%s", f, m), func(t *testing.T) {
						before := s.counter("rejected")
						err := s.transfer(clientFor(m), f, m, 21)
						if err == nil {
							t.Error("the transfer works: the rules let too much pass")
						}
						if s.counter("rejected") == before {
							t.Error("it failed, but not because the rules refused something:", err)
						}
						if n := s.counter("related"); n != 0 {
							t.Errorf("%d packets were related to something", n)
						}
					})
				}
			}
		})
	}
}

// clientFor is a client that has the mode and does not try another.
func clientFor(m mode) clientKind {
	if m == modeEPRT {
		return clientKind{"curl", curl}
	}
	return clientKind{"lftp", lftp}
}
