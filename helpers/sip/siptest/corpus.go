// Package siptest reads the messages of RFCs that testdata has. It is imported by tests only.
package siptest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Message is one of an RFC.
type Message struct {
	Section, Name, Title string
	Data                 []byte
}

// Corpus reads a file of messages, which says how it is written.
func Corpus(t testing.TB, path string) []Message {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list, err := decode(string(text))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return list
}

func decode(text string) (list []Message, err error) {
	long := false
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		title, ok := strings.CutPrefix(line, "-- ")
		if ok && strings.HasSuffix(title, " --") {
			section, rest, _ := strings.Cut(strings.TrimSuffix(title, " --"), " ")
			name, rest, _ := strings.Cut(rest, " ")
			list = append(list, Message{Section: section, Name: name, Title: rest})
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
			m.Data = append(m.Data, b...)
		}
		if !long {
			m.Data = append(m.Data, "\r\n"...)
		}
	}
	return list, nil
}

// unmark replaces the marks in a line by what they stand for.
func unmark(line string) (b []byte, err error) {
	for {
		text, rest, ok := strings.Cut(line, "<hex>")
		if digits, after, closed := strings.Cut(rest, "</hex>"); ok && closed {
			raw, err := hex.DecodeString(digits)
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
