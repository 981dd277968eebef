package capture_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/cthelperd/cthelperd/internal/capture"
)

func TestFormats(t *testing.T) {
	var (
		ip     = udp4(t, []byte("one"))
		six    = udp6(t, []byte("two"))
		one    = ethernet(0x0800, ip)
		arp    = ethernet(0x0806, make([]byte, 28))
		two    = ethernet(0x86dd, six)
		micro  = at.Truncate(time.Microsecond)
		le, be = binary.LittleEndian, binary.BigEndian
		want   = func(when time.Time) []frame {
			return []frame{{1, when, string(ip)}, {2, when, ""}, {3, when, string(six)}}
		}
	)
	zip := func(b []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		z.Write(b)
		z.Close()
		return out.Bytes()
	}
	// stamp is a time in units a second as the two halves of a block.
	stamp := func(units uint64) []any {
		v := uint64(at.Unix())*units + uint64(at.Nanosecond())*(units/1e6)/1e3
		return []any{uint32(v >> 32), uint32(v)}
	}
	enhanced := func(order binary.ByteOrder, id uint32, units uint64, b []byte) []byte {
		f := append([]any{id}, stamp(units)...)
		return block(order, 6, append(f, uint32(len(b)), uint32(len(b)), b)...)
	}
	library := func() []byte {
		var b bytes.Buffer
		w, err := pcapgo.NewNgWriter(&b, layers.LinkTypeEthernet)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range [][]byte{one, arp, two} {
			ci := gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(f), Length: len(f)}
			if err := w.WritePacket(ci, f); err != nil {
				t.Fatal(err)
			}
		}
		w.Flush()
		return b.Bytes()
	}
	tests := []struct {
		name string
		file []byte
		want []frame
	}{
		{"pcap, microseconds, little endian", little.file(one, arp, two), want(micro)},
		{"pcap, microseconds, big endian", pcap{be, 0xa1b2c3d4, 1}.file(one, arp, two), want(micro)},
		{"pcap, nanoseconds, little endian", pcap{le, 0xa1b23c4d, 1}.file(one, arp, two), want(at)},
		{"pcap, nanoseconds, big endian", pcap{be, 0xa1b23c4d, 1}.file(one, arp, two), want(at)},
		{"pcap, modified", pcap{le, 0xa1b2cd34, 1}.file(one, arp, two), want(micro)},
		{"pcap, length of a check sequence in the link type", pcap{le, 0xa1b2c3d4, 1 | 0x14000000}.file(one, arp, two), want(micro)},
		{"pcap, zipped", zip(little.file(one, arp, two)), want(micro)},
		{"pcap without frames", little.file(), nil},
		{"pcapng of the library", library(), want(at)},
		{"pcapng, zipped", zip(library()), want(at)},
		{
			"pcapng, sections of both byte orders, own interfaces and resolutions, unknown blocks",
			slices.Concat(
				section(le), block(le, 1, uint16(1), uint16(0), uint32(0)),
				enhanced(le, 0, 1e6, one),
				block(le, 0x0bad, []byte("what is this")),
				section(be), block(be, 1, uint16(101), uint16(0), uint32(0), uint16(9), uint16(1), uint8(9), [3]byte{}, uint32(0)),
				block(be, 1, uint16(1), uint16(0), uint32(0)),
				block(be, 5, uint32(0), uint64(0)),
				enhanced(be, 1, 1e6, arp),
				enhanced(be, 0, 1e9, six),
			),
			[]frame{{1, micro, string(ip)}, {2, micro, ""}, {3, at, string(six)}},
		},
		{
			"pcapng, time offset and binary resolution",
			slices.Concat(
				section(le), block(le, 1, uint16(101), uint16(0), uint32(0),
					uint16(9), uint16(1), uint8(0x80|10), [3]byte{}, uint16(14), uint16(8), int64(at.Unix())),
				block(le, 6, uint32(0), uint32(0), uint32(3*1024+512), uint32(len(ip)), uint32(len(ip)), ip),
			),
			[]frame{{1, at.Truncate(time.Second).Add(3500 * time.Millisecond), string(ip)}},
		},
		{
			"pcapng, obsolete and simple packet blocks, a journal entry",
			slices.Concat(
				section(le), block(le, 1, uint16(101), uint16(0), uint32(len(ip))),
				block(le, 2, append(append([]any{uint16(0), uint16(0)}, stamp(1e6)...), uint32(len(ip)), uint32(len(ip)), ip)...),
				block(le, 9, []byte("__REALTIME_TIMESTAMP=1\n")),
				block(le, 3, uint32(len(ip)+100), ip),
			),
			[]frame{{1, micro, string(ip)}, {2, micro, ""}, {3, micro, string(ip)}},
		},
		{
			"pcapng, simple packet blocks only",
			slices.Concat(section(le), block(le, 1, uint16(101), uint16(0), uint32(0)), block(le, 3, uint32(len(ip)), ip)),
			[]frame{{1, time.Unix(0, 0).UTC(), string(ip)}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, stats, err := readAll(bytes.NewReader(tt.file))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
			if stats.Frames != uint64(len(tt.want)) {
				t.Errorf("%d frames counted", stats.Frames)
			}
		})
	}
}

