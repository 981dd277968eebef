package sip

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/helpertest"
)

// both are the helpers with some options.
func both(t testing.TB, options Options) (udp, tcp helpers.Helper) {
	t.Helper()
	hs, err := Protocol().Helpers(options)
	if err != nil || len(hs) != 2 {
		t.Fatalf("helpers %v, error %v", hs, err)
	}
	return hs[0], hs[1]
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var updated = flag.Bool("update", false, "write the = lines of testdata/*.txt anew")

// play checks a script. Its first line may say "# tcp", "# ice", "# any" and "# few calls": what it is for.
func play(t *testing.T, script string) { helpertest.Check(t, helperOf(t, script), script) }

func helperOf(t testing.TB, script string) helpers.Helper {
	first, _, _ := strings.Cut(script, "\n")
	o := defaults()
	has := func(word string) bool { return strings.Contains(first, "# "+word) }
	o.ICE = has("ice")
	if has("any") {
		o.Incoming = "any"
	}
	if has("few calls") {
		o.Calls = 2
	}
	udp, tcp := both(t, o)
	h := udp
	if has("tcp") {
		h = tcp
	}
	return h
}

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("files %v, error %v", files, err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			script := read(t, f)
			if *updated {
				annotated, err := helpertest.Annotate(helperOf(t, script), script)
				if err == nil {
					err = os.WriteFile(f, []byte(annotated), 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			play(t, script)
		})
	}
}

func TestREADME(t *testing.T) {
	examples := regexp.MustCompile("(?s)```dialogue\n(.*?)```").FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(examples) < 2 {
		t.Fatalf("%d examples, want at least 2", len(examples))
	}
	for i, e := range examples {
		t.Run(fmt.Sprint(i), func(t *testing.T) { play(t, e[1]) })
	}
}

// Every reason to refuse that the README lists has a vector in testdata, and the README lists them all.
func TestReasons(t *testing.T) { helpertest.Reasons(t, `at byte \d+: `) }

func FuzzSession(f *testing.F) {
	o := defaults()
	o.ICE = true
	udp, _ := both(f, o)
	helpertest.Fuzz(f, udp, helpertest.Files(f, "testdata/*.txt")...)
}

func FuzzStream(f *testing.F) {
	_, tcp := both(f, defaults())
	helpertest.Fuzz(f, tcp, helpertest.Files(f, "testdata/*.txt")...)
}
