// Package criteria has conntrack(8)'s own options: the values they take, and the conditions that they stand for in the
// language of package where.
package criteria

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/cthelperd/cthelperd/cli/caret"
)

// bad is an error at the part of value that begins with the rest part.
func bad(value, part, want string) error {
	return &caret.Error{Text: value, At: len(value) - len(part), Message: want}
}

// Address is an address, a prefix (10.0.0.0/8), an address under a mask (10.0.0.1/255.0.0.255) or a range (A-B).
type Address struct {
	First, Last netip.Addr // equal but for a range
	Mask        netip.Addr // not valid: all bits count
	text        string
}

const wantAddress = "want an address, ADDRESS/BITS, ADDRESS/MASK or ADDRESS-ADDRESS"

// UnmarshalText reads an option's value.
func (a *Address) UnmarshalText(b []byte) error {
	text := string(b)
	*a = Address{text: text}
	first, mask, masked := strings.Cut(text, "/")
	first, last, ranged := strings.Cut(first, "-")
	var err error
	if a.First, err = netip.ParseAddr(first); err != nil || a.First.Zone() != "" {
		return bad(text, text, wantAddress)
	}
	a.Last = a.First
	switch {
	case ranged && masked:
		return bad(text, "/"+mask, "a range has no mask")
	case ranged:
		if a.Last, err = netip.ParseAddr(last); err != nil || a.Last.BitLen() != a.First.BitLen() || a.Last.Zone() != "" {
			return bad(text, last, "want the last address of the range, of the same family")
		}
		if a.Last.Less(a.First) {
			return bad(text, last, "the range ends before it begins")
		}
	case masked:
		if a.Mask, err = parseMask(mask, a.First.BitLen()); err != nil {
			return bad(text, mask, err.Error())
		}
	}
	return nil
}

