package e2e

import (
	"fmt"
	"testing"
)

// localRules let in and out what the firewall itself sends and gets: as strict as what is forwarded. Of what is related
// only first packets count: the resets that the rules send are related to what they refuse.
const localRules = `insert rule inet filter input tcp dport 21 accept
insert rule inet filter input ct state related tcp flags syn / syn,ack counter name related
add chain inet filter output { type filter hook output priority filter; policy drop; }
add rule inet filter output ct state related tcp flags syn / syn,ack counter name related
add rule inet filter output ct state established,related accept
add rule inet filter output tcp dport 21 accept
add rule inet filter output jump refuse
`

// TestLocal: client, server or both are the firewall itself. Without the daemon each transfer fails, with it each works.
func TestLocal(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		places func(*site)
	}{
		{"client", func(s *site) { s.client = s.firewall }},
		{"server", func(s *site) { s.server = s.firewall }},
		{"over lo", func(s *site) { s.client, s.server = s.firewall, s.firewall }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, routed)
			s.firewall.Run("nft", localRules)
			row.places(s)
			s.serve(serverKinds[0], 21, false)
			each := func(what string, check func(t *testing.T, f family, m mode)) {
				for _, f := range families {
					for _, m := range modes {
						if speaks(f, m) {
							t.Run(fmt.Sprintf("%s/%s/%s", what, f, m), func(t *testing.T) { check(t, f, m) })
						}
					}
				}
			}
			each("without", func(t *testing.T, f family, m mode) {
				before := s.counter("rejected")
				if err := s.transfer(clientFor(m), f, m, 21); err == nil || s.counter("rejected") == before {
					t.Errorf("transfer: %v, %d packets refused, want a failure that is the rules'", err, s.counter("rejected")-before)
				}
			})
			if n := s.counter("related"); n != 0 {
				t.Errorf("%d packets were related to something", n)
			}
			d := s.daemon()
			refused := s.counter("rejected")
			each("with", func(t *testing.T, f family, m mode) { s.works(t, d, clientKinds[0], f, m, 21) })
			if n := s.counter("rejected") - refused; n != 0 {
				t.Errorf("with the daemon the rules refused %d packets", n)
			}
			d.stop()
		})
	}
}
