// Package h323test writes the messages that helpers/h323 reads: from the same tables, by the names of their ASN.1. It
// is for tests: it panics if a value does not fit its type.
package h323test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// V is a SEQUENCE by the names of its components, or a CHOICE by that of its alternative. A mandatory component that is
// missing gets the smallest value of its type.
//
// A component is a V, or an int for numbers, ENUMERATED and a CHOICE of NULLs (its index), a bool, a []byte for OCTET
// STRING, BIT STRING and open types, a string for character strings and OBJECT IDENTIFIER ("0.0.8.2250.0.4"), a []any
// for lists, nil for NULL, a netip.AddrPort for a TransportAddress. An OCTET STRING that contains a type is that type's
// V, or a []byte. An addition that the tables skip is a []byte, its encoding; so are the additions "+0", "+1" … that
// follow those of the tables, and the alternative "+0" of a CHOICE.
type V = map[string]any

// Place is where an address was written.
type Place struct {
	Path string // names of the ASN.1, with dots between
	Off  int    // of the IP address; -1: it and the port are in more than one fragment
	Addr netip.AddrPort
}

// Encode writes a value of the type of that name, and says where its addresses are.
func Encode(typ string, v any) ([]byte, []Place) {
	t := wire.Lookup(typ)
	if t == nil {
		panic("no type " + typ)
	}
	w := &writer{}
	w.value(t, v)
	return w.whole(), w.places
}

// writer writes the aligned variant of PER (X.691).
type writer struct {
	b      []byte
	used   int // bits of the last byte; 0: all
	path   []string
	places []Place
}

// whole is the encoding: at least one byte (X.691, 11.1.3).
func (w *writer) whole() []byte {
	if len(w.b) == 0 {
		return []byte{0}
	}
	return w.b
}

func (w *writer) bit(v bool) {
	if w.used == 0 {
		w.b = append(w.b, 0)
	}
	if v {
		w.b[len(w.b)-1] |= 0x80 >> w.used
	}
	w.used = (w.used + 1) % 8
}

func (w *writer) bits(v uint64, n int) {
	for n--; n >= 0; n-- {
		w.bit(v>>n&1 != 0)
	}
}

func (w *writer) align() { w.used = 0 }

func (w *writer) octets(b []byte) {
	w.align()
	w.b = append(w.b, b...)
}

// size is how many bits hold 0 to span.
func size(span uint64) (n int) {
	for ; span != 0; span >>= 1 {
		n++
	}
	return n
}

// within writes a constrained whole number less its lower bound.
func (w *writer) within(v, span uint64) {
	switch {
	case v > span:
		panic(fmt.Sprintf("%v: %d is more than %d", w.path, v, span))
	case span < 255:
		w.bits(v, size(span))
	case span == 255:
		w.octets([]byte{byte(v)})
	case span <= 65535:
		w.octets([]byte{byte(v >> 8), byte(v)})
	default:
		n := max(1, (size(v)+7)/8)
		w.bits(uint64(n-1), size(uint64((size(span)+7)/8-1)))
		w.align()
		w.bits(v, 8*n)
	}
}

// length writes a length determinant for what is left of n units and says how many of them come next, and whether
// others follow.
func (w *writer) length(n int) (now int, more bool) {
	switch {
	case n < 128:
		w.octets([]byte{byte(n)})
		return n, false
	case n < 16384:
		w.octets([]byte{0x80 | byte(n>>8), byte(n)})
		return n, false
	}
	k := min(n/16384, 4)
	w.octets([]byte{0xc0 | byte(k)})
	return k * 16384, true
}

// count writes a count or length of t; as length.
func (w *writer) count(t *wire.Type, n int) (now int, more bool) {
	if t.Hi < 0 || t.Hi > 65535 {
		return w.length(n)
	}
	if int64(n) < t.Lo {
		panic(fmt.Sprintf("%v: %d units, want %d", w.path, n, t.Lo))
	}
	w.within(uint64(n)-uint64(t.Lo), uint64(t.Hi-t.Lo))
	return n, false
}

// small writes a normally small number.
func (w *writer) small(n int) {
	if n < 64 {
		w.bit(false)
		w.bits(uint64(n), 6)
		return
	}
	w.bit(true)
	b := binary.BigEndian.AppendUint16(nil, uint16(n))
	if n < 256 {
		b = b[1:]
	}
	w.length(len(b))
	w.octets(b)
}

// open writes what write writes as an open type, or an OCTET STRING of no certain length.
func (w *writer) open(write func(*writer)) {
	in := &writer{path: w.path}
	write(in)
	w.string(in.whole(), in.places)
}

