package sim

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// world is one case. Its clock counts milliseconds.
type world struct {
	*rand.Rand
	seed  uint64
	trace *strings.Builder // nil: none
	fail  string

	now    int64
	events events
	count  int

	// What was drawn.
	nat            string
	mss            [2]int
	window         int
	rto            int64
	sack, nagle    bool
	loss, dup      float64
	jitter         int
	slow           int     // milliseconds that a placement takes at most
	taken, full    float64 // how often a placement fails
	event          string  // what happens to the daemon
	gap            int64   // how long it is away
	clean          bool    // wires lose nothing at the moment
	client, server *host
	script         *script

	kernel   kernel
	engine   *engine.Engine
	up       bool
	nextID   uint64
	waiting  map[uint64]flight // packets without a verdict, in this engine
	tickets  int
	places   map[expect.ID]*expect.Request
	ever     []expect.Request // all that was ever placed
	attempts map[netip.AddrPort]int
	refused  int
	heldOut  map[netip.AddrPort]bool // refused because its first bytes could not wait for the rest
	missed   bool                    // packets passed the engine by
}

// flight is a packet in the queue.
type flight struct {
	dir int
	seg segment
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (w *world) time() time.Time { return epoch.Add(time.Duration(w.now) * time.Millisecond) }

func (w *world) logf(format string, args ...any) {
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%6d ", w.now)
		fmt.Fprintf(w.trace, format, args...)
		w.trace.WriteByte('\n')
	}
}

func (w *world) failf(format string, args ...any) {
	if w.fail == "" {
		w.fail = fmt.Sprintf(format, args...)
		w.logf("FAIL %s", w.fail)
	}
}

func newWorld(seed uint64, traced bool) *world {
	w := &world{
		Rand: rand.New(rand.NewPCG(seed, 1)), seed: seed, waiting: map[uint64]flight{},
		places: map[expect.ID]*expect.Request{}, attempts: map[netip.AddrPort]int{}, heldOut: map[netip.AddrPort]bool{},
	}
	if traced {
		w.trace = &strings.Builder{}
	}
	w.nat = []string{"none", "snat", "dnat", "both"}[w.IntN(4)]
	w.mss = [2]int{w.size(), w.size()}
	w.window = 2000 + w.IntN(4000)
	if w.IntN(4) == 0 {
		w.window = 40 + w.IntN(100)
	}
	w.rto = 200 + int64(w.IntN(300))
	w.sack, w.nagle = w.IntN(2) == 0, w.IntN(3) == 0
	if w.IntN(2) == 0 {
		w.loss = 0.15 * w.Float64()
	}
	if w.IntN(2) == 0 {
		w.dup = 0.2 * w.Float64()
	}
	if w.IntN(2) == 0 {
		w.jitter = 1 + w.IntN(30)
	}
	if w.IntN(3) == 0 && min(w.mss[0], w.mss[1]) >= 60 { // of tinier segments too many would wait for an answer
		w.slow = 1 + w.IntN(60)
	}
	if w.IntN(4) == 0 {
		w.taken = 0.4 * w.Float64()
	}
	if w.IntN(8) == 0 {
		w.full = 0.3 * w.Float64()
	}
	if w.IntN(3) == 0 {
		w.event = []string{"restart", "crash", "reload", "overflow"}[w.IntN(4)]
		w.gap = int64(w.IntN(300))
	}
	w.addresses(w.IntN(3) == 0)
	w.script = newScript(w)
	w.client = &host{w: w, dir: 0, isn: w.isn(), rto: w.rto, early: map[int][]byte{}, peerFin: -1}
	w.server = &host{w: w, dir: 1, isn: w.isn(), rto: w.rto, early: map[int][]byte{}, peerFin: -1}
	w.start()
	return w
}

func (w *world) size() int { return []int{3, 7, 20, 60, 536, 1460}[w.IntN(6)] }

