package flows

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/netns"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// A kernel that does not know a condition passes over it: it lists too much, and deletes too much, without a word. Others
// test one wrongly. So a request is tried before it is believed: in a network namespace of its own, with an entry that it
// means and, for each condition, one that differs in that only.

// trial is what is tried.
type trial struct {
	ask    nfnl.Filter
	delete bool
}

// listed are the conditions of f that the kernel is given when it lists.
func (t *Table) listed(f *Filter) Parts {
	all, sure := f.exact(), f.harmless()
	if all != sure && t.works(f, all, false) {
		return all
	}
	return sure
}

// deleted says whether the kernel can delete what f means by itself.
func (t *Table) deleted(f *Filter) bool {
	p := f.exact()
	return p == f.parts() && (p == 0 || t.works(f, p, true))
}

// shown says whether it is known to, without a trial that walks through tables.
func (t *Table) shown(f *Filter) bool {
	p := f.exact()
	if p != f.parts() {
		return false
	}
	for _, ask := range f.requests(p) {
		if one := (trial{ask, true}); p != 0 && !t.tried[one] && !(one.short() && t.works(f, p, true)) {
			return false
		}
	}
	return true
}

// works says whether the kernel does as the conditions p of f say, by trial; not, where nothing can be tried.
func (t *Table) works(f *Filter, p Parts, remove bool) bool {
	for _, ask := range f.requests(p) {
		one := trial{ask, remove}
		right, known := t.tried[one]
		if !known {
			right = one.run() == nil
			if t.tried == nil {
				t.tried = map[trial]bool{}
			}
			t.tried[one] = right
		}
		if !right {
			return false
		}
	}
	return true
}

var errTrial = errors.New("the kernel does something else")

// short says whether the trial of a delete can be made in an empty namespace, in which the kernel walks through nothing:
// each condition is one that every kernel tests rightly if it reads it at all, and can be written so that the kernel has to
// refuse it if it does.
func (one trial) short() bool {
	ask := &one.ask
	addresses := ask.Family == unix.AF_INET6 && ask.OrigBits&(nfnl.FieldSrc|nfnl.FieldDst) != 0
	family := ask.Family != 0 && ask.OrigBits == 0
	return one.delete && !addresses && !family && ask.ReplyBits == 0 && !ask.HasZone
}

// read is the short trial.
func (one trial) read(c *nfnl.Conn) error {
	b := c.Begin()
	b.DeleteMatching(&one.ask)
	if err := b.Do(); err != nil {
		return err
	}
	b = c.Begin()
	b.DeleteMisread(&one.ask)
	_ = b.Do()
	for i := range b.Len() {
		if e := b.Errno(i); e != unix.EINVAL && e != unix.EOPNOTSUPP {
			return errTrial
		}
	}
	return nil
}

// run makes the trial. It needs CAP_SYS_ADMIN.
func (one trial) run() error {
	return netns.Scratch(func() (err error) {
		c, err := nfnl.Dial()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		if one.short() {
			return one.read(c)
		}
		ask := one.ask
		if ask.StatusMask != 0 { // not every bit can be given to an entry, but the kernel tests all alike
			ask.Status, ask.StatusMask = nfnl.StatusAssured, nfnl.StatusAssured
		}
		meant, others := candidates(&ask)
		all := append([]nfnl.Connection{meant}, others...)
		b := c.Begin()
		for i := range all {
			plain := all[i].Reply
			b.EnterConnection(&all[i], &plain)
		}
		if err := b.Do(); err != nil {
			return err
		}
		// A namespace that ends with entries in it costs a walk through the machine's whole table.
		defer func() {
			b := c.Begin()
			for i := range all {
				b.DeleteConnection(&all[i].Orig, all[i].Zone)
			}
			_ = b.Do() // some of them are gone
		}()
		if one.delete {
			return deletes(c, &ask, &meant, others)
		}
		return lists(c, &ask, &meant)
	})
}

func lists(c *nfnl.Conn, ask *nfnl.Filter, meant *nfnl.Connection) error {
	found, wrong := 0, 0
	err := c.List(nfnl.CTGet, ask, func(e *nfnl.Connection) bool {
		if e.Orig == meant.Orig && e.Zone == meant.Zone {
			found++
		} else {
			wrong++
		}
		return true
	})
	if err == nil && (found != 1 || wrong != 0) {
		err = errTrial
	}
	return err
}

func deletes(c *nfnl.Conn, ask *nfnl.Filter, meant *nfnl.Connection, others []nfnl.Connection) error {
	b := c.Begin()
	b.DeleteMatching(ask)
	if err := b.Do(); err != nil {
		return err
	}
	if _, err := c.Get(meant.Orig, meant.Zone); !errors.Is(err, unix.ENOENT) {
		return errTrial
	}
	for i := range others {
		if _, err := c.Get(others[i].Orig, others[i].Zone); err != nil {
			return errTrial
		}
	}
	return nil
}

