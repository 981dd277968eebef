package sip

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/snapshot"
)

// version is the first byte of a snapshot.
const version = 2

// AppendBinary implements helpers.Snapshotter: version, names, flows, calls from the oldest to the newest, checksum.
func (s *session) AppendBinary(b []byte) ([]byte, error) {
	start := len(b)
	w := writer{append(b, version)}
	w.number(s.last)
	for _, n := range s.names {
		w.number(uint64(n.via))
		w.number(uint64(n.contact))
		w.number(uint64(n.port))
		w.number(uint64(n.at))
	}
	w.number(uint64(len(s.flows)))
	for _, id := range slices.Sorted(maps.Keys(s.flows)) {
		w.number(uint64(id))
		for _, d := range s.flows[id] {
			w.number(uint64(d.mode))
			w.number(uint64(d.scanned))
			w.number(uint64(d.need))
			w.flags(d.judged, d.long, d.spoke)
		}
	}
	w.number(uint64(s.table.used))
	for _, n := range s.table.inOrder() {
		w.call(&s.table.entries[n])
	}
	return snapshot.Seal(w.b, start), nil
}

type writer struct{ b []byte }

func (w *writer) number(v uint64) { w.b = binary.AppendUvarint(w.b, v) }

// signed writes a number that may be -1.
func (w *writer) signed(v int32) { w.number(uint64(v) + 1) }

func (w *writer) bytes(v []byte) { w.b = snapshot.AppendBytes(w.b, v) }

func (w *writer) flags(bits ...bool) { w.b = append(w.b, snapshot.Flags(bits...)) }

func (w *writer) call(c *call) {
	w.bytes(c.key.callID)
	w.number(c.key.tag)
	w.flags(c.key.caller == 1, c.key.register, c.offered[0], c.offered[1], c.clears)
	w.number(c.id)
	w.number(uint64(c.lastID))
	w.number(uint64(c.cseq))
	for _, t := range c.open {
		w.number(t.branch)
		w.number(uint64(t.cseq))
	}
	for i, r := range c.asked {
		w.number(uint64(r.invite))
		w.number(uint64(r.other))
		w.flags(r.inviteSDP, r.otherSDP, r.answers, c.latest[i].answer)
		w.number(uint64(c.latest[i].method))
		w.number(uint64(c.latest[i].cseq))
		w.number(uint64(c.generation[i]))
	}
	w.number(uint64(len(c.dialogs)))
	for _, d := range c.dialogs {
		w.number(d.tag)
		w.flags(d.confirmed)
	}
	w.number(uint64(len(c.parts)))
	for i := range c.parts {
		w.part(&c.parts[i])
	}
}

func (w *writer) part(p *part) {
	to, _ := p.to.MarshalBinary() // it has no errors
	w.bytes(to)
	w.number(uint64(p.transport))
	w.number(uint64(p.id))
	w.number(uint64(p.line))
	w.number(uint64(p.role))
	w.flags(p.owner == 1, p.quiet, p.paired, p.secure)
	w.number(p.of)
	w.number(uint64(p.born))
	w.number(uint64(p.seen))
	w.signed(p.asked)
}

// restore makes the session that wrote state. Whatever state is, the session keeps its bounds.
func restore(state []byte, all *shared) (helpers.Session, error) {
	opened, err := snapshot.Open(state, version)
	if err != nil {
		return nil, fmt.Errorf("sip: %w", err)
	}
	const any64 = 1<<64 - 1
	r := reader{opened}
	s := newSession(all)
	s.last = r.Number(any64)
	for i := range s.names {
		s.names[i].via, s.names[i].contact = known(r.Number(uint64(outside))), known(r.Number(uint64(outside)))
		s.names[i].port, s.names[i].at = uint16(r.Number(1<<16-1)), uint16(r.Number(1<<16-1))
	}
	for range r.Number(uint64(len(state))) {
		id, f := helpers.FlowID(r.Number(any64)), &flow{}
		for i := range f {
			d := &f[i]
			d.mode = mode(r.Number(uint64(foreign)))
			d.scanned = uint32(r.Number(maxHead))
			d.need = uint32(r.Number(uint64(maxHead + all.Body)))
			r.Flags(&d.judged, &d.long, &d.spoke)
		}
		if r.Bad() {
			break
		}
		s.flows[id] = f
	}
	for range r.Number(uint64(all.Calls)) {
		if r.call(s); r.Bad() {
			break
		}
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("sip: %w", err)
	}
	return s, nil
}

// reader reads a snapshot.
type reader struct{ *snapshot.Reader }

func (r reader) signed() int32 { return int32(r.Number(1<<31)) - 1 }

func (r reader) call(s *session) {
	const any64, any32, any16 = 1<<64 - 1, 1<<32 - 1, 1<<16 - 1
	var k key
	var second, clears bool
	var offered [2]bool
	k.callID, k.tag = r.Bytes(maxCallID), r.Number(any64)
	r.Flags(&second, &k.register, &offered[0], &offered[1], &clears)
	if second {
		k.caller = 1
	}
	if r.Check(s.table.find(s.all.seed, &k) == nil); r.Bad() {
		return
	}
	c := s.table.add(s.all.seed, &k)
	c.offered, c.clears = offered, clears
	c.id, c.lastID = r.Number(any64), uint16(r.Number(any16))
	c.cseq = uint32(r.Number(any32))
	for i := range c.open {
		c.open[i] = transaction{r.Number(any64), uint32(r.Number(any32))}
	}
	for i := range c.asked {
		q, x := &c.asked[i], &c.latest[i]
		q.invite, q.other = uint32(r.Number(any32)), uint32(r.Number(any32))
		r.Flags(&q.inviteSDP, &q.otherSDP, &q.answers, &x.answer)
		x.method, x.cseq = method(r.Number(uint64(update))), uint32(r.Number(any32))
		c.generation[i] = uint16(r.Number(any16))
	}
	for range r.Number(maxDialogs) {
		d := dialog{tag: r.Number(any64)}
		r.Flags(&d.confirmed)
		c.dialogs = append(c.dialogs, d)
	}
	most := uint64(maxParts)
	if k.register {
		most = maxContacts
	}
	for range r.Number(most) {
		c.parts = append(c.parts, r.part())
	}
}

func (r reader) part() (p part) {
	const any64, any16 = 1<<64 - 1, 1<<16 - 1
	r.Check(p.to.UnmarshalBinary(r.Bytes(64)) == nil && p.to.IsValid() && p.to.Port() != 0)
	p.transport = helpers.Transport(r.Number(255))
	p.id, p.line, p.role = uint16(r.Number(any16)), uint8(r.Number(255)), role(r.Number(uint64(candidateRole)))
	var second bool
	r.Flags(&second, &p.quiet, &p.paired, &p.secure)
	if second {
		p.owner = 1
	}
	p.of, p.born, p.seen = r.Number(any64), uint16(r.Number(any16)), uint16(r.Number(any16))
	p.asked = r.signed()
	r.Check(p.transport == helpers.UDP || p.transport == helpers.TCP)
	return p
}
