package engine_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// bed drives one engine with packets made of text, and plays the kernel for it: a table of expectations and the
// adjustment of sequence numbers.
type bed struct {
	t       testing.TB
	e       *engine.Engine
	now     time.Time
	table   *expect.Memory
	kernel  map[helpers.Tuple]*[2]engine.SeqAdjust
	refuse  func(engine.Request) error // nil: the memory's own answer
	open    map[uint64]sent            // packets without verdict
	log     []string                   // events
	done    []string                   // requests and verdicts, in order
	out     map[uint64][]byte          // packets as they left the kernel
	last    uint64
	answers bool // false: tickets are answered by hand
	ticket  engine.Ticket
	asked   []engine.Request
	blind   bool               // packets do not bring their connection
	take    func(*engine.Step) // instead of all this; nil: drive
}

type sent struct {
	data []byte
	orig helpers.Tuple
	dir  helpers.Dir
}

var (
	client  = netip.MustParseAddrPort("10.0.0.1:50000")
	outside = netip.MustParseAddrPort("203.0.113.1:50000")
	server  = netip.MustParseAddrPort("198.51.100.9:2100")
	public  = netip.MustParseAddrPort("203.0.113.9:2100")
)

func plainConn(t helpers.Transport) engine.Conn {
	o := helpers.Tuple{Src: client, Dst: server}
	return engine.Conn{Transport: t, Orig: o, Reply: o.Turned(), Adjustable: true}
}

// snatConn: the client is behind a masquerade.
func snatConn(t helpers.Transport) engine.Conn {
	return engine.Conn{
		Transport: t, Orig: helpers.Tuple{Src: client, Dst: server},
		Reply: helpers.Tuple{Src: server, Dst: outside}, Adjustable: true,
	}
}

// dnatConn: the server is behind a published address.
func dnatConn(t helpers.Transport) engine.Conn {
	real := netip.MustParseAddrPort("192.168.1.9:2100")
	return engine.Conn{
		Transport: t, Orig: helpers.Tuple{Src: client, Dst: public},
		Reply: helpers.Tuple{Src: real, Dst: client}, Adjustable: true,
	}
}

func newBed(t testing.TB, change func(*engine.Config)) *bed {
	b := &bed{
		t: t, now: time.Unix(1e9, 0), table: expect.NewMemory(), open: map[uint64]sent{}, out: map[uint64][]byte{},
		kernel: map[helpers.Tuple]*[2]engine.SeqAdjust{}, answers: true,
	}
	b.e = b.engine(change)
	return b
}

