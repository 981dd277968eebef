package sip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"github.com/cthelperd/cthelperd/helpers"
)

// version is the first byte of a snapshot.
const version = 1

var errState = errors.New("sip: damaged state")

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
	return binary.BigEndian.AppendUint32(w.b, crc32.ChecksumIEEE(w.b[start:])), nil
}

type writer struct{ b []byte }

func (w *writer) number(v uint64) { w.b = binary.AppendUvarint(w.b, v) }

// signed writes a number that may be -1.
func (w *writer) signed(v int32) { w.number(uint64(v) + 1) }

func (w *writer) bytes(v []byte) {
	w.number(uint64(len(v)))
	w.b = append(w.b, v...)
}

func (w *writer) flags(bits ...bool) {
	f := byte(0)
	for i, b := range bits {
		if b {
			f |= 1 << i
		}
	}
	w.b = append(w.b, f)
}

func (w *writer) call(c *call) {
	w.bytes(c.key.callID)
	w.number(c.key.tag)
	w.flags(c.key.caller == 1, c.key.register, c.offered[0], c.offered[1], c.clears)
	w.number(c.id)
	w.number(uint64(c.lastID))
	w.number(uint64(c.cseq))
	w.signed(c.expires)
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
	body := len(state) - 4
	if body >= 0 && state[0] != version {
		return nil, fmt.Errorf("sip: state of version %d, this is %d", state[0], version)
	}
	if body < 1 || crc32.ChecksumIEEE(state[:body]) != binary.BigEndian.Uint32(state[body:]) {
		return nil, errState
	}
	const any64 = 1<<64 - 1
	r := reader{b: state[1:body]}
	s := newSession(all)
	s.last = r.number(any64)
	for i := range s.names {
		s.names[i].via, s.names[i].contact = known(r.number(uint64(outside))), known(r.number(uint64(outside)))
		s.names[i].port, s.names[i].at = uint16(r.number(1<<16-1)), uint16(r.number(1<<16-1))
	}
	for range r.number(uint64(len(state))) {
		id, f := helpers.FlowID(r.number(any64)), &flow{}
		for i := range f {
			d := &f[i]
			d.mode = mode(r.number(uint64(foreign)))
			d.scanned = uint32(r.number(maxHead))
			d.need = uint32(r.number(uint64(maxHead + all.Body)))
			r.flags(&d.judged, &d.long, &d.spoke)
		}
		if r.bad {
			break
		}
		s.flows[id] = f
	}
	for range r.number(uint64(all.Calls)) {
		if r.call(s); r.bad {
			break
		}
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

func (r *reader) signed() int32 { return int32(r.number(1<<31)) - 1 }

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

func (r *reader) call(s *session) {
	const any64, any32, any16 = 1<<64 - 1, 1<<32 - 1, 1<<16 - 1
	var k key
	var second, clears bool
	var offered [2]bool
	k.callID, k.tag = r.bytes(maxCallID), r.number(any64)
	r.flags(&second, &k.register, &offered[0], &offered[1], &clears)
	if second {
		k.caller = 1
	}
	if r.bad || s.table.find(s.all.seed, &k) != nil {
		r.bad = true
		return
	}
	c := s.table.add(s.all.seed, &k)
	c.offered, c.clears = offered, clears
	c.id, c.lastID = r.number(any64), uint16(r.number(any16))
	c.cseq, c.expires = uint32(r.number(any32)), r.signed()
	for i := range c.open {
		c.open[i] = transaction{r.number(any64), uint32(r.number(any32))}
	}
	for i := range c.asked {
		q, x := &c.asked[i], &c.latest[i]
		q.invite, q.other = uint32(r.number(any32)), uint32(r.number(any32))
		r.flags(&q.inviteSDP, &q.otherSDP, &q.answers, &x.answer)
		x.method, x.cseq = method(r.number(uint64(update))), uint32(r.number(any32))
		c.generation[i] = uint16(r.number(any16))
	}
	for range r.number(maxDialogs) {
		d := dialog{tag: r.number(any64)}
		r.flags(&d.confirmed)
		c.dialogs = append(c.dialogs, d)
	}
	most := uint64(maxParts)
	if k.register {
		most = maxContacts
	}
	for range r.number(most) {
		c.parts = append(c.parts, r.part())
	}
}

func (r *reader) part() (p part) {
	const any64, any16 = 1<<64 - 1, 1<<16 - 1
	r.bad = p.to.UnmarshalBinary(r.bytes(64)) != nil || !p.to.IsValid() || p.to.Port() == 0 || r.bad
	p.transport = helpers.Transport(r.number(255))
	p.id, p.line, p.role = uint16(r.number(any16)), uint8(r.number(255)), role(r.number(uint64(candidateRole)))
	var second bool
	r.flags(&second, &p.quiet, &p.paired, &p.secure)
	if second {
		p.owner = 1
	}
	p.of, p.born, p.seen = r.number(any64), uint16(r.number(any16)), uint16(r.number(any16))
	p.asked = r.signed()
	r.bad = r.bad || p.transport != helpers.UDP && p.transport != helpers.TCP
	return p
}
