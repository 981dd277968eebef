package sip

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	sipgo "github.com/emiago/sipgo/sip"
	"github.com/pion/sdp/v3"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
)

// phoneCall is an INVITE as a phone sends it.
var phoneCall = withBody(`
INVITE sip:bob@biloxi.example.com;user=phone SIP/2.0
Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK74bf9;rport
Max-Forwards: 70
Route: <sip:proxy.example.com;lr>
From: "Alice" <sip:alice@atlanta.example.com>;tag=9fxced76sl
To: "Bob" <sip:bob@biloxi.example.com;user=phone>
Call-ID: 3848276298220188511@atlanta.example.com
CSeq: 2 INVITE
Contact: <sip:alice@192.0.2.2:5060;transport=udp>;+sip.instance="<urn:uuid:00000000-0000-1000-8000-000A95A0E128>"
Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, MESSAGE, SUBSCRIBE, INFO, PRACK, UPDATE
Supported: replaces, timer, 100rel, outbound, path, gruu
Session-Expires: 1800;refresher=uac
Min-SE: 90
User-Agent: phone 1.0
Proxy-Authorization: Digest username="alice", realm="example.com", nonce="ea9c8e88df84f1cec4341ae6cbe5a359",
 uri="sip:bob@biloxi.example.com", response="dfe56131d1958046689d83306477ecc1", algorithm=MD5
Content-Type: application/sdp
`, `v=0
o=alice 53655765 2353687637 IN IP4 192.0.2.2
s=-
c=IN IP4 192.0.2.2
t=0 0
m=audio 49172 RTP/AVP 9 8 0 3 18 101
a=rtpmap:9 G722/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:3 GSM/8000
a=rtpmap:18 G729/8000
a=fmtp:18 annexb=no
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-15
a=ptime:20
a=sendrecv
`)

// BenchmarkInvite reads an INVITE with its session description, a phone's and a short one: how many times faster than
// sipgo and pion/sdp parse it, as their users have them do it. They take turns, and time is that of the process: a busy
// machine takes none of it, and collecting what they leave belongs to it. Under NAT the addresses that are rewritten are
// read, else those that count.
func BenchmarkInvite(b *testing.B) {
	const turn = 1024 // whoever comes behind others has a cold processor for some microseconds
	for _, data := range [][]byte{phoneCall, invitation} {
		parser := sipgo.NewParser()
		brief, all := message{brevity: terse}, message{brevity: nameless}
		udp, _ := both(b, defaults())
		s, seg := udp.New(), helpers.Segment{Flow: flowOf(1, helpers.UDP, phone, proxy), Data: data}
		var out helpers.Result
		readers := []struct {
			name string
			read func() error
		}{
			{"sipgo-and-pion", func() error {
				m, err := parser.ParseSIP(data)
				if err != nil {
					return err
				}
				var s sdp.SessionDescription
				return s.Unmarshal(m.Body())
			}},
			{"scan", func() error { return brief.parse(data, 0) }},
			{"scan-for-NAT", func() error { return all.parse(data, 0) }},
			{"announce-again", func() error {
				out.Reset()
				return s.Inspect(&seg, &out)
			}},
		}
		b.Run(fmt.Sprintf("%d bytes", len(data)), func(b *testing.B) {
			took := make([]time.Duration, len(readers))
			for b.Loop() {
				for i := range readers {
					runtime.GC() // of what the one before has left
					start := busy(b)
					for range turn {
						if err := readers[i].read(); err != nil {
							b.Fatal(err)
						}
					}
					took[i] += busy(b) - start
				}
			}
			for i, r := range readers {
				b.ReportMetric(float64(took[i])/float64(turn*b.N), r.name+"-ns")
				if i > 0 {
					b.ReportMetric(float64(took[0])/float64(took[i]), r.name+"-times-faster")
				}
			}
		})
	}
}

