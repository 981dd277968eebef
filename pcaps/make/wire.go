package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// wire is a capture in the making. What it is given is well formed, so errors are bugs and panic.
type wire struct {
	out  bytes.Buffer
	pcap *pcapgo.Writer
	now  time.Time
	isn  uint32
	link layers.LinkType
	snap int
	// frames makes the frames of an IP packet.
	frames func(ip []byte) [][]byte
}

// build runs a script on an empty capture of Ethernet frames.
func build(script func(*wire)) []byte {
	w := &wire{
		now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), isn: 1000, link: layers.LinkTypeEthernet, snap: 65535,
		frames: func(ip []byte) [][]byte { return [][]byte{ethernet(ip)} },
	}
	script(w)
	return w.out.Bytes()
}

// packet puts an IP packet on the wire, a millisecond after the one before.
func (w *wire) packet(ip []byte) {
	if w.pcap == nil {
		w.pcap = pcapgo.NewWriter(&w.out)
		must(w.pcap.WriteFileHeader(uint32(w.snap), w.link))
	}
	for _, f := range w.frames(ip) {
		w.now = w.now.Add(time.Millisecond)
		n := min(len(f), w.snap)
		must(w.pcap.WritePacket(gopacket.CaptureInfo{Timestamp: w.now, CaptureLength: n, Length: len(f)}, f[:n]))
	}
}

func (w *wire) wait(d time.Duration) { w.now = w.now.Add(d) }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func serialize(l ...gopacket.SerializableLayer) []byte {
	b := gopacket.NewSerializeBuffer()
	must(gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...))
	return slices.Clone(b.Bytes())
}

// ipHeader is the network layer between two addresses.
func ipHeader(p layers.IPProtocol, src, dst netip.Addr) gopacket.SerializableLayer {
	if src.Is4() {
		return &layers.IPv4{Version: 4, TTL: 64, Id: 1, Protocol: p, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	}
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: p, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

// udp sends a datagram.
func (w *wire) udp(src, dst string, payload string) {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	ip := ipHeader(layers.IPProtocolUDP, s.Addr(), d.Addr())
	u := &layers.UDP{SrcPort: layers.UDPPort(s.Port()), DstPort: layers.UDPPort(d.Port())}
	must(u.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)))
	w.packet(serialize(ip, u, gopacket.Payload(payload)))
}

// tcp is a connection: sides 0, the initiator, and 1.
type tcp struct {
	w    *wire
	ends [2]netip.AddrPort
	next [2]uint32
	mute [2]bool // what this side sends is not captured
}

const (
	client = 0
	server = 1
)

// connection is one that nothing was sent on.
func (w *wire) connection(src, dst string) *tcp {
	w.isn += 100000
	return &tcp{
		w: w, ends: [2]netip.AddrPort{netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)},
		next: [2]uint32{w.isn, w.isn + 50000},
	}
}

// open is a connection after its handshake.
func (w *wire) open(src, dst string) *tcp {
	c := w.connection(src, dst)
	c.segment(client, "S", "")
	c.segment(server, "SA", "")
	c.segment(client, "A", "")
	return c
}

// segment sends one from a side, with flags of S, A, F and R, and counts what it takes in the sequence.
func (c *tcp) segment(side int, flags, payload string) {
	c.repeat(side, c.next[side], flags, payload)
	c.next[side] += uint32(len(payload))
	if bytes.ContainsAny([]byte(flags), "SF") {
		c.next[side]++
	}
}

