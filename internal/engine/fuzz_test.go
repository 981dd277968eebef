package engine_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// words are what the fuzzer's flows say.
var words = []string{
	"open tcp 10.0.0.1:4000 group 1\n", "open udp 192.168.1.9:4000 group 1 paired\n", "open udp 10.0.0.1:4001 group 1\n",
	"open tcp 198.51.100.9:4000 group 2 permanent peer\n", "open tcp 10.0.0.1:4000 group 1 other\n",
	"open udp 10.0.0.1:4000 group 3 reserve\nopen udp 10.0.0.1:4000 group 3\n", "open tcp 10.0.0.1:4002 helper toy\n",
	"cancel 1\n", "note 1 x\n", "skip 10\n", "foreign\n", "bad\n", "hello\n", "open tcp 10.0.0", ".1:4003 group 4\n",
	"open tcp 10.0.0.2:1\n", "via 10.0.0.1:4000\n",
	"220 ready\r\n", "PORT 10,0,0,1,100,1\r\n", "200 ok\r\n", "PASV\r\n", "227 (198,51,100,9,100,2)\r\n", "EPSV\r\n",
	"229 (|||4005|)\r\n", "EPRT |1|10.0.0.1|4006|\r\n", "PORT 10,0,", "0,1,100,3\r\n", "227 (192,168,1,9,100,4)\r\n",
}

// reader takes numbers from the fuzzer's bytes.
type reader struct{ b []byte }

func (r *reader) n(most int) int {
	if len(r.b) == 0 {
		return 0
	}
	v := int(r.b[0]) % most
	r.b = r.b[1:]
	return v
}

// pending is a ticket whose answers are still to come.
type pending struct {
	ticket  engine.Ticket
	answers []error
}

// FuzzEngine sends packets of a few flows in any order, answers tickets late, early and wrongly, and lets time pass.
// Each packet gets exactly one verdict, what leaves is valid, and nothing stays behind.
func FuzzEngine(f *testing.F) {
	f.Add([]byte{0})
	for i := range words {
		f.Add([]byte{0, 1, 0, byte(i), 0, 1, 0, byte(i), 0, 3, 0, byte(i), 5, 0, 0, 5, 0, byte(i), 4, 4})
		f.Add([]byte{0, 6, 1, 16, 0, 6, 0, byte(i), 0, 6, 1, byte(i), 0, 7, 0, byte(i), 2, 0, 1, 3, 7, 1, 1, 9, 6})
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 4096 {
			t.Skip("too long")
		}
		z := newFuzzBed(t)
		for r := (&reader{script}); len(r.b) > 0; {
			z.do(r)
		}
		z.end()
	})
}

type fuzzBed struct {
	*bed
	flows   []*peerflow
	tickets []pending
}

func newFuzzBed(t *testing.T) *fuzzBed {
	z := &fuzzBed{}
	z.bed = newBed(t, z.config)
	z.take = z.later
	both := dnatConn(helpers.TCP)
	both.Reply.Dst = outside
	for i, c := range []engine.Conn{
		plainConn(helpers.TCP), snatConn(helpers.TCP), dnatConn(helpers.TCP), both, plainConn(helpers.UDP), snatConn(helpers.UDP),
		ftpConn(plainConn(helpers.TCP)), ftpConn(snatConn(helpers.TCP)), ftpConn(dnatConn(helpers.TCP)),
	} {
		c.Orig.Src = addPort(c.Orig.Src, i)
		c.Reply.Dst = addPort(c.Reply.Dst, i)
		z.flows = append(z.flows, z.late(c, uint32(i*1<<31)-3))
		z.flows[i].next = z.flows[i].isn
	}
	return z
}

func (z *fuzzBed) config(c *engine.Config) {
	all, err := ftp.Protocol().Helpers(nil)
	if err != nil {
		panic(err)
	}
	c.Helpers = append(c.Helpers, all...)
	c.Helpers[1].PerPair = true
	c.Limits = engine.Limits{Ahead: 500, Memory: 4000, Total: 20, Flows: 7}
}

func ftpConn(c engine.Conn) engine.Conn {
	c.Orig.Dst = netip.AddrPortFrom(c.Orig.Dst.Addr(), 21)
	c.Reply.Src = netip.AddrPortFrom(c.Reply.Src.Addr(), 21)
	return c
}

