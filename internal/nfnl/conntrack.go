package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Attributes of a connection (enum ctattr_type).
const (
	ctaTupleOrig   = 1
	ctaTupleReply  = 2
	ctaStatus      = 3
	ctaProtoInfo   = 4
	ctaHelp        = 5
	ctaNATSrc      = 6
	ctaTimeout     = 7
	ctaMark        = 8
	ctaNATDst      = 13
	ctaTupleMaster = 14
	ctaSeqAdjOrig  = 15
	ctaSeqAdjReply = 16
	ctaZone        = 18
	ctaLabels      = 22

	ctaProtoInfoTCP           = 1
	ctaProtoInfoTCPState      = 1
	ctaProtoInfoTCPScaleOrig  = 2
	ctaProtoInfoTCPScaleReply = 3
	ctaProtoInfoTCPFlagsOrig  = 4
	ctaProtoInfoTCPFlagsReply = 5
	ctaHelpName               = 1

	ctaSeqAdjPos    = 1
	ctaSeqAdjBefore = 2
	ctaSeqAdjAfter  = 3
)

// Status bits (enum ip_conntrack_status).
const (
	StatusExpected  = 1 << 0
	StatusSeenReply = 1 << 1
	StatusAssured   = 1 << 2
	StatusConfirmed = 1 << 3
	StatusSrcNAT    = 1 << 4
	StatusDstNAT    = 1 << 5
	StatusOffload   = 1 << 14 // a flow table forwards its packets
)

// Values of enum tcp_conntrack.
const (
	TCPSynReceived = 2 // the SYN is answered
	TCPEstablished = 3
)

// SeqAdj is struct nf_ct_seqadj: segments behind Pos are moved by After, others by Before.
type SeqAdj struct {
	Pos           uint32
	Before, After int32
}

// Connection is an entry of the connection table.
type Connection struct {
	Orig, Reply Tuple
	Expected    bool  // Master says by which
	Master      Tuple // original tuple of the connection that this one was expected by
	Zone        uint16
	ZoneDir     ZoneDir
	Mark        uint32
	Status      uint32
	Timeout     uint32 // seconds
	Helper      string
	Adjusted    bool      // the entry shows Adjust
	Adjust      [2]SeqAdj // original, reply
	TCPFlags    [2]uint8  // original, reply: IP_CT_TCP_FLAG_*
	TCPScale    [2]uint8  // original, reply: window scale
	TCPState    uint8     // enum tcp_conntrack
	Labels      [16]byte  // connlabels
}

// ZoneDir says which tuple of an entry is in its zone; the other one is in zone 0 (nf_conntrack_zone.dir).
type ZoneDir uint8

const (
	ZoneBoth  ZoneDir = iota
	ZoneOrig          // nft: ct original zone set
	ZoneReply         // nft: ct reply zone set
)

var errNoAddresses = errors.New("it has no addresses")

// Parse reads the attributes of a connection, as in an answer, an event, or the NFQA_CT attribute of a queued packet,
// into c. It allocates only for the name of a helper that c has not had.
func (c *Connection) Parse(b []byte) error {
	last := c.Helper
	*c = Connection{}
	a := attributes{rest: b}
	var zone [2]uint16
	for a.next() {
		var err error
		switch a.typ {
		case ctaTupleOrig:
			zone[0], err = c.Orig.parse(a.value)
		case ctaTupleReply:
			zone[1], err = c.Reply.parse(a.value)
		case ctaTupleMaster:
			c.Expected = true
			_, err = c.Master.parse(a.value)
		case ctaZone:
			c.Zone = a.uint16()
		case ctaMark:
			c.Mark = a.uint32()
		case ctaStatus:
			c.Status = a.uint32()
		case ctaTimeout:
			c.Timeout = a.uint32()
		case ctaHelp:
			h := attributes{rest: a.value}
			for h.next() {
				if h.typ == ctaHelpName {
					c.Helper = h.text(last)
				}
			}
			err = h.err
		case ctaProtoInfo:
			err = c.parseProtoInfo(a.value)
		case ctaLabels:
			copy(c.Labels[:], a.value)
		case ctaSeqAdjOrig, ctaSeqAdjReply:
			c.Adjusted = true
			err = c.Adjust[a.typ-ctaSeqAdjOrig].parse(a.value)
		}
		a.note(err)
	}
	switch {
	case zone[0] != 0:
		c.Zone, c.ZoneDir = zone[0], ZoneOrig
	case zone[1] != 0:
		c.Zone, c.ZoneDir = zone[1], ZoneReply
	}
	err := a.err
	if err == nil && !(c.Orig.Src.IsValid() && c.Orig.Dst.IsValid() && c.Reply.Src.IsValid() && c.Reply.Dst.IsValid()) {
		err = errNoAddresses
	}
	if err != nil {
		return fmt.Errorf("read a connection: %w", err)
	}
	return nil
}

// parseProtoInfo reads what TCP adds to an entry.
func (c *Connection) parseProtoInfo(b []byte) error {
	a := attributes{rest: b}
	for a.next() {
		if a.typ != ctaProtoInfoTCP {
			continue
		}
		tcp := attributes{rest: a.value}
		for tcp.next() {
			switch tcp.typ {
			case ctaProtoInfoTCPState:
				c.TCPState = tcp.uint8()
			case ctaProtoInfoTCPScaleOrig, ctaProtoInfoTCPScaleReply:
				c.TCPScale[tcp.typ-ctaProtoInfoTCPScaleOrig] = tcp.uint8()
			case ctaProtoInfoTCPFlagsOrig, ctaProtoInfoTCPFlagsReply: // struct nf_ct_tcp_flags: flags, mask
				if len(tcp.value) == 2 {
					c.TCPFlags[tcp.typ-ctaProtoInfoTCPFlagsOrig] = tcp.value[0]
				}
			}
		}
		a.note(tcp.err)
	}
	return a.err
}

