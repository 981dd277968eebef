package sip

import (
	"crypto/sha256"
	octets "encoding/hex"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/sip/siptest"
)

// corpus reads testdata/<name>.msg.
func corpus(t testing.TB, name string) []siptest.Message {
	t.Helper()
	return siptest.Corpus(t, "testdata/"+name+".msg")
}

// The corpora are as they were typed in: not an octet was changed by an editor.
func TestCorpora(t *testing.T) {
	for _, tt := range []struct {
		name     string
		messages int
		sum      string // of all octets
	}{
		{"rfc3665", 193, "0a3a066035e1e008"}, {"rfc4475", 49, "b24878056b0a361e"}, {"rfc5118", 12, "7fc72c75ea962f45"},
	} {
		list, hash := corpus(t, tt.name), sha256.New()
		for _, m := range list {
			hash.Write(m.Data)
		}
		if sum := octets.EncodeToString(hash.Sum(nil)[:8]); len(list) != tt.messages || sum != tt.sum {
			t.Errorf("%s: %d messages with sum %s, want %d with %s", tt.name, len(list), sum, tt.messages, tt.sum)
		}
	}
}
