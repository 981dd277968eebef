package h323test

import (
	"math/rand/v2"
	"strconv"

	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// Random draws values of the tables' types.
type Random struct {
	*rand.Rand
	// Strict draws only what the tables have types for: no skipped or unknown additions, and nothing that is long
	// enough for fragments.
	Strict bool
	// Prefer are rows to draw, where a value may have them: what no other value has had yet.
	Prefer map[*wire.Row]bool
}

// Value draws a value of the type of that name.
func (r *Random) Value(typ string) any { return r.value(wire.Lookup(typ), 0) }

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
		return int(t.Lo) + r.IntN(1<<r.IntN(40))
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
	for i := range t.Rows {
		row := &t.Rows[i]
		added := i >= t.Root
		switch {
		case row.Type == nil && r.Strict:
		case r.Prefer[row], !added && !row.Optional, r.often(depth):
			if row.Type == nil {
				v[row.Name] = r.octets(1 + r.IntN(30))
			} else {
				v[row.Name] = r.value(row.Type, depth+1)
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
	if t.Extensible && !r.Strict && r.IntN(12) == 0 {
		return V{"+" + strconv.Itoa(r.IntN(80)): r.octets(1 + r.IntN(40))}
	}
	for range 100 {
		row := &t.Rows[r.IntN(len(t.Rows))]
		for i := range t.Rows {
			if r.Prefer[&t.Rows[i]] {
				row = &t.Rows[i]
			}
		}
		switch {
		case row.Type == nil && r.Strict:
		case row.Type == nil:
			return V{row.Name: r.octets(1 + r.IntN(30))}
		default:
			return V{row.Name: r.value(row.Type, depth+1)}
		}
	}
	panic("nothing of " + t.Name + " to draw")
}
