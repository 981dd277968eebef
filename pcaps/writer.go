package pcaps

import (
	"bytes"
	"net/netip"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/cthelperd/cthelperd/helpers"
)

// writer writes a capture of raw IP packets, a millisecond apart. What it is given is well formed, so errors are bugs and
// panic.
type writer struct {
	out   bytes.Buffer
	pcap  *pcapgo.Writer
	frame uint64
}

// open writes the first three packets of a connection.
func (w *writer) open(t helpers.Tuple, numbers *[2]uint32) {
	numbers[0], numbers[1] = 1, 1
	w.packet(t, &layers.TCP{SYN: true, Window: 65535}, nil)
	w.packet(t.Turned(), &layers.TCP{SYN: true, ACK: true, Ack: 1, Window: 65535}, nil)
	w.packet(t, &layers.TCP{ACK: true, Seq: 1, Ack: 1, Window: 65535}, nil)
}

// say writes a message of a conversation in a packet of its own and returns its frame.
func (w *writer) say(c *conversation, dir helpers.Dir, numbers *[2]uint32, payload []byte) uint64 {
	t := c.tuple
	if dir == helpers.Reply {
		t = t.Turned()
	}
	if c.transport == helpers.UDP {
		return w.packet(t, &layers.UDP{}, payload)
	}
	seq := numbers[dir]
	numbers[dir] += uint32(len(payload))
	return w.packet(t, &layers.TCP{ACK: true, PSH: true, Seq: seq, Ack: numbers[dir.Other()], Window: 65535}, payload)
}

func (w *writer) packet(t helpers.Tuple, transport gopacket.SerializableLayer, payload []byte) uint64 {
	if w.pcap == nil {
		w.pcap = pcapgo.NewWriter(&w.out)
		must(w.pcap.WriteFileHeader(1<<18, layers.LinkTypeRaw))
	}
	protocol := layers.IPProtocolTCP
	switch l := transport.(type) {
	case *layers.TCP:
		l.SrcPort, l.DstPort = layers.TCPPort(t.Src.Port()), layers.TCPPort(t.Dst.Port())
	case *layers.UDP:
		protocol = layers.IPProtocolUDP
		l.SrcPort, l.DstPort = layers.UDPPort(t.Src.Port()), layers.UDPPort(t.Dst.Port())
	}
	b := gopacket.NewSerializeBuffer()
	must(gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true},
		network(t.Src.Addr(), t.Dst.Addr(), protocol), transport, gopacket.Payload(payload)))
	w.frame++
	at := time.Unix(0, 0).Add(time.Duration(w.frame) * time.Millisecond)
	must(w.pcap.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(b.Bytes()), Length: len(b.Bytes())}, b.Bytes()))
	return w.frame
}

func network(src, dst netip.Addr, protocol layers.IPProtocol) gopacket.SerializableLayer {
	if src.Is4() {
		return &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: protocol, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	}
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
