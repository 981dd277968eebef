package wire_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
	"github.com/cthelperd/cthelperd/internal/capture"
	"github.com/cthelperd/cthelperd/internal/packet"
	"github.com/cthelperd/cthelperd/pcaps"
)

// TestCaptures finds in captures of H.323 what tshark finds there: those that the project makes and has recorded, and those
// of $CTHELPER_PCAPS. In the latter tshark may not know what a connection is, and find less.
func TestCaptures(t *testing.T) {
	if _, err := exec.LookPath("tshark"); err != nil && testing.Short() {
		t.Skip("needs tshark")
	}
	folders := []string{"../../../pcaps/made/h323-*", "../../../pcaps/recorded/h323-*"}
	own := len(folders)
	if folder := os.Getenv(pcaps.Variable); folder != "" {
		folders = append(folders, filepath.Join(folder, "h323", "*"))
	}
	for i, folder := range folders {
		files := []string{}
		for _, kind := range []string{".pcap", ".pcapng"} {
			more, err := filepath.Glob(folder + kind)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, more...)
		}
		if len(files) == 0 && i < own {
			t.Fatalf("no captures in %s", folder)
		}
		for _, file := range files {
			t.Run(filepath.Base(file), func(t *testing.T) {
				t.Parallel()
				judged := show(t, file)
				total := 0
				for number, got := range captured(t, file, judged) {
					slices.Sort(got)
					want := judged[number].addresses
					missing := slices.ContainsFunc(want, func(a found) bool { return !slices.Contains(got, a) })
					if missing || i < own && len(got) != len(want) {
						t.Errorf("frame %d: read %v, tshark shows %v", number, got, want)
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
				if total == 0 && i < own {
					t.Error("no address")
				}
			})
		}
	}
}

// stream is one direction of a TCP connection.
type stream struct {
	typ  string // of its messages
	next uint32 // sequence number
	part []byte // of a frame, from earlier segments
}

// captured are the addresses in the frames of a file, at the places that tshark gives: in the frame, or, if a message came
// in several segments, from its TPKT header on.
func captured(t *testing.T, file string, judged map[int]shown) map[int][]found {
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
	streams := map[helpers.Tuple]*stream{}
	for {
		frame, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		var v packet.View
		if v.Decode(frame.IP) != nil {
			continue
		}
		number, b := int(frame.Number), v.Payload()
		off := judged[number].link + len(frame.IP) - len(b)
		tuple := v.Tuple()
		switch v.Transport() {
		case helpers.UDP:
			if tuple.Src.Port() == 1719 || tuple.Dst.Port() == 1719 {
				out[number] = read(t, b, off, "RasMessage")
			}
		case helpers.TCP:
			s := streams[tuple]
			if s == nil {
				s = &stream{next: v.Seq()}
				streams[tuple] = s
			}
			if v.Flags()&0x02 != 0 { // SYN
				*s = stream{next: v.Seq() + 1}
			}
			if v.Seq() != s.next || len(b) == 0 { // tshark does not look at a segment twice
				continue
			}
			s.next += uint32(len(b))
			out[number] = s.read(t, b, off)
		}
	}
}

// read are the addresses in the messages that b, at off in its frame, makes whole.
func (s *stream) read(t *testing.T, b []byte, off int) (all []found) {
	t.Helper()
	before := len(s.part)
	b = append(s.part, b...)
	for {
		size, err := wire.Frame(b)
		if err != nil || size == 0 || size > len(b) {
			s.part = b
			return all
		}
		message := b[wire.FrameHeader:size]
		if s.typ == "" && len(message) > 1 {
			if s.typ = "MultimediaSystemControlMessage"; message[0] == 8 && message[1] == 2 {
				s.typ = "H323-UserInformation"
			}
		}
		at := off + wire.FrameHeader
		if before > 0 {
			at = wire.FrameHeader
			off -= before
			before = 0
		}
		all = append(all, read(t, message, at, s.typ)...)
		b, off = b[size:], off+size
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
