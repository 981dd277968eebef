package nfnl

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Attributes of a connection (enum ctattr_type).
const (
	ctaTupleOrig     = 1
	ctaTupleReply    = 2
	ctaStatus        = 3
	ctaProtoInfo     = 4
	ctaHelp          = 5
	ctaNATSrc        = 6
	ctaTimeout       = 7
	ctaMark          = 8
	ctaCountersOrig  = 9
	ctaCountersReply = 10
	ctaUse           = 11
	ctaID            = 12
	ctaNATDst        = 13
	ctaTupleMaster   = 14
	ctaSeqAdjOrig    = 15
	ctaSeqAdjReply   = 16
	ctaZone          = 18
	ctaSecctx        = 19
	ctaTimestamp     = 20
	ctaMarkMask      = 21
	ctaLabels        = 22
	ctaLabelsMask    = 23
	ctaFilter        = 25
	ctaStatusMask    = 26

	ctaProtoInfoTCP           = 1
	ctaProtoInfoDCCP          = 2
	ctaProtoInfoSCTP          = 3
	ctaProtoInfoTCPState      = 1
	ctaProtoInfoTCPScaleOrig  = 2
	ctaProtoInfoTCPScaleReply = 3
	ctaProtoInfoTCPFlagsOrig  = 4
	ctaProtoInfoTCPFlagsReply = 5

	ctaProtoInfoDCCPState     = 1
	ctaProtoInfoDCCPRole      = 2
	ctaProtoInfoDCCPHandshake = 3

	ctaProtoInfoSCTPState    = 1
	ctaProtoInfoSCTPTagOrig  = 2
	ctaProtoInfoSCTPTagReply = 3

	ctaHelpName       = 1
	ctaSecctxName     = 1
	ctaPackets        = 1
	ctaBytes          = 2
	ctaTimestampStart = 1
	ctaTimestampStop  = 2

	ctaSeqAdjPos    = 1
	ctaSeqAdjBefore = 2
	ctaSeqAdjAfter  = 3
)