// string writes bytes with a length. places are those in it.
func (w *writer) string(b []byte, places []Place) {
	first := len(w.places)
	w.places = append(w.places, places...)
	for i := range places {
		w.places[first+i].Off = -1
	}
	for at := 0; ; {
		n, more := w.length(len(b) - at)
		for i, p := range places {
			if end := p.Off + len(p.Addr.Addr().AsSlice()) + 2; p.Off >= at && end <= at+n {
				w.places[first+i].Off = len(w.b) + p.Off - at
			}
		}
		w.octets(b[at : at+n])
		if at += n; !more {
			return
		}
	}
}

// value writes v as t.
func (w *writer) value(t *wire.Type, v any) {
	switch t.Form {
	case wire.Sequence:
		w.sequence(t, asV(t, v))
	case wire.Choice:
		w.choice(t, asV(t, v))
	case wire.List:
		w.list(t, v)
	case wire.Number:
		n, _ := v.(int)
		if v == nil {
			n = int(t.Lo)
		}
		if t.Extensible {
			w.bit(int64(n) > t.Hi)
			if int64(n) > t.Hi {
				w.integer(n)
				return
			}
		}
		w.within(uint64(int64(n)-t.Lo), uint64(t.Hi-t.Lo))
	case wire.Integer:
		n, _ := v.(int)
		w.integer(n - int(max(t.Lo, 0)))
	case wire.Boolean:
		b, _ := v.(bool)
		w.bit(b)
	case wire.Null:
	case wire.Enumerated, wire.Nulls:
		n, _ := v.(int)
		added := int64(n) > t.Hi
		if t.Extensible {
			w.bit(added)
		}
		switch {
		case !added:
			w.within(uint64(n), uint64(t.Hi))
		case t.Form == wire.Nulls:
			w.small(n - int(t.Hi) - 1)
			w.open(func(*writer) {})
		default:
			w.small(n - int(t.Hi) - 1)
		}
	case wire.String:
		w.units(t, v)
	case wire.Open:
		b, _ := v.([]byte)
		w.string(b, nil)
	}
}

// integer writes a number without an upper bound, less its lower one, in two's complement.
func (w *writer) integer(n int) {
	b := binary.BigEndian.AppendUint64(nil, uint64(n))
	for len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80) {
		b = b[1:]
	}
	w.string(b, nil)
}

// asV takes an address for a TransportAddress.
func asV(t *wire.Type, v any) V {
	switch v := v.(type) {
	case nil:
		return V{}
	case V:
		return v
	case netip.AddrPort:
		ip, port := v.Addr().AsSlice(), int(v.Port())
		switch {
		case t.Name == "TransportAddress" && len(ip) == 4:
			return V{"ipAddress": V{"ip": ip, "port": port}}
		case t.Name == "TransportAddress":
			return V{"ip6Address": V{"ip": ip, "port": port}}
		case t.Name == "H.245 TransportAddress" && v.Addr().IsMulticast():
			return V{"multicastAddress": v}
		case t.Name == "H.245 TransportAddress":
			return V{"unicastAddress": v}
		case len(ip) == 4:
			return V{"iPAddress": V{"network": ip, "tsapIdentifier": port}}
		default:
			return V{"iP6Address": V{"network": ip, "tsapIdentifier": port}}
		}
	}
	panic(fmt.Sprintf("%T is no %s", v, t.Name))
}

// row writes a component or an alternative.
func (w *writer) row(r *wire.Row, v any) {
	w.path = append(w.path, r.Name)
	w.value(r.Type, v)
	w.path = w.path[:len(w.path)-1]
}

// addition writes r as an open type.
func (w *writer) addition(r *wire.Row, v any) {
	if r.Type == nil {
		b, ok := v.([]byte)
		if !ok {
			b = []byte{0} // NULL
		}
		w.string(b, nil)
		return
	}
	w.open(func(in *writer) { in.row(r, v) })
}

func (w *writer) sequence(t *wire.Type, v V) {
	var more []any
	for {
		raw, ok := v["+"+strconv.Itoa(len(more))]
		if !ok {
			break
		}
		more = append(more, raw)
	}
	for name := range v {
		if !strings.HasPrefix(name, "+") {
			find(t, name) // or panic
		}
	}
	added := t.Rows[t.Root:]
	last := 0
	for i, r := range added {
		if _, ok := v[r.Name]; ok {
			last = i + 1
		}
	}
	if len(more) > 0 {
		last = len(added) + len(more)
	}
	if t.Extensible {
		w.bit(last > 0)
	}
	for _, r := range t.Rows[:t.Root] {
		if _, ok := v[r.Name]; r.Optional {
			w.bit(ok)
		}
	}
	w.root(t, v)
	if last == 0 {
		return
	}
	if last <= 64 {
		w.bit(false)
		w.bits(uint64(last-1), 6)
	} else {
		w.bit(true)
		w.length(last)
	}
	for i := range last {
		if i < len(added) {
			_, ok := v[added[i].Name]
			w.bit(ok)
		} else {
			w.bit(true)
		}
	}
	for i := range last {
		if i >= len(added) {
			w.string(more[i-len(added)].([]byte), nil)
		} else if in, ok := v[added[i].Name]; ok {
			w.addition(&added[i], in)
		}
	}
}

