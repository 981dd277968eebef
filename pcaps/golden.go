package pcaps

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cthelperd/cthelperd/cli"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/replay"
)

// Captures are the captures below a folder, by their path. Fewer than one fail t.
func Captures(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch filepath.Ext(path) {
		case ".pcap", ".pcapng":
			all = append(all, path)
		}
		return err
	})
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("no capture in %s", dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Golden replays all captures below dir and compares with NAME.golden.jsonl beside each; with update it writes them.
// NAME.VARIANT.args holds further options of `cthelper replay`, one a line; the file for those is
// NAME.VARIANT.golden.jsonl. In an option {} stands for the capture's folder.
func Golden(t *testing.T, dir string, update bool, protocols ...helpers.Protocol) {
	for _, path := range Captures(t, dir) {
		runs := map[string][]string{path: nil}
		variants, err := filepath.Glob(path + ".*.args")
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range variants {
			text, err := os.ReadFile(v)
			if err != nil {
				t.Fatal(err)
			}
			runs[strings.TrimSuffix(v, ".args")] = strings.Fields(strings.ReplaceAll(string(text), "{}", filepath.Dir(path)))
		}
		for name, args := range runs {
			t.Run(filepath.ToSlash(name), func(t *testing.T) {
				got := jsonLines(t, path, args, protocols)
				golden := name + ".golden.jsonl"
				if update {
					if err := os.WriteFile(golden, got, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatalf("%v: run the test with -update, and read what it wrote", err)
				}
				if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); d != "" {
					t.Errorf("%s: -golden +replayed\n%s", golden, d)
				}
			})
		}
	}
}

// jsonLines is what `cthelper replay --json` prints for a capture, with its name without the folder.
func jsonLines(t testing.TB, path string, args []string, protocols []helpers.Protocol) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out, errs bytes.Buffer
	args = append(append([]string{"replay", "--json"}, args...), "-")
	if code := cli.Run(args, f, &out, &errs, protocols...); code != 0 || errs.Len() > 0 {
		t.Fatalf("cthelper %q: exit %d: %s", args, code, errs.String())
	}
	name, err := json.Marshal(filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(out.Bytes(), []byte(`{"file":"-",`), []byte(`{"file":`+string(name)+`,`))
}

// Records replays a capture.
func Records(t testing.TB, path string, args []string, protocols ...helpers.Protocol) []*replay.Record {
	t.Helper()
	var all []*replay.Record
	lines := bufio.NewScanner(bytes.NewReader(jsonLines(t, path, args, protocols)))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		r := new(replay.Record)
		if err := json.Unmarshal(lines.Bytes(), r); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		all = append(all, r)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
