package replay_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/replay"
)

// FuzzRun replays anything as a capture, with and without NAT: no panic, frames in order, what is told is complete.
func FuzzRun(f *testing.F) {
	files, err := filepath.Glob("../../pcaps/made/*.pcap")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "192.0.2.0/24=203.0.113.1")
		f.Add(b, "")
	}
	all, err := ftp.Protocol().Helpers(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, file []byte, nat string) {
		if bytes.HasPrefix(file, []byte{0x1f, 0x8b}) {
			return // package capture has a target of its own
		}
		opt := replay.Options{Engine: engine.Config{Helpers: all}}
		if tr, err := replay.ParseTranslation(nat); err == nil {
			opt.NAT = []replay.Translation{tr}
		}
		var last uint64
		events := 0
		_, err := replay.Run("f", bytes.NewReader(file), opt, func(r *replay.Record) error {
			if r.Frame < last || r.Frame == 0 {
				t.Errorf("frame %d behind %d", r.Frame, last)
			}
			last = r.Frame
			if r.Event == "" || r.Helper == "" || r.Flow == "" {
				t.Errorf("incomplete: %+v", r)
			}
			events++
			return nil
		})
		if events > len(file) {
			t.Errorf("%d events of %d bytes", events, len(file))
		}
		_ = err // most files are damaged
	})
}
