package ftp

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/snapshot"
)

// version is the first byte of a snapshot.
const version = 1

// AppendBinary implements helpers.Snapshotter: version, flags, both directions, queue, groups, checksum.
func (s *session) AppendBinary(b []byte) ([]byte, error) {
	start := len(b)
	b = append(b, version, byte(s.greet), snapshot.Flags(s.blind, s.loose, s.epsvAll, s.toldTLS))
	for _, d := range s.dirs {
		b = append(b, byte(d.mode), snapshot.Flags(d.long, d.joined, d.torn, d.begun, d.early))
		b = binary.AppendUvarint(b, uint64(d.known))
		b = binary.AppendUvarint(b, uint64(d.scanned))
	}
	var sent queue
	if s.sent != nil {
		sent = *s.sent
	}
	b = binary.AppendUvarint(b, uint64(s.multi))
	b = binary.AppendUvarint(b, uint64(sent.overflow))
	b = binary.AppendUvarint(b, uint64(s.last))
	b = binary.AppendUvarint(b, uint64(s.effect))
	b = binary.AppendUvarint(b, uint64(len(sent.commands)))
	for _, c := range sent.commands {
		b = append(b, byte(c.kind))
		b = binary.AppendUvarint(b, uint64(c.group))
		b = snapshot.AppendBytes(b, s.desk.text(c.name))
		b = snapshot.AppendBytes(b, []byte(c.how.String()))
	}
	groups := 0
	for g := s.groups; g != nil; g = g.next {
		groups++
	}
	b = binary.AppendUvarint(b, uint64(groups))
	for g := s.groups; g != nil; g = g.next {
		b = binary.AppendUvarint(b, uint64(g.id))
		b = append(b, byte(g.owner()), snapshot.Flags(g.is&accepted != 0))
		b = binary.AppendUvarint(b, uint64(g.asks))
		to, err := g.to().MarshalBinary()
		if err != nil {
			return nil, err
		}
		b = snapshot.AppendBytes(b, to)
	}
	return snapshot.Seal(b, start), nil
}

// restore makes the session that wrote state. Whatever state is, the session keeps its bounds.
func restore(state []byte, shared *desks) (helpers.Session, error) {
	r, err := snapshot.Open(state, version)
	if err != nil {
		return nil, fmt.Errorf("ftp: %w", err)
	}
	s := newSession(shared)
	s.greet = greeting(r.Number(uint64(greeted)))
	r.Flags(&s.blind, &s.loose, &s.epsvAll, &s.toldTLS)
	for i := range s.dirs {
		d := &s.dirs[i]
		d.mode = mode(r.Number(uint64(foreign)))
		r.Flags(&d.long, &d.joined, &d.torn, &d.begun, &d.early)
		d.known = uint8(r.Number(maxOutstanding))
		d.scanned = uint16(r.Number(maxLine))
	}
	s.multi = uint16(r.Number(699))
	if n := uint32(r.Number(1<<32 - 1)); n > 0 {
		s.send().overflow = n
	}
	id := func() groupID { return groupID(r.Number(1<<32 - 1)) }
	s.last, s.effect = id(), id()
	for range r.Number(maxOutstanding) {
		c := command{kind: kind(r.Number(uint64(kinds - 1))), group: id()}
		if name := r.Bytes(maxNote); len(name) > 0 {
			c.name = s.work().add(func(b []byte) []byte { return append(b, name...) })
		}
		c.how = mechanismOf(r.Bytes(maxVerb))
		sent := s.send()
		sent.commands = append(sent.commands, c)
	}
	for range r.Number(maxGroups) {
		name, owner := id(), helpers.Dir(r.Number(1))
		var agreed bool
		r.Flags(&agreed)
		asks := uint8(r.Number(maxOutstanding))
		var to netip.AddrPort
		r.Check(to.UnmarshalBinary(r.Bytes(64)) == nil)
		g := newGroup(name, owner, to)
		g.asks = asks
		if agreed {
			g.is |= accepted
		}
		s.add(&g)
	}
	reply := &s.dirs[helpers.Reply]
	r.Check(!reply.begun || int(reply.known) <= len(s.outstanding()))
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("ftp: %w", err)
	}
	return s, nil
}