func TestDamaged(t *testing.T) {
	one := ethernet(0x0800, udp4(t, []byte("one")))
	record := int64(16 + len(one))
	good := little.file(one, one)
	le := binary.LittleEndian
	head := slices.Concat(section(le), block(le, 1, uint16(1), uint16(0), uint32(0)))
	packet := block(le, 6, uint32(0), uint32(0), uint32(0), uint32(len(one)), uint32(len(one)), one)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(good)
	z.Close()

	patched := func(b []byte, at int, v uint32) []byte {
		b = bytes.Clone(b)
		le.PutUint32(b[at:], v)
		return b
	}
	n := int64(len(head))
	tests := []struct {
		name   string
		file   []byte
		frames int
		offset int64
	}{
		{"empty", nil, 0, 0},
		{"text", []byte("220 Welcome to this FTP server.\r\n"), 0, 0},
		{"pcap header cut", good[:10], 0, 0},
		{"pcap of another version", patched(good, 4, 3), 0, 0},
		{"pcap cut in a record's header", good[:24+record+5], 1, 24 + record},
		{"pcap cut in a frame", good[:len(good)-1], 1, 24 + record},
		{"pcap with a frame of 4 GiB", patched(good, int(24+record)+8, 0xffffffff), 1, 24 + record},
		{"zipped pcap cut", zipped.Bytes()[:zipped.Len()-12], 2, int64(len(good))},
		{"pcapng section cut", head[:20], 0, 0},
		{"pcapng of no byte order", patched(head, 8, 0), 0, 0},
		{"pcapng of another version", patched(head, 12, 2), 0, 0},
		{"pcapng block cut", slices.Concat(head, packet, packet[:30]), 1, n + int64(len(packet))},
		{"pcapng block of no length", slices.Concat(head, packet, patched(packet, 4, 0)), 1, n + int64(len(packet))},
		{"pcapng block lengths differ", slices.Concat(head, patched(packet, len(packet)-4, 4)), 0, n},
		{"pcapng frame longer than its block", slices.Concat(head, patched(packet, 20, 4096)), 0, n},
		{"pcapng frame of no interface", slices.Concat(head, packet, patched(packet, 8, 1)), 1, n + int64(len(packet))},
		{"pcapng simple frame of no interface", slices.Concat(section(le), block(le, 3, uint32(4), uint32(0))), 0, int64(len(section(le)))},
		{"pcapng resolution of 10^-20", slices.Concat(section(le), block(le, 1, uint16(1), uint16(0), uint32(0), uint16(9), uint16(1), uint8(20))), 0, int64(len(section(le)))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			frames, _, err := readAll(bytes.NewReader(tt.file))
			var damaged *capture.DamagedError
			if !errors.As(err, &damaged) {
				t.Fatalf("error %v", err)
			}
			if damaged.Offset != tt.offset {
				t.Errorf("offset %d, want %d: %v", damaged.Offset, tt.offset, err)
			}
			if len(frames) != tt.frames {
				t.Errorf("%d frames before it, want %d", len(frames), tt.frames)
			}
		})
	}
}

