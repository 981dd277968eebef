package daemon

import (
	"flag"
	"os"
	"testing"

	"github.com/cthelperd/cthelperd/cli/manual"
)

var update = flag.Bool("update", false, "write contrib/cthelperd.8 anew")

const manualTail = `.SH EXIT STATUS
0 is fine, 1 a failure, 2 wrong usage.
.SH FILES
.TP
/etc/cthelperd.yaml
configuration, if --config names it; contrib/cthelperd.yaml shows every key at its default
.SH SEE ALSO
.BR cthelper (1),
.BR nft (8)
`

// TestManual: contrib/cthelperd.8 is what the command line's model gives.
func TestManual(t *testing.T) {
	parser, err := newParser()
	if err != nil {
		t.Fatal(err)
	}
	got := manual.Man(parser.Model, manual.Page{
		Section: 8, Summary: "connection tracking helpers in user space", Tail: manualTail,
	})
	const path = "../contrib/cthelperd.8"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != got {
		t.Errorf("%s is not what the command line says (%v): go test ./daemon -run TestManual -update", path, err)
	}
}
