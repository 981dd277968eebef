package pcaps_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/helpers/h323"
	"github.com/cthelperd/cthelperd/helpers/sip"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/pcaps"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestGolden(t *testing.T) {
	pcaps.Golden(t, ".", *update, ftp.Protocol(), h323.Protocol(), sip.Protocol())
}

// TestTruth compares with the truth files here, and with those of a folder that the environment names.
func TestTruth(t *testing.T) {
	pcaps.Truths(t, ".", ftp.Protocol(), h323.Protocol(), sip.Protocol())
	if dir := os.Getenv(pcaps.Variable); dir != "" {
		t.Logf("%s is %s", pcaps.Variable, dir)
		pcaps.Truths(t, dir, ftp.Protocol(), h323.Protocol(), sip.Protocol())
	} else {
		t.Logf("%s is not set: only the project's own captures were compared", pcaps.Variable)
	}
}

// TestMasquerade compares what the replay announces outside, of a capture from inside, with what the kernel's own helper
// announced there.
func TestMasquerade(t *testing.T) {
	truth, err := pcaps.LoadTruth("recorded/masquerade-outside.pcap.truth.json")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, a := range truth.Announced {
		want = append(want, a.Dir+" "+a.To)
	}
	args := []string{"--nat", "10.0.0.2=203.0.113.1", "--nat", "fd00::2=2001:db8:1::1"}
	for _, r := range pcaps.Records(t, "recorded/masquerade-inside.pcap", args, ftp.Protocol(), h323.Protocol(), sip.Protocol()) {
		if r.Event != engine.EventExpect {
			continue
		}
		at := r.At
		if at == "" {
			at = r.To
		}
		got = append(got, r.Dir+" "+at)
	}
	if len(want) == 0 {
		t.Fatal("the truth file holds no announcement")
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("announced outside: -kernel +replay\n%s", d)
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