// parseMask reads BITS or a mask as an address.
func parseMask(text string, bits int) (netip.Addr, error) {
	if n, err := strconv.ParseUint(text, 10, 8); err == nil && n <= uint64(bits) {
		mask := make([]byte, bits/8)
		for i := range n {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		addr, _ := netip.AddrFromSlice(mask)
		return addr, nil
	}
	if mask, err := netip.ParseAddr(text); err == nil && mask.BitLen() == bits && mask.Zone() == "" {
		return mask, nil
	}
	return netip.Addr{}, fmt.Errorf("want a mask of %d bits: a number of bits, or an address", bits)
}

// IsSet says whether the option was given.
func (a *Address) IsSet() bool { return a.First.IsValid() }

// Has says whether x is among the addresses.
func (a *Address) Has(x netip.Addr) bool {
	if x.BitLen() != a.First.BitLen() {
		return false
	}
	if !a.Mask.IsValid() {
		return a.First.Compare(x) <= 0 && x.Compare(a.Last) <= 0
	}
	want, have, mask := a.First.AsSlice(), x.AsSlice(), a.Mask.AsSlice()
	for i := range mask {
		if (want[i]^have[i])&mask[i] != 0 {
			return false
		}
	}
	return true
}

// One is the address, if it is a single one.
func (a *Address) One() (netip.Addr, error) {
	if a.Mask.IsValid() || a.First != a.Last {
		return netip.Addr{}, bad(a.text, a.text, "want one address")
	}
	return a.First, nil
}

// Where is the condition for field.
func (a *Address) Where(field string) string {
	switch {
	case a.First != a.Last:
		return fmt.Sprintf("%s.in(%q)", field, a.First.String()+"-"+a.Last.String())
	case a.Mask.IsValid():
		return fmt.Sprintf("%s.in(%q)", field, a.First.String()+"/"+a.Mask.String())
	}
	return fmt.Sprintf("%s == %q", field, a.First)
}

// Ports is a number of 16 bits or a range (A-B, A:B): ports, GRE keys, ICMP's types, codes and numbers.
type Ports struct {
	First, Last uint16
	set         bool
	text        string
}

// UnmarshalText reads an option's value.
func (p *Ports) UnmarshalText(b []byte) error {
	text := string(b)
	*p = Ports{text: text, set: true}
	first, last := text, text
	if i := strings.IndexAny(text, "-:"); i >= 0 {
		first, last = text[:i], text[i+1:]
	}
	n, err := strconv.ParseUint(first, 0, 16)
	if err != nil {
		return bad(text, text, "want a number from 0 to 65535, or a range FIRST-LAST")
	}
	m, err := strconv.ParseUint(last, 0, 16)
	if err != nil {
		return bad(text, last, "want the range's last number, at most 65535")
	}
	if m < n {
		return bad(text, last, "the range ends before it begins")
	}
	p.First, p.Last = uint16(n), uint16(m)
	return nil
}

// IsSet says whether the option was given.
func (p *Ports) IsSet() bool { return p.set }

// One is the number, if it is a single one.
func (p *Ports) One() (uint16, error) {
	if p.First != p.Last {
		return 0, bad(p.text, p.text, "want one number")
	}
	return p.First, nil
}

// Where is the condition for field.
func (p *Ports) Where(field string) string {
	if p.First == p.Last {
		return fmt.Sprintf("%s == %d", field, p.First)
	}
	return fmt.Sprintf("%s >= %d && %s <= %d", field, p.First, field, p.Last)
}

// Mark is VALUE or VALUE/MASK.
type Mark struct {
	Value, Mask uint32
	Masked      bool // a mask was given
	set         bool
}

// UnmarshalText reads an option's value.
func (m *Mark) UnmarshalText(b []byte) error {
	text := string(b)
	*m = Mark{Mask: 0xffffffff, set: true}
	value, mask, masked := strings.Cut(text, "/")
	n, err := strconv.ParseUint(value, 0, 32)
	if err != nil {
		return bad(text, text, "want MARK or MARK/MASK, numbers of 32 bits")
	}
	m.Value = uint32(n)
	if masked {
		if n, err = strconv.ParseUint(mask, 0, 32); err != nil {
			return bad(text, mask, "want a mask, a number of 32 bits")
		}
		m.Mask, m.Masked = uint32(n), true
	}
	return nil
}

// IsSet says whether the option was given.
func (m *Mark) IsSet() bool { return m.set }

// Where is the condition for field.
func (m *Mark) Where(field string) string {
	if m.Masked {
		return fmt.Sprintf("%s.masked(%#x) == %#x", field, m.Mask, m.Value)
	}
	return fmt.Sprintf("%s == %d", field, m.Value)
}

// Change is what an update makes of a mark: the mask's bits are cleared, then the value's are turned over.
func (m *Mark) Change(mark uint32) uint32 { return mark&^m.Mask ^ m.Value }

// Number is one number of 32 bits.
type Number struct {
	Value uint32
	set   bool
}

// UnmarshalText reads an option's value.
func (n *Number) UnmarshalText(b []byte) error {
	v, err := strconv.ParseUint(string(b), 0, 32)
	if err != nil {
		return bad(string(b), string(b), "want a number from 0 to 4294967295")
	}
	*n = Number{uint32(v), true}
	return nil
}

// IsSet says whether the option was given.
func (n *Number) IsSet() bool { return n.set }

// Where is the condition for field.
func (n *Number) Where(field string) string { return fmt.Sprintf("%s == %d", field, n.Value) }

// Tag is a verification tag of SCTP, in the form of conntrack(8): its bytes are a number of this machine.
type Tag struct{ Number }

// Host is the tag as people know it.
func (t *Tag) Host() uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, t.Value))
}

// Where is the condition for field.
func (t *Tag) Where(field string) string { return fmt.Sprintf("%s == %d", field, t.Host()) }

// Zone is a zone of conntrack.
type Zone struct {
	ID  uint16
	set bool
}

// UnmarshalText reads an option's value.
func (z *Zone) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 0, 16)
	if err != nil {
		return bad(string(b), string(b), "want a zone, a number from 0 to 65535")
	}
	*z = Zone{uint16(n), true}
	return nil
}

// IsSet says whether the option was given.
func (z *Zone) IsSet() bool { return z.set }

// Where is the condition for field.
func (z *Zone) Where(field string) string { return fmt.Sprintf("%s == %d", field, z.ID) }
