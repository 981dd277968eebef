// Package nfnl speaks nfnetlink: connection tracking, expectations and user-space helper objects, as raw messages over
// a netlink socket. It is the only place that knows attribute numbers.
package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Subsystems (linux/netfilter/nfnetlink.h).
const (
	subsysCT     = 1
	subsysExp    = 2
	subsysHelper = 9
)

// Messages of the connection table (linux/netfilter/nfnetlink_conntrack.h), of the expectation table, of helper objects.
const (
	CTNew        = subsysCT << 8
	CTGet        = subsysCT<<8 | 1
	CTDelete     = subsysCT<<8 | 2
	ExpNew       = subsysExp << 8
	ExpGet       = subsysExp<<8 | 1
	ExpDelete    = subsysExp<<8 | 2
	HelperNew    = subsysHelper << 8
	HelperGet    = subsysHelper<<8 | 1
	HelperDelete = subsysHelper<<8 | 2
)

// Multicast groups (enum nfnetlink_groups).
const (
	GroupCTNew     = 1
	GroupCTDestroy = 3
)

// Conn is a netlink socket; one request is in flight at a time.
type Conn struct{ c *netlink.Conn }

// Dial opens a socket in the calling thread's network namespace.
func Dial() (*Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open a netfilter netlink socket: %w", err)
	}
	return &Conn{c}, nil
}

// Close closes the socket.
func (c *Conn) Close() error { return c.c.Close() }

// Error is the kernel's answer to an operation.
type Error struct {
	Op    string // what was asked
	Errno unix.Errno
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v (%d)", e.Op, e.Errno, int(e.Errno)) }
func (e *Error) Unwrap() error { return e.Errno }

// Do sends one message and gives the kernel's answers, without their nfnetlink header. An error of the kernel's is an
// *Error. family is AF_INET, AF_INET6 or AF_UNSPEC.
func (c *Conn) Do(op string, message uint16, flags netlink.HeaderFlags, family uint8, attributes func(*netlink.AttributeEncoder)) ([][]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	attributes(ae)
	data, err := ae.Encode()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if flags&netlink.Dump != netlink.Dump {
		flags |= netlink.Acknowledge
	}
	answers, err := c.c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(message), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	})
	if err != nil {
		var errno unix.Errno
		if errors.As(err, &errno) {
			return nil, &Error{op, errno}
		}
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	out := make([][]byte, 0, len(answers))
	for _, m := range answers {
		if len(m.Data) >= headerLen {
			out = append(out, m.Data[headerLen:])
		}
	}
	return out, nil
}

// headerLen is the length of struct nfgenmsg.
const headerLen = 4

// Family is the address family of a.
func Family(a netip.Addr) uint8 {
	if a.Is4() || a.Is4In6() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Tuple is one direction of a connection, or a mask of one.
type Tuple struct {
	Src, Dst         netip.Addr
	Proto            uint8
	SrcPort, DstPort uint16
}

// Attributes of a tuple (enum ctattr_tuple, ctattr_ip, ctattr_l4proto).
const (
	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3
)

// Put adds the tuple as attribute number attr.
func (t *Tuple) Put(ae *netlink.AttributeEncoder, attr uint16) {
	ae.Nested(attr, func(n *netlink.AttributeEncoder) error {
		n.Nested(ctaTupleIP, func(ip *netlink.AttributeEncoder) error {
			if t.Src.Is4() {
				ip.Bytes(ctaIPv4Src, t.Src.AsSlice())
				ip.Bytes(ctaIPv4Dst, t.Dst.AsSlice())
			} else {
				ip.Bytes(ctaIPv6Src, t.Src.AsSlice())
				ip.Bytes(ctaIPv6Dst, t.Dst.AsSlice())
			}
			return nil
		})
		n.Nested(ctaTupleProto, func(p *netlink.AttributeEncoder) error {
			p.Uint8(ctaProtoNum, t.Proto)
			p.Uint16(ctaProtoSrcPort, t.SrcPort)
			p.Uint16(ctaProtoDstPort, t.DstPort)
			return nil
		})
		return nil
	})
}

// parse reads a tuple's attributes. What is not an address or a port is passed over.
func (t *Tuple) parse(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleIP:
			ad.Nested(func(ip *netlink.AttributeDecoder) error {
				for ip.Next() {
					a, ok := netip.AddrFromSlice(ip.Bytes())
					if !ok {
						return errors.New("an address of a wrong length")
					}
					if ip.Type() == ctaIPv4Src || ip.Type() == ctaIPv6Src {
						t.Src = a
					} else if ip.Type() == ctaIPv4Dst || ip.Type() == ctaIPv6Dst {
						t.Dst = a
					}
				}
				return nil
			})
		case ctaTupleProto:
			ad.Nested(func(p *netlink.AttributeDecoder) error {
				for p.Next() {
					switch p.Type() {
					case ctaProtoNum:
						t.Proto = p.Uint8()
					case ctaProtoSrcPort:
						t.SrcPort = p.Uint16()
					case ctaProtoDstPort:
						t.DstPort = p.Uint16()
					}
				}
				return nil
			})
		}
	}
	return nil
}
