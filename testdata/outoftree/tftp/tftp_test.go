package tftp_test

import (
	"testing"

	"example.net/tftp/tftp"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/helpertest"
)

func helper(t testing.TB) helpers.Helper {
	t.Helper()
	all, err := tftp.Protocol().Helpers(nil)
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

func TestContract(t *testing.T) {
	for _, script := range helpertest.Files(t, "testdata/*.txt") {
		helpertest.Check(t, helper(t), script)
	}
}

func FuzzSession(f *testing.F) {
	helpertest.Fuzz(f, helper(f), helpertest.Files(f, "testdata/*.txt")...)
}
