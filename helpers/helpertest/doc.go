// Package helpertest checks a protocol helper against the contract of package helpers: a whole table of properties with
// one line in a unit test and one in a fuzz target. It is for the authors of helpers, in this module and elsewhere.
//
//	func TestContract(t *testing.T) {
//		for _, script := range helpertest.Files(t, "testdata/*.txt") {
//			helpertest.Check(t, helper, script)
//		}
//	}
//
//	func FuzzSession(f *testing.F) { helpertest.Fuzz(f, helper, helpertest.Files(f, "testdata/*.txt")...) }
//
// A script is a dialogue, written as Script describes. What fails is printed as a script: put it into the test as it
// is, and it fails again.
package helpertest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
)

// The rules that a Violation names.
const (
	Ranges     = 1  // what Inspect and Rewrite return lies in the data, in order, and in what the helper declares
	Cuts       = 2  // however a stream is cut, the announcements, and the bytes under NAT, are the same
	Work       = 3  // no panic, bounded work, bounded memory
	ReadOnly   = 4  // Segment.Data is not changed
	Gaps       = 5  // after a gap nothing is put together from bytes on both sides of it
	Identity   = 6  // a NAT that changes nothing makes no edits
	Inverse    = 7  // a NAT and then its inverse give what was announced first
	Allocation = 8  // no allocation where nothing is announced
	Snapshot   = 9  // a restored session goes on as the old one would; damaged state is an error
	Refresh    = 10 // a repeated datagram gives the same announcements and bytes
	Cancels    = 11 // what is cancelled was announced
	Said       = 12 // the script's own "=" and "~" lines
)

// A Violation is a broken rule.
type Violation struct {
	Rule   int
	What   string  // in words
	Script *Script // breaks it again
}

func (v *Violation) Error() string {
	return fmt.Sprintf("rule %d: %s\n--- script ---\n%s--- end ---", v.Rule, v.What, v.Script)
}

// Check plays a script and fails t for each rule of the contract that h breaks. A script with "=" or "~" lines is
// compared with them, too.
func Check(t testing.TB, h helpers.Helper, script string) {
	t.Helper()
	s, err := Parse(script)
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	if err := declared(h); err != nil {
		t.Errorf("%s: %v", h.Name, err)
		return
	}
	for seed := range uint64(16) {
		if err := Verify(h, s, seed); err != nil {
			t.Errorf("%s, seed %d: %v", h.Name, seed, err)
			return
		}
	}
	for _, check := range []func(helpers.Helper, *Script) error{checkSnapshots, checkAllocation, checkMemory, said} {
		if err := check(h, s); err != nil {
			t.Errorf("%s: %v", h.Name, err)
			return
		}
	}
}

// Fuzz makes f fuzz h with scripts, so that what the fuzzer finds can be read. Seeds are scripts; long ones are left out.
func Fuzz(f *testing.F, h helpers.Helper, seeds ...string) {
	f.Helper()
	for i, s := range seeds {
		if parseLoose(s).size() <= maxFuzz {
			f.Add(s, uint64(i))
		}
	}
	f.Fuzz(func(t *testing.T, text string, seed uint64) {
		s := parseLoose(text)
		if s.size() > maxFuzz {
			t.Skip("too long")
		}
		if err := Verify(h, s, seed); err != nil {
			t.Fatalf("%s: seed %d: %v", h.Name, seed, err)
		}
	})
}

// maxFuzz bounds the bytes of a script in Fuzz, which plays it several times, byte by byte too.
const maxFuzz = 8 << 10

// Files reads the scripts of all files that match pattern. No file is an error.
func Files(t testing.TB, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("no file matches %s", pattern)
	}
	if err != nil {
		t.Fatal(err)
	}
	var scripts []string
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		scripts = append(scripts, string(b))
	}
	return scripts
}
