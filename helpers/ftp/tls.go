package ftp

import (
	"encoding/binary"
	"errors"

	"github.com/cthelperd/cthelperd/helpers"
)

// The header of a TLS record (RFC 8446, section 5.1): type, version, length.
const (
	recordHeader    = 5
	firstRecordType = 20 // change_cipher_spec
	lastRecordType  = 24 // heartbeat
	maxRecord       = 1<<14 + 2048
)

var errOpaque = errors.New("neither a TLS record nor text after AUTH")

// isRecord tells whether b begins with the header of a TLS record, and how long header and record are. With less than
// a header it says what can still become one.
func isRecord(b []byte) (n int, ok bool) {
	if b[0] < firstRecordType || b[0] > lastRecordType || len(b) > 1 && b[1] != 3 || len(b) > 2 && b[2] > 4 {
		return 0, false
	}
	if len(b) < recordHeader {
		return 0, true
	}
	size := int(binary.BigEndian.Uint16(b[3:]))
	return recordHeader + size, size <= maxRecord
}

// record steps over the record at the start of b, of which it may see the header only. It changes the mode when there
// is none: text follows a CCC (RFC 4217, section 12.3) or an AUTH that failed later.
func (s *session) record(b []byte, dir helpers.Dir, off int) int {
	d := &s.dirs[dir]
	if n, ok := isRecord(b); ok {
		return n
	}
	d.scanned, d.joined, d.begun = 0, true, false
	if b[0] >= ' ' && b[0] < 0x7f || b[0] == '\r' || b[0] == '\n' || b[0] == iac {
		d.mode = text
		return 0
	}
	d.mode = opaque
	s.fail(off, errOpaque)
	return 0
}

// encrypted looks whether a stream that was just joined is in the middle of TLS, or is TLS from its first byte
// (implicit FTPS). false: too few bytes to say.
func (s *session) encrypted(b []byte, d *direction, out *helpers.Result) bool {
	n, ok := isRecord(b)
	if ok && n == 0 {
		return false
	}
	d.joined = true
	if ok {
		d.mode = records
		s.tellTLS("TLS", out)
	}
	return true
}

// tellTLS says once that nothing can be announced any more, and how it came to be.
func (s *session) tellTLS(how string, out *helpers.Result) {
	if !s.toldTLS {
		s.toldTLS = true
		out.Notes = append(out.Notes, helpers.Note{Text: how + ": encrypted from here on"})
	}
}
