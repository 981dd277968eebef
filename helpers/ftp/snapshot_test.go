package ftp

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
)

// State that is wrong though its checksum is right (another program's, a mistake of ours) may be refused or taken, but
// a session made of it keeps its bounds.
func TestRestoreWrong(t *testing.T) {
	client, server := netip.MustParseAddrPort("192.0.2.2:50000"), netip.MustParseAddrPort("198.51.100.9:21")
	orig := helpers.Tuple{Src: client, Dst: server}
	flow := &helpers.Flow{ID: 1, Transport: helpers.TCP, Orig: orig, Reply: orig.Turned()}
	inspect := func(s helpers.Session, dir helpers.Dir, data string) {
		var out helpers.Result
		_ = s.Inspect(&helpers.Segment{Flow: flow, Dir: dir, Data: []byte(data)}, &out)
		if n := len(data); out.Consumed < 0 || out.Hold < 0 || out.Hold > max(0, n-out.Consumed) {
			t.Fatalf("Consumed %d, Hold %d of %q", out.Consumed, out.Hold, data)
		}
	}
	shared := newDesks()
	s := newSession(shared)
	inspect(s, helpers.Reply, "220 ready\r\n")
	inspect(s, helpers.Original, "PORT 192,0,2,2,200,1\r\nPASV\r\nRETR x\r\nAUTH TLS\r\nABOR\r\n\r\n")
	inspect(s, helpers.Reply, "200 \r\n22")
	state, err := s.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	body := state[:len(state)-4]
	taken := 0
	for i := range body {
		for bit := range 256 {
			wrong := bytes.Clone(body)
			wrong[i] = byte(bit)
			wrong = binary.BigEndian.AppendUint32(wrong, crc32.ChecksumIEEE(wrong))
			r, err := restore(wrong, shared)
			if err != nil {
				continue
			}
			taken++
			inspect(r, helpers.Reply, "227 (198,51,100,9,82,9)\r\n150 \r\n226 \r\n\x16\x03\x03\x00\x01x")
			inspect(r, helpers.Original, "RETR y\r\nPORT 192,0,2,2,200,2\r\nPORT 192,0,2,")
			inspect(r, helpers.Reply, "200 \r\n234 \r\n500 \r\n220 \r\n227 (198,51,")
			if _, err := r.(helpers.Snapshotter).AppendBinary(nil); err != nil {
				t.Errorf("byte %d as %#x: AppendBinary: %v", i, bit, err)
			}
		}
	}
	if taken == 0 {
		t.Error("no state was taken, not even the right one")
	}
	for i := range body {
		short := binary.BigEndian.AppendUint32(bytes.Clone(body[:i]), crc32.ChecksumIEEE(body[:i]))
		if _, err := restore(short, shared); err == nil {
			t.Errorf("the first %d bytes of %d are taken", i, len(body))
		}
	}
	long := append(bytes.Clone(body), 0)
	if _, err := restore(binary.BigEndian.AppendUint32(long, crc32.ChecksumIEEE(long)), shared); err == nil {
		t.Error("a byte too many is taken")
	}
}
