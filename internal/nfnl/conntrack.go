package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Attributes of a connection (enum ctattr_type).
const (
	ctaTupleOrig   = 1
	ctaTupleReply  = 2
	ctaStatus      = 3
	ctaProtoInfo   = 4
	ctaHelp        = 5
	ctaTimeout     = 7
	ctaMark        = 8
	ctaTupleMaster = 14
	ctaSeqAdjOrig  = 15
	ctaSeqAdjReply = 16
	ctaZone        = 18

	ctaProtoInfoTCP           = 1
	ctaProtoInfoTCPState      = 1
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
)

// tcpEstablished is enum tcp_conntrack's value.
const tcpEstablished = 3

// TCPLiberal lets numbers outside of the window pass in one direction (IP_CT_TCP_FLAG_BE_LIBERAL).
const TCPLiberal = 0x08

// SeqAdj is struct nf_ct_seqadj: segments behind Pos are moved by After, others by Before.
type SeqAdj struct {
	Pos           uint32
	Before, After int32
}

// Connection is an entry of the connection table.
type Connection struct {
	Orig, Reply Tuple
	Master      *Tuple // original tuple of the connection that this one was expected by
	Zone        uint16
	Mark        uint32
	Status      uint32
	Timeout     uint32 // seconds
	Helper      string
	Adjust      [2]*SeqAdj // original, reply; nil: the entry shows none
	TCPFlags    [2]uint8   // original, reply: IP_CT_TCP_FLAG_*
}

// Parse reads the attributes of a connection, as in an answer, an event, or the NFQA_CT attribute of a queued packet.
func Parse(b []byte) (c Connection, err error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return c, fmt.Errorf("read a connection: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleOrig:
			ad.Nested(c.Orig.parse)
		case ctaTupleReply:
			ad.Nested(c.Reply.parse)
		case ctaTupleMaster:
			c.Master = &Tuple{}
			ad.Nested(c.Master.parse)
		case ctaZone:
			c.Zone = ad.Uint16()
		case ctaMark:
			c.Mark = ad.Uint32()
		case ctaStatus:
			c.Status = ad.Uint32()
		case ctaTimeout:
			c.Timeout = ad.Uint32()
		case ctaHelp:
			ad.Nested(func(h *netlink.AttributeDecoder) error {
				for h.Next() {
					if h.Type() == ctaHelpName {
						c.Helper = h.String()
					}
				}
				return nil
			})
		case ctaProtoInfo:
			ad.Nested(c.parseProtoInfo)
		case ctaSeqAdjOrig, ctaSeqAdjReply:
			s := &SeqAdj{}
			c.Adjust[ad.Type()-ctaSeqAdjOrig] = s
			ad.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					switch n.Type() {
					case ctaSeqAdjPos:
						s.Pos = n.Uint32()
					case ctaSeqAdjBefore:
						s.Before = int32(n.Uint32())
					case ctaSeqAdjAfter:
						s.After = int32(n.Uint32())
					}
				}
				return nil
			})
		}
	}
	if err := ad.Err(); err != nil {
		return c, fmt.Errorf("read a connection: %w", err)
	}
	if !c.Orig.Src.IsValid() || !c.Orig.Dst.IsValid() || !c.Reply.Src.IsValid() || !c.Reply.Dst.IsValid() {
		return c, errors.New("read a connection: it has no addresses")
	}
	return c, nil
}

// parseProtoInfo reads what TCP adds to an entry.
func (c *Connection) parseProtoInfo(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		if ad.Type() != ctaProtoInfoTCP {
			continue
		}
		ad.Nested(func(tcp *netlink.AttributeDecoder) error {
			for tcp.Next() {
				dir := tcp.Type() - ctaProtoInfoTCPFlagsOrig
				if b := tcp.Bytes(); dir < 2 && len(b) == 2 { // struct nf_ct_tcp_flags: flags, mask
					c.TCPFlags[dir] = b[0]
				}
			}
			return nil
		})
	}
	return nil
}

// Get finds the connection that has t as its original or its reply tuple (ctnetlink_get_conntrack). ENOENT: there is
// none.
func (c *Conn) Get(t Tuple, zone uint16) (Connection, error) {
	answers, err := c.Do("get a connection", CTGet, 0, Family(t.Src), func(ae *netlink.AttributeEncoder) {
		t.Put(ae, ctaTupleOrig)
		putZone(ae, ctaZone, zone)
	})
	if err != nil {
		return Connection{}, err
	}
	if len(answers) == 0 {
		return Connection{}, &Error{"get a connection", unix.ENOENT}
	}
	return Parse(answers[0])
}

// Connections gives every entry of one family to each; entries that cannot be read are left out.
func (c *Conn) Connections(family uint8, each func(*Connection)) error {
	answers, err := c.Do("list connections", CTGet, netlink.Dump, family, func(*netlink.AttributeEncoder) {})
	if err != nil {
		return err
	}
	for _, b := range answers {
		if entry, err := Parse(b); err == nil {
			each(&entry)
		}
	}
	return nil
}

