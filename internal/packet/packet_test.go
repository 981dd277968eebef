package packet_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/packet"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Parts of packets.
const (
	ipv4     = "4500 LLLL 0000 4000 40PP 0000 c0000202 c6336409"
	ipv4opts = "4600 LLLL 0000 4000 40PP 0000 c0000202 c6336409 01010100"
	ipv6     = "60000000 LLLL PP40 20010db8000000000000000000000001 20010db8000000000000000000000002"
	tcp      = "c350 0015 000003e8 000007d0 5018 0fff 0000 0000"
	tcpSACK  = "c350 0015 000003e8 000007d0 8018 0fff 0000 0000 0101 050a 00000fa0 00001388"
	udp      = "c350 0045 000c 0000"
	text     = "50415356"
)

// build fills in a packet's length and protocol.
func build(t testing.TB, proto string, parts ...string) []byte {
	t.Helper()
	s := strings.ReplaceAll(strings.Join(parts, ""), " ", "")
	length := len(s) / 2
	if strings.HasPrefix(s, "6") {
		length -= 40
	}
	s = strings.ReplaceAll(s, "LLLL", hex.EncodeToString([]byte{byte(length >> 8), byte(length)}))
	return unhex(t, strings.ReplaceAll(s, "PP", proto))
}

func TestDecode(t *testing.T) {
	long := slices.Concat(build(t, "06", ipv4, tcp, text), []byte("padding"))
	tests := []struct {
		name      string
		data      []byte
		want      error
		transport helpers.Transport
		tuple     string
		payload   string
	}{
		{"IPv4 TCP", build(t, "06", ipv4, tcp, text), nil, helpers.TCP, "192.0.2.2:50000>198.51.100.9:21", "PASV"},
		{"IPv4 UDP", build(t, "11", ipv4, udp, text), nil, helpers.UDP, "192.0.2.2:50000>198.51.100.9:69", "PASV"},
		{"IPv4 with options", build(t, "06", ipv4opts, tcp, text), nil, helpers.TCP, "192.0.2.2:50000>198.51.100.9:21", "PASV"},
		{"TCP with options", build(t, "06", ipv4, tcpSACK, text), nil, helpers.TCP, "192.0.2.2:50000>198.51.100.9:21", "PASV"},
		{"IPv6 TCP", build(t, "06", ipv6, tcp, text), nil, helpers.TCP, "[2001:db8::1]:50000>[2001:db8::2]:21", "PASV"},
		{"IPv6 UDP", build(t, "11", ipv6, udp, text), nil, helpers.UDP, "[2001:db8::1]:50000>[2001:db8::2]:69", "PASV"},
		{"IPv6 with options for hops and destination", build(t, "00", ipv6, "3c00000000000000", "0600000000000000", tcp, text), nil,
			helpers.TCP, "[2001:db8::1]:50000>[2001:db8::2]:21", "PASV"},
		{"IPv6 with authentication", build(t, "33", ipv6, "0604000000000000 0000000000000000 0000000000000000", tcp, text), nil,
			helpers.TCP, "[2001:db8::1]:50000>[2001:db8::2]:21", "PASV"},
		{"without payload", build(t, "06", ipv4, tcp), nil, helpers.TCP, "192.0.2.2:50000>198.51.100.9:21", ""},
		{"padded by Ethernet", long, nil, helpers.TCP, "192.0.2.2:50000>198.51.100.9:21", "PASV"},
		{"length left to the network card", build(t, "06", strings.Replace(ipv4, "LLLL", "0000", 1), tcp, text), nil,
			helpers.TCP, "192.0.2.2:50000>198.51.100.9:21", "PASV"},

		{"nothing", nil, packet.ErrTruncated, 0, "", ""},
		{"version 5", unhex(t, "55"), packet.ErrVersion, 0, "", ""},
		{"IPv4 header cut", build(t, "06", ipv4)[:19], packet.ErrTruncated, 0, "", ""},
		{"IPv4 header shorter than itself", append([]byte{0x44}, build(t, "06", ipv4, tcp)[1:]...), packet.ErrTruncated, 0, "", ""},
		{"IPv4 cut by a snap length", build(t, "06", ipv4, tcp, text)[:42], packet.ErrTruncated, 0, "", ""},
		{"IPv4 first fragment", build(t, "06", strings.Replace(ipv4, "4000 40", "2000 40", 1), tcp, text), packet.ErrFragment, 0, "", ""},
		{"IPv4 later fragment", build(t, "06", strings.Replace(ipv4, "4000 40", "0001 40", 1), tcp, text), packet.ErrFragment, 0, "", ""},
		{"IPv6 fragment", build(t, "2c", ipv6, "0600000100000000", tcp, text), packet.ErrFragment, 0, "", ""},
		{"IPv6 header cut", build(t, "06", ipv6)[:39], packet.ErrTruncated, 0, "", ""},
		{"IPv6 option beyond the end", build(t, "00", ipv6, "06ff000000000000", tcp), packet.ErrTruncated, 0, "", ""},
		{"IPv6 option cut", build(t, "00", ipv6, "0600"), packet.ErrTruncated, 0, "", ""},
		{"IPv6 with a way still to go", build(t, "2b", ipv6, "0600000100000000", tcp), packet.ErrTransport, 0, "", ""},
		{"ICMP", build(t, "01", ipv4, text), packet.ErrTransport, 0, "", ""},
		{"TCP header cut", build(t, "06", ipv4, tcp)[:39], packet.ErrTruncated, 0, "", ""},
		{"TCP header cut, length right", build(t, "06", ipv4, "c350 0015 000003e8"), packet.ErrTruncated, 0, "", ""},
		{"TCP header longer than the packet", build(t, "06", ipv4, strings.Replace(tcp, "5018", "f018", 1)), packet.ErrTruncated, 0, "", ""},
		{"TCP header shorter than itself", build(t, "06", ipv4, strings.Replace(tcp, "5018", "4018", 1)), packet.ErrTruncated, 0, "", ""},
		{"UDP header cut", build(t, "11", ipv4, "c35000450008"), packet.ErrTruncated, 0, "", ""},
		{"UDP longer than the packet", build(t, "11", ipv4, udp), packet.ErrTruncated, 0, "", ""},
		{"UDP shorter than its header", build(t, "11", ipv4, strings.Replace(udp, "000c", "0007", 1), text), packet.ErrTruncated, 0, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var v packet.View
			err := v.Decode(tt.data)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			if v.Transport() != tt.transport || v.Tuple().String() != tt.tuple || string(v.Payload()) != tt.payload {
				t.Errorf("got %v %v %q, want %v %v %q", v.Transport(), v.Tuple(), v.Payload(), tt.transport, tt.tuple, tt.payload)
			}
			if n := testing.AllocsPerRun(100, func() { v.Decode(tt.data) }); n > 0 {
				t.Errorf("decoding allocates %v times", n)
			}
		})
	}
}

