package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is committed is what this program writes.
func TestMade(t *testing.T) {
	const dir = "../made"
	for name, write := range captures() {
		got, err := os.ReadFile(filepath.Join(dir, name+".pcap"))
		if err != nil || !bytes.Equal(got, build(write)) {
			t.Errorf("%s is not what is made here (%v): go run ./pcaps/make pcaps/made", name, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if captures()[strings.TrimSuffix(filepath.Base(f), ".pcap")] == nil {
			t.Errorf("%s is not made here", f)
		}
	}
}
