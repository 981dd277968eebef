package pcaps

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
	"github.com/cthelperd/cthelperd/internal/capture"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// Pairs are the captures NAME.inside.pcap below a folder, beside which lies NAME.outside.pcap: the same traffic on both
// sides of a firewall.
func Pairs(t testing.TB, dir string) (inside []string) {
	t.Helper()
	for _, path := range Captures(t, dir) {
		if strings.Contains(filepath.Base(path), ".inside.pcap") {
			inside = append(inside, path)
		}
	}
	return inside
}

// Other is the other side of a pair.
func Other(inside string) string {
	folder, name := filepath.Split(inside)
	return folder + strings.Replace(name, ".inside.pcap", ".outside.pcap", 1)
}

// Translated is what a firewall has made of the messages of H.323 that went through it, beside what we make of them.
type Translated struct {
	Messages int
	Places   int // addresses that both have changed, to the same host
	Wrong    []Difference
}

// Difference is a place that only the firewall or only we have changed, or that each has changed to another host.
type Difference struct {
	OnlyWe bool
	Field  string // what is there, if it is an address
	Text   string
}

// Compare replays what was sent on either side of a firewall, with the NAT that the two captures show, and compares what
// the firewall has made of each message of H.323 with what cthelper makes of it: RAS on port 1719, and TCP in frames of
// RFC 1006. Other ports may be chosen, but for one end point always the same. args are further options of cthelper replay.
func Compare(t testing.TB, inside, outside string, args []string, protocols ...helpers.Protocol) Translated {
	t.Helper()
	c := comparison{t: t, args: args, protocols: protocols, ports: map[string]string{}}
	c.match(conversations(t, inside), conversations(t, outside))
	if len(c.pairs) == 0 && len(c.Wrong) == 0 {
		c.wrong(Difference{}, "no message of H.323 is in both captures")
	}
	for known := -1; known < len(c.ports) && len(c.Wrong) == 0; {
		known = len(c.ports)
		edits := c.replay()
		c.Translated = Translated{}
		c.compare(edits)
	}
	return c.Translated
}

// conversation is a connection, or what two ends say to each other by UDP.
type conversation struct {
	transport helpers.Transport
	tuple     helpers.Tuple // of its first packet
	said      [2][]message  // by direction
	streams   [2]stream
}

// message is a datagram, or a frame of RFC 1006.
type message struct {
	place   int // in the order of the capture: of the packet that made it whole
	frame   uint64
	payload []byte
}

// stream puts the segments of a direction in order.
type stream struct {
	began   bool
	next    uint32
	foreign bool
	part    []byte
	early   map[uint32][]byte
}

// conversations are those of a capture that may be H.323.
func conversations(t testing.TB, path string) (all []*conversation) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := capture.NewReader(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	type key struct {
		transport helpers.Transport
		tuple     helpers.Tuple
	}
	open := map[key]*conversation{}
	for place := 0; ; place++ {
		frame, err := r.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatalf("%s: %v", path, err)
			}
			break
		}
		var v packet.View
		if v.Decode(frame.IP) != nil {
			continue
		}
		const ras, syn = 1719, 0x02
		tuple, transport, dir := v.Tuple(), v.Transport(), helpers.Original
		c := open[key{transport, tuple}]
		if c == nil {
			if c = open[key{transport, tuple.Turned()}]; c != nil {
				dir = helpers.Reply
			}
		}
		begins := transport == helpers.TCP && v.Flags()&syn != 0
		if c == nil || begins && dir == helpers.Original && len(c.said[0])+len(c.said[1]) > 0 {
			if transport == helpers.UDP && tuple.Src.Port() != ras && tuple.Dst.Port() != ras {
				continue
			}
			c = &conversation{transport: transport, tuple: tuple}
			open[key{transport, tuple}] = c
			all = append(all, c)
		}
		if transport == helpers.UDP {
			c.said[dir] = append(c.said[dir], message{place, frame.Number, bytes.Clone(v.Payload())})
			continue
		}
		s := &c.streams[dir]
		if begins {
			*s = stream{began: true, next: v.Seq() + 1}
			continue
		}
		for _, m := range s.segment(v.Seq(), v.Payload()) {
			c.said[dir] = append(c.said[dir], message{place, frame.Number, m})
		}
	}
	return slices.DeleteFunc(all, func(c *conversation) bool {
		return len(c.said[0])+len(c.said[1]) == 0 || c.streams[0].foreign || c.streams[1].foreign
	})
}

