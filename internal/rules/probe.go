package rules

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/netns"
)

// Features is what a kernel offers to rules and queues.
type Features struct {
	NFTQueue     bool // nft's queue expression
	XTQueue      bool // the xtables target NFQUEUE inside an nft rule
	ExpectObject bool // a ct expectation object of size 0, which gives flows under NAT their sequence adjustment
	Conntrack    bool // queued packets bring their connection (NFQA_CT)
}

// Probe tries each feature in a network namespace of its own, which is gone when it returns. It needs root
// (CAP_SYS_ADMIN to make the namespace); else ErrPermission.
func Probe() (Features, error) {
	var f Features
	err := netns.Scratch(func() error {
		var err error
		f, err = probe()
		return err
	})
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w (%w)", ErrPermission, err)
	}
	if err != nil {
		return Features{}, fmt.Errorf("probe the kernel: %w", err)
	}
	return f, nil
}

func probe() (f Features, err error) {
	last := chain{name: "probe", hook: postrouting, priority: priorityLast}
	first := chain{name: "probe", hook: output, priority: priorityMangle}
	if f.NFTQueue, err = accepted(batch{}, last, queue{total: 1, bypass: true}); err != nil {
		return f, err
	}
	if err := loadTarget(); err != nil {
		return f, err
	}
	if f.XTQueue, err = accepted(batch{xtQueue: true}, last, queue{total: 1, bypass: true}); err != nil {
		return f, err
	}
	if f.ExpectObject, err = accepted(batch{}, first, expectObject{}); err != nil {
		return f, err
	}
	if f.ExpectObject {
		if f.ExpectObject, err = objectIsHarmless(); err != nil {
			return f, err
		}
	}
	f.Conntrack, err = conntrackWithPackets()
	return f, err
}

// loadTarget asks for the xtables target's revision, which loads its module. A rule in a table of the family inet does
// not: xt_request_find_target has no name of a module for it. Whether it is there now, the rule tells.
func loadTarget() error {
	const name, revision, kind, target = 1, 2, 3, 1 // NFTA_COMPAT_NAME, _REV, _TYPE; 0 would be a match
	data, err := encode(func(ae attributes) {
		ae.String(name, "NFQUEUE")
		ae.Uint32(revision, 3)
		ae.Uint32(kind, target)
	})
	if err != nil {
		return err
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	const patience = 10 * time.Second // a module is loaded
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	c.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFT_COMPAT << 8), // NFNL_MSG_COMPAT_GET
			Flags: netlink.Request | netlink.Acknowledge,
		},
		Data: append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, data...), // struct nfgenmsg
	})
	return nil
}

// accepted says whether the kernel takes a rule of one term. The rule stays until the next call.
func accepted(b batch, c chain, t term) (bool, error) {
	b.addTable()
	b.deleteTable()
	b.addTable()
	if _, ok := t.(expectObject); ok {
		const long = 60_000 // ms: time enough to see what should not be there
		b.addObject(long)
	}
	b.addChain(c)
	b.addRule(c, rule{terms: []term{t}})
	if err := b.commit(); errors.Is(err, unix.EPERM) {
		return false, err
	} else {
		return err == nil, nil
	}
}

// objectIsHarmless sends a datagram through the rule with the ct expectation object: it must arrive, and nothing must
// be expected.
func objectIsHarmless() (bool, error) {
	if err := loUp(); err != nil {
		return false, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return false, err
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		return false, err
	}
	wait := unix.NsecToTimeval(time.Second.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return false, err
	}
	if err := unix.Sendto(fd, []byte{0}, 0, self); errors.Is(err, unix.EPERM) {
		return false, nil // dropped by the rule
	} else if err != nil {
		return false, err
	}
	if _, _, err := unix.Recvfrom(fd, make([]byte, 1), 0); err != nil {
		return false, nil
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return false, err
	}
	defer c.Close()
	expected, err := c.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK_EXP<<8 | expGet),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: make([]byte, 4), // struct nfgenmsg: any family
	})
	return len(expected) == 0, err
}

// conntrackWithPackets asks for NFQA_CT on a queue of this namespace (nfqnl_recv_config).
func conntrackWithPackets() (bool, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return false, err
	}
	defer c.Close()
	configure := func(attributes ...netlink.Attribute) error {
		data, err := netlink.MarshalAttributes(attributes)
		if err != nil {
			return err
		}
		_, err = c.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.NFNL_SUBSYS_QUEUE<<8 | queueConfig, Flags: netlink.Request | netlink.Acknowledge},
			Data:   append(make([]byte, 4), data...), // struct nfgenmsg: queue 0
		})
		return err
	}
	if err := configure(netlink.Attribute{Type: queueCommand, Data: []byte{commandBind, 0, 0, 0}}); err != nil {
		if errors.Is(err, unix.EPERM) {
			return false, err
		}
		return false, nil // no NFQUEUE at all
	}
	flag := binary.BigEndian.AppendUint32(nil, flagConntrack)
	err = configure(netlink.Attribute{Type: queueMask, Data: flag}, netlink.Attribute{Type: queueFlags, Data: flag})
	return err == nil, nil
}

// linux/netfilter/nfnetlink_queue.h and nfnetlink_conntrack.h.
const (
	expGet        = 1      // IPCTNL_MSG_EXP_GET
	queueConfig   = 2      // NFQNL_MSG_CONFIG
	queueCommand  = 1      // NFQA_CFG_CMD
	queueMask     = 4      // NFQA_CFG_MASK
	queueFlags    = 5      // NFQA_CFG_FLAGS
	commandBind   = 1      // NFQNL_CFG_CMD_BIND
	flagConntrack = 1 << 1 // NFQA_CFG_F_CONNTRACK
)

func loUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// Assigned names the in-kernel helpers that rule sets of the calling thread's network namespace give to connections, by
// nft's `ct helper` objects: "ftp (table ip filter)". What xtables' target CT gives cannot be seen.
func Assigned() ([]string, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	request := message(unix.NFT_MSG_GETOBJ, netlink.Dump, nil)
	request.Data[0] = unix.NFPROTO_UNSPEC
	answers, err := c.Execute(request)
	if err != nil {
		return nil, fmt.Errorf("list objects of rule sets: %w", err)
	}
	const helperName = 1 // NFTA_CT_HELPER_NAME
	families := map[byte]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6"}
	var all []string
	for _, m := range answers {
		var table, name string
		var kind uint32
		err := each(m, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NFTA_OBJ_TABLE:
				table = ad.String()
			case unix.NFTA_OBJ_TYPE:
				kind = ad.Uint32()
			case unix.NFTA_OBJ_DATA:
				if kind != unix.NFT_OBJECT_CT_HELPER { // the type comes first (nf_tables_fill_obj_info)
					return
				}
				ad.Nested(func(n *netlink.AttributeDecoder) error {
					for n.Next() {
						if n.Type() == helperName {
							name = n.String()
						}
					}
					return nil
				})
			}
		})
		if err != nil {
			return nil, err
		}
		if kind == unix.NFT_OBJECT_CT_HELPER {
			all = append(all, fmt.Sprintf("%s (table %s %s)", name, families[m.Data[0]], table))
		}
	}
	return all, nil
}
