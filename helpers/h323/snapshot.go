package h323

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
	"github.com/cthelperd/cthelperd/helpers/snapshot"
)

// version is the first byte of a snapshot.
const version = 1

// AppendBinary implements helpers.Snapshotter.
func (s *control) AppendBinary(b []byte) ([]byte, error) {
	start := len(b)
	b = s.frames.append(append(b, version))
	return snapshot.Seal(s.book.append(b), start), nil
}

func (all *shared) restoreControl(b []byte) (helpers.Session, error) {
	s := &control{frames: frames{all: all}}
	r, err := open(b)
	if err != nil {
		return nil, err
	}
	s.frames.read(r)
	s.book.read(r)
	return s, r.end()
}

// AppendBinary implements helpers.Snapshotter.
func (s *signalling) AppendBinary(b []byte) ([]byte, error) {
	start := len(b)
	b = s.frames.append(append(b, version))
	b = binary.AppendUvarint(b, uint64(s.last))
	b = binary.AppendUvarint(b, uint64(len(s.calls)))
	for i := range s.calls {
		c := &s.calls[i]
		b = binary.AppendUvarint(b, c.id)
		b = binary.AppendUvarint(b, uint64(c.reference))
		b = append(b, byte(c.caller), snapshot.Flags(c.announced, c.offered, c.answered))
		b = c.book.append(b)
	}
	return snapshot.Seal(b, start), nil
}

func (all *shared) restoreSignalling(b []byte) (helpers.Session, error) {
	s := &signalling{frames: frames{all: all}}
	r, err := open(b)
	if err != nil {
		return nil, err
	}
	s.frames.read(r)
	s.last = uint32(r.Number(1<<partBits - 1))
	for range r.Number(maxConnectionCalls) {
		c := call{id: r.Number(math.MaxUint64), reference: uint16(r.Number(math.MaxUint16)), caller: r.dir()}
		r.Flags(&c.announced, &c.offered, &c.answered)
		c.book.read(r)
		s.calls = append(s.calls, c)
	}
	return s, r.end()
}