// BenchmarkTrunk holds so many calls in one flow, and ends one for each that begins, in an order that is none: how long
// its three messages take, of what they take with the fewest. They take turns, too; the turn in the middle counts.
func BenchmarkTrunk(b *testing.B) {
	const turn = 64
	calls := []int{10, 1000, 10000}
	trunks := make([]*trunk, len(calls))
	for i, many := range calls {
		trunks[i] = newTrunk(b)
		for n := range many {
			trunks[i].begin(b, n)
		}
	}
	took, at := make([][]time.Duration, len(calls)), make([]int, len(calls))
	b.ReportAllocs()
	for b.Loop() {
		for i, k := range trunks {
			start := time.Now()
			for range turn {
				at[i] = (at[i] + 7919) % calls[i]
				k.end(b, at[i])
				k.begin(b, at[i])
			}
			took[i] = append(took[i], time.Since(start))
		}
	}
	for i, many := range calls {
		b.ReportMetric(middle(took[i])/turn, fmt.Sprint(many, "-calls-ns"))
		b.ReportMetric(middle(took[i])/middle(took[0]), fmt.Sprint(many, "-of-", calls[0]))
	}
}

// busy is how long all threads of the process have been running.
func busy(t testing.TB) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

func middle(took []time.Duration) float64 {
	slices.Sort(took)
	return float64(took[len(took)/2])
}

// trunk is a flow with calls between two hosts.
type trunk struct {
	session helpers.Session
	flow    *helpers.Flow
	texts   [3][]byte // INVITE, 200 and BYE
	out     helpers.Result
}

func newTrunk(t testing.TB) *trunk {
	udp, _ := both(t, defaults())
	k := &trunk{session: udp.New(), flow: flowOf(1, helpers.UDP, phone, proxy)}
	const id = "call-00000@trunk"
	k.texts[0] = []byte(text("INVITE sip:b@b SIP/2.0", "1 INVITE", "a", "", id, lineOf(phone.Addr(), 4000)))
	k.texts[1] = []byte(text("SIP/2.0 200 OK", "1 INVITE", "a", "b", id, lineOf(proxy.Addr(), 3000)))
	k.texts[2] = []byte(text("BYE sip:b@b SIP/2.0", "2 BYE", "a", "b", id, ""))
	return k
}

func (k *trunk) say(t testing.TB, which, n int, dir helpers.Dir) {
	data := k.texts[which]
	at := bytes.Index(data, []byte("call-")) + len("call-")
	for i := at + 4; i >= at; i-- {
		data[i] = byte('0' + n%10)
		n /= 10
	}
	k.out.Reset()
	seg := helpers.Segment{Flow: k.flow, Dir: dir, Data: data}
	if err := k.session.Inspect(&seg, &k.out); err != nil {
		t.Fatal(err)
	}
}

func (k *trunk) begin(t testing.TB, n int) {
	k.say(t, 0, n, helpers.Original)
	k.say(t, 1, n, helpers.Reply)
}

func (k *trunk) end(t testing.TB, n int) { k.say(t, 2, n, helpers.Original) }

// A call costs a bounded number of bytes, and no more than max-calls are kept, however many begin and never end.
func TestTrunkMemory(t *testing.T) {
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	const most = 1500 // bytes a call
	k := newTrunk(t)
	before := heap()
	for n := range 10000 {
		k.begin(t, n)
	}
	if each := (heap() - before) / 10000; each > most {
		t.Errorf("%d bytes a call, want at most %d", each, most)
	}
	s := k.session.(*session)
	s.all.Calls = 12000
	for n := range 20000 {
		k.out.Reset()
		id := fmt.Sprint("flood-", n)
		data := []byte(text("INVITE sip:b@b SIP/2.0", "1 INVITE", "a", "", id, lineOf(phone.Addr(), 4000)))
		// The oldest call is told to be forgotten, as an error.
		_ = k.session.Inspect(&helpers.Segment{Flow: k.flow, Data: data}, &k.out)
	}
	if grown := heap() - before; grown > 12000*2*most {
		t.Errorf("%d bytes after a flood, want at most %d", grown, 12000*2*most)
	}
	if n := s.table.used; n != 12000 {
		t.Errorf("%d calls are kept", n)
	}
	runtime.KeepAlive(k)
}