// Status bits (enum ip_conntrack_status).
const (
	StatusExpected     = 1 << 0
	StatusSeenReply    = 1 << 1
	StatusAssured      = 1 << 2
	StatusConfirmed    = 1 << 3
	StatusSrcNAT       = 1 << 4
	StatusDstNAT       = 1 << 5
	StatusSeqAdjust    = 1 << 6
	StatusSrcNATDone   = 1 << 7
	StatusDstNATDone   = 1 << 8
	StatusDying        = 1 << 9
	StatusFixedTimeout = 1 << 10
	StatusTemplate     = 1 << 11
	StatusNATClash     = 1 << 12
	StatusHelper       = 1 << 13
	StatusOffload      = 1 << 14 // a flow table forwards its packets
	StatusHWOffload    = 1 << 15
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

// Counter is what has passed in one direction.
type Counter struct{ Packets, Bytes uint64 }

// Shown says which of the attributes that need not be there an entry has.
type Shown uint16

// The attributes that need not be there.
const (
	ShownStatus Shown = 1 << iota
	ShownTimeout
	ShownMark
	ShownUse
	ShownID
	ShownCounters
	ShownTimestamp
	ShownSecctx
	ShownLabels
	ShownHelper
	ShownProtoInfo
)

// Connection is an entry of the connection table.
type Connection struct {
	Orig, Reply Tuple
	Expected    bool  // Master says by which
	Master      Tuple // original tuple of the connection that this one was expected by
	Zone        uint16
	ZoneDir     ZoneDir
	Shown       Shown
	Mark        uint32
	Status      uint32
	Timeout     uint32 // seconds
	ID, Use     uint32
	Helper      string
	Secctx      string
	Counters    [2]Counter // original, reply
	Start, Stop uint64     // ns since 1970
	Adjusted    bool       // the entry shows Adjust
	Adjust      [2]SeqAdj  // original, reply
	TCPFlags    [2]uint8   // original, reply: IP_CT_TCP_FLAG_*
	TCPScale    [2]uint8   // original, reply: window scale
	State       uint8      // enum tcp_conntrack, sctp_conntrack or ct_dccp_states
	DCCPRole    uint8      // enum ct_dccp_roles
	SCTPTags    [2]uint32  // original, reply: verification tags
	Handshake   uint64     // of DCCP
	Labels      [16]byte   // connlabels
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
// into c. It allocates only for the name of a helper or a security context that c has not had.
func (c *Connection) Parse(b []byte) error {
	helper, secctx := c.Helper, c.Secctx
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
			c.Shown |= ShownMark
			c.Mark = a.uint32()
		case ctaStatus:
			c.Shown |= ShownStatus
			c.Status = a.uint32()
		case ctaTimeout:
			c.Shown |= ShownTimeout
			c.Timeout = a.uint32()
		case ctaUse:
			c.Shown |= ShownUse
			c.Use = a.uint32()
		case ctaID:
			c.Shown |= ShownID
			c.ID = a.uint32()
		case ctaCountersOrig, ctaCountersReply:
			c.Shown |= ShownCounters
			err = c.Counters[a.typ-ctaCountersOrig].parse(a.value)
		case ctaTimestamp:
			c.Shown |= ShownTimestamp
			err = c.parseTimestamp(a.value)
		case ctaHelp:
			c.Shown |= ShownHelper
			c.Helper, err = name(a.value, ctaHelpName, helper)
		case ctaSecctx:
			c.Shown |= ShownSecctx
			c.Secctx, err = name(a.value, ctaSecctxName, secctx)
		case ctaProtoInfo:
			c.Shown |= ShownProtoInfo
			err = c.parseProtoInfo(a.value)
		case ctaLabels:
			c.Shown |= ShownLabels
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
	if err == nil && !(c.Orig.complete() && c.Reply.complete()) {
		err = errNoAddresses
	}
	if err != nil {
		return fmt.Errorf("read a connection: %w", err)
	}
	return nil
}

// Sight is what of a connection concerns a packet of it.
type Sight struct {
	Orig, Reply  Tuple
	Zone         uint16
	Mark, Status uint32
	Adjust       [2]SeqAdj // original, reply
}

// Parse reads a queued packet's NFQA_CT attribute into s, as Connection.Parse does, in a part of the time: it comes with
// each packet.
func (s *Sight) Parse(b []byte) error {
	s.Zone, s.Mark, s.Status, s.Adjust = 0, 0, 0, [2]SeqAdj{}
	var zone [2]uint16
	var seen uint8
	var err error
	for len(b) > 0 && err == nil { // attributes.next written out
		n := len(b)
		if n >= unix.SizeofNlAttr {
			n = int(binary.NativeEndian.Uint16(b))
		}
		if n < unix.SizeofNlAttr || n > len(b) {
			err = errAttributes
			break
		}
		value := b[unix.SizeofNlAttr:n]
		switch typ := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER); typ {
		case ctaTupleOrig:
			seen |= 1
			zone[0], err = s.Orig.parse(value)
		case ctaTupleReply:
			seen |= 2
			zone[1], err = s.Reply.parse(value)
		case ctaZone:
			a := attributes{value: value}
			s.Zone = a.uint16()
			err = a.err
		case ctaMark:
			a := attributes{value: value}
			s.Mark = a.uint32()
			err = a.err
		case ctaStatus:
			a := attributes{value: value}
			s.Status = a.uint32()
			err = a.err
		case ctaSeqAdjOrig, ctaSeqAdjReply:
			err = s.Adjust[typ-ctaSeqAdjOrig].parse(value)
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	if err == nil && (seen != 3 || !s.Orig.complete() || !s.Reply.complete()) {
		err = errNoAddresses
	}
	if err != nil {
		return fmt.Errorf("read a packet's connection: %w", err)
	}
	if of := cmp.Or(zone[0], zone[1]); of != 0 {
		s.Zone = of
	}
	return nil
}

// name reads the name, attribute typ, in a nest that has nothing else of interest.
func name(b []byte, typ uint16, last string) (s string, err error) {
	a := attributes{rest: b}
	for a.next() {
		if a.typ == typ {
			s = a.text(last)
		}
	}
	return s, a.err
}

// parseProtoInfo reads what the transport adds to an entry.
func (c *Connection) parseProtoInfo(b []byte) error {
	a := attributes{rest: b}
	for a.next() {
		var err error
		switch a.typ {
		case ctaProtoInfoTCP:
			err = c.parseTCP(a.value)
		case ctaProtoInfoDCCP:
			err = c.parseDCCP(a.value)
		case ctaProtoInfoSCTP:
			err = c.parseSCTP(a.value)
		}
		a.note(err)
	}
	return a.err
}

func (c *Connection) parseTCP(b []byte) error {
	a := attributes{rest: b}
	for a.next() {
		switch a.typ {
		case ctaProtoInfoTCPState:
			c.State = a.uint8()
		case ctaProtoInfoTCPScaleOrig, ctaProtoInfoTCPScaleReply:
			c.TCPScale[a.typ-ctaProtoInfoTCPScaleOrig] = a.uint8()
		case ctaProtoInfoTCPFlagsOrig, ctaProtoInfoTCPFlagsReply: // struct nf_ct_tcp_flags: flags, mask
			if len(a.value) == 2 {
				c.TCPFlags[a.typ-ctaProtoInfoTCPFlagsOrig] = a.value[0]
			}
		}
	}
	return a.err
}

func (c *Connection) parseDCCP(b []byte) error {
	a := attributes{rest: b}
	for a.next() {
		switch a.typ {
		case ctaProtoInfoDCCPState:
			c.State = a.uint8()
		case ctaProtoInfoDCCPRole:
			c.DCCPRole = a.uint8()
		case ctaProtoInfoDCCPHandshake:
			c.Handshake = a.uint64()
		}
	}
	return a.err
}

func (c *Connection) parseSCTP(b []byte) error {
	a := attributes{rest: b}
	for a.next() {
		switch a.typ {
		case ctaProtoInfoSCTPState:
			c.State = a.uint8()
		case ctaProtoInfoSCTPTagOrig, ctaProtoInfoSCTPTagReply:
			c.SCTPTags[a.typ-ctaProtoInfoSCTPTagOrig] = a.uint32()
		}
	}
	return a.err
}

func (c *Connection) parseTimestamp(b []byte) error {
	a := attributes{rest: b}
	for a.next() {
		switch a.typ {
		case ctaTimestampStart:
			c.Start = a.uint64()
		case ctaTimestampStop:
			c.Stop = a.uint64()
		}
	}
	return a.err
}

func (n *Counter) parse(b []byte) error {
	a := attributes{rest: b}
	for a.next() {
		switch a.typ {
		case ctaPackets:
			n.Packets = a.uint64()
		case ctaBytes:
			n.Bytes = a.uint64()
		}
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
