package pcaps

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/cthelperd/cthelperd/helpers"
)

// Variable names the folder of further captures with truth files.
const Variable = "CTHELPER_PCAPS"

// Truths replays all captures below dir that have a NAME.truth.json beside them, prints a table of counts, and fails t
// for whatever is missing, unforeseen or invented. Of captures of other protocols than these, only inventions count.
func Truths(t *testing.T, dir string, protocols ...helpers.Protocol) {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "capture\tprotocol\tannounced\tfound\tused\tforeseen\twrong")
	known := 0
	for _, path := range Captures(t, dir) {
		if _, err := os.Stat(path + ".truth.json"); err != nil {
			continue
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(filepath.ToSlash(name), func(t *testing.T) {
			truth, err := LoadTruth(path + ".truth.json")
			if err != nil {
				t.Fatal(err)
			}
			knows := slices.ContainsFunc(protocols, func(p helpers.Protocol) bool { return p.Name == truth.Protocol })
			if !knows {
				truth = &Truth{Protocol: truth.Protocol, Other: truth.Other}
			}
			c := truth.Compare(Records(t, path, portFlags(truth.Ports), protocols...))
			for _, wrong := range c.Wrong {
				t.Error(wrong)
			}
			if knows || len(c.Wrong) > 0 {
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\n", name, truth.Protocol, c.Announced, c.Found, c.Used, c.Foreseen, len(c.Wrong))
			}
			if knows {
				known++
			}
		})
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("captures of %s:\n%s", dir, table.String())
	if known == 0 {
		t.Errorf("no capture below %s is of a protocol that is known here", dir)
	}
}

// portFlags are --port options for a truth file's ports.
func portFlags(ports map[string][]uint16) []string {
	var args []string
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		list := strings.Trim(strings.ReplaceAll(fmt.Sprint(ports[name]), " ", ","), "[]")
		args = append(args, "--port", name+"="+list)
	}
	return args
}
