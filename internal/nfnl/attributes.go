package nfnl

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Netlink's own numbers are in the machine's order, those of netfilter's attributes in the network's.

// appendAttr begins an attribute of n bytes and its header.
func appendAttr(b []byte, typ uint16, n int) []byte {
	b = append(b, 0, 0, 0, 0)
	putHeader(b[len(b)-unix.SizeofNlAttr:], typ, n)
	return b
}

// putHeader writes the header of an attribute of n bytes.
func putHeader(b []byte, typ uint16, n int) {
	binary.NativeEndian.PutUint16(b, uint16(unix.SizeofNlAttr+n))
	binary.NativeEndian.PutUint16(b[2:], typ)
}

func putUint8(b []byte, typ uint16, v uint8) []byte { return append(appendAttr(b, typ, 1), v, 0, 0, 0) }

func putUint16(b []byte, typ uint16, v uint16) []byte {
	return append(appendAttr(b, typ, 2), byte(v>>8), byte(v), 0, 0)
}

func putUint32(b []byte, typ uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(appendAttr(b, typ, 4), v)
}

func putUint64(b []byte, typ uint16, v uint64) []byte {
	return binary.BigEndian.AppendUint64(appendAttr(b, typ, 8), v)
}

// putNative32 is for the few numbers that are in the machine's order.
func putNative32(b []byte, typ uint16, v uint32) []byte {
	return binary.NativeEndian.AppendUint32(appendAttr(b, typ, 4), v)
}

// putString ends in NUL, as the kernel wants names.
func putString(b []byte, typ uint16, s string) []byte {
	b = append(append(appendAttr(b, typ, len(s)+1), s...), 0)
	for len(b)%4 != 0 { // messages begin at a multiple of 4
		b = append(b, 0)
	}
	return b
}

func putAddr(b []byte, typ uint16, a netip.Addr) []byte {
	if a.Is4() {
		v := a.As4()
		return append(appendAttr(b, typ, len(v)), v[:]...)
	}
	v := a.As16()
	return append(appendAttr(b, typ, len(v)), v[:]...)
}

// begin begins a nest; end ends the one that begins at start.
func begin(b []byte, typ uint16) (all []byte, start int) {
	return appendAttr(b, typ|unix.NLA_F_NESTED, 0), len(b)
}

func end(b []byte, start int) []byte {
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b
}

// errAttributes says that attributes are cut off or of a wrong length.
var errAttributes = errors.New("an attribute of a wrong length")

// attributes goes through attributes in place.
type attributes struct {
	rest  []byte
	typ   uint16
	value []byte
	err   error
}

// next gives the next one's typ and value; at the end, and at an attribute that is none, it says no.
func (a *attributes) next() bool {
	if len(a.rest) == 0 || a.err != nil {
		return false
	}
	n := len(a.rest)
	if n >= unix.SizeofNlAttr {
		n = int(binary.NativeEndian.Uint16(a.rest))
	}
	if n < unix.SizeofNlAttr || n > len(a.rest) {
		a.err = errAttributes
		return false
	}
	a.typ = binary.NativeEndian.Uint16(a.rest[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	a.value = a.rest[unix.SizeofNlAttr:n]
	a.rest = a.rest[min((n+3)&^3, len(a.rest)):]
	return true
}

// note keeps the error of something inside of a.
func (a *attributes) note(err error) {
	if a.err == nil {
		a.err = err
	}
}

func (a *attributes) uint8() uint8 {
	if len(a.value) != 1 {
		a.err = errAttributes
		return 0
	}
	return a.value[0]
}

func (a *attributes) uint16() uint16 {
	if len(a.value) != 2 {
		a.err = errAttributes
		return 0
	}
	return binary.BigEndian.Uint16(a.value)
}

func (a *attributes) uint32() uint32 {
	if len(a.value) != 4 {
		a.err = errAttributes
		return 0
	}
	return binary.BigEndian.Uint32(a.value)
}

func (a *attributes) uint64() uint64 {
	if len(a.value) != 8 {
		a.err = errAttributes
		return 0
	}
	return binary.BigEndian.Uint64(a.value)
}

func (a *attributes) addr() netip.Addr {
	switch len(a.value) {
	case 4:
		return netip.AddrFrom4([4]byte(a.value))
	case 16:
		return netip.AddrFrom16([16]byte(a.value))
	}
	a.err = errAttributes
	return netip.Addr{}
}

// text is a name without its NUL; if it is last, that is given, which costs nothing.
func (a *attributes) text(last string) string {
	b := a.value
	if n := len(b); n > 0 && b[n-1] == 0 {
		b = b[:n-1]
	}
	if string(b) == last {
		return last
	}
	return string(b)
}