func (b *bed) engine(change func(*engine.Config)) *engine.Engine {
	cfg := engine.Config{
		Helpers: []helpers.Helper{toyHelper("toy", helpers.TCP, 2100), toyHelper("toyu", helpers.UDP, 2100)},
		Record:  func(ev *engine.Event) { b.log = append(b.log, line(ev)) },
	}
	if change != nil {
		change(&cfg)
	}
	e, err := engine.New(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

// line is an event in words.
func line(ev *engine.Event) string {
	s := string(ev.Kind)
	switch ev.Kind {
	case engine.EventNote:
		return fmt.Sprintf("note %d %q", ev.Group.ID, ev.Note)
	case engine.EventEdit:
		return fmt.Sprintf("edit %v %d %q %q", ev.Dir, ev.Offset, ev.Old, ev.New)
	case engine.EventError:
		return fmt.Sprintf("error %v %d %s", ev.Dir, ev.Offset, ev.Reason)
	}
	from := ev.From.String()
	if !ev.From.Addr().IsValid() {
		from = "*"
	}
	s += fmt.Sprintf(" %v %s>%v", ev.Transport, from, ev.To)
	if ev.At != ev.To {
		s += fmt.Sprintf(" at %v", ev.At)
	}
	if ev.Reason != "" {
		s += " " + string(ev.Reason)
	}
	if ev.Kind == engine.EventRelated {
		s += fmt.Sprintf(" %q", ev.Note)
	}
	return s
}

// Do implements engine.Table.
func (b *bed) Do(requests []engine.Request, answers []error) {
	for i := range requests {
		answers[i] = b.carryOut(requests[i])
	}
}

func (b *bed) carryOut(r engine.Request) error {
	var err error
	word := ""
	if b.refuse != nil {
		err = b.refuse(r)
	}
	switch {
	case r.Place != nil:
		word = fmt.Sprintf("place %v", r.Place.At)
		if err == nil {
			err = b.table.Place(*r.Place)
		}
	case r.Remove != 0:
		word = fmt.Sprintf("remove %d", r.Remove)
		if err == nil {
			err = b.table.Remove(r.Remove)
		}
	case r.Adjust != nil:
		word = fmt.Sprintf("adjust %v %d/%d", r.Adjust.Dir, r.Adjust.Before, r.Adjust.After)
		if err == nil {
			b.adjust(r.Adjust.Orig)[r.Adjust.Dir] = r.Adjust.SeqAdjust
		}
	case r.Forget != 0:
		word = "forget"
		if err == nil {
			err = b.table.Forget(r.Forget)
		}
	}
	if err != nil {
		word += " refused"
	}
	b.done = append(b.done, word)
	return err
}

func (b *bed) adjust(orig helpers.Tuple) *[2]engine.SeqAdjust {
	if b.kernel[orig] == nil {
		b.kernel[orig] = new([2]engine.SeqAdjust)
	}
	return b.kernel[orig]
}

// verdict lets a packet through the kernel: its sequence adjustment (nf_ct_seq_adjust) comes last.
func (b *bed) verdict(v engine.Verdict) {
	p, ok := b.open[v.ID]
	if !ok {
		b.t.Fatalf("packet %d has a second verdict, or was never queued", v.ID)
	}
	delete(b.open, v.ID)
	if v.Drop {
		b.done = append(b.done, fmt.Sprintf("drop %d", v.ID))
		return
	}
	b.done = append(b.done, fmt.Sprintf("verdict %d", v.ID))
	data := slices.Clone(p.data)
	if v.Data != nil {
		data = slices.Clone(v.Data)
		var w packet.View
		if err := w.Decode(data); err != nil || !w.Valid() {
			b.t.Fatalf("packet %d left damaged: %v", v.ID, err)
		}
	}
	var w packet.View
	if w.Decode(data) == nil && w.Transport() == helpers.TCP {
		k := b.adjust(p.orig)
		valid := w.Valid()
		l4 := w.Data()[len(w.Data())-len(w.Payload())-tcpHeader:]
		seqAdjust(l4[4:], k[p.dir])
		ackAdjust(l4[8:], k[p.dir.Other()])
		if valid { // the kernel corrects the checksum, right or wrong
			data, _ = w.Append(nil, packet.Change{Payload: w.Payload(), Seq: w.Seq(), Ack: w.Ack()})
		}
	}
	b.out[v.ID] = data
}

const tcpHeader = 20 // as made here

func seqAdjust(b []byte, k engine.SeqAdjust) {
	seq := binary.BigEndian.Uint32(b)
	if int32(seq-k.Pos) > 0 {
		seq += uint32(k.After)
	} else {
		seq += uint32(k.Before)
	}
	binary.BigEndian.PutUint32(b, seq)
}

func ackAdjust(b []byte, k engine.SeqAdjust) {
	ack := binary.BigEndian.Uint32(b)
	if int32(ack-uint32(k.Before)-k.Pos) > 0 {
		ack -= uint32(k.After)
	} else {
		ack -= uint32(k.Before)
	}
	binary.BigEndian.PutUint32(b, ack)
}

// drive carries out a Step, and what follows from it.
func (b *bed) drive(s *engine.Step) {
	if b.take != nil {
		b.take(s)
		return
	}
	if b.answers {
		engine.Drive(b.e, s, b, b.verdict)
		return
	}
	for _, v := range s.Verdicts {
		b.verdict(v)
	}
	b.ticket = s.Ticket
	b.asked = slices.Clone(s.Requests)
}

// resume answers the last ticket.
func (b *bed) resume() {
	b.t.Helper()
	if b.ticket == 0 {
		b.t.Fatal("no ticket")
	}
	answers := make([]error, len(b.asked))
	b.Do(b.asked, answers)
	b.drive(b.e.Resume(b.ticket, answers))
}

// peerflow is a TCP connection whose ends keep their own numbers.
type peerflow struct {
	b    *bed
	conn engine.Conn
	next [2]uint32 // own next number
	isn  [2]uint32
}

// tcp opens a connection: SYN, SYN-ACK, ACK.
func (b *bed) tcp(c engine.Conn, isn uint32) *peerflow {
	f := b.late(c, isn)
	f.next = [2]uint32{isn, isn + 5000}
	f.send(helpers.Original, packet.SYN, "")
	f.send(helpers.Reply, packet.SYN|packet.ACK, "")
	f.send(helpers.Original, packet.ACK, "")
	return f
}

// late is a connection that exists already.
func (b *bed) late(c engine.Conn, isn uint32) *peerflow {
	return &peerflow{b: b, conn: c, next: [2]uint32{isn + 1, isn + 5001}, isn: [2]uint32{isn, isn + 5000}}
}

// say sends text from one side, in order, and gives the packet's id.
func (f *peerflow) say(dir helpers.Dir, text string) uint64 {
	return f.send(dir, packet.ACK|packet.PSH, text)
}

func (f *peerflow) send(dir helpers.Dir, flags byte, text string) uint64 {
	seq := f.next[dir]
	f.next[dir] += uint32(len(text))
	if flags&(packet.SYN|packet.FIN) != 0 {
		f.next[dir]++
	}
	return f.raw(dir, flags, seq, f.acked(dir.Other()), text)
}

// acked is what dir's receiver acknowledges, all of it, in the numbers that it sees.
func (f *peerflow) acked(dir helpers.Dir) uint32 {
	return f.next[dir] + uint32(f.b.adjust(f.conn.Orig)[dir].After)
}

// raw sends a segment: seq is the sender's own number, ack is what he was told by the kernel's adjustment turned back,
// as the packet is seen before it.
func (f *peerflow) raw(dir helpers.Dir, flags byte, seq, ack uint32, text string) uint64 {
	t := f.conn.Reply.Turned()
	if dir == helpers.Reply {
		t = f.conn.Orig.Turned()
	}
	return f.b.send(f.conn, dir, tcpPacket(t, flags, seq, ack, text))
}

func (b *bed) send(c engine.Conn, dir helpers.Dir, data []byte) uint64 {
	b.last++
	id := b.last
	b.open[id] = sent{slices.Clone(data), c.Orig, dir}
	p := engine.Packet{ID: id, Time: b.now, Data: data, Conn: &c}
	if b.blind {
		p.Conn = nil
	}
	b.drive(b.e.Handle(p))
	for i := range data {
		data[i] = 0xee // the engine must not look at it any more
	}
	c = engine.Conn{Transport: helpers.UDP, Zone: 77} // nor at this
	return id
}

// udp sends a datagram.
func (b *bed) udp(c engine.Conn, dir helpers.Dir, text string) uint64 {
	t := c.Reply.Turned()
	if dir == helpers.Reply {
		t = c.Orig.Turned()
	}
	return b.send(c, dir, udpPacket(t, text))
}

// payload is what packet id left with.
func (b *bed) payload(id uint64) string {
	b.t.Helper()
	data, ok := b.out[id]
	if !ok {
		b.t.Fatalf("packet %d has not left", id)
	}
	var v packet.View
	if err := v.Decode(data); err != nil {
		b.t.Fatal(err)
	}
	return string(v.Payload())
}

func (b *bed) seqs(id uint64) (seq, ack uint32) {
	b.t.Helper()
	var v packet.View
	if err := v.Decode(b.out[id]); err != nil {
		b.t.Fatalf("packet %d: %v", id, err)
	}
	return v.Seq(), v.Ack()
}

// pass lets time pass, and the engine do what is due.
func (b *bed) pass(d time.Duration) {
	b.now = b.now.Add(d)
	b.drive(b.e.Tick(b.now))
}

func (b *bed) events(want ...string) {
	b.t.Helper()
	if got, want := strings.Join(b.log, "\n"), strings.Join(want, "\n"); got != want {
		b.t.Errorf("events:\n%s\nwant:\n%s", got, want)
	}
	b.log = nil
}

// ipPacket puts a transport header with payload behind an IP header; checksums are right.
func ipPacket(t helpers.Tuple, transport helpers.Transport, l4 []byte) []byte {
	var ip []byte
	if t.Src.Addr().Is4() {
		ip = make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, byte(transport)
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(l4)))
		copy(ip[12:], t.Src.Addr().AsSlice())
		copy(ip[16:], t.Dst.Addr().AsSlice())
	} else {
		ip = make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, byte(transport), 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
		copy(ip[8:], t.Src.Addr().AsSlice())
		copy(ip[24:], t.Dst.Addr().AsSlice())
	}
	binary.BigEndian.PutUint16(l4, t.Src.Port())
	binary.BigEndian.PutUint16(l4[2:], t.Dst.Port())
	data := append(ip, l4...)
	var v packet.View
	if err := v.Decode(data); err != nil {
		panic(err)
	}
	c := packet.Change{Payload: v.Payload()}
	if transport == helpers.TCP {
		c.Seq, c.Ack = v.Seq(), v.Ack()
	}
	b, _ := v.Append(nil, c)
	return b
}

func tcpPacket(t helpers.Tuple, flags byte, seq, ack uint32, text string) []byte {
	l4 := make([]byte, tcpHeader, tcpHeader+len(text))
	binary.BigEndian.PutUint32(l4[4:], seq)
	binary.BigEndian.PutUint32(l4[8:], ack)
	l4[12], l4[13] = tcpHeader/4<<4, flags
	return ipPacket(t, helpers.TCP, append(l4, text...))
}

func udpPacket(t helpers.Tuple, text string) []byte {
	l4 := make([]byte, 8, 8+len(text))
	binary.BigEndian.PutUint16(l4[4:], uint16(8+len(text)))
	l4[6] = 1 // a checksum is wanted
	return ipPacket(t, helpers.UDP, append(l4, text...))
}

func addPort(a netip.AddrPort, n int) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr(), a.Port()+uint16(n))
}