func (z *fuzzBed) do(r *reader) {
	switch op := r.n(10); op {
	case 0, 1, 2:
		f, dir := z.flows[r.n(len(z.flows))], helpers.Dir(r.n(2))
		text := words[r.n(len(words))]
		if f.conn.Transport == helpers.UDP {
			z.udp(f.conn, dir, text)
			return
		}
		switch op {
		case 0:
			f.say(dir, text)
		case 1: // anywhere
			seq := f.next[dir] + uint32(r.n(256)-128)
			f.raw(dir, packet.ACK, seq, f.acked(dir.Other())+uint32(r.n(256)-128), text[:r.n(len(text)+1)])
		case 2: // any flags
			f.send(dir, byte(r.n(32)), text[:r.n(len(text)+1)])
		}
	case 3:
		if len(z.tickets) > 0 {
			i := r.n(len(z.tickets))
			p := z.tickets[i]
			z.tickets = append(z.tickets[:i], z.tickets[i+1:]...)
			for i := range p.answers {
				if k := r.n(8); k == 1 {
					p.answers[i] = expect.ErrTaken
				} else if k == 2 {
					p.answers[i] = errors.New("no")
				}
			}
			if r.n(16) == 1 {
				p.answers = nil
			}
			z.drive(z.e.Resume(p.ticket, p.answers))
		}
	case 4:
		z.now = z.now.Add(time.Duration(r.n(256)) * 50 * time.Millisecond)
		z.drive(z.e.Tick(z.now))
	case 5:
		to := []string{
			"203.0.113.1:4000", "10.0.0.1:4000", "10.0.0.1:25601", "198.51.100.9:25602", "203.0.113.1:25601",
			"10.0.0.1:4002",
		}
		c := plainConn(helpers.TCP)
		c.Orig.Src, c.Orig.Dst = addPort(server, r.n(3)), netip.MustParseAddrPort(to[r.n(len(to))])
		c.Reply = c.Orig.Turned()
		z.drive(z.e.Related(c, z.last, z.now))
	case 6:
		f := z.flows[r.n(len(z.flows))]
		z.drive(z.e.Ended(f.conn.Transport, f.conn.Orig, 0, z.now))
	case 7:
		z.drive(z.e.Gone(expect.ID(r.n(20)), z.now))
	case 8:
		z.drive(z.e.Release())
		if len(z.open) > 0 {
			z.t.Fatalf("packets %v wait after Release", z.open)
		}
		if r.n(2) == 1 {
			state, err := z.e.Save()
			if err != nil {
				z.t.Fatal(err)
			}
			z.e, z.tickets = z.engine(z.config), nil
			if err := z.e.Load(state); err != nil {
				z.t.Fatal(err)
			}
		}
	case 9:
		n := r.n(64)
		n = min(n, len(r.b))
		data := r.b[:n:n]
		r.b = r.b[n:]
		z.send(engine.Conn{}, 0, append([]byte(nil), data...))
	}
}

// later takes a Step's verdicts and keeps its ticket for later.
func (z *fuzzBed) later(s *engine.Step) {
	for _, v := range s.Verdicts {
		z.verdict(v)
	}
	for _, r := range s.Requests {
		set := 0
		for _, is := range []bool{r.Place != nil, r.Remove != 0, r.Adjust != nil, r.Forget != 0} {
			if is {
				set++
			}
		}
		if set != 1 {
			z.t.Fatalf("request %+v", r)
		}
	}
	if s.Ticket != 0 {
		z.tickets = append(z.tickets, pending{s.Ticket, make([]error, len(s.Requests))})
	}
}

// end ends all flows and stops the engine: nothing may be left.
func (z *fuzzBed) end() {
	z.drive(z.e.Release())
	for _, f := range z.flows {
		z.drive(z.e.Ended(f.conn.Transport, f.conn.Orig, 0, z.now))
	}
	if n := z.e.Held(); n != 0 {
		z.t.Fatalf("%d packets are counted as waiting", n)
	}
	if n, flows := z.e.Memory(), z.e.Stats().Flows; n != 0 || flows != 0 {
		z.t.Fatalf("%d bytes are kept of %d flows", n, flows)
	}
	z.drive(z.e.Stop(z.now))
	for _, p := range z.tickets {
		z.drive(z.e.Resume(p.ticket, p.answers))
	}
	if len(z.open) > 0 {
		z.t.Fatalf("packets %v have no verdict", z.open)
	}
	if s := z.e.Stats(); s.Flows != 0 || s.Sessions != 0 || s.Pending != 0 {
		z.t.Fatalf("left after Stop: %+v", s)
	}
	if next := z.e.Next(); !next.IsZero() {
		z.t.Fatal("something waits after Stop: ", fmt.Sprint(next))
	}
}
