package caret

import (
	"strings"
	"testing"
)

func TestShow(t *testing.T) {
	for _, x := range []struct {
		text string
		at   int
		want string
	}{
		{"one two", 4, "  one two\n      ^\n"},
		{"one\ntwo\nthree", 5, "  two\n   ^\n"},
		{"a\x1b[31mb", 6, "  a\\x1b[31mb\n           ^\n"},
		{"ä€x", 5, "  ä€x\n    ^\n"},
		{"x", 99, "  x\n   ^\n"},
	} {
		if got := Show(x.text, x.at); got != x.want {
			t.Errorf("%q at %d:\n%swant\n%s", x.text, x.at, got, x.want)
		}
	}
}

// TestLong: of a long text only what is around the place is shown, and no character is cut.
func TestLong(t *testing.T) {
	for _, char := range []string{"x", "€", "\xff"} {
		text := strings.Repeat(char, 5000) + "!" + strings.Repeat(char, 5000)
		at := len(char) * 5000
		shown := Show(text, at)
		line, mark, _ := strings.Cut(shown, "\n")
		place := []rune(mark)
		if runes := []rune(line); len(shown) > 2000 || len(runes) < 60 || runes[len(place)-2] != '!' || strings.ContainsRune(line, '\ufffd') {
			t.Errorf("of 10,000 × %q:\n%s", char, shown)
		}
		if e := (&Error{Text: text, At: at, Message: "wrong"}).Error(); len(e) > 2000 || !strings.HasSuffix(e, `": wrong`) {
			t.Errorf("of 10,000 × %q: %d bytes\n%.500s", char, len(e), e)
		}
	}
}