func TestLinkTypes(t *testing.T) {
	v4, v6 := udp4(t, []byte("one")), udp6(t, []byte("two"))
	cat := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	pad := make([]byte, 9)
	tests := []struct {
		name string
		link uint32
		data []byte
		want []byte
	}{
		{"ethernet with padding", 1, cat(ethernet(0x0800, v4), pad), v4},
		{"ethernet IPv6 with padding", 1, cat(ethernet(0x86dd, v6), pad), v6},
		{"VLAN", 1, ethernet(0x8100, cat([]byte{0, 5, 0x08, 0x00}, v4)), v4},
		{"QinQ", 1, ethernet(0x88a8, cat([]byte{0, 5, 0x81, 0x00, 0, 6, 0x86, 0xdd}, v6)), v6},
		{"old QinQ", 1, ethernet(0x9100, cat([]byte{0, 5, 0x81, 0x00, 0, 6, 0x86, 0xdd}, v6)), v6},
		{"tags without end", 1, ethernet(0x8100, bytes.Repeat([]byte{0, 5, 0x81, 0x00}, 20)), nil},
		{"PPPoE", 1, ethernet(0x8864, cat([]byte{0x11, 0, 0, 1, 0, 0, 0, 0x21}, v4)), v4},
		{"PPPoE IPv6", 1, ethernet(0x8864, cat([]byte{0x11, 0, 0, 1, 0, 0, 0, 0x57}, v6)), v6},
		{"ethernet, cut in its header", 1, make([]byte, 13), nil},
		{"raw", 101, v4, v4},
		{"raw IPv6", 101, v6, v6},
		{"raw as BSD wrote it", 12, v4, v4},
		{"raw as OpenBSD wrote it", 14, v6, v6},
		{"IPv4", 228, v4, v4},
		{"IPv6", 229, v6, v6},
		{"raw of another version", 101, bytes.Repeat([]byte{0x55}, 60), nil},
		{"null, little endian", 0, cat([]byte{2, 0, 0, 0}, v4), v4},
		{"null, IPv6 of FreeBSD", 0, cat([]byte{28, 0, 0, 0}, v6), v6},
		{"loop, big endian", 108, cat([]byte{0, 0, 0, 24}, v6), v6},
		{"SLL", 113, cat(make([]byte, 14), []byte{0x08, 0x00}, v4), v4},
		{"SLL, VLAN", 113, cat(make([]byte, 14), []byte{0x81, 0x00, 0, 9, 0x08, 0x00}, v4), v4},
		{"SLL2", 276, cat([]byte{0x86, 0xdd}, make([]byte, 18), v6), v6},
		{"PPP", 9, cat([]byte{0x00, 0x21}, v4), v4},
		{"PPP, compressed protocol", 9, cat([]byte{0x57}, v6), v6},
		{"PPP with HDLC framing", 50, cat([]byte{0xff, 0x03, 0x00, 0x21}, v4), v4},
		{"Cisco HDLC", 104, cat([]byte{0x0f, 0, 0x08, 0x00}, v4), v4},
		{"NFLOG", 239, cat([]byte{2, 0, 0, 5}, []byte{8, 0, 1, 0, 8, 0, 1, 0}, []byte{byte(4 + len(v4)), 0, 9, 0}, v4), v4},
		{"NFLOG, big endian", 239, cat([]byte{10, 0, 0, 5}, []byte{0, 8, 0, 1, 8, 0, 1, 0}, []byte{0, byte(4 + len(v6)), 0, 9}, v6), v6},
		{"NFLOG, attribute longer than the frame", 239, []byte{2, 0, 0, 5, 60, 0, 9, 0, 0x45}, nil},
		{"unknown", 147, v4, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, stats, err := readAll(bytes.NewReader(pcap{binary.LittleEndian, 0xa1b2c3d4, tt.link}.file(tt.data)))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(tt.want), got[0].IP); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
			if foreign := tt.want == nil; (stats.Foreign == 1) != foreign {
				t.Errorf("counted as foreign: %d", stats.Foreign)
			}
		})
	}
}

// A packet that the snap length cut is one with fewer bytes; lengths and the header's checksum are made right.
func TestCut(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 100)
	short := long[:60]
	v4, v6 := udp4(t, long), udp6(t, long)
	zero4 := bytes.Clone(v4)
	zero4[2], zero4[3] = 0, 0
	tests := []struct {
		name string
		ip   []byte
		len  int
		cut  uint64
	}{
		{"IPv4", v4, 20 + 8 + len(short), 1},
		{"IPv6", v6, 40 + 8 + len(short), 1},
		{"IPv4 to its header", v4, 20, 1},
		{"IPv4 of length 0: captured before segmentation", zero4, len(zero4), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, stats, err := readAll(bytes.NewReader(pcap{binary.LittleEndian, 0xa1b2c3d4, 101}.file(tt.ip[:tt.len])))
			if err != nil {
				t.Fatal(err)
			}
			if stats.Cut != tt.cut {
				t.Errorf("%d cut packets counted, want %d", stats.Cut, tt.cut)
			}
			b := []byte(got[0].IP)
			if len(b) != tt.len {
				t.Fatalf("%d bytes, want %d", len(b), tt.len)
			}
			if length := ipLength(b); length != tt.len {
				t.Errorf("the header says %d bytes of %d", length, tt.len)
			}
			if b[0]>>4 == 4 && headerSum(b) != 0xffff {
				t.Error("wrong header checksum")
			}
		})
	}
	for name, n := range map[string]int{"IPv4 in its header": 19, "IPv6 in its header": 39} {
		t.Run(name, func(t *testing.T) {
			b := v4
			if n > 20 {
				b = v6
			}
			got, stats, err := readAll(bytes.NewReader(pcap{binary.LittleEndian, 0xa1b2c3d4, 101}.file(b[:n])))
			if err != nil || got[0].IP != "" || stats.Cut != 1 {
				t.Errorf("got %+v, %+v, %v", got, stats, err)
			}
		})
	}
}

func ipLength(b []byte) int {
	if b[0]>>4 == 4 {
		return int(binary.BigEndian.Uint16(b[2:]))
	}
	return 40 + int(binary.BigEndian.Uint16(b[4:]))
}

func headerSum(b []byte) uint32 {
	var sum uint32
	for i := 0; i < int(b[0]&15)*4; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum
}
