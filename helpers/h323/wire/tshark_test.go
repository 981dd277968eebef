package wire_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// TestTshark lets tshark judge the tables: messages that have each row of them at least once are written to a capture,
// and tshark finds the same addresses at the same places, and nothing malformed.
func TestTshark(t *testing.T) {
	if _, err := exec.LookPath("tshark"); err != nil && testing.Short() {
		t.Skip("needs tshark")
	}
	rnd := &h323test.Random{Rand: rand.New(rand.NewPCG(*first, 1)), Strict: true}
	var frames []drawn
	had := map[*wire.Row]bool{}
	for _, typ := range tops {
		for _, path := range h323test.Paths(typ) {
			if row := path[len(path)-1]; !had[row] {
				had[row] = true
				frames = append(frames, write(rnd, typ, path))
			}
		}
	}
	t.Logf("%d messages", len(frames))
	file := filepath.Join(t.TempDir(), "sample.pcap")
	if err := os.WriteFile(file, pcap(frames), 0o600); err != nil {
		t.Fatal(err)
	}
	shown := show(t, file)
	var m wire.Message
	for i, x := range frames {
		if err := x.read(&m); err != nil {
			t.Errorf("frame %d: %v", i+1, err)
		}
		got := addresses(&m, x.header())
		if !slices.Equal(got, shown[i+1].addresses) || shown[i+1].bad != "" {
			t.Errorf("frame %d: read %v\ntshark shows %v\n%v\n%x", i+1, got, shown[i+1], x.value, x.b)
		}
	}
}

// found is an address in a frame, as a text that can be compared.
type found string

// addresses are those of a message whose first byte is at off in its frame.
func addresses(m *wire.Message, off int) (out []found) {
	for _, a := range m.Addresses {
		out = append(out, found(fmt.Sprint(a.Off+off, " ", a.Addr)))
	}
	slices.Sort(out)
	return out
}

// shown is what tshark says of a frame.
type shown struct {
	link      int // bytes before the IP header
	addresses []found
	bad       string
}

// Fields of tshark.
const (
	isIP = iota + 1
	isPort
	isFrame
	isExpert
	isMalformed
	isPacket
)

// fields are those that count.
var fields = map[string]int{
	"h225.ipV4": isIP, "h225.ipV4_port": isPort,
	"h225.src_route_ipV4": isIP, "h225.ipV4_src_port": isPort,
	"h225.ipV6": isIP, "h225.ipV6_port": isPort,
	"h225.h245Ip": isIP, "h225.h245IpPort": isPort,
	"h225.ip": isIP, "h225.port": isPort, // of h245Address with a route
	"h225.h245Ip6": isIP, "h225.h245Ip6port": isPort,
	"h245.ip4_network": isIP, "h245.tsapIdentifier": isPort,
	"h245.ip6_network": isIP, "h245.ipv6.tsapIdentifier": isPort,
	"h245.network": isIP, "h245.iPSrcRoute.tsapIdentifier": isPort,
	"h245.mip4_network": isIP, "h245.multicast.tsapIdentifier": isPort,
	"h245.mip6_network": isIP, "h245.multicast_IPv6.tsapIdentifier": isPort,
	"ip": isPacket, "ipv6": isPacket, "frame.number": isFrame, "_ws.expert.message": isExpert, "_ws.malformed": isMalformed,
}

// attribute is what stands behind NAME= on a line.
func attribute(line []byte, name string) string {
	_, rest, _ := bytes.Cut(line, []byte(" "+name+`="`))
	value, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(value)
}

// show has tshark show a capture: H.245 is on port 2000.
func show(t *testing.T, file string) map[int]shown {
	t.Helper()
	cmd := exec.Command("tshark", "-r", file, "-d", "tcp.port==2000,h245", "-T", "pdml")
	text, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]shown{}
	frame, off := 0, 0
	var addr netip.Addr
	for line := range bytes.Lines(text) {
		kind := fields[attribute(line, "name")]
		if kind == 0 {
			continue
		}
		shows := attribute(line, "show")
		n, _ := strconv.Atoi(shows)
		s := out[frame]
		switch kind {
		case isFrame:
			frame = n
			continue
		case isIP:
			b, _ := hex.DecodeString(attribute(line, "value"))
			addr, _ = netip.AddrFromSlice(b)
			off, _ = strconv.Atoi(attribute(line, "pos"))
		case isPort:
			s.addresses = append(s.addresses, found(fmt.Sprint(off, " ", netip.AddrPortFrom(addr, uint16(n)))))
			slices.Sort(s.addresses)
		case isPacket:
			s.link, _ = strconv.Atoi(attribute(line, "pos"))
		case isMalformed:
			s.bad = "malformed"
		case isExpert:
			if strings.Contains(shows, "PER") {
				s.bad = shows
			}
		}
		out[frame] = s
	}
	return out
}

// header is how much stands before x in a frame of pcap.
func (x drawn) header() int {
	if x.typ == "RasMessage" {
		return 28
	}
	return 44
}

// pcap is a file with one packet for each message: RAS by UDP, call signalling and H.245 each on a connection.
func pcap(frames []drawn) []byte {
	out := []byte("\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00")
	out = binary.LittleEndian.AppendUint32(out, 228) // LINKTYPE_IPV4
	sequence := map[uint16]uint32{}
	for i, x := range frames {
		b, port, proto := x.b, uint16(1719), byte(17)
		if x.typ != "RasMessage" {
			b, port, proto = h323test.TPKT(x.b), 1720, 6
		}
		if x.typ == "MultimediaSystemControlMessage" {
			port = 2000
		}
		head := []byte{0x45, 0, 0, 0, 0, byte(i), 0, 0, 64, proto, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}
		if proto == 17 {
			head = binary.BigEndian.AppendUint16(head, port)
			head = binary.BigEndian.AppendUint16(head, port)
			head = binary.BigEndian.AppendUint16(head, uint16(len(b)+8))
			head = append(head, 0, 0)
		} else {
			head = binary.BigEndian.AppendUint16(head, 40000)
			head = binary.BigEndian.AppendUint16(head, port)
			head = binary.BigEndian.AppendUint32(head, 1+sequence[port])
			head = append(head, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0)
			sequence[port] += uint32(len(b))
		}
		n := uint32(len(head) + len(b))
		binary.BigEndian.PutUint16(head[2:], uint16(n))
		out = binary.LittleEndian.AppendUint32(out, uint32(i))
		out = append(out, 0, 0, 0, 0)
		out = binary.LittleEndian.AppendUint32(out, n)
		out = binary.LittleEndian.AppendUint32(out, n)
		out = append(append(out, head...), b...)
	}
	return out
}