// isn is a sequence number that often wraps soon.
func (w *world) isn() uint32 {
	if w.IntN(2) == 0 {
		return -uint32(w.IntN(2000))
	}
	return w.Uint32()
}

// resegment is how long a retransmitted segment is: copies are cut in other places.
func (w *world) resegment(mss int) int { return 1 + w.IntN(2*mss) }

func (w *world) addresses(v6 bool) {
	c, x, s, v := "10.1.0.2", "192.0.2.200", "10.200.30.9", "203.0.113.7"
	if w.IntN(2) == 0 { // lengths change the other way
		c, x, s, v = "192.168.100.222", "9.9.9.9", "1.2.3.4", "203.0.113.177"
	}
	if v6 {
		c, x, s, v = "fd00::2", "2001:db8:1:2:3:4:5:6", "fd01:1:2:3:4:5:6:7", "2001:db8::9"
	}
	ports := func(a string, p uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(a), p) }
	port := uint16(1024 + w.IntN(60000))
	client, server := ports(c, port), ports(s, 21)
	outsideC, outsideS := client, server
	if w.nat == "snat" || w.nat == "both" {
		outsideC = ports(x, port)
	}
	if w.nat == "dnat" || w.nat == "both" {
		outsideS = ports(v, 21)
	}
	w.kernel.conn = engine.Conn{
		Transport: helpers.TCP, Adjustable: true,
		Orig: helpers.Tuple{Src: client, Dst: outsideS}, Reply: helpers.Tuple{Src: server, Dst: outsideC},
	}
}

// config is the daemon's, whenever it reads it.
func (w *world) config() engine.Config {
	all, err := ftp.Protocol().Helpers(nil)
	if err != nil {
		panic(err)
	}
	return engine.Config{
		Helpers: all,
		Limits:  engine.Limits{Rate: 10000},
		Lookup: func(t helpers.Transport, seen helpers.Tuple) (engine.Conn, error) {
			if seen != w.kernel.seen(0) && seen != w.kernel.seen(1) {
				w.failf("looked up %v", seen)
			}
			c := w.kernel.conn
			c.Adjust = w.kernel.adjust
			return c, nil
		},
		Record: func(ev *engine.Event) {
			if ev.Kind == engine.EventRefuse {
				w.refused++
				if ev.Reason == engine.RefuseHeldOut {
					w.heldOut[ev.To] = true
					if w.fair() {
						w.failf("%v could not wait for the rest of its line", ev.To)
					}
				}
			}
			w.logf("event %s %s to %v at %v reason %s note %q text %q old %q new %q",
				ev.Kind, ev.Class, ev.To, ev.At, ev.Reason, ev.Note, ev.Text, ev.Old, ev.New)
		},
	}
}

// fair says that a line's segments come one behind the other, few and soon: none has to leave before it is whole.
func (w *world) fair() bool {
	return w.loss == 0 && w.dup == 0 && w.jitter == 0 && !w.nagle && w.slow == 0 && w.window >= 2000 && w.mss[0] >= 20 &&
		w.mss[1] >= 20 && w.event == "" && !w.missed
}

// start makes a new daemon.
func (w *world) start() {
	var err error
	if w.engine, err = engine.New(w.config()); err != nil {
		panic(err)
	}
	w.up = true
}

// fromHost puts a segment on the wire to the firewall.
func (w *world) fromHost(dir int, s segment) {
	w.wire(s, func(s segment) { w.queue(dir, s) })
}

// wire carries a segment, sometimes late, twice, or not at all.
func (w *world) wire(s segment, to func(segment)) {
	n := 1
	if !w.clean && w.client.open && w.server.open {
		if w.Float64() < w.loss {
			n = 0
		} else if w.Float64() < w.dup {
			n = 2
		}
	}
	for range n {
		late := int64(1)
		if w.jitter > 0 && !w.clean {
			late += int64(w.IntN(w.jitter))
		}
		w.after(late, func() { to(s) })
	}
}

