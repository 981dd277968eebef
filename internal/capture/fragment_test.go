package capture_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fragment4 cuts bytes [from,to) of the payload of an IPv4 packet out.
func fragment4(packet []byte, from, to int) []byte {
	header, data := bytes.Clone(packet[:20]), packet[20:]
	field := uint16(from / 8)
	if to < len(data) {
		field |= 0x2000
	}
	binary.BigEndian.PutUint16(header[6:], field)
	binary.BigEndian.PutUint16(header[2:], uint16(20+to-from))
	return append(header, data[from:to]...)
}

// fragment6 does it for IPv6, with extension headers that stay in front.
func fragment6(packet, ext []byte, from, to int) []byte {
	header, data := bytes.Clone(packet[:40]), packet[40:]
	f := make([]byte, 8)
	f[0] = header[6]
	field := uint16(from)
	if to < len(data) {
		field |= 1
	}
	binary.BigEndian.PutUint16(f[2:], field)
	binary.BigEndian.PutUint32(f[4:], 99)
	header[6] = 44
	if len(ext) > 0 {
		header[6] = 0
		ext = bytes.Clone(ext)
		ext[0] = 44
	}
	b := slices.Concat(header, ext, f, data[from:to])
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}

func TestFragments(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789abcdef"), 8)
	v4, v6 := udp4(t, payload), udp6(t, payload)
	n := len(payload) + 8 // with the UDP header
	a, b, c := fragment4(v4, 0, 48), fragment4(v4, 48, 96), fragment4(v4, 96, n)
	hop := []byte{0, 0, 1, 4, 0, 0, 0, 0} // PadN
	x, y := fragment6(v6, nil, 0, 64), fragment6(v6, nil, 64, n)
	hx, hy := fragment6(v6, hop, 0, 64), fragment6(v6, hop, 64, n)
	withHop := slices.Concat(v6[:40], hop, v6[40:])
	withHop[6], withHop[40] = 0, 17
	binary.BigEndian.PutUint16(withHop[4:], uint16(len(withHop)-40))
	other := bytes.Clone(b)
	other[4]++ // of another datagram
	overlap := fragment4(v4, 40, 88)
	beyond := fragment4(v4, 48, n)[:20+40]
	binary.BigEndian.PutUint16(beyond[2:], 60) // a second end, before the first one
	cut := b[:len(b)-8]

	tests := []struct {
		name    string
		frames  [][]byte
		want    []byte // of the last frame
		dropped uint64
	}{
		{"in order", [][]byte{a, b, c}, v4, 0},
		{"last first", [][]byte{c, a, b}, v4, 0},
		{"backwards", [][]byte{c, b, a}, v4, 0},
		{"a copy", [][]byte{a, b, a, b, c}, v4, 0},
		{"one is missing", [][]byte{a, c}, nil, 0},
		{"one of another datagram", [][]byte{a, other, c}, nil, 0},
		{"overlap ends the datagram", [][]byte{a, overlap, c}, nil, 2},
		{"two ends", [][]byte{a, c, beyond}, nil, 3},
		{"cut", [][]byte{a, cut, c}, nil, 1},
		{"IPv6", [][]byte{x, y}, v6, 0},
		{"IPv6 backwards", [][]byte{y, x}, v6, 0},
		{"IPv6 extension header in front", [][]byte{hx, hy}, withHop, 0},
		{"IPv6 alone", [][]byte{fragment6(v6, nil, 0, n)}, v6, 0},
		{"IPv6, not a multiple of 8", [][]byte{fragment6(v6, nil, 0, 60)}, nil, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := pcap{binary.LittleEndian, 0xa1b2c3d4, 101}.file(tt.frames...)
			got, stats, err := readAll(bytes.NewReader(file))
			if err != nil {
				t.Fatal(err)
			}
			last := len(got) - 1
			for _, f := range got[:last] {
				if f.IP != "" {
					t.Errorf("frame %d is a packet", f.Number)
				}
			}
			ip := []byte(got[last].IP)
			if len(ip) > 0 && ip[0]>>4 == 4 {
				if headerSum(ip) != 0xffff {
					t.Error("wrong header checksum")
				}
			}
			if d := cmp.Diff(string(tt.want), string(ip)); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
			if stats.Fragments != uint64(len(tt.frames)) || stats.Dropped != tt.dropped {
				t.Errorf("%d fragments, %d dropped, want %d", stats.Fragments, stats.Dropped, tt.dropped)
			}
		})
	}
}

// Fragments that nobody completes take no more memory than the bound and leave after 30 s.
func TestFragmentsAreBounded(t *testing.T) {
	v4 := udp4(t, bytes.Repeat([]byte("x"), 1400))
	first, last := fragment4(v4, 0, 1200), fragment4(v4, 1200, 1408)
	alone := bytes.Clone(first)
	var frames [][]byte
	frames = append(frames, bytes.Clone(first))
	for i := range 4000 {
		binary.BigEndian.PutUint16(alone[4:], uint16(1000+i))
		frames = append(frames, bytes.Clone(alone))
	}
	frames = append(frames, last) // the first one was pushed out
	raw := pcap{binary.LittleEndian, 0xa1b2c3d4, 101}
	got, stats, err := readAll(bytes.NewReader(raw.file(frames...)))
	if err != nil {
		t.Fatal(err)
	}
	if got[len(got)-1].IP != "" {
		t.Error("the datagram was kept beyond the bound")
	}
	if kept := (4002 - stats.Dropped) * 1200; kept > 4<<20 || kept < 2<<20 {
		t.Errorf("%d bytes are kept", kept)
	}

	late := raw.file(first, last)
	second := 24 + 16 + len(first)
	binary.LittleEndian.PutUint32(late[second:], uint32(at.Add(31*time.Second).Unix()))
	got, stats, err = readAll(bytes.NewReader(late))
	if err != nil || got[1].IP != "" || stats.Dropped != 1 {
		t.Errorf("after 31 s: %d dropped, %v", stats.Dropped, err)
	}
}
