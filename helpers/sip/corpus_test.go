package sip

import (
	"bytes"
	"crypto/sha256"
	octets "encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// named is a message of an RFC.
type named struct {
	section, name, title string
	data                 []byte
}

// corpus reads testdata/<name>.msg. The file says how it is written.
func corpus(t testing.TB, name string) []named {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name + ".msg")
	if err != nil {
		t.Fatal(err)
	}
	list, err := decode(string(text))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return list
}

func decode(text string) (list []named, err error) {
	long := false
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		title, ok := strings.CutPrefix(line, "-- ")
		if ok && strings.HasSuffix(title, " --") {
			section, rest, _ := strings.Cut(strings.TrimSuffix(title, " --"), " ")
			name, rest, _ := strings.Cut(rest, " ")
			list = append(list, named{section: section, name: name, title: rest})
			continue
		}
		if len(list) == 0 { // the file's own comment
			continue
		}
		m := &list[len(list)-1]
		switch line {
		case "<allOneLine>":
			long = true
			continue
		case "</allOneLine>":
			long = false
		default:
			b, err := unmark(line)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
			m.data = append(m.data, b...)
		}
		if !long {
			m.data = append(m.data, "\r\n"...)
		}
	}
	return list, nil
}

// unmark replaces the marks in a line by what they stand for.
func unmark(line string) (b []byte, err error) {
	for {
		text, rest, ok := strings.Cut(line, "<hex>")
		if digits, after, closed := strings.Cut(rest, "</hex>"); ok && closed {
			raw, err := octets.DecodeString(digits)
			if err != nil {
				return nil, err
			}
			b, line = append(append(b, repeated(text)...), raw...), after
			continue
		}
		return append(b, repeated(line)...), nil
	}
}

func repeated(text string) []byte {
	var b []byte
	for {
		before, rest, ok := strings.Cut(text, "<repeat count=")
		count, rest, _ := strings.Cut(rest, ">")
		unit, after, closed := strings.Cut(rest, "</repeat>")
		n, err := strconv.Atoi(count)
		if !ok || !closed || err != nil {
			return append(b, text...)
		}
		b, text = append(append(b, before...), bytes.Repeat([]byte(unit), n)...), after
	}
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
			hash.Write(m.data)
		}
		if sum := octets.EncodeToString(hash.Sum(nil)[:8]); len(list) != tt.messages || sum != tt.sum {
			t.Errorf("%s: %d messages with sum %s, want %d with %s", tt.name, len(list), sum, tt.messages, tt.sum)
		}
	}
}
