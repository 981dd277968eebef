package ftp_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/helpers/helpertest"
)

func helper(t testing.TB) helpers.Helper {
	t.Helper()
	hs, err := ftp.Protocol().Helpers(nil)
	if err != nil || len(hs) != 1 {
		t.Fatalf("helpers %v, error %v", hs, err)
	}
	return hs[0]
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("files %v, error %v", files, err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			helpertest.Check(t, helper(t), read(t, f))
		})
	}
}

func TestREADME(t *testing.T) {
	examples := regexp.MustCompile("(?s)```dialogue\n(.*?)```").FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(examples) != 2 {
		t.Fatalf("%d examples, want 2", len(examples))
	}
	for i, e := range examples {
		t.Run(fmt.Sprint(i), func(t *testing.T) { helpertest.Check(t, helper(t), e[1]) })
	}
}

// Every reason to refuse that the README lists has a vector in testdata, and the README lists them all.
func TestReasons(t *testing.T) { helpertest.Reasons(t, `.*: `) }

func FuzzSession(f *testing.F) {
	helpertest.Fuzz(f, helper(f), helpertest.Files(f, "testdata/*.txt")...)
}

// A talk plays segments on one session, again and again.
type talk struct {
	session helpers.Session
	segs    []helpers.Segment
	out     helpers.Result
}

func newTalk(t testing.TB, says ...string) *talk {
	client, server := netip.MustParseAddrPort("192.0.2.2:50000"), netip.MustParseAddrPort("198.51.100.9:21")
	orig := helpers.Tuple{Src: client, Dst: server}
	flow := &helpers.Flow{ID: 1, Transport: helpers.TCP, Orig: orig, Reply: orig.Turned()}
	talk := &talk{session: helper(t).New()}
	for _, say := range says {
		dir := helpers.Original
		if say[0] == 'S' {
			dir = helpers.Reply
		}
		talk.segs = append(talk.segs, helpers.Segment{Flow: flow, Dir: dir, Data: []byte(say[1:])})
	}
	talk.play(t)
	return talk
}

func (k *talk) play(t testing.TB) (announced int) {
	for i := range k.segs {
		k.out.Reset()
		if err := k.session.Inspect(&k.segs[i], &k.out); err != nil {
			t.Fatalf("%q: %v", k.segs[i].Data, err)
		}
		announced += len(k.out.Expect)
	}
	return announced
}

var (
	quiet   = []string{"S220 ready\r\n", "CNOOP\r\n", "S200 fine\r\n", "CSIZE pub/file\r\n", "S213 1048576\r\n"}
	passive = []string{"S220 ready\r\n", "CPASV\r\n", "S227 Entering Passive Mode (198,51,100,9,156,66).\r\n"}
	active  = []string{"S220 ready\r\n", "CPORT 192,0,2,2,200,1\r\n", "S200 fine\r\n"}
	eprt    = []string{"S220 ready\r\n", "CEPRT |1|192.0.2.2|51201|\r\n", "S200 fine\r\n"}
)

func TestAllocations(t *testing.T) {
	for _, tt := range []struct {
		name      string
		says      []string
		announced int
		most      float64
	}{
		{"nothing announced", quiet, 0, 0},
		{"passive", passive, 1, 0},
		{"active", active, 1, 0},
		{"EPRT", eprt, 1, 1}, // the address's text, for netip
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newTalk(t, tt.says...)
			if n := k.play(t); n != tt.announced {
				t.Fatalf("%d announced, want %d", n, tt.announced)
			}
			if n := testing.AllocsPerRun(200, func() { k.play(t) }); n > tt.most {
				t.Errorf("%v allocations, want at most %v", n, tt.most)
			}
		})
	}
}

func BenchmarkInspect(b *testing.B) {
	for _, bb := range []struct {
		name string
		says []string
	}{{"quiet", quiet}, {"passive", passive}, {"active", active}, {"eprt", eprt}} {
		b.Run(bb.name, func(b *testing.B) {
			k := newTalk(b, bb.says...)
			n := 0
			for _, s := range k.segs {
				n += len(s.Data)
			}
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				k.play(b)
			}
		})
	}
}

// A snapshot takes little, whatever the client sends.
func TestSnapshotSize(t *testing.T) {
	k := newTalk(t, "S220 ready\r\n", "CPASV\r\n"+strings.Repeat("RETR "+strings.Repeat("x", 1000)+"\r\n", 200)+
		strings.Repeat("PORT 192,0,2,2,200,1\r\nEPRT |1|192.0.2.2|51202|\r\n", 100))
	state, err := k.session.(helpers.Snapshotter).AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(state) > 4096 || !bytes.HasPrefix(state, []byte{1}) {
		t.Errorf("snapshot of %d bytes, first %d; want at most 4096, and version 1", len(state), state[0])
	}
}
