package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"time"
)

// Blocks of draft-ietf-opsawg-pcapng. pcapgo.NgReader reads them too, but buffers ahead, so that nobody can tell at
// which byte it failed.
const (
	blockSection   = 0x0a0d0d0a // the same in both byte orders
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6
	blockJournal   = 9 // systemd's journal export: no packet, but a frame to tshark

	orderMagic = 0x1a2b3c4d

	blockOverhead = 12 // type and both total lengths
	maxInterfaces = 4096
	maxOptions    = 1 << 16 // bytes of an interface's options that are looked at

	optionEnd        = 0
	optionResolution = 9
	optionOffset     = 14
)

type pcapng struct {
	src        *source
	order      binary.ByteOrder
	interfaces []iface
	err        error // comes again
}

type iface struct {
	link   uint32
	snap   uint32
	units  uint64 // time stamp units a second
	offset int64  // seconds to add
}

func newPcapng(src *source) *pcapng { return &pcapng{src: src} }

func (p *pcapng) next() (record, error) {
	for p.err == nil {
		start := p.src.off
		rec, frame, err := p.block()
		if err != nil && err != io.EOF {
			err = p.src.damaged(start, err)
		}
		if p.err = err; err == nil && frame {
			return rec, nil
		}
	}
	return record{}, p.err
}

// block reads one block; frame says whether it counts as a frame.
func (p *pcapng) block() (rec record, frame bool, err error) {
	start := p.src.off
	h, err := p.src.read(8)
	if err != nil {
		return record{}, false, err
	}
	if binary.BigEndian.Uint32(h) == blockSection {
		return record{}, false, p.section([4]byte(h[4:]))
	}
	if p.order == nil {
		return record{}, false, errFormat
	}
	kind, total := p.order.Uint32(h), p.order.Uint32(h[4:])
	if total < blockOverhead || total%4 != 0 {
		return record{}, false, fmt.Errorf("block length %d", total)
	}
	body := int64(total) - blockOverhead
	switch kind {
	case blockInterface:
		err = p.iface(body)
	case blockEnhanced, blockPacket:
		frame = true
		rec, err = p.packet(kind, body)
	case blockSimple:
		frame = true
		rec, err = p.simple(body)
	case blockJournal:
		frame = true
	}
	if err == nil {
		err = p.src.skip(start + int64(total) - 4 - p.src.off)
	}
	if err == nil {
		err = p.trailer(total)
	}
	return rec, frame, noEOF(err)
}

// trailer checks the second total length, without touching the data that was read.
func (p *pcapng) trailer(total uint32) error {
	var b [4]byte
	n, err := io.ReadFull(p.src.r, b[:])
	p.src.off += int64(n)
	if err != nil {
		return err
	}
	if got := p.order.Uint32(b[:]); got != total {
		return fmt.Errorf("block lengths %d and %d differ", total, got)
	}
	return nil
}

// noEOF keeps an end inside a block from looking like the file's.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// section reads a section header behind its length, which can only be read when the byte order is known.
func (p *pcapng) section(length [4]byte) error {
	h, err := p.src.read(16)
	if err != nil {
		return noEOF(err)
	}
	switch {
	case binary.LittleEndian.Uint32(h) == orderMagic:
		p.order = binary.LittleEndian
	case binary.BigEndian.Uint32(h) == orderMagic:
		p.order = binary.BigEndian
	default:
		return errors.New("section header without byte order")
	}
	total := p.order.Uint32(length[:])
	if total < blockOverhead+16 || total%4 != 0 {
		return fmt.Errorf("section header of length %d", total)
	}
	if major := p.order.Uint16(h[4:]); major != 1 {
		return fmt.Errorf("pcapng version %d.%d", major, p.order.Uint16(h[6:]))
	}
	p.interfaces = p.interfaces[:0]
	if err := p.src.skip(int64(total) - blockOverhead - 16); err != nil {
		return noEOF(err)
	}
	return noEOF(p.trailer(total))
}

