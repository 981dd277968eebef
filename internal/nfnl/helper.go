package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Attributes of a user-space helper object (linux/netfilter/nfnetlink_cthelper.h).
const (
	nfcthName     = 1
	nfcthTuple    = 2
	nfcthQueue    = 3
	nfcthPolicy   = 4
	nfcthPrivLen  = 5
	nfcthStatus   = 6
	nfcthL3       = 1
	nfcthL4       = 2
	nfcthSetNum   = 1
	nfcthSetFirst = 2
	nfcthPolName  = 1
	nfcthPolMax   = 2
	nfcthPolTime  = 3
)

// HelperObject is a user-space helper as the kernel keeps it. With status 0 the kernel queues nothing to it.
type HelperObject struct {
	Name    string // at most 15 bytes
	L3      uint16 // AF_INET or AF_INET6
	L4      uint8
	Classes []HelperClass // 1 to 4
}

// HelperClass is the policy of a class of expectations.
type HelperClass struct {
	Name    string
	Max     uint32 // at most 255
	Timeout uint32 // seconds
}

// maxHelperName is NF_CT_HELPER_NAME_LEN less the NUL. The kernel's answer to a longer one is that to a missing subsystem.
const maxHelperName = 15

// ErrNoHelperObjects says that the kernel has no user-space helpers.
var ErrNoHelperObjects = errors.New("the kernel has no user-space conntrack helpers (CONFIG_NF_CT_NETLINK_HELPER)")

func (h *HelperObject) put(ae *netlink.AttributeEncoder) {
	ae.String(nfcthName, h.Name)
	ae.Nested(nfcthTuple, func(n *netlink.AttributeEncoder) error {
		n.Uint16(nfcthL3, h.L3)
		n.Uint8(nfcthL4, h.L4)
		return nil
	})
}

// CreateHelper registers h. EEXIST: it is there already, with whatever limits; EBUSY: an in-kernel helper has its name.
func (c *Conn) CreateHelper(h *HelperObject) error {
	if len(h.Name) > maxHelperName {
		return fmt.Errorf("helper object %q: the name has more than %d bytes", h.Name, maxHelperName)
	}
	_, err := c.Do("register a helper object", HelperNew, netlink.Create|netlink.Excl, unix.AF_INET, func(ae *netlink.AttributeEncoder) {
		h.put(ae)
		ae.Uint32(nfcthQueue, 0)
		ae.Nested(nfcthPolicy, func(n *netlink.AttributeEncoder) error {
			n.Uint32(nfcthSetNum, uint32(len(h.Classes)))
			for i, class := range h.Classes {
				n.Nested(nfcthSetFirst+uint16(i), func(p *netlink.AttributeEncoder) error {
					p.String(nfcthPolName, class.Name)
					p.Uint32(nfcthPolMax, class.Max)
					p.Uint32(nfcthPolTime, class.Timeout)
					return nil
				})
			}
			return nil
		})
		ae.Uint32(nfcthPrivLen, 0)
		ae.Uint32(nfcthStatus, 0)
	})
	return noHelperObjects(err)
}

// DeleteHelper takes h out. EBUSY: a rule uses it. Entries that carry it lose their expectations.
func (c *Conn) DeleteHelper(h *HelperObject) error {
	_, err := c.Do("delete a helper object", HelperDelete, 0, unix.AF_INET, h.put)
	return noHelperObjects(err)
}

// Helpers lists the helper objects of the machine: they are the same in all network namespaces.
func (c *Conn) Helpers() (all []HelperObject, err error) {
	answers, err := c.Do("list helper objects", HelperGet, netlink.Dump, unix.AF_UNSPEC, func(*netlink.AttributeEncoder) {})
	if err != nil {
		return nil, noHelperObjects(err)
	}
	for _, b := range answers {
		ad, err := netlink.NewAttributeDecoder(b)
		if err != nil {
			continue
		}
		ad.ByteOrder = binary.BigEndian
		var h HelperObject
		for ad.Next() {
			switch ad.Type() {
			case nfcthName:
				h.Name = ad.String()
			case nfcthTuple:
				ad.Nested(func(n *netlink.AttributeDecoder) error {
					for n.Next() {
						switch n.Type() {
						case nfcthL3:
							h.L3 = n.Uint16()
						case nfcthL4:
							h.L4 = n.Uint8()
						}
					}
					return nil
				})
			}
		}
		if ad.Err() == nil {
			all = append(all, h)
		}
	}
	return all, nil
}

// noHelperObjects names the feature where nobody listens to the subsystem (nfnetlink_rcv_msg: EINVAL).
func noHelperObjects(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Errno == unix.EINVAL {
		return errors.Join(ErrNoHelperObjects, err)
	}
	return err
}
