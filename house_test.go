// Package cthelperd has no code: its tests hold what is true of the whole tree.
package cthelperd

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/cthelperd/cthelperd"

// allowed says which packages of this module a package may import, outside of its tests. A folder under helpers/ is
// held to the row helpers/*.
var allowed = map[string][]string{
	"helpers":            {},
	"helpers/*":          {"helpers", "helpers/freelist", "helpers/snapshot"},
	"helpers/freelist":   {},
	"helpers/snapshot":   {},
	"helpers/helpertest": {"helpers"},

	"helpers/h323":          {"helpers", "helpers/freelist", "helpers/snapshot", "helpers/h323/wire"},
	"helpers/h323/wire":     {},
	"helpers/h323/h323test": {"helpers/h323/wire"},

	"helpers/sip/siptest": {},

	"internal/nlsock":    {},
	"internal/nfnl":      {"internal/nlsock"},
	"internal/packet":    {"helpers"},
	"internal/capture":   {},
	"internal/netns":     {},
	"internal/rules":     {"helpers", "internal/netns", "internal/nfnl"},
	"internal/netnstest": {},
	"flows":              {"helpers", "internal/netns", "internal/nfnl"},
	"expect":             {"helpers", "flows", "internal/netns", "internal/nfnl"},
	"queue":              {"internal/nlsock", "internal/nfnl"},
	"internal/engine":    {"helpers", "helpers/freelist", "expect", "internal/packet"},
	"internal/config":    {"helpers", "internal/engine"},
	"internal/replay":    {"helpers", "expect", "internal/engine", "internal/capture", "internal/config"},
	"cli/best":           {},
	"cli/caret":          {},
	"cli/names":          {"helpers", "flows"},
	"cli/criteria":       {"helpers", "flows", "cli/caret", "cli/names"},
	"cli/where":          {"helpers", "flows", "cli/caret", "cli/names"},
	"cli/format":         {"helpers", "expect", "flows", "cli/caret", "cli/names", "cli/where"},
	"cli/hook":           {"flows", "cli/caret", "cli/format", "cli/names"},
	"cli/why":            {"helpers", "expect", "flows"},
	"cli/top":            {"helpers", "flows", "cli/best", "cli/caret", "cli/format", "cli/names", "cli/where", "cli/why"},
	"cli/manual":         {},
	"cli": {
		"helpers", "expect", "flows", "internal/config", "internal/replay", "internal/engine", "internal/capture",
		"cli/best", "cli/caret", "cli/criteria",
		"cli/format", "cli/hook", "cli/manual", "cli/names", "cli/top", "cli/where", "cli/why",
	},
	"daemon": {
		"helpers", "expect", "flows", "queue", "internal/nfnl", "internal/engine", "internal/config", "internal/rules",
	},
	"bench": {
		"helpers", "helpers/ftp", "expect", "flows", "internal/nfnl", "internal/rules",
	},
	"pcaps": {
		"helpers", "helpers/h323/wire", "cli", "internal/replay", "internal/config", "internal/engine", "internal/capture",
		"internal/packet",
	},
	"pcaps/make":    {"helpers", "helpers/ftp", "helpers/h323/h323test", "pcaps", "internal/capture"},
	"cmd/cthelperd": {"daemon", "helpers", "helpers/ftp", "helpers/h323", "helpers/sip"},
	"cmd/cthelper":  {"cli", "helpers", "helpers/ftp", "helpers/h323", "helpers/sip"},
}

// testOnly are imported by tests alone.
var testOnly = []string{"pcaps", "helpers/helpertest", "helpers/h323/h323test", "helpers/sip/siptest", "internal/netnstest"}

// impure is what a helper may not import: it does no I/O and asks no clock.
var impure = regexp.MustCompile(`^(os|os/.*|syscall|log|log/.*|math/rand|math/rand/.*|net|net/http|io/ioutil|unsafe|C)$`)

// TestImports checks who imports whom.
func TestImports(t *testing.T) {
	for _, file := range goFiles(t) {
		name := filepath.ToSlash(filepath.Dir(file))
		row, known := allowed[name]
		helper := strings.HasPrefix(name, "helpers/") && !slices.Contains(testOnly, name)
		if parent, _ := filepath.Split(name); !known && parent == "helpers/" {
			row, known = allowed["helpers/*"], true
		}
		if strings.HasSuffix(file, "doc.go") {
			continue // packages that are nothing but tests
		}
		if !known && name != "." {
			t.Errorf("%s: package %s has no row in the table of who may import whom", file, name)
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if own, ok := strings.CutPrefix(path, module+"/"); ok {
				if !slices.Contains(row, own) {
					t.Errorf("%s imports %s", file, own)
				}
				if slices.Contains(testOnly, own) && !slices.Contains(testOnly, strings.TrimSuffix(name, "/make")) {
					t.Errorf("%s imports %s, which is for tests", file, own)
				}
			} else if (helper || name == "helpers") && impure.MatchString(path) {
				t.Errorf("%s imports %s: a helper is pure", file, path)
			}
		}
	}
}

// TestNoInit checks that nothing happens before main.
func TestNoInit(t *testing.T) {
	initial := regexp.MustCompile(`(?m)^func init\(\)`)
	for _, file := range goFiles(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if initial.Match(text) {
			t.Errorf("%s has an init function", file)
		}
	}
}

// TestQuotes checks that CONTRIBUTING.md quotes the files that it names as they are.
func TestQuotes(t *testing.T) {
	text, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("(?s)\\(`([^`]+\\.go)`\\):\n\n```go\n(.*?)```").FindAllSubmatch(text, -1)
	if len(quoted) < 2 {
		t.Fatalf("found %d quotes, want two", len(quoted))
	}
	for _, q := range quoted {
		want, err := os.ReadFile(string(q[1]))
		if err != nil {
			t.Error(err)
		} else if string(q[2]) != string(want) {
			t.Errorf("CONTRIBUTING.md does not quote %s as it is", q[1])
		}
	}
}

// TestLinks checks that the texts name no file that is not there.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)\)`)
	for _, name := range []string{"README.md", "ARCHITECTURE.md", "THREATS.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			if _, err := os.Stat(string(m[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestNamedTests checks that the tests which ARCHITECTURE.md and THREATS.md name as holding an invariant exist.
func TestNamedTests(t *testing.T) {
	exists := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	walk(t, func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range function.FindAllSubmatch(text, -1) {
				exists[string(m[1])] = true
			}
		}
	})
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
	for _, name := range []string{"ARCHITECTURE.md", "THREATS.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
			continue
		}
		all := named.FindAllSubmatch(text, -1)
		if len(all) == 0 {
			t.Errorf("%s names no test", name)
		}
		for _, m := range all {
			if !exists[string(m[1])] {
				t.Errorf("%s names %s, which does not exist", name, m[1])
			}
		}
	}
}

// goFiles are the files of this module that are not tests.
func goFiles(t *testing.T) (files []string) {
	walk(t, func(path string) {
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			files = append(files, path)
		}
	})
	if len(files) == 0 {
		t.Fatal("found no Go file")
	}
	return files
}

// walk visits the files of this module; testdata and what git does not keep are left out.
func walk(t *testing.T, visit func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (d.Name() == "testdata" || d.Name() == "bin" || strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case !d.IsDir():
			visit(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