// queue is what the firewall does with a packet: the engine sees it behind NAT, and before the kernel moves numbers.
func (w *world) queue(dir int, s segment) {
	w.logf("dir %d seq %d ack %d fin %v %q", dir, s.seq, s.ack, s.fin, s.data)
	if !w.up || s.syn && !s.acks { // a SYN belongs to no connection yet
		w.missed = w.missed || !s.syn && (len(s.data) > 0 || s.fin)
		w.forward(dir, s)
		return
	}
	w.nextID++
	w.waiting[w.nextID] = flight{dir, s}
	gaps := w.engine.Stats().Gaps
	w.carry(w.engine.Handle(engine.Packet{ID: w.nextID, Time: w.time(), Data: w.kernel.encode(dir, s)}))
	if now := w.engine.Stats().Gaps; now != gaps {
		w.logf("  %d bytes are lost to the engine", now-gaps)
	}
}

// carry carries out a step; slow answers come later.
func (w *world) carry(s *engine.Step) {
	for {
		for _, v := range s.Verdicts {
			f, ok := w.waiting[v.ID]
			if !ok {
				w.failf("packet %d has a second verdict", v.ID)
			}
			delete(w.waiting, v.ID)
			if v.Drop {
				continue
			}
			out := f.seg
			if v.Data != nil {
				if out, ok = decode(v.Data); !ok {
					w.failf("packet %d has wrong checksums now", v.ID)
				}
				w.logf("  now seq %d ack %d %q", out.seq, out.ack, out.data)
				if w.nat == "none" {
					w.failf("a packet was changed without NAT")
				}
			}
			w.forward(f.dir, out)
		}
		requests, ticket := slices.Clone(s.Requests), s.Ticket
		if ticket != 0 && w.slow > 0 {
			mine := w.engine
			w.tickets++
			w.after(int64(w.IntN(w.slow)), func() {
				w.tickets--
				answers := w.answers(requests)
				if mine == w.engine && w.up {
					w.carry(mine.Resume(ticket, answers))
				}
			})
			return
		}
		answers := w.answers(requests)
		if ticket == 0 {
			return
		}
		s = w.engine.Resume(ticket, answers)
	}
}

func (w *world) answers(all []engine.Request) (out []error) {
	for _, q := range all {
		err := w.do(q)
		w.logf("  request %+v answer %v", q, err)
		out = append(out, err)
	}
	return out
}

// do is the kernel's table.
func (w *world) do(q engine.Request) error {
	switch {
	case q.Place != nil:
		p := *q.Place
		w.attempts[p.To]++
		for _, other := range w.places {
			if other.Transport == p.Transport && other.At == p.At {
				return expect.ErrTaken
			}
		}
		if w.Float64() < w.full {
			return expect.ErrFull
		}
		if p.At != p.To && w.Float64() < w.taken {
			return expect.ErrTaken
		}
		w.script.judge(w, &p)
		w.places[p.ID] = &p
		w.ever = append(w.ever, p)
	case q.Remove != 0:
		delete(w.places, q.Remove)
	case q.Adjust != nil:
		w.kernel.adjust[q.Adjust.Dir] = q.Adjust.SeqAdjust
	case q.Forget != 0:
		for id, p := range w.places {
			if p.Master.Session == q.Forget {
				delete(w.places, id)
			}
		}
	default:
		return errors.New("an empty request")
	}
	return nil
}

// forward puts a packet on the wire behind the firewall.
func (w *world) forward(dir int, s segment) {
	s = w.kernel.moved(dir, s)
	w.wire(s, func(s segment) {
		if dir == 0 {
			w.server.receive(s)
		} else {
			w.client.receive(s)
		}
	})
}

// quiet says that nothing is under way: what passes a daemon by then is all that it misses.
func (w *world) quiet() bool {
	return len(w.waiting) == 0 && w.tickets == 0 && w.client.una == w.client.nxt && w.server.una == w.server.nxt &&
		w.client.nxt == len(w.client.out) && w.server.nxt == len(w.server.out)
}