// SetAdjust sets the sequence adjustment of direction dir (0 original, 1 reply). A connection without the extension
// takes it silently for nothing (ctnetlink_change_seq_adj): read it back.
func (c *Conn) SetAdjust(orig Tuple, zone uint16, dir uint8, s SeqAdj) error {
	_, err := c.Do("set a sequence adjustment", CTNew, 0, Family(orig.Src), func(ae *netlink.AttributeEncoder) {
		orig.Put(ae, ctaTupleOrig)
		putZone(ae, ctaZone, zone)
		ae.Nested(ctaSeqAdjOrig+uint16(dir), func(n *netlink.AttributeEncoder) error {
			n.Uint32(ctaSeqAdjPos, s.Pos)
			n.Uint32(ctaSeqAdjBefore, uint32(s.Before))
			n.Uint32(ctaSeqAdjAfter, uint32(s.After))
			return nil
		})
	})
	return err
}

// CreateConnection puts an entry into the table that no packet has made: confirmed, assured, established. EEXIST: one of
// its tuples is there.
func (c *Conn) CreateConnection(e *Connection) error {
	_, err := c.Do("create a connection", CTNew, netlink.Create|netlink.Excl, Family(e.Orig.Src), func(ae *netlink.AttributeEncoder) {
		e.Orig.Put(ae, ctaTupleOrig)
		e.Reply.Put(ae, ctaTupleReply)
		putZone(ae, ctaZone, e.Zone)
		ae.Uint32(ctaStatus, StatusConfirmed|StatusSeenReply|StatusAssured)
		ae.Uint32(ctaTimeout, e.Timeout)
		if e.Mark != 0 {
			ae.Uint32(ctaMark, e.Mark)
		}
		ae.Nested(ctaHelp, func(n *netlink.AttributeEncoder) error {
			n.String(ctaHelpName, e.Helper)
			return nil
		})
		if e.Orig.Proto == unix.IPPROTO_TCP {
			ae.Nested(ctaProtoInfo, func(n *netlink.AttributeEncoder) error {
				n.Nested(ctaProtoInfoTCP, func(t *netlink.AttributeEncoder) error {
					t.Uint8(ctaProtoInfoTCPState, tcpEstablished)
					return nil
				})
				return nil
			})
		}
	})
	return err
}

// SetTimeout makes a connection live for so many seconds more. ENOENT: there is none.
func (c *Conn) SetTimeout(orig Tuple, zone uint16, seconds uint32) error {
	_, err := c.Do("set a connection's timeout", CTNew, 0, Family(orig.Src), func(ae *netlink.AttributeEncoder) {
		orig.Put(ae, ctaTupleOrig)
		putZone(ae, ctaZone, zone)
		ae.Uint32(ctaTimeout, seconds)
	})
	return err
}

// SetTCPFlags sets those of the flags that are in mask, in both directions (nlattr_to_tcp). A connection that is not TCP
// ignores it.
func (c *Conn) SetTCPFlags(orig Tuple, zone uint16, flags, mask uint8) error {
	_, err := c.Do("set TCP flags", CTNew, 0, Family(orig.Src), func(ae *netlink.AttributeEncoder) {
		orig.Put(ae, ctaTupleOrig)
		putZone(ae, ctaZone, zone)
		ae.Nested(ctaProtoInfo, func(n *netlink.AttributeEncoder) error {
			n.Nested(ctaProtoInfoTCP, func(t *netlink.AttributeEncoder) error {
				t.Bytes(ctaProtoInfoTCPFlagsOrig, []byte{flags, mask})
				t.Bytes(ctaProtoInfoTCPFlagsReply, []byte{flags, mask})
				return nil
			})
			return nil
		})
	})
	return err
}

// SetMark sets a connection's mark, which connections that it expects inherit. ENOENT: there is none.
func (c *Conn) SetMark(orig Tuple, zone uint16, mark uint32) error {
	_, err := c.Do("set a connection's mark", CTNew, 0, Family(orig.Src), func(ae *netlink.AttributeEncoder) {
		orig.Put(ae, ctaTupleOrig)
		putZone(ae, ctaZone, zone)
		ae.Uint32(ctaMark, mark)
	})
	return err
}

// DeleteConnection deletes an entry, and with it the expectations that hang on it. ENOENT: there is none.
func (c *Conn) DeleteConnection(orig Tuple, zone uint16) error {
	_, err := c.Do("delete a connection", CTDelete, 0, Family(orig.Src), func(ae *netlink.AttributeEncoder) {
		orig.Put(ae, ctaTupleOrig)
		putZone(ae, ctaZone, zone)
	})
	return err
}

func putZone(ae *netlink.AttributeEncoder, attr uint16, zone uint16) {
	if zone != 0 {
		ae.Uint16(attr, zone)
	}
}
