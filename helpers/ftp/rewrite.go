package ftp

import (
	"net/netip"
	"strconv"

	"github.com/cthelperd/cthelperd/helpers"
)

// portAt is the server's own end point: RFC 2428, section 3 has data and control connection go to the same address.
func portAt(f *helpers.Flow, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(f.Own(helpers.Reply).Addr(), port)
}

// hold is the length of the shortest tail of the unfinished line at off that may still have to be changed: the
// argument of an announcement.
func (s *session) hold(seg *helpers.Segment, off int) int {
	line := seg.Data[off:]
	if len(line) > maxAnnouncement {
		return 0
	}
	s.steps += uint32(len(line))
	b, index := s.strip(line)
	at := len(b)
	if seg.Dir == helpers.Original {
		word, arg := verb(b)
		v := upper(b[word.off:word.end])
		if _, _, ok := announcing(name(&v)); ok && !s.dirs[helpers.Original].early && !s.epsvAll {
			at = arg
		}
	} else {
		code, last := replyCode(b)
		if _, _, ok := opening(code); ok && last && (s.multi == 0 || int(s.multi) == code) && s.countable(code) {
			at = codeLen
			for at < len(b) && !digit(b[at]) {
				at++
			}
		}
	}
	if at == len(b) {
		return 0
	}
	return len(line) - place(index, at)
}

// Rewrite implements helpers.Rewriter. Numbers that are the same on both sides are left as they are written.
func (s *session) Rewrite(seg *helpers.Segment, nat helpers.NAT, edits []helpers.Edit) []helpers.Edit {
	for _, at := range s.desk.sites {
		to, ok := nat.At(at.expect)
		if !ok {
			continue
		}
		line := seg.Data[at.start:at.end]
		b, index := s.strip(line)
		var e endPoint
		if e.parse(b, at.form, seg.Dir == helpers.Reply) != nil {
			continue // not so: Inspect has just read it
		}
		if at.form == portOnly {
			e.to = portAt(seg.Flow, e.to.Port())
		}
		if to == e.to || to.Addr().Is4() != e.to.Addr().Is4() {
			continue // the reader cannot be told an address of the other family
		}
		w := writer{line: line, index: index, start: at.start, edits: edits}
		switch at.form {
		case short, long:
			w.numbers(&e, to)
		case extended:
			w.field(e.host, e.to.Addr() != to.Addr(), to.Addr().AppendTo)
			fallthrough
		case portOnly:
			w.field(e.port, e.to.Port() != to.Port(), func(b []byte) []byte {
				return strconv.AppendUint(b, uint64(to.Port()), 10)
			})
		}
		edits = w.edits
	}
	return edits
}

// writer makes the edits of one line.
type writer struct {
	line  []byte
	index []uint16
	start int // of line in Segment.Data
	edits []helpers.Edit
}

// field replaces a part of the line.
func (w *writer) field(s span, changed bool, write func([]byte) []byte) {
	if changed {
		w.replace(s, write(nil))
	}
}

func (w *writer) replace(s span, by []byte) {
	off, end := place(w.index, s.off), place(w.index, s.end)
	w.edits = append(w.edits, helpers.Edit{Off: w.start + off, Len: end - off, New: by})
}

// numbers replaces the shortest run of numbers that holds all that change; what stands between them stays.
func (w *writer) numbers(e *endPoint, to netip.AddrPort) {
	var old, now [18]byte
	n := e.host.end - e.host.off
	copy(old[:], e.to.Addr().AsSlice())
	copy(now[:], to.Addr().AsSlice())
	old[n], old[n+1] = byte(e.to.Port()>>8), byte(e.to.Port())
	now[n], now[n+1] = byte(to.Port()>>8), byte(to.Port())
	at := func(i int) span { // the place of number i
		if i < n {
			return e.num[e.host.off+i]
		}
		return e.num[e.port.off+i-n]
	}
	first, last := 0, n+1
	for old[first] == now[first] {
		first++
	}
	for old[last] == now[last] {
		last--
	}
	whole := span{at(first).off, at(last).end}
	var by []byte
	prev := place(w.index, whole.off)
	for i := first; i <= last; i++ {
		s := at(i)
		by = append(by, w.line[prev:place(w.index, s.off)]...)
		prev = place(w.index, s.end)
		if old[i] == now[i] {
			by = append(by, w.line[place(w.index, s.off):prev]...)
		} else {
			by = appendNumber(by, now[i])
		}
	}
	w.replace(whole, by)
}
