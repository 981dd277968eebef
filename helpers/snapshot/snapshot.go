// Package snapshot is the form in which sessions of helpers write their state (helpers.Snapshotter): a version, what the
// session knows, a checksum. What is read may be damaged, or made by somebody else.
package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrDamaged says that a state is not what a session has written.
var ErrDamaged = errors.New("damaged state")

const sumLen = 4

// Seal appends the checksum (CRC-32, IEEE) of b[start:], of which the first byte is the version.
func Seal(b []byte, start int) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[start:]))
}

// AppendBytes appends v behind its length, for Reader.Bytes.
func AppendBytes(b, v []byte) []byte { return append(binary.AppendUvarint(b, uint64(len(v))), v...) }

// Flags are at most seven bits in a byte, for Reader.Flags.
func Flags(bits ...bool) (f byte) {
	for i, b := range bits {
		if b {
			f |= 1 << i
		}
	}
	return f
}

// Reader reads a state; after the first damage it gives zeroes. Numbers are unsigned varints.
type Reader struct {
	rest []byte
	bad  bool
}

// Open checks the version and the checksum of a state. Its error is ErrDamaged, or names both versions.
func Open(state []byte, version byte) (*Reader, error) {
	body := len(state) - sumLen
	if body >= 0 && state[0] != version {
		return nil, fmt.Errorf("state of version %d, this is %d", state[0], version)
	}
	if body < 1 || crc32.ChecksumIEEE(state[:body]) != binary.BigEndian.Uint32(state[body:]) {
		return nil, ErrDamaged
	}
	return &Reader{rest: state[1:body]}, nil
}

// End is ErrDamaged if something was wrong, or if not all was read.
func (r *Reader) End() error {
	if r.bad || len(r.rest) > 0 {
		return ErrDamaged
	}
	return nil
}

// Bad tells whether something was wrong until now.
func (r *Reader) Bad() bool { return r.bad }

// Check says whether what was read makes sense.
func (r *Reader) Check(ok bool) { r.bad = r.bad || !ok }

// Number is at most most.
func (r *Reader) Number(most uint64) uint64 {
	v, n := binary.Uvarint(r.rest)
	if r.Check(n > 0 && v <= most); r.bad {
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// Bytes are what AppendBytes has written, at most most. They are the state's own.
func (r *Reader) Bytes(most uint64) []byte {
	return r.Take(int(r.Number(min(most, uint64(len(r.rest))))))
}

// Take gives n bytes, which are the state's own.
func (r *Reader) Take(n int) []byte {
	if r.Check(n <= len(r.rest)); r.bad {
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

// Flags sets bits as Flags was given them.
func (r *Reader) Flags(bits ...*bool) {
	f := r.Number(1<<len(bits) - 1)
	for i, b := range bits {
		*b = f>>i&1 == 1
	}
}
