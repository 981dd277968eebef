package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// The classic format, draft-ietf-opsawg-pcap. pcapgo.Reader reads it too, but neither says where a damaged file goes
// wrong nor takes the modified header.
const (
	pcapMicro    = 0xa1b2c3d4
	pcapNano     = 0xa1b23c4d
	pcapModified = 0xa1b2cd34 // Alexey Kuznetzov's: eight more bytes a record

	pcapHeaderLen = 24
	pcapRecordLen = 16

	// maxRecord is the longest frame that is read: MAXIMUM_SNAPLEN of libpcap.
	maxRecord = 262144
	// linkMask takes off the length of the frame check sequence from the header's link type.
	linkMask = 0x03ffffff
)

type pcap struct {
	src   *source
	order binary.ByteOrder
	unit  time.Duration
	extra int // bytes in a record's header behind the usual ones
	link  uint32
	err   error // comes again
}

func newPcap(src *source) (*pcap, error) {
	h, err := src.read(pcapHeaderLen)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, src.damaged(0, err)
	}
	p := &pcap{src: src, order: binary.LittleEndian, unit: time.Microsecond}
	if len(h) >= 4 && h[0] == 0xa1 {
		p.order = binary.BigEndian
	}
	var magic uint32
	if len(h) >= 4 {
		magic = p.order.Uint32(h)
	}
	switch magic {
	case pcapMicro:
	case pcapNano:
		p.unit = time.Nanosecond
	case pcapModified:
		p.extra = 8
	default:
		return nil, src.damaged(0, errFormat)
	}
	if err != nil {
		return nil, src.damaged(0, err)
	}
	if major := p.order.Uint16(h[4:]); major != 2 {
		return nil, src.damaged(0, fmt.Errorf("pcap version %d.%d", major, p.order.Uint16(h[6:])))
	}
	p.link = p.order.Uint32(h[20:]) & linkMask
	return p, nil
}

func (p *pcap) next() (record, error) {
	if p.err != nil {
		return record{}, p.err
	}
	rec, err := p.read()
	p.err = err
	return rec, err
}

func (p *pcap) read() (record, error) {
	start := p.src.off
	h, err := p.src.read(pcapRecordLen + p.extra)
	if err == io.EOF {
		return record{}, io.EOF
	}
	if err != nil {
		return record{}, p.src.damaged(start, err)
	}
	sec, frac, n := p.order.Uint32(h), p.order.Uint32(h[4:]), p.order.Uint32(h[8:])
	if n > maxRecord {
		return record{}, p.src.damaged(start, fmt.Errorf("a frame of %d bytes, more than %d", n, maxRecord))
	}
	data, err := p.src.read(int(n))
	if err != nil {
		return record{}, p.src.damaged(start, err)
	}
	return record{time: time.Unix(int64(sec), int64(frac)*int64(p.unit)).UTC(), link: p.link, data: data}, nil
}
