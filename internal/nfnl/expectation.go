package nfnl

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Attributes of an expectation (enum ctattr_expect, ctattr_expect_nat).
const (
	ctaExpectMaster  = 1
	ctaExpectTuple   = 2
	ctaExpectMask    = 3
	ctaExpectTimeout = 4
	ctaExpectID      = 5
	ctaExpectHelper  = 6
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
	ID          uint32 // shown, never sent
	Helper      string // the master's; shown, never sent
}

// put appends what the kernel is told of a new one. What is 0 is not sent: to read it costs the kernel more.
func (e *Expectation) put(b []byte) []byte {
	b = e.Master.put(b, ctaExpectMaster)
	b = e.Tuple.put(b, ctaExpectTuple)
	b = e.Mask.put(b, ctaExpectMask)
	b = putZone(b, ctaExpectZone, e.Zone)
	if e.Class != 0 {
		b = putUint32(b, ctaExpectClass, e.Class)
	}
	if e.Flags != 0 {
		b = putUint32(b, ctaExpectFlags, e.Flags)
	}
	if e.NAT {
		var nest int
		b, nest = begin(b, ctaExpectNAT)
		b = putUint32(b, ctaExpectNATDir, e.NATDir)
		b = end(e.NATTuple.put(b, ctaExpectNATTuple), nest)
	}
	if e.Function != "" {
		b = putString(b, ctaExpectFn, e.Function)
	}
	return b
}

// putWhole appends the timeout, too. At creation the class's counts, whatever is said.
func (e *Expectation) putWhole(b []byte) []byte {
	return putUint32(e.put(b), ctaExpectTimeout, e.Timeout)
}

// CreateExpectation puts a new expectation into the table. ENOENT: there is no such master; EOPNOTSUPP: it has no
// helper; EEXIST and EBUSY: another is in its way; EMFILE: the table is full.
func (b *Batch) CreateExpectation(e *Expectation) {
	b.open("create an expectation", ExpNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, Family(e.Tuple.Dst))
	b.out = e.put(b.out)
}

// ChangeExpectation sets the timeout of one that is there: at creation the class's counts. The kernel looks for its
// tuple only (ctnetlink_change_expect): it must be known to be ours.
func (b *Batch) ChangeExpectation(e *Expectation) {
	b.open("change an expectation", ExpNew, unix.NLM_F_ACK, Family(e.Tuple.Dst))
	b.out = e.putWhole(b.out)
}

// DeleteExpectation takes out the expectation with this tuple. ENOENT: there is none.
func (b *Batch) DeleteExpectation(t *Tuple, zone uint16) {
	b.open("delete an expectation", ExpDelete, unix.NLM_F_ACK, Family(t.Dst))
	b.out = putZone(t.put(b.out, ctaExpectTuple), ctaExpectZone, zone)
}

// GetExpectation finds the expectation with this tuple, and reads it into e. No answer of the kernel's names its zone.
// ENOENT: there is none.
func (b *Batch) GetExpectation(t *Tuple, zone uint16, e *Expectation) {
	b.open("get an expectation", ExpGet, 0, Family(t.Dst))
	b.out = putZone(t.put(b.out, ctaExpectTuple), ctaExpectZone, zone)
	b.ops[len(b.ops)-1].expected = e
}

// CreateExpectation is Batch.CreateExpectation alone.
func (c *Conn) CreateExpectation(e *Expectation) error {
	b := c.Begin()
	b.CreateExpectation(e)
	return b.Do()
}

// ChangeExpectation is Batch.ChangeExpectation alone.
func (c *Conn) ChangeExpectation(e *Expectation) error {
	b := c.Begin()
	b.ChangeExpectation(e)
	return b.Do()
}

// DeleteExpectation is Batch.DeleteExpectation alone.
func (c *Conn) DeleteExpectation(t Tuple, zone uint16) error {
	b := c.Begin()
	b.DeleteExpectation(&t, zone)
	return b.Do()
}

// FlushExpectations takes all entries out.
func (c *Conn) FlushExpectations() error {
	b := c.Begin()
	b.open("flush expectations", ExpDelete, unix.NLM_F_ACK, unix.AF_UNSPEC)
	return b.Do()
}

// Expectations gives every entry of a family (AF_UNSPEC: of all) to each, which must not use c nor keep it; entries that
// cannot be read are left out.
func (c *Conn) Expectations(family uint8, each func(*Expectation)) error {
	return c.ListExpectations(family, func(e *Expectation) bool {
		each(e)
		return true
	})
}

// ListExpectations is Expectations until each says no; after that c must not be used any more.
func (c *Conn) ListExpectations(family uint8, each func(*Expectation) bool) error {
	var e Expectation
	return c.dump("list expectations", ExpGet, family, nil, func(b []byte) bool {
		return e.Parse(b[headerLen:]) != nil || each(&e)
	})
}

// Parse reads the attributes of an expectation into e.
func (e *Expectation) Parse(b []byte) error {
	last, helper := e.Function, e.Helper
	*e = Expectation{}
	a := attributes{rest: b}
	for a.next() {
		var err error
		switch a.typ {
		case ctaExpectMaster:
			_, err = e.Master.parse(a.value)
		case ctaExpectTuple:
			_, err = e.Tuple.parse(a.value)
		case ctaExpectMask:
			_, err = e.Mask.parse(a.value)
		case ctaExpectTimeout:
			e.Timeout = a.uint32()
		case ctaExpectID:
			e.ID = a.uint32()
		case ctaExpectHelper:
			e.Helper = a.text(helper)
		case ctaExpectZone:
			e.Zone = a.uint16()
		case ctaExpectClass:
			e.Class = a.uint32()
		case ctaExpectFlags:
			e.Flags = a.uint32()
		case ctaExpectFn:
			e.Function = a.text(last)
		case ctaExpectNAT:
			e.NAT = true
			n := attributes{rest: a.value}
			for n.next() {
				switch n.typ {
				case ctaExpectNATDir:
					e.NATDir = n.uint32()
				case ctaExpectNATTuple:
					_, err := e.NATTuple.parse(n.value)
					n.note(err)
				}
			}
			err = n.err
		}
		a.note(err)
	}
	if a.err != nil {
		return fmt.Errorf("read an expectation: %w", a.err)
	}
	return nil
}
