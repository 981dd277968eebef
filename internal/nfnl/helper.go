package nfnl

import (
	"errors"
	"fmt"

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

// HelperObject is a user-space helper as the kernel keeps it.
type HelperObject struct {
	Name    string // at most 15 bytes
	L3      uint16 // AF_INET or AF_INET6
	L4      uint8
	Classes []HelperClass // 1 to 4
	Status  uint32        // 1: the kernel queues to it
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

func (h *HelperObject) put(b []byte) []byte {
	b = putString(b, nfcthName, h.Name)
	b, nest := begin(b, nfcthTuple)
	return end(putUint8(putUint16(b, nfcthL3, h.L3), nfcthL4, h.L4), nest)
}

// CreateHelper registers h. EEXIST: it is there already, with whatever limits; EBUSY: an in-kernel helper has its name.
func (c *Conn) CreateHelper(h *HelperObject) error {
	return c.putHelper("register a helper object", unix.NLM_F_EXCL, h)
}

// UpdateHelper sets limits and timeouts of an object that is there; what was placed before keeps its timeout. EBUSY: it
// has another number of classes.
func (c *Conn) UpdateHelper(h *HelperObject) error {
	return c.putHelper("update a helper object", 0, h)
}

func (c *Conn) putHelper(name string, flags uint16, h *HelperObject) error {
	if len(h.Name) > maxHelperName {
		return fmt.Errorf("helper object %q: the name has more than %d bytes", h.Name, maxHelperName)
	}
	b := c.Begin()
	b.open(name, HelperNew, unix.NLM_F_CREATE|flags|unix.NLM_F_ACK, unix.AF_INET)
	out := putUint32(h.put(b.out), nfcthQueue, 0)
	out, policy := begin(out, nfcthPolicy)
	out = putUint32(out, nfcthSetNum, uint32(len(h.Classes)))
	for i, class := range h.Classes {
		var set int
		out, set = begin(out, nfcthSetFirst+uint16(i))
		out = putString(out, nfcthPolName, class.Name)
		out = end(putUint32(putUint32(out, nfcthPolMax, class.Max), nfcthPolTime, class.Timeout), set)
	}
	b.out = putUint32(putUint32(end(out, policy), nfcthPrivLen, 0), nfcthStatus, h.Status)
	return noHelperObjects(b.Do())
}

// DeleteHelper takes h out. EBUSY: a rule uses it. Entries that carry it lose their expectations, in every network
// namespace.
func (c *Conn) DeleteHelper(h *HelperObject) error {
	b := c.Begin()
	b.open("delete a helper object", HelperDelete, unix.NLM_F_ACK, unix.AF_INET)
	b.out = h.put(b.out)
	return noHelperObjects(b.Do())
}

// Helpers lists the helper objects of the machine: they are the same in all network namespaces.
func (c *Conn) Helpers() (all []HelperObject, err error) {
	err = c.dump("list helper objects", HelperGet, unix.AF_UNSPEC, nil, func(b []byte) bool {
		var h HelperObject
		if h.parse(b[headerLen:]) == nil {
			all = append(all, h)
		}
		return true
	})
	return all, noHelperObjects(err)
}

func (h *HelperObject) parse(b []byte) error {
	a := attributes{rest: b}
	for a.next() {
		switch a.typ {
		case nfcthName:
			h.Name = a.text("")
		case nfcthTuple:
			n := attributes{rest: a.value}
			for n.next() {
				switch n.typ {
				case nfcthL3:
					h.L3 = n.uint16()
				case nfcthL4:
					h.L4 = n.uint8()
				}
			}
			a.note(n.err)
		case nfcthStatus:
			h.Status = a.uint32()
		case nfcthPolicy:
			n := attributes{rest: a.value}
			for n.next() {
				if n.typ < nfcthSetFirst {
					continue
				}
				var class HelperClass
				set := attributes{rest: n.value}
				for set.next() {
					switch set.typ {
					case nfcthPolName:
						class.Name = set.text("")
					case nfcthPolMax:
						class.Max = set.uint32()
					case nfcthPolTime:
						class.Timeout = set.uint32()
					}
				}
				n.note(set.err)
				h.Classes = append(h.Classes, class)
			}
			a.note(n.err)
		}
	}
	return a.err
}

// noHelperObjects names the feature where nobody listens to the subsystem (nfnetlink_rcv_msg: EINVAL).
func noHelperObjects(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Errno == unix.EINVAL {
		return errors.Join(ErrNoHelperObjects, err)
	}
	return err
}
