package daemon

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadState(t *testing.T) {
	now := place{strings.Repeat("b", bootIDLen), 7}
	state := []byte("what the engine saved")
	// resealed puts a right checksum under a changed content.
	resealed := func(change func(b []byte) []byte) func([]byte) []byte {
		return func(b []byte) []byte {
			b = change(b[:len(b)-sha256.Size])
			sum := sha256.Sum256(b)
			return append(b, sum[:]...)
		}
	}
	tests := []struct {
		name    string
		at      place
		change  func([]byte) []byte
		foreign bool
		want    string // in the error; empty: none
	}{
		{"as written", now, nil, false, ""},
		{"another boot", place{strings.Repeat("c", bootIDLen), 7}, nil, true, "another boot"},
		{"another namespace", place{now.boot, 8}, nil, true, "another network namespace"},
		{"cut", now, func(b []byte) []byte { return b[:len(b)-1] }, false, "checksum"},
		{"almost nothing left", now, func(b []byte) []byte { return b[:10] }, false, "10 bytes"},
		{"empty", now, func([]byte) []byte { return nil }, false, "0 bytes"},
		{"longer", now, func(b []byte) []byte { return append(b, 0) }, false, "checksum"},
		{"one bit", now, func(b []byte) []byte { b[stateHeader] ^= 1; return b }, false, "checksum"},
		{"another file", now, func(b []byte) []byte { return bytes.Repeat([]byte("x"), 200) }, false, "no state"},
		{"newer version", now, resealed(func(b []byte) []byte { b[len(stateMagic)+1]++; return b }), false, "version 2"},
		{"wrong length", now, resealed(func(b []byte) []byte {
			binary.BigEndian.PutUint64(b[stateHeader-8:], 1)
			return b
		}), false, "the header says 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			if err := writeState(path, now, state); err != nil {
				t.Fatal(err)
			}
			if tt.change != nil {
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, tt.change(b), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := readState(path, tt.at)
			if tt.want == "" {
				if err != nil || !bytes.Equal(got, state) {
					t.Errorf("got %q, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, errForeignState) != tt.foreign {
				t.Errorf("error %v, want one with %q, foreign %v", err, tt.want, tt.foreign)
			}
		})
	}
}

func TestStateFile(t *testing.T) {
	at, err := here()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	path := filepath.Join(folder, "state")
	if _, err := readState(path, at); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, state := range []string{"first", "second", ""} {
		if err := writeState(path, at, []byte(state)); err != nil {
			t.Fatal(err)
		}
		if got, err := readState(path, at); err != nil || string(got) != state {
			t.Errorf("read %q, %v; want %q", got, err, state)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("mode %v, want only the owner's", info.Mode())
	}
	if err := writeState(filepath.Join(folder, "missing", "state"), at, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder missing: %v", err)
	}
	// A folder in the place of the file: the rename fails, and nothing half written stays.
	if err := os.Mkdir(filepath.Join(folder, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeState(filepath.Join(folder, "folder"), at, nil); err == nil {
		t.Error("a folder was replaced")
	}
	left, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 2 {
		t.Errorf("files left: %v", left)
	}
}
