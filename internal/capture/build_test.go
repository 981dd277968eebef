package capture_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/cthelperd/cthelperd/internal/capture"
)

// at is when the frames of these tests were captured.
var at = time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)

func serialize(t testing.TB, l ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	opt := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, opt, l...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

// udp4 and udp6 are whole packets with the payload.
func udp4(t testing.TB, payload []byte) []byte {
	t.Helper()
	ip := &layers.IPv4{
		Version: 4, TTL: 64, Id: 7, Protocol: layers.IPProtocolUDP,
		SrcIP: net.IP{192, 0, 2, 1}, DstIP: net.IP{198, 51, 100, 2},
	}
	u := &layers.UDP{SrcPort: 1000, DstPort: 2000}
	if err := u.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	return serialize(t, ip, u, gopacket.Payload(payload))
}

func udp6(t testing.TB, payload []byte) []byte {
	t.Helper()
	ip := &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP,
		SrcIP: net.ParseIP("2001:db8::1"), DstIP: net.ParseIP("2001:db8::2"),
	}
	u := &layers.UDP{SrcPort: 1000, DstPort: 2000}
	if err := u.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	return serialize(t, ip, u, gopacket.Payload(payload))
}

// ethernet puts a packet into a frame.
func ethernet(kind uint16, packet []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 12), kind), packet...)
}

// pcap writes the classic format.
type pcap struct {
	order binary.ByteOrder
	magic uint32
	link  uint32
}

func (p pcap) file(frames ...[]byte) []byte {
	frac := uint32(at.Nanosecond())
	if p.magic != 0xa1b23c4d {
		frac /= 1000
	}
	var b bytes.Buffer
	put := func(v ...any) {
		for _, v := range v {
			binary.Write(&b, p.order, v)
		}
	}
	put(p.magic, uint16(2), uint16(4), uint32(0), uint32(0), uint32(65535), p.link)
	for _, f := range frames {
		put(uint32(at.Unix()), frac, uint32(len(f)), uint32(len(f)))
		if p.magic == 0xa1b2cd34 {
			put(uint32(3), uint16(0x800), uint8(0), uint8(0))
		}
		b.Write(f)
	}
	return b.Bytes()
}

var little = pcap{order: binary.LittleEndian, magic: 0xa1b2c3d4, link: 1}

// block is one of pcapng.
func block(order binary.ByteOrder, kind uint32, fields ...any) []byte {
	var body bytes.Buffer
	for _, f := range fields {
		binary.Write(&body, order, f)
	}
	for body.Len()%4 != 0 {
		body.WriteByte(0)
	}
	total := uint32(body.Len() + 12)
	var b bytes.Buffer
	binary.Write(&b, order, kind)
	binary.Write(&b, order, total)
	b.Write(body.Bytes())
	binary.Write(&b, order, total)
	return b.Bytes()
}

func section(order binary.ByteOrder) []byte {
	return block(order, 0x0a0d0d0a, uint32(0x1a2b3c4d), uint16(1), uint16(0), int64(-1))
}

// frame is what a test compares.
type frame struct {
	Number uint64
	Time   time.Time
	IP     string
}

// readAll reads to the end; err is nil at a regular one.
func readAll(r io.Reader) (frames []frame, stats capture.Stats, err error) {
	c, err := capture.NewReader(r)
	if err != nil {
		return nil, capture.Stats{}, err
	}
	for {
		f, err := c.Next()
		if errors.Is(err, io.EOF) {
			return frames, c.Stats(), nil
		}
		if err != nil {
			return frames, c.Stats(), err
		}
		frames = append(frames, frame{f.Number, f.Time, string(f.IP)})
	}
}
