// Package capture reads packet captures for replays: pcap and pcapng files, plain or gzip'd, down to whole IP packets.
// It says at which byte a damaged file goes wrong, numbers frames as tshark does, and keeps little memory whatever a
// file claims.
package capture

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Frame is one frame of a capture.
type Frame struct {
	Number uint64    // counts from 1 over the whole file, as tshark's frame.number does
	Time   time.Time // UTC; of a frame without time stamp (simple packet block) that of the one before
	// IP is a whole packet from the IP header on, without padding, valid until the next call of Next. It is nil if the
	// frame carries none, or only a fragment that does not complete its datagram. A packet that the capture cut short
	// looks like a shorter one: its lengths are those of what is there.
	IP []byte
}

// Stats counts what Next met.
type Stats struct {
	Frames    uint64 // all
	Foreign   uint64 // no IP in them, or a link type that is not known here
	Cut       uint64 // IP packets shorter than on the wire (snap length)
	Fragments uint64 // IP fragments
	Dropped   uint64 // of those: cut, contradicting, timed out or pushed out by others; their datagrams are not seen
}

// DamagedError says where a capture goes wrong. What Next gave before is good.
type DamagedError struct {
	Offset int64 // of the record or block, in bytes from the start of the (uncompressed) capture
	Err    error
}

func (e *DamagedError) Error() string { return fmt.Sprintf("damaged at byte %d: %v", e.Offset, e.Err) }
func (e *DamagedError) Unwrap() error { return e.Err }

// Reader reads one capture.
type Reader struct {
	records records
	last    time.Time
	stats   Stats
	frags   reassembler
}

// records is a file format.
type records interface {
	// next reads a record; its data is valid until the next call. io.EOF only between records.
	next() (record, error)
}

// record is one captured frame.
type record struct {
	time time.Time // zero: none
	link uint32    // LINKTYPE_ value, tcpdump.org/linktypes.html
	data []byte
}

// errFormat is what is wrong with a file that is no capture.
var errFormat = errors.New("neither pcap nor pcapng")

// NewReader reads the header of a capture. Errors are *DamagedError, or the ones of r.
func NewReader(r io.Reader) (*Reader, error) {
	src := &source{r: bufio.NewReaderSize(r, 1<<16)}
	if magic, _ := src.r.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) { // RFC 1952 section 2.3.1
		z, err := gzip.NewReader(src.r)
		if err != nil {
			return nil, src.damaged(0, err)
		}
		src.r = bufio.NewReaderSize(z, 1<<16)
	}
	records, err := openFormat(src)
	if err != nil {
		return nil, err
	}
	return &Reader{records: records, last: time.Unix(0, 0).UTC()}, nil
}

func openFormat(src *source) (records, error) {
	magic, err := src.r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, src.damaged(0, err)
	}
	if len(magic) < 4 {
		return nil, src.damaged(0, errFormat)
	}
	if binary.BigEndian.Uint32(magic) == blockSection {
		return newPcapng(src), nil
	}
	return newPcap(src)
}

// Next gives the next frame. io.EOF is the regular end, a *DamagedError ends the capture early; both come again.
func (r *Reader) Next() (Frame, error) {
	rec, err := r.records.next()
	if err != nil {
		return Frame{}, err
	}
	r.stats.Frames++
	if !rec.time.IsZero() {
		r.last = rec.time
	}
	f := Frame{Number: r.stats.Frames, Time: r.last}
	f.IP = r.packet(network(rec.link, rec.data))
	return f, nil
}

// Stats is a copy of the counters.
func (r *Reader) Stats() Stats {
	s := r.stats
	s.Dropped += r.frags.dropped
	return s
}

// source is a stream that knows where it is.
type source struct {
	r   *bufio.Reader
	off int64
	buf []byte
}

// damaged wraps err. An unexpected end is put in words.
func (s *source) damaged(off int64, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the file ends in the middle of this record")
	}
	return &DamagedError{Offset: off, Err: err}
}

// read gives the next n bytes, valid until the next read. At a regular end it is io.EOF, inside of them
// io.ErrUnexpectedEOF.
func (s *source) read(n int) ([]byte, error) {
	if cap(s.buf) < n {
		s.buf = make([]byte, max(n, 4096))
	}
	m, err := io.ReadFull(s.r, s.buf[:n])
	s.off += int64(m)
	return s.buf[:m], err
}

// skip goes n bytes on without keeping them.
func (s *source) skip(n int64) error {
	m, err := io.CopyN(io.Discard, s.r, n)
	s.off += m
	return err
}