// happen does what was drawn to the daemon, between two commands of the client.
func (w *world) happen() {
	what := w.event
	w.event = ""
	w.logf("the daemon: %s, away for %d ms", what, w.gap)
	switch what {
	case "reload":
		if err := w.engine.Reload(w.config()); err != nil {
			w.failf("reload: %v", err)
		}
	case "restart":
		w.carry(w.engine.Release())
		if len(w.waiting) > 0 {
			w.failf("%d packets wait after Release", len(w.waiting))
		}
		state, err := w.engine.Save()
		if err != nil {
			w.failf("save: %v", err)
		}
		w.away(func() {
			w.start()
			if err := w.engine.Load(state); err != nil {
				w.failf("load: %v", err)
			}
		})
	case "crash":
		w.kernel.conn.Existing = true
		w.away(w.start)
	case "overflow":
		old := w.engine
		w.away(func() {
			w.engine, w.up = old, true
			w.engine.Overflowed(w.time())
		})
	}
}

// away lets packets pass by for a while. The wires lose nothing then: a copy of a segment that passed unseen cannot be
// told from a first one.
func (w *world) away(back func()) {
	w.up = false
	w.clean = true
	w.after(w.gap, func() {
		back()
		w.after(100, func() { w.clean = false })
	})
}

// run plays the case to its end.
func (w *world) run() {
	w.client.peerISN = w.server.isn
	w.fromHost(0, segment{seq: w.client.isn, syn: true})
	const limit = 3_600_000
	for len(w.events) > 0 && w.fail == "" && w.now < limit {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		if next := w.engine.Next(); w.up && !next.IsZero() && !next.After(w.time()) {
			w.carry(w.engine.Tick(w.time()))
		}
		e.do()
		if w.up && !w.armed() {
			next := w.engine.Next().Sub(epoch).Milliseconds() + 1
			if next < w.now+5000 {
				w.after(max(1, next-w.now), func() {})
			}
		}
	}
	if w.fail == "" {
		w.end()
	}
}

// armed says whether no Tick has to be awaited.
func (w *world) armed() bool { return w.engine.Next().IsZero() }

// end checks what must be true when all is over.
func (w *world) end() {
	for _, h := range []*host{w.client, w.server} {
		if h.una != len(h.out) || !h.finUp {
			w.failf("direction %d is stuck: %d of %d bytes acknowledged, its end %v", h.dir, h.una, len(h.out), h.finUp)
			return
		}
	}
	if len(w.waiting) > 0 {
		w.failf("%d packets have no verdict", len(w.waiting))
	}
	w.script.check(w, 0, w.server.in)
	w.script.check(w, 1, w.client.in)
	c := &w.kernel.conn
	w.carry(w.engine.Ended(c.Transport, c.Orig, 0, w.time()))
	if s := w.engine.Stats(); s.Pending != 0 || s.Flows != 0 || s.Sessions != 0 {
		w.failf("left in the engine: %+v", s)
	}
	if len(w.places) > 0 && !w.script.crashed {
		w.failf("left in the table: %d expectations", len(w.places))
	}
}

func (w *world) opened(dir int) {
	if dir == 1 {
		w.script.greet(w)
	}
}

// heard is called when a host has received more.
func (w *world) heard(dir int) {
	if dir == 1 {
		w.script.serve(w)
	} else {
		w.script.proceed(w)
	}
}

// after calls do in so many milliseconds.
func (w *world) after(ms int64, do func()) {
	w.count++
	heap.Push(&w.events, event{w.now + ms, w.count, do})
}

type event struct {
	at int64
	n  int
	do func()
}

type events []event

func (h events) Len() int { return len(h) }
func (h events) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].n < h[j].n
}
func (h events) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *events) Push(x any)   { *h = append(*h, x.(event)) }
func (h *events) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	*h = (*h)[:last]
	return e
}

// lines counts the complete lines of b.
func lines(b []byte) int { return bytes.Count(b, []byte("\n")) }