// rebuild changes nothing.
func rebuild(v *packet.View) ([]byte, bool) {
	c := packet.Change{Payload: v.Payload()}
	if v.Transport() == helpers.TCP {
		c.Seq, c.Ack = v.Seq(), v.Ack()
	}
	return v.Append(nil, c)
}

func TestAppend(t *testing.T) {
	for name, parts := range map[string][]string{
		"IPv4 TCP":  {"06", ipv4, tcpSACK, text},
		"IPv4 UDP":  {"11", ipv4, strings.Replace(udp, "000c 0000", "000c 0001", 1), text},
		"IPv6 TCP":  {"06", ipv6, tcpSACK, text},
		"IPv6 UDP":  {"11", ipv6, udp, text},
		"IPv4 opts": {"06", ipv4opts, tcpSACK, text},
		"IPv6 opts": {"00", ipv6, "0600000000000000", tcpSACK, text},
	} {
		t.Run(name, func(t *testing.T) {
			var v, w packet.View
			if err := v.Decode(build(t, parts[0], parts[1:]...)); err != nil {
				t.Fatal(err)
			}
			if v.Valid() {
				t.Error("a packet without checksums is taken for valid")
			}
			right, ok := rebuild(&v)
			if !ok || w.Decode(right) != nil || !w.Valid() {
				t.Fatalf("rebuilt: %x is not valid", right)
			}
			if again, _ := rebuild(&w); !bytes.Equal(again, right) {
				t.Errorf("rebuilt twice:\n%x\n%x", again, right)
			}
			for _, payload := range []string{"", "P", "PORT 1,2,3,4,5,6", strings.Repeat("x", 9000)} {
				c := packet.Change{Payload: []byte(payload), Seq: 1, Ack: 2, Edge: func(e uint32) uint32 { return e + 1 }}
				b, ok := w.Append([]byte("before"), c)
				if !ok || !bytes.HasPrefix(b, []byte("before")) {
					t.Fatal("not appended")
				}
				var x packet.View
				if err := x.Decode(b[6:]); err != nil || !x.Valid() || string(x.Payload()) != payload || x.Tuple() != w.Tuple() {
					t.Fatalf("with %.20q: %v, valid %v, %q", payload, err, x.Valid(), x.Payload())
				}
				if x.Transport() != helpers.TCP {
					continue
				}
				var edges []byte
				for at := range x.SACK() {
					edges = append(edges, x.Data()[at:at+4]...)
				}
				if x.Seq() != 1 || x.Ack() != 2 || hex.EncodeToString(edges) != "00000fa100001389" {
					t.Errorf("numbers %d %d %x", x.Seq(), x.Ack(), edges)
				}
			}
			if _, ok := w.Append(nil, packet.Change{Payload: make([]byte, 65535)}); ok {
				t.Error("a packet of more than 65535 bytes was made")
			}
		})
	}
}

