package replay

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/cthelperd/cthelperd/helpers"
)

func serialize(t testing.TB, l ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

// build is a packet with all lengths and checksums right. ext goes between IPv6 header and transport.
func build(t testing.TB, transport helpers.Transport, tu helpers.Tuple, ack uint32, ext ...gopacket.SerializableLayer) []byte {
	t.Helper()
	var ip gopacket.NetworkLayer
	src, dst := net.IP(tu.Src.Addr().AsSlice()), net.IP(tu.Dst.Addr().AsSlice())
	next := layers.IPProtocol(transport)
	if tu.Src.Addr().Is4() {
		ip = &layers.IPv4{Version: 4, TTL: 64, Protocol: next, SrcIP: src, DstIP: dst}
	} else {
		v6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: next, SrcIP: src, DstIP: dst}
		if len(ext) > 0 {
			v6.NextHeader = layers.IPProtocolIPv6Destination
		}
		ip = v6
	}
	all := append([]gopacket.SerializableLayer{ip.(gopacket.SerializableLayer)}, ext...)
	if transport == helpers.TCP {
		tcp := &layers.TCP{SrcPort: layers.TCPPort(tu.Src.Port()), DstPort: layers.TCPPort(tu.Dst.Port()), Seq: 7, Ack: ack, ACK: true, PSH: true, Window: 9}
		if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		all = append(all, tcp)
	} else {
		udp := &layers.UDP{SrcPort: layers.UDPPort(tu.Src.Port()), DstPort: layers.UDPPort(tu.Dst.Port())}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		all = append(all, udp)
	}
	return serialize(t, append(all, gopacket.Payload("odd payload"))...)
}

// readdress gives what building the packet anew would give, checksums included.
func TestReaddress(t *testing.T) {
	padding := &layers.IPv6Destination{}
	padding.NextHeader = layers.IPProtocolTCP
	padding.Options = []*layers.IPv6DestinationOption{{OptionType: 1, OptionLength: 4, OptionData: make([]byte, 4)}}
	v4, v6 := tuple("192.0.2.2:50000", "198.51.100.9:21"), tuple("[fd00::2]:50000", "[2001:db8::9]:21")
	tests := []struct {
		name      string
		transport helpers.Transport
		tuple     helpers.Tuple
		ext       []gopacket.SerializableLayer
		src       string
		ack       uint32
	}{
		{"TCP over IPv4", helpers.TCP, v4, nil, "203.0.113.1:61234", 100},
		{"TCP over IPv4, acknowledgement moved", helpers.TCP, v4, nil, "203.0.113.1:50000", 0xfffffff0},
		{"TCP over IPv6", helpers.TCP, v6, nil, "[2001:db8:ffff::1]:61234", 98},
		{"TCP over IPv6 behind an extension header", helpers.TCP, v6, []gopacket.SerializableLayer{padding}, "[2001:db8:ffff::1]:1", 98},
		{"UDP over IPv4", helpers.UDP, v4, nil, "203.0.113.1:61234", 0},
		{"UDP over IPv6", helpers.UDP, v6, nil, "[2001:db8:ffff::1]:61234", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := build(t, tt.transport, tt.tuple, 100, tt.ext...)
			h, ok := parseHeader(b)
			if !ok {
				t.Fatal("not parsed")
			}
			if h.transport != tt.transport || h.tuple != tt.tuple {
				t.Fatalf("parsed as %v %v", h.transport, h.tuple)
			}
			h.readdress(b, netip.MustParseAddrPort(tt.src), tt.ack)
			want := tt.tuple
			want.Src = addr(tt.src)
			if w := build(t, tt.transport, want, tt.ack, tt.ext...); !bytes.Equal(b, w) {
				t.Errorf("got  %x\nwant %x", b, w)
			}
		})
	}
	t.Run("UDP without checksum", func(t *testing.T) {
		b := build(t, helpers.UDP, v4, 0)
		b[26], b[27] = 0, 0
		h, _ := parseHeader(b)
		h.readdress(b, addr("203.0.113.1:1"), 0)
		if b[26] != 0 || b[27] != 0 {
			t.Error("it has got one")
		}
	})
}

func TestParseHeaderRefuses(t *testing.T) {
	v4 := build(t, helpers.TCP, tuple("192.0.2.2:50000", "198.51.100.9:21"), 1)
	v6 := build(t, helpers.UDP, tuple("[fd00::2]:50000", "[2001:db8::9]:21"), 1)
	icmp := bytes.Clone(v4)
	icmp[9] = 1
	long := bytes.Clone(v6)
	long[6], long[41] = 60, 255 // an extension header beyond the end
	tests := map[string][]byte{
		"empty": nil, "IPv4 cut": v4[:19], "TCP cut": v4[:39], "IPv6 cut": v6[:39], "UDP cut": v6[:47],
		"another protocol": icmp, "another version": append([]byte{0x50}, v4[1:]...), "extension header cut": long,
	}
	for name, b := range tests {
		t.Run(name, func(t *testing.T) {
			if h, ok := parseHeader(b); ok {
				t.Errorf("parsed as %+v", h)
			}
		})
	}
}
