package helpertest

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
)

// Reasons holds a helper's README.md against its testdata/*.txt: each reason in the table of the section "What it refuses"
// has an "= error" line, and the reason of each such line is in the table. What a line has before its reason, and is not
// compared, before matches (a regular expression); what stands before ErrForeign's text never is.
func Reasons(t testing.TB, before string) {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, refuses, _ := strings.Cut(string(text), "## What it refuses")
	refuses, _, _ = strings.Cut(refuses, "## Options")
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(.*?)` \\|").FindAllStringSubmatch(refuses, -1) {
		listed[m[1]] = false
	}
	if len(listed) == 0 {
		t.Error("README.md lists no reasons to refuse")
	}
	line := regexp.MustCompile(`(?m)^= error "(?:` + before + `)?(.*)"$`)
	for _, script := range Files(t, "testdata/*.txt") {
		for _, m := range line.FindAllStringSubmatch(script, -1) {
			reason := m[1]
			if foreign := helpers.ErrForeign.Error(); strings.HasSuffix(reason, ": "+foreign) {
				reason = foreign
			}
			if _, ok := listed[reason]; !ok {
				t.Errorf("error %q is not in the README", reason)
			}
			listed[reason] = true
		}
	}
	for reason, found := range listed {
		if !found {
			t.Errorf("no vector for %q", reason)
		}
	}
}