// candidates are an entry that ask means, and for each of its conditions one that differs in that.
func candidates(ask *nfnl.Filter) (meant nfnl.Connection, others []nfnl.Connection) {
	family := ask.Family
	if family == 0 {
		family = unix.AF_INET
	}
	proto := ask.Orig.Proto // both tuples have it
	if proto == 0 {
		proto = unix.IPPROTO_TCP
	}
	next := uint16(0)
	// add makes an entry as ask says; change makes the difference. Where ask leaves a tuple free, it is one of its own.
	add := func(change func(e *nfnl.Connection)) nfnl.Connection {
		next++
		e := nfnl.Connection{
			Mark: ask.Mark, Status: ask.Status, Zone: ask.Zone, Timeout: 60,
			Orig:  free(ask.Orig, ask.OrigBits, family, proto, next, [2]byte{2, 7}),
			Reply: free(ask.Reply, ask.ReplyBits, family, proto, next, [2]byte{7, 2}),
		}
		if change != nil {
			change(&e)
		}
		if e.Orig.Proto == unix.IPPROTO_TCP {
			e.State = nfnl.TCPEstablished
		}
		return e
	}
	meant = add(nil)
	other := func(change func(e *nfnl.Connection)) { others = append(others, add(change)) }
	if ask.MarkMask != 0 {
		other(func(e *nfnl.Connection) { e.Mark ^= ask.MarkMask & -ask.MarkMask })
	}
	if ask.StatusMask != 0 {
		other(func(e *nfnl.Connection) { e.Status ^= ask.StatusMask })
	}
	if ask.HasZone {
		other(func(e *nfnl.Connection) { e.Zone ^= 1 })
	}
	if ask.Family != 0 && ask.OrigBits|ask.ReplyBits == 0 {
		other(func(e *nfnl.Connection) {
			family := uint8(unix.AF_INET + unix.AF_INET6 - int(family))
			e.Orig = free(nfnl.Tuple{}, 0, family, proto, next, [2]byte{2, 7})
			e.Reply = free(nfnl.Tuple{}, 0, family, proto, next, [2]byte{7, 2})
		})
	}
	if (ask.OrigBits|ask.ReplyBits)&nfnl.FieldProto != 0 {
		other(func(e *nfnl.Connection) {
			swap := uint8(unix.IPPROTO_UDP)
			if proto == swap {
				swap = unix.IPPROTO_TCP
			}
			e.Orig.Proto, e.Reply.Proto = swap, swap
		})
	}
	for _, d := range []struct {
		bits  uint32
		tuple func(*nfnl.Connection) *nfnl.Tuple
	}{
		{ask.OrigBits, func(e *nfnl.Connection) *nfnl.Tuple { return &e.Orig }},
		{ask.ReplyBits, func(e *nfnl.Connection) *nfnl.Tuple { return &e.Reply }},
	} {
		for _, field := range []struct {
			bits   uint32
			change func(*nfnl.Tuple)
		}{
			{nfnl.FieldSrc, func(t *nfnl.Tuple) { t.Src = beside(t.Src) }},
			{nfnl.FieldDst, func(t *nfnl.Tuple) { t.Dst = beside(t.Dst) }},
			{nfnl.FieldSrcPort | nfnl.FieldICMPID | nfnl.FieldICMPv6ID, func(t *nfnl.Tuple) { t.SrcPort ^= 1 }},
			{nfnl.FieldDstPort | nfnl.FieldICMPCode | nfnl.FieldICMPv6Code, func(t *nfnl.Tuple) { t.DstPort ^= 1 }},
			{nfnl.FieldICMPType, func(t *nfnl.Tuple) { t.DstPort = otherType(t.DstPort, 8, 13) }},
			{nfnl.FieldICMPv6Type, func(t *nfnl.Tuple) { t.DstPort = otherType(t.DstPort, 128, 139) }},
		} {
			if d.bits&field.bits != 0 {
				other(func(e *nfnl.Connection) { field.change(d.tuple(e)) })
			}
		}
	}
	return meant, others
}

// free is t where bits look at it, and number n of addresses and ports elsewhere. hosts are the last bytes of the two
// addresses.
func free(t nfnl.Tuple, bits uint32, family, proto uint8, n uint16, hosts [2]byte) nfnl.Tuple {
	addr := func(host byte) netip.Addr {
		if family == unix.AF_INET {
			return netip.AddrFrom4([4]byte{192, 0, 2, host})
		}
		return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 15: host})
	}
	out := nfnl.Tuple{Src: addr(hosts[0]), Dst: addr(hosts[1]), Proto: proto, SrcPort: 40000 + n, DstPort: 50000 + n}
	if proto == unix.IPPROTO_ICMP {
		out.DstPort = 8 << 8
	} else if proto == unix.IPPROTO_ICMPV6 {
		out.DstPort = 128 << 8
	}
	if bits&nfnl.FieldSrc != 0 {
		out.Src = t.Src
	}
	if bits&nfnl.FieldDst != 0 {
		out.Dst = t.Dst
	}
	if bits&(nfnl.FieldSrcPort|nfnl.FieldICMPID|nfnl.FieldICMPv6ID) != 0 {
		out.SrcPort = t.SrcPort
	}
	if bits&nfnl.FieldDstPort != 0 {
		out.DstPort = t.DstPort
	}
	if bits&(nfnl.FieldICMPType|nfnl.FieldICMPv6Type) != 0 {
		out.DstPort = out.DstPort&0xff | t.DstPort&0xff00
	}
	if bits&(nfnl.FieldICMPCode|nfnl.FieldICMPv6Code) != 0 {
		out.DstPort = out.DstPort&0xff00 | t.DstPort&0xff
	}
	return out
}

// otherType gives a type and code another type, of two that conntrack knows (icmp_invmap).
func otherType(typeCode uint16, one, two uint8) uint16 {
	if uint8(typeCode>>8) == one {
		one = two
	}
	return uint16(one)<<8 | typeCode&0xff
}

// beside is another address of a's network.
func beside(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] ^= 1
	out, _ := netip.AddrFromSlice(b)
	return out
}
