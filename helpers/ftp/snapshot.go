package ftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"

	"github.com/cthelperd/cthelperd/helpers"
)

// version is the first byte of a snapshot.
const version = 1

var errState = errors.New("ftp: damaged state")

// AppendBinary implements helpers.Snapshotter: version, flags, both directions, queue, groups, checksum.
func (s *session) AppendBinary(b []byte) ([]byte, error) {
	start := len(b)
	b = append(b, version, byte(s.greet), flags(s.blind, s.loose, s.epsvAll, s.toldTLS))
	for _, d := range s.dirs {
		b = append(b, byte(d.mode), flags(d.long, d.joined, d.torn, d.begun, d.early))
		b = binary.AppendUvarint(b, uint64(d.known))
		b = binary.AppendUvarint(b, uint64(d.scanned))
	}
	b = binary.AppendUvarint(b, uint64(s.multi))
	b = binary.AppendUvarint(b, uint64(s.overflow))
	var books books
	if s.books != nil {
		books = *s.books
	}
	b = binary.AppendUvarint(b, uint64(books.last))
	b = binary.AppendUvarint(b, uint64(books.effect))
	b = binary.AppendUvarint(b, uint64(len(s.queue)))
	for _, c := range s.queue {
		b = append(b, byte(c.kind))
		b = binary.AppendUvarint(b, uint64(c.group))
		b = appendBytes(b, s.desk.text(c.name))
		b = appendBytes(b, []byte(c.how.String()))
	}
	b = binary.AppendUvarint(b, uint64(len(books.groups)))
	for _, g := range books.groups {
		b = binary.AppendUvarint(b, uint64(g.id))
		b = append(b, byte(g.owner()), flags(g.is&accepted != 0))
		b = binary.AppendUvarint(b, uint64(g.asks))
		to, err := g.to().MarshalBinary()
		if err != nil {
			return nil, err
		}
		b = appendBytes(b, to)
	}
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[start:])), nil
}

func flags(bits ...bool) (f byte) {
	for i, b := range bits {
		if b {
			f |= 1 << i
		}
	}
	return f
}

func appendBytes(b, v []byte) []byte { return append(binary.AppendUvarint(b, uint64(len(v))), v...) }

// restore makes the session that wrote state. Whatever state is, the session keeps its bounds.
func restore(state []byte, shared *desks) (helpers.Session, error) {
	body := len(state) - 4
	if body >= 0 && state[0] != version {
		return nil, fmt.Errorf("ftp: state of version %d, this is %d", state[0], version)
	}
	if body < 1 || crc32.ChecksumIEEE(state[:body]) != binary.BigEndian.Uint32(state[body:]) {
		return nil, errState
	}
	r := reader{b: state[1:body]}
	s := newSession(shared)
	s.greet = greeting(r.number(uint64(greeted)))
	r.flags(&s.blind, &s.loose, &s.epsvAll, &s.toldTLS)
	for i := range s.dirs {
		d := &s.dirs[i]
		d.mode = mode(r.number(uint64(foreign)))
		r.flags(&d.long, &d.joined, &d.torn, &d.begun, &d.early)
		d.known = uint8(r.number(maxOutstanding))
		d.scanned = uint16(r.number(maxLine))
	}
	s.multi = uint16(r.number(699))
	s.overflow = uint32(r.number(1<<32 - 1))
	var books books
	id := func() groupID { return groupID(r.number(1<<32 - 1)) }
	books.last, books.effect = id(), id()
	for range r.number(maxOutstanding) {
		c := command{kind: kind(r.number(uint64(kinds - 1))), group: id()}
		if name := r.bytes(maxNote); len(name) > 0 {
			c.name = s.work().add(func(b []byte) []byte { return append(b, name...) })
		}
		c.how = mechanismOf(r.bytes(maxVerb))
		s.queue = append(s.queue, c)
	}
	for range r.number(maxGroups) {
		name, owner := id(), helpers.Dir(r.number(1))
		var agreed bool
		r.flags(&agreed)
		asks := uint8(r.number(maxOutstanding))
		var to netip.AddrPort
		if to.UnmarshalBinary(r.bytes(64)) != nil {
			r.bad = true
		}
		g := newGroup(name, owner, to)
		g.asks = asks
		if agreed {
			g.is |= accepted
		}
		books.groups = append(books.groups, g)
	}
	if books.last > 0 || len(books.groups) > 0 {
		s.books = &books
	}
	if reply := s.dirs[helpers.Reply]; reply.begun && int(reply.known) > len(s.queue) {
		r.bad = true
	}
	if r.bad || len(r.b) > 0 {
		return nil, errState
	}
	return s, nil
}

// reader reads a snapshot; after the first damage it gives zeroes.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) number(most uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 || v > most {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(most uint64) []byte {
	n := r.number(min(most, uint64(len(r.b))))
	if n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) flags(bits ...*bool) {
	f := r.number(1<<len(bits) - 1)
	for i, b := range bits {
		*b = f>>i&1 == 1
	}
}
