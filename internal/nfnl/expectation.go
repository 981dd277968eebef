package nfnl

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
)

// Attributes of an expectation (enum ctattr_expect, ctattr_expect_nat).
const (
	ctaExpectMaster  = 1
	ctaExpectTuple   = 2
	ctaExpectMask    = 3
	ctaExpectTimeout = 4
	ctaExpectZone    = 7
	ctaExpectFlags   = 8
	ctaExpectClass   = 9
	ctaExpectNAT     = 10
	ctaExpectFn      = 11

	ctaExpectNATDir   = 1
	ctaExpectNATTuple = 2
)

// ExpectPermanent lets an expectation match again and again (NF_CT_EXPECT_PERMANENT).
const ExpectPermanent = 1

// Expectation is an entry of the expectation table.
type Expectation struct {
	Master      Tuple // original tuple of its master
	Tuple, Mask Tuple
	Timeout     uint32 // seconds; the kernel looks at it in a change only
	Zone        uint16
	Class       uint32
	Flags       uint32
	NAT         bool
	NATDir      uint32 // nf_conntrack_expect.dir
	NATTuple    Tuple  // its source is saved_addr and saved_proto
	Function    string // expectfn
}

func (e *Expectation) put(ae *netlink.AttributeEncoder) {
	e.Master.Put(ae, ctaExpectMaster)
	e.Tuple.Put(ae, ctaExpectTuple)
	e.Mask.Put(ae, ctaExpectMask)
	ae.Uint32(ctaExpectTimeout, e.Timeout)
	putZone(ae, ctaExpectZone, e.Zone)
	ae.Uint32(ctaExpectClass, e.Class)
	ae.Uint32(ctaExpectFlags, e.Flags)
	if e.NAT {
		ae.Nested(ctaExpectNAT, func(n *netlink.AttributeEncoder) error {
			n.Uint32(ctaExpectNATDir, e.NATDir)
			e.NATTuple.Put(n, ctaExpectNATTuple)
			return nil
		})
	}
	if e.Function != "" {
		ae.String(ctaExpectFn, e.Function)
	}
}

// CreateExpectation puts a new expectation into the table. ENOENT: there is no such master; EOPNOTSUPP: it has no
// helper; EEXIST and EBUSY: another is in its way; EMFILE: the table is full.
func (c *Conn) CreateExpectation(e *Expectation) error {
	_, err := c.Do("create an expectation", ExpNew, netlink.Create|netlink.Excl, Family(e.Tuple.Src), e.put)
	return err
}

// ChangeExpectation sets the timeout of one that is there: at creation the class's counts (ctnetlink_change_expect).
func (c *Conn) ChangeExpectation(e *Expectation) error {
	_, err := c.Do("change an expectation", ExpNew, 0, Family(e.Tuple.Src), e.put)
	return err
}

// DeleteExpectation takes out the expectation with this tuple. ENOENT: there is none.
func (c *Conn) DeleteExpectation(t Tuple, zone uint16) error {
	_, err := c.Do("delete an expectation", ExpDelete, 0, Family(t.Src), func(ae *netlink.AttributeEncoder) {
		t.Put(ae, ctaExpectTuple)
		putZone(ae, ctaExpectZone, zone)
	})
	return err
}

// Expectations gives every entry of one family to each; entries that cannot be read are left out.
func (c *Conn) Expectations(family uint8, each func(*Expectation)) error {
	answers, err := c.Do("list expectations", ExpGet, netlink.Dump, family, func(*netlink.AttributeEncoder) {})
	if err != nil {
		return err
	}
	for _, b := range answers {
		if e, err := ParseExpectation(b); err == nil {
			each(&e)
		}
	}
	return nil
}

// ParseExpectation reads the attributes of an expectation.
func ParseExpectation(b []byte) (e Expectation, err error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return e, fmt.Errorf("read an expectation: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case ctaExpectMaster:
			ad.Nested(e.Master.parse)
		case ctaExpectTuple:
			ad.Nested(e.Tuple.parse)
		case ctaExpectMask:
			ad.Nested(e.Mask.parse)
		case ctaExpectTimeout:
			e.Timeout = ad.Uint32()
		case ctaExpectZone:
			e.Zone = ad.Uint16()
		case ctaExpectClass:
			e.Class = ad.Uint32()
		case ctaExpectFlags:
			e.Flags = ad.Uint32()
		case ctaExpectFn:
			e.Function = ad.String()
		case ctaExpectNAT:
			e.NAT = true
			ad.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					switch n.Type() {
					case ctaExpectNATDir:
						e.NATDir = n.Uint32()
					case ctaExpectNATTuple:
						n.Nested(e.NATTuple.parse)
					}
				}
				return nil
			})
		}
	}
	if err := ad.Err(); err != nil {
		return e, fmt.Errorf("read an expectation: %w", err)
	}
	return e, nil
}
