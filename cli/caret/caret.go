// Package caret has errors that point at the place in a text.
package caret

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Error says what is wrong with a text, and where.
type Error struct {
	Text    string
	At      int // in bytes
	Message string
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Message
	}
	text, _ := around(e.Text, min(max(e.At, 0), len(e.Text)))
	return fmt.Sprintf("%s: %s", strconv.QuoteToGraphic(text), e.Message)
}

// What is shown of a long text before and behind the place, in bytes.
const (
	before = 160
	behind = 80
)

// around is the part of a text around a place, and the place in it.
func around(text string, at int) (string, int) {
	head, tail := text[:at], text[at:]
	if len(head) > before+behind {
		cut := len(head) - before
		for cut < len(head) && !utf8.RuneStart(head[cut]) {
			cut++
		}
		head = "…" + head[cut:]
	}
	if len(tail) > before+behind {
		cut := behind
		for cut > 0 && !utf8.RuneStart(tail[cut]) {
			cut--
		}
		tail = tail[:cut] + "…"
	}
	return head + tail, len(head)
}

// Show is the text's line with a mark under the place, both indented; of a long line what is around the place. Nothing in it
// acts on a terminal.
func Show(text string, at int) string {
	at = min(max(at, 0), len(text))
	begin := strings.LastIndexByte(text[:at], '\n') + 1
	line, _, _ := strings.Cut(text[begin:], "\n")
	line, at = around(line, at-begin)
	mark := strings.Repeat(" ", utf8.RuneCountInString(Plain(line[:at]))) + "^"
	return "  " + Plain(line) + "\n  " + mark + "\n"
}

// Plain is a text without what acts on a terminal: such characters are written as Go does in quotes.
func Plain(text string) string {
	for i, r := range text {
		if !strconv.IsGraphic(r) || r == utf8.RuneError {
			return text[:i] + escape(text[i:])
		}
	}
	return text
}

func escape(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case strconv.IsGraphic(r):
			b.WriteString(text[:n])
		default:
			quoted := strconv.QuoteToGraphic(text[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[n:]
	}
	return b.String()
}
