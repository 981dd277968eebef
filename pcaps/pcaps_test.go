package pcaps_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/internal/engine"
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

// TestReasons checks that some capture provokes each reason that users are promised. Only a kernel evicts.
func TestReasons(t *testing.T) {
	files, err := filepath.Glob("made/*.golden.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	for _, reason := range []engine.Reason{
		engine.RefuseForeignAddress, engine.RefuseLowPort, engine.RefuseLimitFlow, engine.RefuseLimitPeer,
		engine.RefuseLimitTotal, engine.RefuseRate, engine.RefuseLate, engine.RefusePortTaken, engine.RefuseLockIn,
		engine.CancelEnded, engine.CancelReplaced, engine.CancelExpired, engine.CancelFlowEnded, engine.ErrorForeign,
	} {
		if !strings.Contains(all.String(), `"reason":"`+string(reason)+`"`) {
			t.Errorf("no capture provokes %q", reason)
		}
	}
}
