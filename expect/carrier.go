package expect

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// carrier is a kernel helper that a shadow carries. No packet reaches a shadow, so of an in-kernel helper its policy
// counts only, not its parser.
type carrier struct {
	name     string
	l4       uint8
	capacity int    // expectations kept at once on one shadow; the kernel evicts the oldest silently beyond it
	timeout  uint32 // seconds, of class 0
	own      bool   // an object of our own, with the classes of its helpers.Helper
}

// inKernel are the carriers to try where there are no objects of our own, the best first. Capacity and timeout are those
// of the helper's policy in the kernel's source (nf_conntrack_h323_main.c, nf_conntrack_irc.c and so on).
var inKernel = []carrier{
	{name: "RAS", l4: unix.IPPROTO_UDP, capacity: 32, timeout: 240},
	{name: "Q.931", l4: unix.IPPROTO_TCP, capacity: 20, timeout: 240},
	{name: "irc", l4: unix.IPPROTO_TCP, capacity: 8, timeout: 300},
	{name: "amanda", l4: unix.IPPROTO_UDP, capacity: 4, timeout: 180},
	{name: "sane", l4: unix.IPPROTO_TCP, capacity: 1, timeout: 300},
	{name: "ftp", l4: unix.IPPROTO_TCP, capacity: 1, timeout: 300},
	{name: "tftp", l4: unix.IPPROTO_UDP, capacity: 1, timeout: 300},
}

// ErrNoCarrier says that the kernel has no helper that a shadow could carry.
var ErrNoCarrier = errors.New("the kernel has no conntrack helper that expectations can hang on: it needs " +
	"CONFIG_NF_CT_NETLINK_HELPER (module nfnetlink_cthelper) or one of CONFIG_NF_CONNTRACK_H323, _IRC, _SANE, _FTP " +
	"(modules nf_conntrack_h323 …)")

// probeAddresses are of RFC 5737 and RFC 3849: no connection has them.
var probeAddresses = map[uint8][2]netip.Addr{
	unix.AF_INET:  {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
	unix.AF_INET6: {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")},
}

// works tries c by an entry that carries it.
func (c carrier) works(conn *nfnl.Conn, family uint8) (bool, error) {
	a := probeAddresses[family]
	entry := nfnl.Connection{
		Orig: nfnl.Tuple{Src: a[0], Dst: a[1], Proto: c.l4}, Reply: nfnl.Tuple{Src: a[1], Dst: a[0], Proto: c.l4},
		Timeout: 10, Helper: c.name,
	}
	err := conn.CreateConnection(&entry)
	if errors.Is(err, unix.EEXIST) { // of a probe that was killed, or of one beside us
		return true, nil
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAGAIN) {
		return false, nil // ctnetlink_create_conntrack: no such helper
	}
	if err != nil {
		return false, fmt.Errorf("try helper %s as a carrier: %w", c.name, err)
	}
	return true, conn.DeleteConnection(entry.Orig, 0)
}

// find chooses the carrier of a family among the kernel's own.
func find(conn *nfnl.Conn, family uint8) (carrier, error) {
	for _, c := range inKernel {
		ok, err := c.works(conn, family)
		if err != nil {
			return carrier{}, err
		}
		if ok {
			return c, nil
		}
	}
	return carrier{}, ErrNoCarrier
}

// objects are the helper objects of h: one a family.
func objects(h *helpers.Helper) (all []nfnl.HelperObject) {
	for _, family := range []uint16{unix.AF_INET, unix.AF_INET6} {
		o := nfnl.HelperObject{Name: Label(h.Name), L3: family, L4: uint8(h.Transport)}
		for _, c := range h.Classes {
			o.Classes = append(o.Classes, nfnl.HelperClass{
				Name: c.Name, Max: min(max(c.Max, 1), maxPolicy), Timeout: max(seconds(c.Timeout), 1),
			})
		}
		all = append(all, o)
	}
	return all
}

// maxPolicy is the most that a class of a helper object may keep at once (NF_CT_EXPECT_MAX_CNT).
const maxPolicy = 255

// register makes the objects of h. One that is there already is adopted: another daemon of this machine may use it, and
// a new one would cost its expectations.
func register(conn *nfnl.Conn, h *helpers.Helper) error {
	for _, o := range objects(h) {
		if err := conn.CreateHelper(&o); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("helper %s: %w", h.Name, err)
		}
	}
	return nil
}