// repeat sends a segment with a sequence number of its own, and counts nothing.
func (c *tcp) repeat(side int, seq uint32, flags, payload string) {
	if c.mute[side] {
		return
	}
	src, dst := c.ends[side], c.ends[1-side]
	ip := ipHeader(layers.IPProtocolTCP, src.Addr(), dst.Addr())
	t := &layers.TCP{
		SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()),
		Seq: seq, Window: 65535, PSH: payload != "",
		SYN: bytes.ContainsRune([]byte(flags), 'S'), ACK: bytes.ContainsRune([]byte(flags), 'A'),
		FIN: bytes.ContainsRune([]byte(flags), 'F'), RST: bytes.ContainsRune([]byte(flags), 'R'),
	}
	if t.ACK {
		t.Ack = c.next[1-side]
	}
	must(t.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)))
	c.w.packet(serialize(ip, t, gopacket.Payload(payload)))
}

// says sends a segment with data.
func (c *tcp) says(side int, payload string) { c.segment(side, "A", payload) }

// close ends a connection from both sides.
func (c *tcp) close() {
	c.segment(client, "FA", "")
	c.segment(server, "FA", "")
	c.segment(client, "A", "")
}

// transfer is a whole data connection.
func (w *wire) transfer(src, dst string) {
	c := w.open(src, dst)
	c.says(server, "data\r\n")
	c.close()
}

// login is an FTP control connection up to where commands are taken.
func (w *wire) login(src, dst string) *tcp {
	c := w.open(src, dst)
	c.says(server, "220 ready\r\n")
	c.says(client, "USER anonymous\r\n")
	c.says(server, "230 logged in\r\n")
	return c
}

// numbers writes an end point as PORT and 227 do.
func numbers(a string) string {
	p := netip.MustParseAddrPort(a)
	b := p.Addr().As4()
	return fmt.Sprintf("%d,%d,%d,%d,%d,%d", b[0], b[1], b[2], b[3], p.Port()>>8, p.Port()&255)
}

func etherType(ip []byte) uint16 {
	if ip[0]>>4 == 4 {
		return uint16(layers.EthernetTypeIPv4)
	}
	return uint16(layers.EthernetTypeIPv6)
}

func ethernet(ip []byte, tags ...uint16) []byte {
	b := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	for i := 0; i+1 < len(tags); i += 2 {
		b = binary.BigEndian.AppendUint16(b, tags[i])
		b = binary.BigEndian.AppendUint16(b, tags[i+1])
	}
	return append(binary.BigEndian.AppendUint16(b, etherType(ip)), ip...)
}

// fragments4 cuts an IPv4 packet with more than n bytes of payload in two, the last part first.
func fragments4(ip []byte, n int) [][]byte {
	payload := ip[20:]
	if len(payload) <= n {
		return [][]byte{ip}
	}
	part := func(from, to int, more uint16) []byte {
		b := append(slices.Clone(ip[:20]), payload[from:to]...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[6:], more<<13|uint16(from/8))
		binary.BigEndian.PutUint16(b[10:], 0)
		binary.BigEndian.PutUint16(b[10:], gopacket.FoldChecksum(gopacket.ComputeChecksum(b[:20], 0)))
		return b
	}
	return [][]byte{part(n, len(payload), 0), part(0, n, 1)}
}

// extended6 puts a hop-by-hop and a destination options header into an IPv6 packet and, if its payload has more than n
// bytes, cuts that in two fragments.
func extended6(ip []byte, n int) [][]byte {
	const hopByHop, destination, fragment = 0, 60, 44
	payload := ip[40:]
	options := func(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} } // PadN
	whole := func(parts ...[]byte) []byte {
		b := slices.Concat(append([][]byte{ip[:40]}, parts...)...)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		b[6] = hopByHop
		return b
	}
	if len(payload) <= n {
		return [][]byte{whole(options(destination), options(ip[6]), payload)}
	}
	id := binary.BigEndian.Uint32(payload[4:]) // anything that differs between packets
	part := func(from, to int, more uint16) []byte {
		f := binary.BigEndian.AppendUint16([]byte{ip[6], 0}, uint16(from)|more)
		f = binary.BigEndian.AppendUint32(f, id)
		return whole(options(fragment), f, payload[from:to])
	}
	return [][]byte{part(0, n, 1), part(n, len(payload), 0)}
}
