package capture_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/cthelperd/cthelperd/internal/capture"
)

// FuzzReader reads anything: no panic, no more frames or bytes than the input pays for, whole packets only, and every
// error says where, inside the file.
func FuzzReader(f *testing.F) {
	v4, v6 := udp4(f, bytes.Repeat([]byte("one"), 20)), udp6(f, []byte("two"))
	le := binary.LittleEndian
	f.Add(little.file(ethernet(0x0800, v4), ethernet(0x86dd, v6), ethernet(0x8100, v6)))
	f.Add(pcap{binary.BigEndian, 0xa1b2cd34, 113}.file(v4, v6))
	f.Add(pcap{le, 0xa1b23c4d, 101}.file(fragment4(v4, 0, 16), fragment4(v4, 16, 68), fragment6(v6, nil, 0, 8), fragment6(v6, nil, 8, 11)))
	f.Add(pcap{le, 0xa1b2c3d4, 239}.file([]byte{2, 0, 0, 5, 24, 0, 9, 0}, v4))
	f.Add(slices.Concat(
		section(le), block(le, 1, uint16(101), uint16(0), uint32(0), uint16(9), uint16(1), uint8(0x8a), [3]byte{}),
		block(le, 6, uint32(0), uint32(1), uint32(2), uint32(len(v4)), uint32(len(v4)), v4),
		block(le, 2, uint16(0), uint16(0), uint32(1), uint32(2), uint32(len(v6)), uint32(len(v6)), v6),
		section(binary.BigEndian), block(binary.BigEndian, 1, uint16(1), uint16(0), uint32(60)),
		block(binary.BigEndian, 3, uint32(100), ethernet(0x0800, v4)[:60]),
	))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(little.file(ethernet(0x0800, v4)))
	z.Close()
	f.Add(zipped.Bytes())

	f.Fuzz(func(t *testing.T, file []byte) {
		if bytes.HasPrefix(file, []byte{0x1f, 0x8b}) && len(file) > 4096 {
			return // a small file may unfold to a large one: that takes time, not memory
		}
		frames, stats, err := readAll(bytes.NewReader(file))
		size := len(file)
		if bytes.HasPrefix(file, []byte{0x1f, 0x8b}) {
			size *= 1032 // deflate's best
		}
		if len(frames)*12 > size {
			t.Fatalf("%d frames in %d bytes", len(frames), size)
		}
		var damaged *capture.DamagedError
		if err != nil && (!errors.As(err, &damaged) || damaged.Offset < 0 || damaged.Offset > int64(size)) {
			t.Fatalf("error %v of a file of %d bytes", err, size)
		}
		sum := 0
		for i, fr := range frames {
			if fr.Number != uint64(i+1) {
				t.Fatalf("frame %d has number %d", i+1, fr.Number)
			}
			if fr.IP == "" {
				continue
			}
			b := []byte(fr.IP)
			sum += len(b)
			if v := b[0] >> 4; v != 4 && v != 6 {
				t.Fatalf("IP version %d", v)
			}
			if len(b) < 20 || ipLength(b) != len(b) {
				t.Fatalf("frame %d: %d bytes, the header says %d", fr.Number, len(b), ipLength(b))
			}
		}
		if sum > size {
			t.Fatalf("%d bytes of packets in %d", sum, size)
		}
		if stats.Frames != uint64(len(frames)) || stats.Foreign+stats.Cut > stats.Frames || stats.Dropped > stats.Fragments {
			t.Fatalf("%+v of %d frames", stats, len(frames))
		}
	})
}
