package where

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

// addresses is what in() takes: an address, ADDRESS/BITS, ADDRESS/MASK or FIRST-LAST.
type addresses struct {
	first, last netip.Addr
	mask        netip.Addr // not valid: a range; else first is compared under it
}

func parseAddresses(text string) (addresses, error) {
	host, mask, masked := strings.Cut(text, "/")
	low, high, ranged := strings.Cut(host, "-")
	first, err := parseAddress(low)
	if err != nil {
		return addresses{}, err
	}
	a := addresses{first: first, last: first}
	switch {
	case ranged && masked:
		return addresses{}, errors.New("a range has no mask")
	case ranged:
		if a.last, err = parseAddress(high); err != nil || a.last.BitLen() != first.BitLen() || a.last.Less(first) {
			return addresses{}, errors.New("want FIRST-LAST, addresses of one family in order")
		}
	case masked:
		if bits, err := strconv.Atoi(mask); err == nil {
			p, err := first.Prefix(bits)
			if err != nil {
				return addresses{}, errors.New("want at most " + strconv.Itoa(first.BitLen()) + " bits")
			}
			return addresses{first: p.Addr(), mask: ones(bits, first.BitLen())}, nil
		}
		if a.mask, err = parseAddress(mask); err != nil || a.mask.BitLen() != first.BitLen() {
			return addresses{}, errors.New("want a number of bits or a mask behind the /")
		}
		a.first = under(first, a.mask)
	}
	return a, nil
}

func parseAddress(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, errors.New("want an address, ADDRESS/BITS, ADDRESS/MASK or FIRST-LAST")
	}
	return a, nil
}

func ones(n, bits int) netip.Addr {
	mask := make([]byte, bits/8)
	for i := range n {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(mask)
	return a
}

func under(a, mask netip.Addr) netip.Addr {
	b, m := a.AsSlice(), mask.AsSlice()
	for i := range b {
		b[i] &= m[i]
	}
	a, _ = netip.AddrFromSlice(b)
	return a
}

func (a *addresses) has(x netip.Addr) bool {
	switch {
	case x.BitLen() != a.first.BitLen():
		return false
	case a.mask.IsValid():
		return under(x, a.mask) == a.first
	}
	return a.first.Compare(x) <= 0 && x.Compare(a.last) <= 0
}

// prefix is the same as a prefix, if it is one.
func (a *addresses) prefix() (netip.Prefix, bool) {
	if !a.mask.IsValid() {
		return netip.PrefixFrom(a.first, a.first.BitLen()), a.first == a.last
	}
	for bits := range a.first.BitLen() + 1 {
		if ones(bits, a.first.BitLen()) == a.mask {
			return netip.PrefixFrom(a.first, bits), true
		}
	}
	return netip.Prefix{}, false
}