func (s *SeqAdj) parse(b []byte) error {
	a := attributes{rest: b}
	for a.next() {
		switch a.typ {
		case ctaSeqAdjPos:
			s.Pos = a.uint32()
		case ctaSeqAdjBefore:
			s.Before = int32(a.uint32())
		case ctaSeqAdjAfter:
			s.After = int32(a.uint32())
		}
	}
	return a.err
}

// Get finds the connection that has t as its original or its reply tuple (ctnetlink_get_conntrack), and reads it into
// c. ENOENT: there is none.
func (b *Batch) Get(t *Tuple, zone uint16, c *Connection) {
	b.open("get a connection", CTGet, 0, Family(t.Src)) // its answer is the entry
	b.name(t, zone)
	b.ops[len(b.ops)-1].into = c
}

// name says which connection is meant.
func (b *Batch) name(t *Tuple, zone uint16) {
	b.out = putZone(t.put(b.out, ctaTupleOrig), ctaZone, zone)
}

// CreateConnection puts an entry into the table that no packet has made: confirmed, assured, established. EEXIST: one
// of its tuples is there; ENOMEM: the table is full.
func (b *Batch) CreateConnection(c *Connection) {
	b.open("create a connection", CTNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, Family(c.Orig.Src))
	out := c.Reply.put(c.Orig.put(b.out, ctaTupleOrig), ctaTupleReply)
	out = putZone(out, ctaZone, c.Zone)
	out = putUint32(out, ctaStatus, StatusConfirmed|StatusSeenReply|StatusAssured)
	out = putUint32(out, ctaTimeout, c.Timeout)
	if c.Mark != 0 {
		out = putUint32(out, ctaMark, c.Mark)
	}
	out, help := begin(out, ctaHelp)
	out = end(putString(out, ctaHelpName, c.Helper), help)
	if c.Orig.Proto == unix.IPPROTO_TCP {
		var info, tcp int
		out, info = begin(out, ctaProtoInfo)
		out, tcp = begin(out, ctaProtoInfoTCP)
		out = end(end(putUint8(out, ctaProtoInfoTCPState, TCPEstablished), tcp), info)
	}
	b.out = out
}

// Prolong makes a connection live for so many seconds from now and sets its mark. ENOENT: there is none.
func (b *Batch) Prolong(orig *Tuple, zone uint16, seconds, mark uint32) {
	b.open("prolong a connection", CTNew, unix.NLM_F_ACK, Family(orig.Src))
	b.name(orig, zone)
	b.out = putUint32(putUint32(b.out, ctaTimeout, seconds), ctaMark, mark)
}

// SetAdjust sets the sequence adjustment of direction dir (0 original, 1 reply). A connection without the extension
// takes it silently for nothing (ctnetlink_change_seq_adj): read it back.
func (b *Batch) SetAdjust(orig *Tuple, zone uint16, dir uint8, s SeqAdj) {
	b.open("set a sequence adjustment", CTNew, unix.NLM_F_ACK, Family(orig.Src))
	b.name(orig, zone)
	b.putAdjust(dir, s)
}

func (b *Batch) putAdjust(dir uint8, s SeqAdj) {
	out, nest := begin(b.out, ctaSeqAdjOrig+uint16(dir))
	out = putUint32(out, ctaSeqAdjPos, s.Pos)
	out = putUint32(out, ctaSeqAdjBefore, uint32(s.Before))
	b.out = end(putUint32(out, ctaSeqAdjAfter, uint32(s.After)), nest)
}

// AppendSetAdjust appends to dst the message of SetAdjust as it is, without asking for an answer.
func AppendSetAdjust(dst []byte, orig *Tuple, zone uint16, dir uint8, s SeqAdj) []byte {
	start := len(dst)
	var b Batch
	b.out = appendHeader(dst, CTNew, unix.NLM_F_REQUEST, Family(orig.Src))
	b.name(orig, zone)
	b.putAdjust(dir, s)
	binary.NativeEndian.PutUint32(b.out[start:], uint32(len(b.out)-start))
	return b.out
}

// DeleteConnection deletes an entry, and with it the expectations that hang on it. ENOENT: there is none.
func (b *Batch) DeleteConnection(orig *Tuple, zone uint16) {
	b.open("delete a connection", CTDelete, unix.NLM_F_ACK, Family(orig.Src))
	b.name(orig, zone)
}

func putZone(b []byte, typ uint16, zone uint16) []byte {
	if zone == 0 {
		return b
	}
	return putUint16(b, typ, zone)
}

// Get is Batch.Get alone.
func (c *Conn) Get(t Tuple, zone uint16) (entry Connection, err error) {
	b := c.Begin()
	b.Get(&t, zone, &entry)
	return entry, b.Do()
}

// Connections gives every entry of a family (AF_UNSPEC: of all) to each, which must not use c nor keep it; entries that
// cannot be read are left out.
func (c *Conn) Connections(family uint8, each func(*Connection)) error {
	var entry Connection
	return c.dump("list connections", CTGet, family, func(b []byte) {
		if entry.Parse(b) == nil {
			each(&entry)
		}
	})
}

// CreateConnection is Batch.CreateConnection alone.
func (c *Conn) CreateConnection(e *Connection) error {
	b := c.Begin()
	b.CreateConnection(e)
	return b.Do()
}

// DeleteConnection is Batch.DeleteConnection alone.
func (c *Conn) DeleteConnection(orig Tuple, zone uint16) error {
	b := c.Begin()
	b.DeleteConnection(&orig, zone)
	return b.Do()
}
