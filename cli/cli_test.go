package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/cli"
	"github.com/cthelperd/cthelperd/helpers/ftp"
)

const made = "../pcaps/made/"

func run(t *testing.T, stdin []byte, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = cli.Run(args, bytes.NewReader(stdin), &out, &errs, ftp.Protocol())
	return code, out.String(), errs.String()
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	whole, err := os.ReadFile(made + "active.pcap")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cut := write("cut.pcap", whole[:len(whole)-3])
	text := write("text.pcap", []byte("this is no capture"))
	wrong := write("wrong.yaml", []byte("policy:\n  late: perhaps\n"))

	tests := []struct {
		name   string
		args   []string
		code   int
		stdout []string // parts
		stderr []string
	}{
		{"nothing", nil, 2, nil, []string{"Usage: cthelper"}},
		{"help", []string{"--help"}, 0, []string{"replay", "version"}, nil},
		{"help of replay", []string{"replay", "--help"}, 0, []string{"--port=NAME=N[,N]", "Examples:", "cthelper replay passive.pcap", "Exit status"}, nil},
		{"version", []string{"version"}, 0, []string{"cthelper "}, nil},
		{"unknown command", []string{"play"}, 2, nil, []string{"play"}},
		{"unknown flag", []string{"replay", "--jsno", made + "active.pcap"}, 2, nil, []string{"--jsno"}},
		{"no file", []string{"replay"}, 2, nil, []string{"file"}},
		{"table", []string{"replay", made + "active.pcap"}, 0, []string{
			made + "active.pcap\n", "FRAME", "tcp 192.0.2.2:50000>198.51.100.9:21: data tcp 198.51.100.9:*>192.0.2.2:50001 for 300s \"PORT\"",
			"announced in frame 7", "20 frames, ",
		}, nil},
		{"table without events", []string{"replay", made + "tftp.pcap"}, 0, []string{"8 frames, 0 events"}, nil},
		{"JSON", []string{"replay", "--json", made + "active.pcap"}, 0, []string{
			`{"file":"` + made + `active.pcap","frame":7,"time":"2026-01-02T03:04:05.007000Z","event":"expect","helper":"ftp",` +
				`"flow":"tcp 192.0.2.2:50000>198.51.100.9:21","dir":"orig","class":"data","transport":"tcp",` +
				`"from":"198.51.100.9:*","to":"192.0.2.2:50001","timeout":300,`,
		}, nil},
		{"other port", []string{"replay", "--json", "--port", "ftp=50001,2121", made + "active.pcap"}, 0, []string{`"event":"expect"`}, nil},
		{"helper by name", []string{"replay", "--json", "--helper", "ftp", made + "active.pcap"}, 0, []string{`"event":"expect"`}, nil},
		{"NAT", []string{"replay", "--json", "--nat", "192.0.2.2=203.0.113.1", made + "active.pcap"}, 0, []string{`"at":"203.0.113.1:50001"`, `"event":"edit"`}, nil},
		{"unknown helper", []string{"replay", "--helper", "sip", made + "active.pcap"}, 2, nil, []string{"sip", "known are ftp"}},
		{"unknown name of a port", []string{"replay", "--port", "sip=5060", made + "active.pcap"}, 2, nil, []string{"sip", "known are ftp"}},
		{"port without number", []string{"replay", "--port", "ftp", made + "active.pcap"}, 2, nil, []string{"NAME=N[,N]"}},
		{"port too high", []string{"replay", "--port", "ftp=65536", made + "active.pcap"}, 2, nil, []string{"65536"}},
		{"port 0", []string{"replay", "--port", "ftp=21,0", made + "active.pcap"}, 2, nil, []string{"not a port"}},
		{"NAT of two families", []string{"replay", "--nat", "192.0.2.2=2001:db8::1", made + "active.pcap"}, 2, nil, []string{"mixes"}},
		{"wrong configuration", []string{"replay", "--config", wrong, made + "active.pcap"}, 1, nil, []string{wrong + ":2:", "perhaps"}},
		{"no configuration", []string{"replay", "--config", filepath.Join(dir, "none.yaml"), made + "active.pcap"}, 1, nil, []string{"none.yaml"}},
		{"damaged capture, then a good one", []string{"replay", cut, made + "passive.pcap"}, 1,
			[]string{"192.0.2.2:50001", "198.51.100.9:40001"}, []string{cut + ": damaged at byte 1458: "}},
		{"no capture, then a good one", []string{"replay", text, made + "passive.pcap"}, 1,
			[]string{"198.51.100.9:40001"}, []string{text + ": damaged at byte 0: neither pcap nor pcapng"}},
		{"no file, then a good one", []string{"replay", filepath.Join(dir, "none.pcap"), made + "passive.pcap"}, 1,
			[]string{"198.51.100.9:40001"}, []string{"none.pcap: no such file"}},
		{"no save file", []string{"restore", filepath.Join(dir, "none.save")}, 2, nil, []string{"none.save: no such file"}},
		{"a folder", []string{"replay", dir}, 1, nil, []string{"is a directory"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := run(t, nil, tt.args...)
			if code != tt.code {
				t.Errorf("exit %d, want %d", code, tt.code)
			}
			for _, part := range tt.stdout {
				if !strings.Contains(stdout, part) {
					t.Errorf("standard output lacks %q", part)
				}
			}
			for _, part := range tt.stderr {
				if !strings.Contains(stderr, part) {
					t.Errorf("standard error lacks %q", part)
				}
			}
			if tt.stderr == nil && stderr != "" || tt.stdout == nil && stdout != "" {
				t.Error("a stream should be empty")
			}
			if t.Failed() {
				t.Logf("standard output:\n%s\nstandard error:\n%s", stdout, stderr)
			}
		})
	}

	t.Run("standard input", func(t *testing.T) {
		_, want, _ := run(t, nil, "replay", "--json", made+"active.pcap")
		code, got, stderr := run(t, whole, "replay", "--json", "-")
		if got = strings.ReplaceAll(got, `"file":"-"`, `"file":"`+made+`active.pcap"`); code != 0 || stderr != "" || got != want {
			t.Errorf("exit %d, %s\ngot  %s\nwant %s", code, stderr, got, want)
		}
	})
	t.Run("only its own helper", func(t *testing.T) {
		code, got, _ := run(t, nil, "replay", "--json", "--port", "ftp=2121", made+"tftp.pcap")
		if code != 0 || got != "" {
			t.Errorf("exit %d, %s", code, got)
		}
	})
}

// Every line is a JSON object with the keys that all events have, in frame order.
func TestLines(t *testing.T) {
	files, err := filepath.Glob(made + "*.pcap")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	_, out, _ := run(t, nil, append([]string{"replay", "--json", "--nat", "192.0.2.0/24=203.0.113.1"}, files...)...)
	seen := map[string]int{}
	frame, file := 0.0, ""
	for line := range strings.Lines(out) {
		var o map[string]any
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		for _, key := range []string{"file", "frame", "time", "event", "helper", "flow"} {
			if o[key] == nil {
				t.Fatalf("no %s in %s", key, line)
			}
		}
		if f := o["file"].(string); f != file {
			file, frame = f, 0
		}
		if f := o["frame"].(float64); f < frame || f < 1 {
			t.Errorf("frame %v behind %v: %s", f, frame, line)
		} else {
			frame = f
		}
		seen[o["event"].(string)]++
	}
	for _, event := range []string{"expect", "cancel", "refuse", "related", "note", "edit", "error"} {
		if seen[event] == 0 {
			t.Errorf("no %s", event)
		}
	}
}