// A datagram that becomes longer than what it came as may be fragmented: its copies alike, others apart from it.
func TestAppendBeyondRoom(t *testing.T) {
	const flags, dontFragment = 6, 0x40
	header := func(with string) string { return strings.Replace(ipv4, "0000 4000", with, 1) }
	for _, tt := range []struct {
		name, header string
		size         int // of the packet without its IP header
		fragmentable bool
		id           string // ""; "other": one by its content
	}{
		{"it fits", header("0000 4000"), 500, false, "0000"},
		{"too long", header("0000 4000"), 600, true, "other"},
		{"too long, with an identification", header("0001 4000"), 600, true, "0001"},
		{"never forbidden", header("0000 0000"), 600, true, "0000"},
	} {
		for _, of := range []struct{ proto, header string }{{"11", udp}, {"06", tcp}} {
			var v packet.View
			if err := v.Decode(build(t, of.proto, tt.header, of.header, text)); err != nil {
				t.Fatal(err)
			}
			with := func(c string) []byte {
				room := tt.size - len(strings.ReplaceAll(of.header, " ", ""))/2
				b, ok := v.Append(nil, packet.Change{Payload: []byte(strings.Repeat(c, room))})
				var w packet.View
				if !ok || w.Decode(b) != nil || !w.Valid() {
					t.Fatalf("%x is not valid", b)
				}
				return b
			}
			b := with("x")
			if got := b[flags]&dontFragment == 0; got != tt.fragmentable {
				t.Errorf("%s: fragmentable %v, want %v", tt.name, got, tt.fragmentable)
			}
			if !bytes.Equal(with("x"), b) {
				t.Errorf("%s: a copy differs", tt.name)
			}
			id, other := hex.EncodeToString(b[4:6]), hex.EncodeToString(with("y")[4:6])
			if tt.id == "other" && (id == "0000" || id == other) || tt.id != "other" && id != tt.id {
				t.Errorf("%s: identification %s, of another packet %s, want %s", tt.name, id, other, tt.id)
			}
		}
	}
}

func TestAppendKeepsNoChecksum(t *testing.T) {
	var v packet.View
	if err := v.Decode(build(t, "11", ipv4, udp, text)); err != nil {
		t.Fatal(err)
	}
	b, _ := v.Append(nil, packet.Change{Payload: []byte("longer")})
	if b[26] != 0 || b[27] != 0 {
		t.Errorf("a checksum %x was made where the sender made none", b[26:28])
	}
}

func TestSACK(t *testing.T) {
	tests := []struct {
		name, options string
		want          int
	}{
		{"none", "", 0},
		{"one block", "0101050a0000000100000002", 2},
		{"two blocks", "01010512000000010000000200000003 00000004", 4},
		{"behind the end", "0000050a0000000100000002", 0},
		{"behind others", "020405b4 0402 050a0000000100000002 0101", 2},
		{"length of 0", "01010500 00000001", 0},
		{"length of 1", "05010000", 0},
		{"beyond the header", "0101051200000001", 0},
		{"half an edge", "0506000000010101", 1},
		{"kind alone at the end", "01010105", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			options := unhex(t, tt.options)
			header := strings.Replace(tcp, "5018", hex.EncodeToString([]byte{byte(5+len(options)/4) << 4, 0x18}), 1)
			var v packet.View
			if err := v.Decode(build(t, "06", ipv4, header, tt.options, text)); err != nil {
				t.Fatal(err)
			}
			if got := len(slices.Collect(v.SACK())); got != tt.want {
				t.Errorf("%d edges, want %d", got, tt.want)
			}
		})
	}
}

// FuzzDecode: no panic; what was decoded can be rebuilt, valid, and unchanged if it was valid before.
func FuzzDecode(f *testing.F) {
	for _, s := range [][]string{
		{"06", ipv4, tcpSACK, text}, {"11", ipv4, udp, text}, {"06", ipv6, tcp, text}, {"11", ipv6, udp, text},
		{"00", ipv6, "3c00000000000000", "0600000000000000", tcp, text}, {"33", ipv6, "0604000000000000", tcp},
	} {
		b := build(f, s[0], s[1:]...)
		f.Add(b)
		var v packet.View
		if v.Decode(b) == nil {
			b, _ = rebuild(&v)
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v, w packet.View
		if v.Decode(data) != nil {
			return
		}
		for range v.SACK() {
		}
		b, ok := rebuild(&v)
		if !ok || w.Decode(b) != nil || !w.Valid() {
			t.Fatalf("rebuilt packet %x is not valid", b)
		}
		if w.Tuple() != v.Tuple() || !bytes.Equal(w.Payload(), v.Payload()) {
			t.Fatalf("rebuilt as %v %q from %v %q", w.Tuple(), w.Payload(), v.Tuple(), v.Payload())
		}
		again, _ := rebuild(&w)
		if !bytes.Equal(again, b) {
			t.Fatalf("a valid packet was changed:\n%x\n%x", b, again)
		}
	})
}