func (p *pcapng) iface(body int64) error {
	if body < 8 {
		return errors.New("interface description is too short")
	}
	if len(p.interfaces) == maxInterfaces {
		return fmt.Errorf("more than %d interfaces", maxInterfaces)
	}
	b, err := p.src.read(int(min(body, maxOptions)))
	if err != nil {
		return err
	}
	i := iface{link: uint32(p.order.Uint16(b)), snap: p.order.Uint32(b[4:]), units: 1e6}
	for b = b[8:]; len(b) >= 4; {
		code, n := p.order.Uint16(b), int(p.order.Uint16(b[2:]))
		b = b[4:]
		if code == optionEnd || n > len(b) {
			break
		}
		switch {
		case code == optionResolution && n >= 1:
			if i.units, err = resolution(b[0]); err != nil {
				return err
			}
		case code == optionOffset && n >= 8:
			i.offset = int64(p.order.Uint64(b))
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	p.interfaces = append(p.interfaces, i)
	return nil
}

// resolution is if_tsresol in units a second: a negative power of 2 if the top bit is set, of 10 otherwise.
func resolution(v byte) (uint64, error) {
	switch e := v & 0x7f; {
	case v&0x80 != 0 && e < 64:
		return 1 << e, nil
	case v&0x80 == 0 && e < 20:
		u := uint64(1)
		for range e {
			u *= 10
		}
		return u, nil
	}
	return 0, fmt.Errorf("time stamp resolution %#02x", v)
}

func (i *iface) time(stamp uint64) time.Time {
	hi, lo := bits.Mul64(stamp%i.units, uint64(time.Second))
	frac, _ := bits.Div64(hi, lo, i.units)
	sec := stamp / i.units
	if sec > math.MaxInt64/2 { // nobody's clock: keep the sum in range
		sec = math.MaxInt64 / 2
	}
	return time.Unix(int64(sec)+max(i.offset, math.MinInt64/4), int64(frac)).UTC()
}

// packet reads an enhanced or an obsolete packet block; the two differ in how they name the interface.
func (p *pcapng) packet(kind uint32, body int64) (record, error) {
	const header = 20
	if body < header {
		return record{}, errors.New("packet block is too short")
	}
	h, err := p.src.read(header)
	if err != nil {
		return record{}, err
	}
	id := p.order.Uint32(h)
	if kind == blockPacket {
		id = uint32(p.order.Uint16(h))
	}
	stamp := uint64(p.order.Uint32(h[4:]))<<32 | uint64(p.order.Uint32(h[8:]))
	n := p.order.Uint32(h[12:])
	if n > maxRecord || int64(n) > body-header {
		return record{}, fmt.Errorf("a frame of %d bytes in a block of %d", n, body+blockOverhead)
	}
	if uint64(id) >= uint64(len(p.interfaces)) {
		return record{}, fmt.Errorf("interface %d of %d", id, len(p.interfaces))
	}
	i := &p.interfaces[id]
	data, err := p.src.read(int(n))
	return record{time: i.time(stamp), link: i.link, data: data}, err
}

// simple reads a simple packet block: no time stamp, the first interface's snap length instead of a captured one.
func (p *pcapng) simple(body int64) (record, error) {
	if body < 4 {
		return record{}, errors.New("packet block is too short")
	}
	if len(p.interfaces) == 0 {
		return record{}, errors.New("interface 0 of 0")
	}
	h, err := p.src.read(4)
	if err != nil {
		return record{}, err
	}
	i := &p.interfaces[0]
	n := int64(p.order.Uint32(h))
	if i.snap != 0 {
		n = min(n, int64(i.snap))
	}
	n = min(n, body-4)
	if n > maxRecord {
		return record{}, fmt.Errorf("a frame of %d bytes, more than %d", n, maxRecord)
	}
	data, err := p.src.read(int(n))
	return record{link: i.link, data: data}, err
}
