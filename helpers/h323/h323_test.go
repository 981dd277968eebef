package h323_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/h323"
	"github.com/cthelperd/cthelperd/helpers/helpertest"
)

// helper is one of the protocol's, with its default options but for what change does.
func helper(t testing.TB, name string, change func(*h323.Options)) helpers.Helper {
	t.Helper()
	p := h323.Protocol()
	o := *p.Options.(*h323.Options)
	if change != nil {
		change(&o)
	}
	all, err := p.Helpers(&o)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range all {
		if h.Name == name {
			return h
		}
	}
	t.Fatalf("no helper %s", name)
	return helpers.Helper{}
}

// scripts are the files of a helper's.
func scripts(t testing.TB, name string) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/" + name + "-*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("files %v, error %v", files, err)
	}
	return files
}

var names = []string{"ras", "q931", "h245"}

func TestScripts(t *testing.T) {
	for _, name := range names {
		for _, file := range scripts(t, name) {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
				helpertest.Check(t, helper(t, name, optionsOf(file)), read(t, file))
			})
		}
	}
}

// optionsOf are the options that a file's name asks for.
func optionsOf(file string) func(*h323.Options) {
	if strings.Contains(file, "-any") {
		return func(o *h323.Options) { o.Calls, o.Media = "any", "any" }
	}
	return nil
}

func fuzz(f *testing.F, name string) {
	var all []string
	for _, file := range scripts(f, name) {
		all = append(all, read(f, file))
	}
	helpertest.Fuzz(f, helper(f, name, nil), all...)
}

func FuzzRAS(f *testing.F)        { fuzz(f, "ras") }
func FuzzSignalling(f *testing.F) { fuzz(f, "q931") }
func FuzzControl(f *testing.F)    { fuzz(f, "h245") }

func TestREADME(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```dialogue (\\w+)\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(examples) != 2 {
		t.Fatalf("%d examples, want 2", len(examples))
	}
	for _, e := range examples {
		s, err := script(e[2])
		if err != nil {
			t.Fatal(err)
		}
		helpertest.Check(t, helper(t, e[1], nil), s)
	}
}

// Every reason to refuse that the README lists has a vector in testdata, and the README lists them all.
func TestReasons(t *testing.T) { helpertest.Reasons(t, `at byte \d+: `) }
