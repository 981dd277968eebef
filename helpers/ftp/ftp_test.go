package ftp_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/helpers/helpertest"
)

func helper(t testing.TB) helpers.Helper {
	t.Helper()
	hs, err := ftp.Protocol().Helpers(nil)
	if err != nil || len(hs) != 1 {
		t.Fatalf("helpers %v, error %v", hs, err)
	}
	return hs[0]
}

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("files %v, error %v", files, err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			script, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			helpertest.Check(t, helper(t), string(script))
		})
	}
}

func FuzzSession(f *testing.F) {
	helpertest.Fuzz(f, helper(f), helpertest.Files(f, "testdata/*.txt")...)
}
