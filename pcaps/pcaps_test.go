package pcaps_test

import (
	"flag"
	"os"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/pcaps"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestGolden(t *testing.T) { pcaps.Golden(t, ".", *update, ftp.Protocol()) }

// TestTruth compares with the truth files here, and with those of a folder that the environment names.
func TestTruth(t *testing.T) {
	pcaps.Truths(t, ".", ftp.Protocol())
	if dir := os.Getenv(pcaps.Variable); dir != "" {
		t.Logf("%s is %s", pcaps.Variable, dir)
		pcaps.Truths(t, dir, ftp.Protocol())
	} else {
		t.Logf("%s is not set: only the project's own captures were compared", pcaps.Variable)
	}
}