// root writes the components of a root, and notes the place of an address.
func (w *writer) root(t *wire.Type, v V) {
	var ip []byte
	off := 0
	for i := range t.Rows[:t.Root] {
		r := &t.Rows[i]
		in, ok := v[r.Name]
		if r.Optional && !ok {
			continue
		}
		w.row(r, in)
		switch r.Name {
		case "ip", "network":
			ip, _ = in.([]byte)
			off = len(w.b) - len(ip)
		case "port", "tsapIdentifier":
			port, _ := in.(int)
			if addr, ok := netip.AddrFromSlice(ip); ok {
				p := Place{strings.Join(w.path, "."), off, netip.AddrPortFrom(addr, uint16(port))}
				w.places = append(w.places, p)
			}
		}
	}
}

// find is the row of a name.
func find(t *wire.Type, name string) int {
	for i, r := range t.Rows {
		if r.Name == name {
			return i
		}
	}
	panic(t.Name + " has no " + name)
}

func (w *writer) choice(t *wire.Type, v V) {
	i := 0
	var in any
	for name, value := range v {
		in = value
		if n, ok := strings.CutPrefix(name, "+"); ok {
			k, _ := strconv.Atoi(n)
			i = len(t.Rows) + k
		} else {
			i = find(t, name)
		}
	}
	if t.Extensible {
		w.bit(i >= t.Root)
	}
	if i < t.Root {
		w.within(uint64(i), uint64(t.Root-1))
		w.row(&t.Rows[i], in)
		return
	}
	w.small(i - t.Root)
	if i < len(t.Rows) {
		w.addition(&t.Rows[i], in)
	} else {
		w.string(in.([]byte), nil)
	}
}

func (w *writer) list(t *wire.Type, v any) {
	var elements []any
	if v != nil {
		elements = v.([]any)
	}
	for int64(len(elements)) < t.Lo {
		elements = append(elements, nil)
	}
	n, more := w.count(t, len(elements))
	for {
		for _, e := range elements[:n] {
			w.value(t.Of, e)
		}
		if elements = elements[n:]; !more {
			return
		}
		n, more = w.length(len(elements))
	}
}

// units writes a string.
func (w *writer) units(t *wire.Type, v any) {
	if t.Of != nil {
		w.contents(t, v)
		return
	}
	var all []uint64 // units
	switch v := v.(type) {
	case []byte:
		for _, c := range v {
			if t.Unit == 1 {
				for i := 7; i >= 0; i-- {
					all = append(all, uint64(c>>i&1))
				}
				continue
			}
			all = append(all, uint64(c))
		}
		if t.Unit == 1 && t.Hi >= 0 {
			all = all[:min(len(all), int(t.Hi))]
		}
	case string:
		if t.Name == "OBJECT IDENTIFIER" {
			for _, c := range identifier(v) {
				all = append(all, uint64(c))
			}
			break
		}
		for _, c := range v {
			if t.Unit == 4 {
				c = rune(max(0, strings.IndexRune("#*,0123456789", c)))
			}
			all = append(all, uint64(c))
		}
	case nil:
		if t.Name == "OBJECT IDENTIFIER" {
			all = []uint64{0}
		}
	default:
		panic(fmt.Sprintf("%v: %T is no %s", w.path, v, t.Name))
	}
	for int64(len(all)) < t.Lo {
		all = append(all, 0)
	}
	n, more := w.count(t, len(all))
	for {
		if n > 0 && (t.Lo != t.Hi || int(t.Hi)*t.Unit > 16) {
			w.align()
		}
		for _, u := range all[:n] {
			w.bits(u, t.Unit)
		}
		if all = all[n:]; !more {
			return
		}
		n, more = w.length(len(all))
	}
}

// contents writes an OCTET STRING that contains a type: its encoding, or a value of it, or several of them.
func (w *writer) contents(t *wire.Type, v any) {
	switch v := v.(type) {
	case []byte:
		w.string(v, nil)
	default:
		w.open(func(in *writer) { in.value(t.Of, v) })
	}
}

// identifier encodes an OBJECT IDENTIFIER (X.690, 8.19).
func identifier(s string) (out []byte) {
	var arcs []int
	for _, a := range strings.Split(s, ".") {
		n, err := strconv.Atoi(a)
		if err != nil {
			panic("not an OBJECT IDENTIFIER: " + s)
		}
		arcs = append(arcs, n)
	}
	arcs = append([]int{arcs[0]*40 + arcs[1]}, arcs[2:]...)
	for _, a := range arcs {
		b := []byte{byte(a & 0x7f)}
		for a >>= 7; a > 0; a >>= 7 {
			b = append([]byte{byte(a&0x7f) | 0x80}, b...)
		}
		out = append(out, b...)
	}
	return out
}