// segment takes one and gives the frames that it makes whole.
func (s *stream) segment(seq uint32, b []byte) (frames [][]byte) {
	if !s.began {
		*s = stream{began: true, next: seq}
	}
	if ahead := int32(seq - s.next); ahead > 0 {
		if s.early == nil {
			s.early = map[uint32][]byte{}
		}
		s.early[seq] = bytes.Clone(b)
		return nil
	} else if -int(ahead) < len(b) {
		s.part = append(s.part, b[-ahead:]...)
		s.next = seq + uint32(len(b))
	}
	for early, b := range s.early {
		if int32(early-s.next) <= 0 {
			delete(s.early, early)
			return s.segment(early, b)
		}
	}
	const header = 4
	for !s.foreign && len(s.part) >= header {
		size := int(s.part[2])<<8 | int(s.part[3])
		if s.part[0] != 3 || s.part[1] != 0 || size < header {
			s.foreign = true
		}
		if size > len(s.part) || s.foreign {
			break
		}
		frames = append(frames, s.part[:size:size])
		s.part = s.part[size:]
	}
	return frames
}

// comparison is one of a pair of captures.
type comparison struct {
	Translated
	t         testing.TB
	args      []string
	protocols []helpers.Protocol
	pairs     []pair
	nat       []string
	ports     map[string]string // an end point, 6 or 18 bytes, that the firewall chose, and what we chose for the same
}

// pair is a conversation as it was seen on both sides.
type pair struct {
	inside, outside *conversation
	within          helpers.Dir // whose sender is inside
}

func (c *comparison) wrong(d Difference, format string, args ...any) {
	d.Text = fmt.Sprintf(format, args...)
	c.Wrong = append(c.Wrong, d)
}

// match finds for each conversation inside the one outside that has messages of the same lengths and the fewest other
// bytes, and finds out which host is inside: that of which the address is another one outside. A capture may end before
// the other does.
func (c *comparison) match(inside, outside []*conversation) {
	hosts := map[netip.Addr]netip.Addr{}
	for _, in := range inside {
		best, least := -1, 0
		for i, out := range outside {
			if n, same := in.differs(out); same && (best < 0 || n < least) {
				best, least = i, n
			}
		}
		if best < 0 {
			c.wrong(Difference{}, "frame %d: nothing outside is like %v %v", in.first(), in.transport, in.tuple)
			continue
		}
		p := pair{inside: in, outside: outside[best]}
		outside = slices.Delete(outside, best, best+1)
		from, to := p.inside.tuple, p.outside.tuple
		src, dst := from.Src.Addr() != to.Src.Addr(), from.Dst.Addr() != to.Dst.Addr()
		if src == dst {
			c.wrong(Difference{}, "frame %d: %v is %v outside: not one of its hosts is translated", in.first(), from, to)
			continue
		}
		own, seen := from.Src.Addr(), to.Src.Addr()
		if dst {
			p.within = helpers.Reply
			own, seen = from.Dst.Addr(), to.Dst.Addr()
		}
		if known, ok := hosts[own]; !ok {
			hosts[own] = seen
			c.nat = append(c.nat, "--nat", own.String()+"="+seen.String())
		} else if known != seen {
			c.wrong(Difference{}, "frame %d: %v is both %v and %v outside", in.first(), own, known, seen)
		}
		c.pairs = append(c.pairs, p)
	}
}

// first is the frame of the first message.
func (c *conversation) first() uint64 {
	first := uint64(0)
	for _, said := range c.said {
		if len(said) > 0 && (first == 0 || said[0].frame < first) {
			first = said[0].frame
		}
	}
	return first
}

// differs counts the bytes in which two conversations differ; false: they have other messages.
func (c *conversation) differs(o *conversation) (n int, same bool) {
	if c.transport != o.transport {
		return 0, false
	}
	for dir := range c.said {
		for i := range min(len(c.said[dir]), len(o.said[dir])) {
			m, other := c.said[dir][i], o.said[dir][i].payload
			if same = len(m.payload) == len(other); !same {
				return 0, false
			}
			for k := range other {
				if m.payload[k] != other[k] {
					n++
				}
			}
		}
	}
	return n, same
}

// saying is a message with what the firewall has made of it.
type saying struct {
	pair         *pair
	dir          helpers.Dir
	place        int // inside
	sent, passed message
}

