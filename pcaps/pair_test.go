package pcaps_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/h323"
	"github.com/cthelperd/cthelperd/pcaps"
)

// TestPairs compares what firewalls with NAT have made of calls of H.323 with what cthelper makes of them, in the pairs of
// captures here and in those of a folder that the environment names.
func TestPairs(t *testing.T) {
	dirs := []string{"."}
	if dir := os.Getenv(pcaps.Variable); dir != "" {
		dirs = append(dirs, dir)
	}
	for _, dir := range dirs {
		for _, inside := range pcaps.Pairs(t, dir) {
			t.Run(filepath.ToSlash(inside), func(t *testing.T) {
				left := left(t, inside)
				c := pcaps.Compare(t, inside, pcaps.Other(inside), nil, h323.Protocol())
				for _, d := range c.Wrong {
					if reason, known := left[d.Field]; known && d.OnlyWe {
						t.Logf("%s: %s", d.Text, reason)
					} else {
						t.Error(d.Text)
					}
				}
				t.Logf("%d messages, %d places that both have changed", c.Messages, c.Places)
				if c.Places == 0 {
					t.Error("no place")
				}
			})
		}
	}
}

// left are the fields that a firewall is known to leave as they are, with the reasons: NAME.inside.pcap.left.
func left(t *testing.T, inside string) map[string]string {
	t.Helper()
	all := map[string]string{}
	text, err := os.ReadFile(inside + ".left")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		field, reason, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok {
			t.Fatalf("%s.left: %q is not FIELD: REASON", inside, line)
		}
		all[field] = reason
	}
	return all
}

// TestComparison changes what a firewall has made of a call: each thing that we would not do is told.
func TestComparison(t *testing.T) {
	const inside, outside = "recorded/h323-fast.inside.pcap", "recorded/h323-fast.outside.pcap"
	const (
		own    = "\x0a\x01\x00\x02"     // inside
		seen   = "\xc0\xa8\xc8\x65"     // outside
		other  = "\xc0\xa8\xc8\x66"     // of somebody else
		port   = "\x4e\x22"             // 20002, RTP of the endpoint
		chosen = "\x9c\x42"             // 40002
		tpkt   = "\x08\x02\x00\x07\x05" // Setup, call reference 7
	)
	for _, tt := range []struct {
		name     string
		old, new string
		n        int // how often
		onlyWe   bool
		want     string // in the difference; empty: none
	}{
		{"as it was", "", "", 0, false, ""},
		{"a place is left", seen + port, own + port, 1, true, "only we change 10.1.0.2:20002 to 192.168.200.101:20002"},
		{"another host", seen + port, other + port, 1, false, "the firewall changes 10.1.0.2:20002 to 192.168.200.102:20002, we to"},
		{"what is no address", tpkt, "\x08\x02\x00\x08\x05", 1, false, "only the firewall changes 07 to 08"},
		{"another port", seen + port, seen + chosen, -1, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := os.ReadFile(outside)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(b, []byte(tt.old)) {
				t.Fatalf("no %x in the capture", tt.old)
			}
			file := filepath.Join(t.TempDir(), "changed.pcap")
			if err := os.WriteFile(file, bytes.Replace(b, []byte(tt.old), []byte(tt.new), tt.n), 0o600); err != nil {
				t.Fatal(err)
			}
			c := pcaps.Compare(t, inside, file, nil, h323.Protocol())
			switch {
			case tt.want == "" && len(c.Wrong) > 0:
				t.Errorf("%v", c.Wrong)
			case tt.want != "" && (len(c.Wrong) != 1 || !strings.Contains(c.Wrong[0].Text, tt.want) || c.Wrong[0].OnlyWe != tt.onlyWe):
				t.Errorf("%v, want only: %s", c.Wrong, tt.want)
			}
		})
	}
}
