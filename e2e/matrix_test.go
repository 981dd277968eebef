package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// transfersPerJob is how many data connections a job has.
const transfersPerJob = 3

// impossible are the combinations that a program cannot do, and why. TestImpossible shows that each is so, TestTransfers
// that all others work.
var impossible = []struct {
	client string // empty: any
	family family
	mode   mode
	reason string
}{
	{"", ipv6, modePORT, "RFC 959: the argument has room for an IPv4 address only (RFC 2428 section 1)"},
	{"", ipv6, modePASV, "RFC 959: the reply has room for an IPv4 address only (RFC 2428 section 1)"},
	{"lftp", ipv4, modeEPRT, "lftp says EPRT to IPv6 servers only, and has no setting for it"},
}

func cannot(c clientKind, f family, m mode) bool {
	for _, i := range impossible {
		if (i.client == "" || i.client == c.name) && i.family == f && i.mode == m {
			return true
		}
	}
	return false
}

// announced counts the announcements in a daemon's log that were made in the mode.
func announced(d *process, m mode) int {
	n := 0
	for line := range strings.Lines(d.out.String()) {
		if strings.Contains(line, "msg=expect ") && strings.Contains(line, "note="+string(m)) {
			n++
		}
	}
	return n
}

// TestTransfers is the matrix: each server, client, mode, family and kind of NAT; storing, fetching and listing.
func TestTransfers(t *testing.T) {
	t.Parallel()
	jobs := toRun()
	for _, n := range nats {
		for _, k := range serverKinds {
			t.Run(fmt.Sprintf("%s/%s", n, k.name), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, n)
				s.serve(k, 21, false)
				d := s.daemon()
				for _, j := range jobs {
					if j.nat == n && j.server.name == k.name {
						t.Run(fmt.Sprintf("%s/%s/%s", j.client.name, j.family, j.mode), func(t *testing.T) {
							s.works(t, d, j.client, j.family, j.mode, 21)
						})
					}
				}
				if n := s.counter("rejected"); n != 0 {
					t.Errorf("the rules refused %d packets", n)
				}
				d.stop()
			})
		}
	}
}

// works checks that a job succeeds, that its connections were announced in the mode asked for, and were related.
func (s *site) works(t *testing.T, d *process, c clientKind, f family, m mode, port uint16) {
	t.Helper()
	told, related := announced(d, m), s.counter("related")
	if err := s.transfer(c, f, m, port); err != nil {
		t.Fatal(err)
	}
	if n := s.counter("related") - related; n < transfersPerJob {
		t.Errorf("%d packets of related connections, want %d at least", n, transfersPerJob)
	}
	d.until(fmt.Sprintf("logged %d announcements by %s", transfersPerJob, m), func() bool { return announced(d, m)-told >= transfersPerJob })
	if n := announced(d, m) - told; n != transfersPerJob {
		t.Errorf("%d announcements by %s, want %d", n, m, transfersPerJob)
	}
}

// TestImpossible checks what the table says: the client, told to use the mode, does not.
func TestImpossible(t *testing.T) {
	t.Parallel()
	s := newSite(t, routed)
	s.serve(serverKinds[0], 21, false)
	d := s.daemon()
	for _, i := range impossible {
		for _, c := range clientKinds {
			if i.client != "" && i.client != c.name {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s/%s", c.name, i.family, i.mode), func(t *testing.T) {
				t.Log(i.reason)
				before := announced(d, i.mode)
				err := s.transfer(c, i.family, i.mode, 21)
				if n := announced(d, i.mode) - before; n != 0 {
					t.Errorf("%d announcements by %s (transfer: %v): the table is wrong", n, i.mode, err)
				}
			})
		}
	}
}
