package engine_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/sip"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// BenchmarkTrunk holds so many calls of SIP in one flow, and ends one for each that begins, in an order that is none: how
// long its three messages take, of what they take with the fewest. They take turns, so that the ratio holds on a busy
// machine; the turn in the middle counts. The table takes everything, and no time.
func BenchmarkTrunk(b *testing.B) {
	const turn = 16
	calls := []int{10, 1000, 10000}
	for _, nat := range []bool{false, true} {
		b.Run(fmt.Sprintf("nat=%v", nat), func(b *testing.B) {
			trunks := make([]*trunk, len(calls))
			for i, many := range calls {
				trunks[i] = newTrunk(b, nat)
				for n := range many {
					trunks[i].begin(n)
				}
			}
			took, at := make([][]time.Duration, len(calls)), make([]int, len(calls))
			b.ReportAllocs()
			for b.Loop() {
				for i, k := range trunks {
					start := time.Now()
					for range turn {
						at[i] = (at[i] + 7919) % calls[i]
						k.end(at[i])
						k.begin(at[i])
					}
					took[i] = append(took[i], time.Since(start))
				}
			}
			first := 0.0
			for i, many := range calls {
				slices.Sort(took[i])
				each := float64(took[i][len(took[i])/2]) / turn
				if first == 0 {
					first = each
				}
				b.ReportMetric(each, fmt.Sprint(many, "-calls-ns"))
				b.ReportMetric(each/first, fmt.Sprint(many, "-of-", calls[0]))
				if s := trunks[i].e.Stats(); s.Pending != 4*many || len(s.Refused)+len(s.Errors) > 0 {
					b.Fatalf("%+v", s)
				}
			}
		})
	}
}

// trunk is a flow with calls.
type trunk struct {
	e       *engine.Engine
	batch   engine.Batch
	conn    engine.Conn
	packets [3][]byte // INVITE, 200 and BYE
	now     time.Time
}

func newTrunk(t testing.TB, nat bool) *trunk {
	p := sip.Protocol()
	list, err := p.Helpers(p.Options)
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(engine.Config{
		Helpers: list, Limits: engine.Limits{PerPeer: 1 << 20, Total: 1 << 20, Rate: 1 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	phone, proxy := netip.AddrPortFrom(client.Addr(), 5060), netip.AddrPortFrom(server.Addr(), 5060)
	orig := helpers.Tuple{Src: phone, Dst: proxy}
	k := &trunk{
		e: e, batch: engine.Batch{Engine: e, Table: yes{}},
		conn: engine.Conn{Transport: helpers.UDP, Orig: orig, Reply: orig.Turned()}, now: time.Unix(1e9, 0),
	}
	if nat {
		k.conn.Reply.Dst = netip.AddrPortFrom(outside.Addr(), 5060)
	}
	for i, m := range []struct {
		dir         helpers.Dir
		start, cseq string
		tag         string
		media       netip.Addr
	}{
		{helpers.Original, "INVITE sip:b@198.51.100.9 SIP/2.0", "1 INVITE", "", phone.Addr()},
		{helpers.Reply, "SIP/2.0 200 OK", "1 INVITE", ";tag=b", proxy.Addr()},
		{helpers.Original, "BYE sip:b@198.51.100.9 SIP/2.0", "2 BYE", ";tag=b", netip.Addr{}},
	} {
		text := fmt.Sprintf("%s\r\nVia: SIP/2.0/UDP %v;branch=z9hG4bK1\r\nFrom: <sip:a@a>;tag=a\r\nTo: <sip:b@b>%s\r\n"+
			"Call-ID: call-00000@trunk\r\nCSeq: %s\r\n", m.start, k.conn.Reply.Dst, m.tag, m.cseq)
		if m.media.IsValid() {
			text += fmt.Sprintf("Content-Type: application/sdp\r\n\r\nv=0\r\nc=IN IP4 %v\r\nm=audio 00000 RTP/AVP 0\r\n", m.media)
		} else {
			text += "\r\n"
		}
		t := k.conn.Reply.Turned()
		if m.dir == helpers.Reply {
			t = k.conn.Orig.Turned()
		}
		k.packets[i] = udpPacket(t, text)
		clear(k.packets[i][ipHeader+6 : ipHeader+8]) // no checksum: the text changes
	}
	return k
}

func (k *trunk) begin(n int) {
	k.say(0, n)
	k.say(1, n)
}

func (k *trunk) end(n int) { k.say(2, n) }

func (k *trunk) say(which, n int) {
	data := k.packets[which]
	number(data, "Call-ID: call-", n)
	number(data, "m=audio ", 10000+2*n)
	k.now = k.now.Add(time.Millisecond) // the bucket of tokens fills meanwhile
	k.batch.Add(k.e.Handle(engine.Packet{Time: k.now, Data: data, Conn: &k.conn}))
	k.batch.Do()
}

// number writes five digits behind a text, if it is there.
func number(data []byte, behind string, n int) {
	at := bytes.Index(data, []byte(behind))
	if at < 0 {
		return
	}
	for i := at + len(behind) + 4; i >= at+len(behind); i-- {
		data[i] = byte('0' + n%10)
		n /= 10
	}
}

// yes is a table that takes everything.
type yes struct{}

func (yes) Do(_ []engine.Request, answers []error) { clear(answers) }
