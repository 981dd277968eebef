package daemon

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A state file keeps sessions over a restart of the daemon:
//
//	8 bytes   "cthelper"
//	2 bytes   version, big endian
//	36 bytes  boot id (/proc/sys/kernel/random/boot_id)
//	8 bytes   inode number of the network namespace, big endian
//	8 bytes   length of what follows, big endian
//	          the engine's state (engine.Engine.Save)
//	32 bytes  SHA-256 of everything before
const (
	stateMagic   = "cthelper"
	stateVersion = 1
	bootIDLen    = 36
	stateHeader  = len(stateMagic) + 2 + bootIDLen + 8 + 8
	maxState     = 256 << 20 // bytes: more than the engine's own bounds allow
)

// errForeignState wraps what is wrong with a state file that is whole but not of here and now.
var errForeignState = errors.New("the state is of another time or place")

// place is where and when a state holds: entries of the kernel's tables are gone with the boot or the namespace.
type place struct {
	boot      string
	namespace uint64
}

func here() (place, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return place{}, err
	}
	boot := strings.TrimSpace(string(b))
	if len(boot) != bootIDLen {
		return place{}, fmt.Errorf("boot id %q has %d bytes, not %d", boot, len(boot), bootIDLen)
	}
	ns, err := namespace()
	return place{boot, ns}, err
}

// writeState writes the file so that a crash leaves the old one or the new one, never a half.
func writeState(path string, at place, state []byte) (err error) {
	b := make([]byte, 0, stateHeader+len(state)+sha256.Size)
	b = append(b, stateMagic...)
	b = binary.BigEndian.AppendUint16(b, stateVersion)
	b = append(b, at.boot...)
	b = binary.BigEndian.AppendUint64(b, at.namespace)
	b = binary.BigEndian.AppendUint64(b, uint64(len(state)))
	b = append(b, state...)
	sum := sha256.Sum256(b)
	b = append(b, sum[:]...)

	folder := filepath.Dir(path)
	f, err := os.CreateTemp(folder, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, e := os.Open(folder)
	if e != nil {
		return nil // the file is in place; only its survival of a power cut is not certain
	}
	d.Sync()
	d.Close()
	return nil
}

// readState is what writeState wrote. Errors: os.ErrNotExist, errForeignState, or what is damaged.
func readState(path string, at place) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return nil, err
	}
	switch {
	case len(b) > maxState:
		return nil, fmt.Errorf("more than %d bytes", maxState)
	case len(b) < stateHeader+sha256.Size:
		return nil, fmt.Errorf("%d bytes, at least %d make a state", len(b), stateHeader+sha256.Size)
	case string(b[:len(stateMagic)]) != stateMagic:
		return nil, errors.New("it is no state of cthelperd")
	}
	rest := b[len(stateMagic):]
	if v := binary.BigEndian.Uint16(rest); v != stateVersion {
		return nil, fmt.Errorf("version %d, this program knows %d", v, stateVersion)
	}
	end := len(b) - sha256.Size
	if sum := sha256.Sum256(b[:end]); string(sum[:]) != string(b[end:]) {
		return nil, errors.New("the checksum is wrong")
	}
	rest = rest[2:]
	was := place{string(rest[:bootIDLen]), binary.BigEndian.Uint64(rest[bootIDLen:])}
	if n := binary.BigEndian.Uint64(rest[bootIDLen+8:]); n != uint64(end-stateHeader) {
		return nil, fmt.Errorf("%d bytes of state, the header says %d", end-stateHeader, n)
	}
	switch {
	case was.boot != at.boot:
		return nil, fmt.Errorf("%w: another boot of the machine", errForeignState)
	case was.namespace != at.namespace:
		return nil, fmt.Errorf("%w: another network namespace", errForeignState)
	}
	return b[stateHeader:end], nil
}