// AppendBinary implements helpers.Snapshotter.
func (s *ras) AppendBinary(b []byte) ([]byte, error) {
	start := len(b)
	b = append(b, version)
	b = appendHost(appendHost(b, s.hosts[0]), s.hosts[1])
	b = binary.AppendUvarint(b, uint64(s.last))
	b = binary.AppendUvarint(b, uint64(len(s.requests)))
	for i := range s.requests {
		r := &s.requests[i]
		b = append(b, byte(r.kind), snapshot.Flags(r.announced))
		b = appendHost(b, r.from)
		for _, n := range []uint64{uint64(r.sequence), uint64(r.reference), uint64(r.group)} {
			b = binary.AppendUvarint(b, n)
		}
		b = append(b, r.call[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(s.registrations)))
	for i := range s.registrations {
		r := &s.registrations[i]
		b = append(b, byte(r.transport), snapshot.Flags(r.renewal, r.confirmed))
		b = appendHost(appendHost(b, r.owner), r.leaves)
		b = appendEnd(b, r.end)
		for _, n := range []uint64{uint64(r.group), uint64(r.sequence), uint64(r.ttl)} {
			b = binary.AppendUvarint(b, n)
		}
	}
	return snapshot.Seal(b, start), nil
}

func (all *shared) restoreRAS(b []byte) (helpers.Session, error) {
	s := &ras{all: all}
	r, err := open(b)
	if err != nil {
		return nil, err
	}
	s.hosts = [2]netip.Addr{r.host(), r.host()}
	s.last = uint32(r.Number(1<<partBits - 1))
	for range r.Number(maxRequests) {
		q := request{kind: wire.Kind(r.Number(math.MaxUint8))}
		r.Flags(&q.announced)
		q.from = r.host()
		q.sequence, q.reference = uint16(r.Number(math.MaxUint16)), uint16(r.Number(math.MaxUint16))
		q.group = uint32(r.Number(1<<partBits - 1))
		copy(q.call[:], r.Take(len(q.call)))
		s.requests = append(s.requests, q)
	}
	for range r.Number(maxRegistrations) {
		g := registration{transport: r.transport()}
		r.Flags(&g.renewal, &g.confirmed)
		g.owner, g.leaves, g.end = r.host(), r.host(), r.endPoint()
		g.group, g.sequence = uint32(r.Number(1<<partBits-1)), uint16(r.Number(math.MaxUint16))
		g.ttl = uint32(r.Number(math.MaxUint32))
		s.registrations = append(s.registrations, g)
	}
	return s, r.end()
}

func (s *frames) append(b []byte) []byte {
	return append(b, byte(s.dirs[0]), byte(s.dirs[1]), snapshot.Flags(s.blind))
}

func (s *frames) read(r state) {
	for i := range s.dirs {
		s.dirs[i] = mode(r.Number(uint64(mute)))
	}
	r.Flags(&s.blind)
}

func (b *book) append(to []byte) []byte {
	to = binary.AppendUvarint(to, uint64(b.last))
	to = binary.AppendUvarint(to, uint64(len(b.uses)))
	for i := range b.uses {
		u := &b.uses[i]
		to = appendEnd(append(u.by.append(to), byte(u.owner), byte(u.transport)), u.end)
		to = binary.AppendUvarint(to, uint64(u.part))
	}
	to = binary.AppendUvarint(to, uint64(len(b.odd)))
	for i := range b.odd {
		o := &b.odd[i]
		to = append(appendHost(o.by.append(to), o.from), snapshot.Flags(o.reliable))
	}
	return to
}

func (b *book) read(r state) {
	b.last = uint32(r.Number(1<<partBits - 1))
	for range r.Number(maxUses) {
		u := use{by: r.channel(), owner: r.dir(), transport: r.transport(), end: r.endPoint()}
		u.part = uint32(r.Number(1<<partBits - 1))
		b.uses = append(b.uses, u)
	}
	for range r.Number(maxOdd) {
		o := opened{by: r.channel(), from: r.host()}
		r.Flags(&o.reliable)
		b.odd = append(b.odd, o)
	}
}

func (c channel) append(b []byte) []byte {
	return binary.AppendUvarint(append(b, byte(c.opener), byte(c.kind)), uint64(c.number))
}

// appendHost appends the length of an address, 0 if there is none, and its bytes.
func appendHost(b []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return append(b, 0)
	}
	return appendAddr(append(b, byte(a.BitLen()/8)), a)
}

func appendEnd(b []byte, a netip.AddrPort) []byte {
	return binary.BigEndian.AppendUint16(appendHost(b, a.Addr()), a.Port())
}

// state reads a snapshot.
type state struct{ *snapshot.Reader }

func open(b []byte) (state, error) {
	r, err := snapshot.Open(b, version)
	if err != nil {
		err = fmt.Errorf("h323: %w", err)
	}
	return state{r}, err
}

// end is the error of all that was read.
func (r state) end() error {
	if err := r.End(); err != nil {
		return fmt.Errorf("h323: %w", err)
	}
	return nil
}

func (r state) dir() helpers.Dir { return helpers.Dir(r.Number(uint64(helpers.Reply))) }

func (r state) transport() helpers.Transport {
	t := helpers.Transport(r.Number(math.MaxUint8))
	r.Check(t == helpers.TCP || t == helpers.UDP)
	return t
}

func (r state) channel() channel {
	return channel{r.dir(), channelKind(r.Number(uint64(common))), uint16(r.Number(math.MaxUint16))}
}

func (r state) host() netip.Addr {
	n := r.Number(16)
	if n == 0 {
		return netip.Addr{}
	}
	a, ok := netip.AddrFromSlice(r.Take(int(n)))
	r.Check(ok)
	return a
}

func (r state) endPoint() netip.AddrPort {
	a := r.host()
	b := r.Take(2)
	if r.Bad() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b))
}
