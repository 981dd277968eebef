package expect

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netns"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// carrier is a kernel helper that a shadow carries. No packet reaches a shadow, so of an in-kernel helper its policy
// counts only, not its parser.
type carrier struct {
	name    string
	l4      uint8
	classes []limits
	own     bool // an object of our own, with the classes of its helpers.Helper
}

// limits are the kernel's policy of a class.
type limits struct {
	capacity int    // kept at once on one shadow; the kernel evicts the oldest silently beyond it
	timeout  uint32 // seconds
}

// maxClasses is the most that a helper has (NF_CT_MAX_EXPECT_CLASSES).
const maxClasses = 4

// inKernel are the carriers to try where there are no objects of our own, the best first. Capacity and timeout are those
// of the helper's policy in the kernel's source (nf_conntrack_h323_main.c, nf_conntrack_irc.c and so on).
var inKernel = []carrier{
	{name: "RAS", l4: unix.IPPROTO_UDP, classes: []limits{{32, 240}}},
	{name: "Q.931", l4: unix.IPPROTO_TCP, classes: []limits{{20, 240}}},
	{name: "irc", l4: unix.IPPROTO_TCP, classes: []limits{{8, 300}}},
	{name: "amanda", l4: unix.IPPROTO_UDP, classes: []limits{{4, 180}}},
	{name: "sane", l4: unix.IPPROTO_TCP, classes: []limits{{1, 300}}},
	{name: "ftp", l4: unix.IPPROTO_TCP, classes: []limits{{1, 300}}},
	{name: "tftp", l4: unix.IPPROTO_UDP, classes: []limits{{1, 300}}},
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

// works tries all that c is needed for: an entry that carries it, and an expectation that hangs on it.
func (c *carrier) works(conn *nfnl.Conn, family uint8) (bool, error) {
	a := probeAddresses[family]
	entry := nfnl.Connection{
		Orig: nfnl.Tuple{Src: a[0], Dst: a[1], Proto: c.l4}, Reply: nfnl.Tuple{Src: a[1], Dst: a[0], Proto: c.l4},
		Timeout: 10, Helper: c.name,
	}
	at := netip.AddrPortFrom(a[1], 1)
	e := Compile(&Request{Transport: helpers.TCP, From: netip.AddrPortFrom(a[0], 0), At: at, To: at}, entry.Orig, 0)
	b := conn.Begin()
	b.CreateConnection(&entry)
	b.CreateExpectation(&e)
	b.DeleteConnection(&entry.Orig, 0)
	b.Do()
	if err := b.Err(0); noHelper(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("try helper %s as a carrier: %w", c.name, err)
	}
	return b.Err(1) == nil, b.Err(2)
}

// find chooses each family's carriers among the kernel's own: the best one, and the next for connections that are read. If
// there is but one, all that is announced has the same label, and is queued.
func find() (all, readers map[uint8]*carrier, err error) {
	all, readers = map[uint8]*carrier{}, map[uint8]*carrier{}
	err = netns.Scratch(func() (err error) {
		conn, err := nfnl.Dial()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		for _, family := range families {
			for i := range inKernel {
				ok, err := inKernel[i].works(conn, family)
				if err != nil {
					return err
				}
				if !ok {
					continue
				}
				if readers[family] = &inKernel[i]; all[family] != nil {
					break
				}
				all[family] = &inKernel[i]
			}
			if all[family] == nil {
				return ErrNoCarrier
			}
		}
		return nil
	})
	return all, readers, err
}

var families = []uint8{unix.AF_INET, unix.AF_INET6}
