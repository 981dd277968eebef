package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReport checks ratios, spread and what is said of what is missing.
func TestReport(t *testing.T) {
	folder := t.TempDir()
	const samples = `
{"Kernel":"6.0","Measure":"accept","Variant":"cthelperd","Round":0,"Values":{"per cpu second":300000}}
{"Kernel":"6.0","Measure":"accept","Variant":"go-nfqueue","Round":0,"Values":{"per cpu second":100000}}
{"Kernel":"6.0","Measure":"accept","Variant":"c","Round":0,"Values":{"per cpu second":500000}}
{"Kernel":"6.0","Measure":"accept","Variant":"cthelperd","Round":1,"Values":{"per cpu second":400000}}
{"Kernel":"6.0","Measure":"accept","Variant":"go-nfqueue","Round":1,"Values":{"per cpu second":100000}}
{"Kernel":"6.0","Measure":"accept","Variant":"c","Round":1,"Values":{"per cpu second":500000}}
{"Kernel":"6.0","Measure":"roundtrip","Variant":"none","Round":0,"Values":{"ns":20000}}
{"Kernel":"6.0","Measure":"roundtrip","Variant":"cthelperd","Round":0,"Values":{"ns":50000}}
{"Kernel":"6.0","Measure":"roundtrip","Variant":"conntrackd","Round":0,"Values":{"ns":60000}}
{"Kernel":"6.0","Measure":"flows","Variant":"cthelperd 1000","Round":0,"Values":{"per cpu second":250000}}
{"Kernel":"6.0","Measure":"flows","Variant":"cthelperd 200000","Round":0,"Values":{"per cpu second":200000}}
{"Kernel":"6.0","Measure":"flows","Variant":"c-batch 1000","Round":0,"Values":{"per cpu second":500000}}
{"Kernel":"6.0","Measure":"flows","Variant":"c-batch 200000","Round":0,"Values":{"per cpu second":480000}}
{"Kernel":"6.0","Measure":"place","Variant":"c-expect","Round":0,"Missing":"not here: no compiler"}
`
	const memory = "    memory_test.go:180: plain: 350 bytes a flow\n"
	for name, text := range map[string]string{"native": samples, "memory": memory} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	if err := report(&out, folder); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"go-nfqueue driver | ≥ 3 | 3.50 (3.00 to 4.00) |",
		"a verdict for each packet | ≥ 0.8 | **0.70 (0.60 to 0.80)**, not reached |",
		"added over no helper: cthelperd / conntrackd | ≤ 0.8 | 0.75 (0.75 to 0.75) |",
		"cthelperd | ≤ 1.15 | **1.25 (1.25 to 1.25)**, not reached |",
		"the kernel's share | shown beside | 1.20 |",
		"same bytes | ≤ 1.2 | not measured |",
		"| accept | cthelperd | 350,000 per cpu second (300,000 to 400,000) | 2 |",
		"plain: 350 bytes a flow",
		"* Linux 6.0, place, c-expect: no compiler",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &out)
		}
	}
}