// sayings are all messages, each as it was sent, in the order in which they were seen inside.
func (c *comparison) sayings() (all []saying) {
	for i := range c.pairs {
		p := &c.pairs[i]
		for dir := range p.inside.said {
			for k := range min(len(p.inside.said[dir]), len(p.outside.said[dir])) {
				m := p.inside.said[dir][k]
				s := saying{p, helpers.Dir(dir), m.place, m, p.outside.said[dir][k]}
				if s.dir != p.within {
					s.sent, s.passed = s.passed, s.sent
				}
				all = append(all, s)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b saying) int { return a.place - b.place })
	return all
}

// edit is one of cthelper's, in a message.
type edit struct {
	off int
	by  []byte
}

// replay gives what cthelper changes in each saying.
func (c *comparison) replay() (edits [][]edit) {
	w := &writer{}
	frames := map[uint64]int{}
	opened := map[*pair]*[2]uint32{}
	all := c.sayings()
	for i, s := range all {
		b := bytes.Clone(s.sent.payload)
		for theirs, ours := range c.ports {
			b = bytes.ReplaceAll(b, []byte(theirs), []byte(ours))
		}
		numbers := opened[s.pair]
		if numbers == nil {
			numbers = &[2]uint32{}
			opened[s.pair] = numbers
			if s.pair.inside.transport == helpers.TCP {
				w.open(s.pair.inside.tuple, numbers)
			}
		}
		frames[w.say(s.pair.inside, s.dir, numbers, b)] = i
	}
	file := filepath.Join(c.t.TempDir(), "sent.pcap")
	if err := os.WriteFile(file, w.out.Bytes(), 0o600); err != nil {
		c.t.Fatal(err)
	}
	edits = make([][]edit, len(all))
	for _, r := range Records(c.t, file, append(slices.Clone(c.nat), c.args...), c.protocols...) {
		if i, ok := frames[r.Frame]; ok && r.Event == engine.EventEdit {
			edits[i] = append(edits[i], edit{*r.Offset, latin(*r.New)})
		}
	}
	return edits
}

// latin makes a byte of each code point, as records have them.
func latin(s string) (b []byte) {
	for _, r := range s {
		b = append(b, byte(r))
	}
	return b
}

// compare counts the places that both have changed, and tells those that one has.
func (c *comparison) compare(edits [][]edit) {
	for i, s := range c.sayings() {
		c.Messages++
		before, after := s.sent.payload, s.passed.payload
		ours := make([]bool, len(before))
		for _, e := range edits[i] {
			end, host := e.off+len(e.by), e.off+len(e.by)-2
			if end > len(before) {
				c.differ(s, e.off, false, "an edit is not in the message")
				continue
			}
			for k := e.off; k < end; k++ {
				ours[k] = true
			}
			switch old, theirs := endPoint(before[e.off:end]), endPoint(after[e.off:end]); {
			case old == theirs && old != endPoint(e.by):
				c.differ(s, e.off, true, "only we change %v to %v", old, endPoint(e.by))
			case !bytes.Equal(after[e.off:host], e.by[:len(e.by)-2]):
				c.differ(s, e.off, false, "the firewall changes %v to %v, we to %v", old, theirs, endPoint(e.by))
			case old != theirs:
				c.Places++
				if s.dir == s.pair.within {
					c.ports[string(after[e.off:end])] = string(e.by)
				}
			}
		}
		for k := 0; k < len(before); k++ {
			from := k
			for k < len(before) && !ours[k] && before[k] != after[k] {
				k++
			}
			if k > from {
				c.differ(s, from, false, "only the firewall changes %x to %x", before[from:k], after[from:k])
			}
		}
	}
}

// differ notes a difference at a byte of a message.
func (c *comparison) differ(s saying, off int, onlyWe bool, format string, args ...any) {
	d := Difference{OnlyWe: onlyWe}
	var m wire.Message
	base := 0
	switch p := s.sent.payload; {
	case s.pair.inside.transport == helpers.UDP:
		_ = wire.ReadRAS(p, &m)
	default:
		base = wire.FrameHeader
		if wire.ReadSignalling(p[base:], &m) != nil {
			_ = wire.ReadControl(p[base:], &m)
		}
	}
	for _, a := range m.Addresses {
		if end := base + a.Off + a.Addr.Addr().BitLen()/8 + 2; off >= base+a.Off && off < end {
			d.Field = a.Field.String()
		}
	}
	at := fmt.Sprintf("%v, frame %d where it was sent, byte %d %s: ", s.pair.inside.tuple, s.sent.frame, off, d.Field)
	c.wrong(d, "%s", at+fmt.Sprintf(format, args...))
}

// endPoint reads an address with its port behind it.
func endPoint(b []byte) netip.AddrPort {
	n := len(b) - 2
	a, _ := netip.AddrFromSlice(b[:n])
	return netip.AddrPortFrom(a, uint16(b[n])<<8|uint16(b[n+1]))
}
