package wire_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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
	"github.com/cthelperd/cthelperd/internal/capture"
	"github.com/cthelperd/cthelperd/pcaps"
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
	"frame.number": isFrame, "_ws.expert.message": isExpert, "_ws.malformed": isMalformed,
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

// TestCaptures finds in the captures of $CTHELPER_PCAPS what tshark finds there, in messages that are whole in a frame.
func TestCaptures(t *testing.T) {
	folder := os.Getenv(pcaps.Variable)
	if folder == "" {
		t.Skip("needs captures: " + pcaps.Variable)
	}
	files, err := filepath.Glob(filepath.Join(folder, "h323", "*.pcap*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no captures: %v", err)
	}
	for _, file := range files {
		if filepath.Ext(file) == ".json" {
			continue
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			judged := show(t, file)
			total := 0
			for number, got := range captured(t, file) {
				if !slices.Equal(got, judged[number].addresses) {
					t.Errorf("frame %d: read %v, tshark shows %v", number, got, judged[number].addresses)
				}
				total += len(got)
				delete(judged, number)
			}
			for number, s := range judged {
				if len(s.addresses) > 0 {
					t.Errorf("frame %d: read nothing, tshark shows %v", number, s.addresses)
				}
			}
			t.Logf("%d addresses", total)
			if total == 0 {
				t.Error("no address")
			}
		})
	}
}

// captured are the addresses in the frames of a file.
func captured(t *testing.T, file string) map[int][]found {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := capture.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[int][]found{}
	segments := map[string]bool{} // tshark does not look at a segment twice
	for {
		frame, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		// tshark counts from the link layer's header on, which the reader has taken off: Ethernet's.
		const link = 14
		if b := frame.IP; len(b) > 28 && b[9] == 17 {
			out[int(frame.Number)] = read(t, b[28:], link+28, "RasMessage")
		} else if len(b) > 40 && b[9] == 6 {
			if segments[string(b[20:])] {
				continue
			}
			segments[string(b[20:])] = true
			off := 20 + int(b[32]>>4)*4
			typ := "MultimediaSystemControlMessage"
			if binary.BigEndian.Uint16(b[20:]) == 1720 || binary.BigEndian.Uint16(b[22:]) == 1720 {
				typ = "H323-UserInformation"
			}
			got := []found{}
			for {
				size, err := wire.Frame(b[off:])
				if err != nil || size == 0 || size > len(b)-off {
					break
				}
				got = append(got, read(t, b[off+wire.FrameHeader:off+size], link+off+wire.FrameHeader, typ)...)
				off += size
			}
			slices.Sort(got)
			out[int(frame.Number)] = got
		}
	}
}

// read are the addresses of a message, which is of that type if it can be read as such.
func read(t *testing.T, b []byte, off int, typ string) []found {
	t.Helper()
	var m wire.Message
	if err := (drawn{typ: typ, b: b}).read(&m); err != nil {
		t.Logf("%s: %v", typ, err)
		return nil
	}
	return addresses(&m, off)
}

// BenchmarkTshark has tshark read the Setup of BenchmarkSetup, many times; its start counts too.
func BenchmarkTshark(b *testing.B) {
	if _, err := exec.LookPath("tshark"); err != nil {
		b.Skip("needs tshark")
	}
	const copies = 5000
	file := filepath.Join(b.TempDir(), "setup.pcap")
	frames := slices.Repeat([]drawn{{typ: "H323-UserInformation", b: setup()}}, copies)
	if err := os.WriteFile(file, pcap(frames), 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		out, err := exec.Command("tshark", "-r", file, "-T", "fields", "-e", "h245.tsapIdentifier").Output()
		if n := bytes.Count(out, []byte("5000,5001")); err != nil || n != 3*copies {
			b.Fatalf("%v: %d channels of %d messages", err, n, copies)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*copies), "ns/message")
}
