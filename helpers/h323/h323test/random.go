package h323test

import (
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// Random draws values of the tables' types.
type Random struct {
	*rand.Rand
	// Strict draws only what the tables have types for, no skipped or unknown additions, nothing that is long enough for
	// fragments; and nothing that tshark 4.0 cannot read (SIGNED, INTEGERs of more than 4 bytes).
	Strict bool

	path []*wire.Row // to be drawn, from the next type on
}

// Value draws a value of the type of that name, with the rows of path in it: one that Paths gave for this type, or nil.
func (r *Random) Value(typ string, path []*wire.Row) any {
	r.path = path
	return r.value(wire.Lookup(typ), 0)
}

// Paths are ways from the type of that name to each row that Strict leaves.
func Paths(typ string) (paths [][]*wire.Row) {
	type way struct {
		t    *wire.Type
		path []*wire.Row
	}
	seen := map[*wire.Type]bool{}
	for todo := []way{{wire.Lookup(typ), nil}}; len(todo) > 0; todo = todo[1:] {
		w := todo[0]
		for ; w.t.Of != nil; w.t = w.t.Of {
		}
		if seen[w.t] {
			continue
		}
		seen[w.t] = true
		for i := range w.t.Rows {
			if r := &w.t.Rows[i]; plain(r) {
				path := append(slices.Clip(w.path), r)
				paths = append(paths, path)
				todo = append(todo, way{r.Type, path})
			}
		}
	}
	return paths
}

// plain says whether a row is one of those that Strict leaves.
func plain(r *wire.Row) bool {
	return r.Type != nil && r.Type.Name != "SIGNED" && r.Name != "cryptoSignedToken"
}

// next takes the row of t that the path goes along; nil: none.
func (r *Random) next(t *wire.Type) *wire.Row {
	if len(r.path) > 0 {
		for i := range t.Rows {
			if row := &t.Rows[i]; row == r.path[0] {
				return row
			}
		}
	}
	return nil
}

// row draws a value of a row's type. Only the one on the path takes it further.
func (r *Random) row(row *wire.Row, depth int) any {
	path := r.path
	if len(path) > 0 && path[0] == row {
		r.path = path[1:]
		defer func() { r.path = nil }()
	} else {
		r.path = nil
		defer func() { r.path = path }()
	}
	return r.value(row.Type, depth+1)
}

// deep is from where on a CHOICE takes its first alternative, which leads to no type within itself.
const deep = 16

// often says yes less often the deeper it is asked.
func (r *Random) often(depth int) bool { return r.IntN(10) < 6-depth/4 }

func (r *Random) value(t *wire.Type, depth int) any {
	switch t.Form {
	case wire.Sequence:
		return r.sequence(t, depth)
	case wire.Choice:
		return r.choice(t, depth)
	case wire.List:
		n := r.IntN(3)
		if len(r.path) > 0 {
			n = max(n, 1)
		}
		if t.Hi >= 0 {
			n = min(n, int(t.Hi))
		}
		list := []any{}
		for i := 0; i < max(n, int(t.Lo)); i++ {
			list = append(list, r.value(t.Of, depth+1))
		}
		return list
	case wire.Number:
		n := t.Lo
		if r.IntN(4) > 0 {
			n += r.Int64N(t.Hi - t.Lo + 1)
		}
		if t.Extensible && !r.Strict && r.IntN(4) == 0 {
			n = t.Hi + 1 + r.Int64N(1<<20)
		}
		return int(n)
	case wire.Integer:
		bits := r.IntN(40)
		if r.Strict {
			bits %= 31
		}
		return int(t.Lo) + r.IntN(1<<bits)
	case wire.Boolean:
		return r.IntN(2) == 0
	case wire.Enumerated, wire.Nulls:
		n := int(t.Hi) + 1
		if t.Extensible && !r.Strict && r.IntN(4) == 0 {
			n += 70
		}
		return r.IntN(n)
	case wire.String:
		if t.Of != nil {
			return r.value(t.Of, depth+1)
		}
		return r.string(t)
	case wire.Open:
		return r.octets(r.IntN(20))
	}
	return nil
}

func (r *Random) octets(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// string draws a string: now and then one that goes in fragments.
func (r *Random) string(t *wire.Type) any {
	lo, hi := int(t.Lo), int(t.Hi)
	n := lo + r.IntN(20)
	if !r.Strict && hi < 0 && r.IntN(20000) == 0 {
		n = 16384*(1+r.IntN(3)) + r.IntN(100)
	}
	if hi >= 0 {
		n = min(n, hi)
	}
	switch {
	case t.Name == "OBJECT IDENTIFIER":
		return [...]string{"0.0.8.2250.0.4", "0.0.8.245.0.13", "1.3.6.1.4.1.9.1", "2.16.840.1"}[r.IntN(4)]
	case t.Unit == 1:
		return r.octets((n + 7) / 8)[:n/8] // whole bytes
	case t.Unit == 8 && t.Name[:2] != "IA" && t.Name[:2] != "Pr":
		return r.octets(n)
	}
	text := make([]byte, n)
	for i := range text {
		text[i] = "0123456789"[r.IntN(10)]
	}
	return string(text)
}

func (r *Random) sequence(t *wire.Type, depth int) any {
	v := V{}
	on := r.next(t)
	for i := range t.Rows {
		row := &t.Rows[i]
		added := i >= t.Root
		switch {
		case r.Strict && !plain(row):
		case row == on, !added && !row.Optional, r.often(depth):
			if row.Type == nil {
				v[row.Name] = r.octets(1 + r.IntN(30))
			} else {
				v[row.Name] = r.row(row, depth)
			}
		}
	}
	if t.Extensible && !r.Strict && r.IntN(8) == 0 {
		for i := range 1 + r.IntN(3) {
			v["+"+strconv.Itoa(i)] = r.octets(1 + r.IntN(200))
		}
		if r.IntN(20) == 0 {
			for i := range 70 {
				v["+"+strconv.Itoa(i)] = r.octets(1)
			}
		}
		if r.IntN(2000) == 0 {
			v["+0"] = r.octets(16384 + r.IntN(10000))
		}
	}
	return v
}

func (r *Random) choice(t *wire.Type, depth int) any {
	row := r.next(t)
	if row == nil && t.Extensible && !r.Strict && r.IntN(12) == 0 {
		return V{"+" + strconv.Itoa(r.IntN(80)): r.octets(1 + r.IntN(40))}
	}
	for row == nil || r.Strict && !plain(row) {
		row = &t.Rows[r.IntN(len(t.Rows))]
		if depth > deep {
			row = &t.Rows[0]
		}
	}
	if row.Type == nil {
		return V{row.Name: r.octets(1 + r.IntN(30))}
	}
	return V{row.Name: r.row(row, depth)}
}
