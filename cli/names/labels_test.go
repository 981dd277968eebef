package names

import (
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/flows"
)

// TestLabels: a line that is not understood takes no other line with it.
func TestLabels(t *testing.T) {
	l, err := ReadLabels(strings.NewReader("1 one # first\n5\tfive\r\nx y\n200 big\n7\n0x10 two words \n9 five\n5 again\n"))
	if err != nil {
		t.Fatal(err)
	}
	var set flows.Labels
	for _, n := range []int{1, 5, 7, 9, 16} {
		set.Set(n)
	}
	if got := strings.Join(l.Names(&set), "|"); got != "one|five|7|9|two words" {
		t.Errorf("names: %s", got)
	}
	for name, want := range map[string]int{"five": 5, "again": 5, "two words": 16, "9": 9} {
		if n, ok := l.Number(name); n != want || !ok {
			t.Errorf("%s is %d, %v", name, n, ok)
		}
	}
	if n, ok := l.Number("big"); ok {
		t.Errorf("big is %d", n)
	}
}
