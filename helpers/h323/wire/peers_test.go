package wire_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

var decoder = flag.String("decoder", "", "a reader of H.323 in C, as scripts/bench-h323 builds it")

// BenchmarkBesideC reads the Setup of BenchmarkSetup by turns here, with the decoder of the kernel's own helper, and with
// tshark, whose start counts. Each shows its best turn.
func BenchmarkBesideC(b *testing.B) {
	if *decoder == "" {
		b.Skip("needs -decoder: scripts/bench-h323")
	}
	const times, copies = 1000, 5000
	data := setup()
	folder := b.TempDir()
	message, file := filepath.Join(folder, "setup"), filepath.Join(folder, "setup.pcap")
	for name, content := range map[string][]byte{
		message: data, file: pcap(slices.Repeat([]drawn{{typ: "H323-UserInformation", b: data}}, copies)),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	var m wire.Message
	ours, kernel, tshark := 1e9, 1e9, 1e9
	for b.Loop() {
		for range 20 {
			start := time.Now()
			for range times {
				if err := wire.ReadSignalling(data, &m); err != nil {
					b.Fatal(err)
				}
			}
			ours = min(ours, float64(time.Since(start).Nanoseconds())/times)

			var channels int
			var took float64
			out, err := exec.Command(*decoder, message, strconv.Itoa(times)).Output()
			if err == nil {
				_, err = fmt.Sscan(string(out), &channels, &took)
			}
			if err != nil || channels != 6 {
				b.Fatalf("%s: %d channels, error %v", *decoder, channels, err)
			}
			kernel = min(kernel, took)
		}
		start := time.Now()
		out, err := exec.Command("tshark", "-r", file, "-T", "fields", "-e", "h245.tsapIdentifier").Output()
		if n := bytes.Count(out, []byte("5000,5001")); err != nil || n != 3*copies {
			b.Fatalf("%v: %d channels of %d messages", err, n, copies)
		}
		tshark = min(tshark, float64(time.Since(start).Nanoseconds())/copies)
	}
	b.ReportMetric(ours, "ns/message")
	b.ReportMetric(kernel, "kernel-ns/message")
	b.ReportMetric(tshark, "tshark-ns/message")
	b.ReportMetric(ours/kernel, "of-kernel")
	b.ReportMetric(ours/tshark, "of-tshark")
	b.ReportMetric(0, "ns/op")
}
