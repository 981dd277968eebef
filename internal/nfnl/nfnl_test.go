package nfnl

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// encode gives attributes as the kernel sends them.
func encode(t testing.TB, put func(*netlink.AttributeEncoder)) []byte {
	t.Helper()
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	put(ae)
	b, err := ae.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tuple(src, dst string) Tuple {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return Tuple{Src: s.Addr(), SrcPort: s.Port(), Dst: d.Addr(), DstPort: d.Port(), Proto: unix.IPPROTO_TCP}
}

var addresses = cmpopts.EquateComparable(netip.Addr{})

// TestExpectation reads back what it writes.
func TestExpectation(t *testing.T) {
	tests := []struct {
		name string
		e    Expectation
	}{
		{"IPv4", Expectation{
			Master: tuple("192.0.2.2:50000", "198.51.100.9:0"), Tuple: tuple("192.0.2.2:0", "198.51.100.9:40001"),
			Mask: tuple("255.255.255.255:0", "255.255.255.255:65535"), Timeout: 300, Class: 1, Flags: ExpectPermanent,
		}},
		{"IPv6 under NAT in a zone", Expectation{
			Master: tuple("[2001:db8::2]:50000", "[2001:db8::9]:0"), Tuple: tuple("[2001:db8::2]:0", "[2001:db8::9]:40001"),
			Mask: tuple("[ffff::]:0", "[ffff::]:65535"), Timeout: 1, Zone: 7, NAT: true, NATDir: 1,
			NATTuple: tuple("[fd00::9]:40001", "[2001:db8::9]:40001"), Function: "nat-follow-master",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got Expectation
			if err := got.Parse(tt.e.putWhole(nil)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.e, got, addresses); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// encodeTuple writes a tuple by another implementation than put.
func encodeTuple(ae *netlink.AttributeEncoder, attr uint16, t Tuple) {
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

// connection is all that is read of an entry.
func connection(t testing.TB, c *Connection) []byte {
	return encode(t, func(ae *netlink.AttributeEncoder) {
		encodeTuple(ae, ctaTupleOrig, c.Orig)
		encodeTuple(ae, ctaTupleReply, c.Reply)
		if c.Expected {
			encodeTuple(ae, ctaTupleMaster, c.Master)
		}
		ae.Uint16(ctaZone, c.Zone)
		ae.Uint32(ctaMark, c.Mark)
		ae.Uint32(ctaStatus, c.Status)
		ae.Uint32(ctaTimeout, c.Timeout)
		ae.Nested(ctaHelp, func(n *netlink.AttributeEncoder) error {
			n.String(ctaHelpName, c.Helper)
			return nil
		})
		for dir, s := range c.Adjust {
			if c.Adjusted {
				ae.Nested(ctaSeqAdjOrig+uint16(dir), func(n *netlink.AttributeEncoder) error {
					n.Uint32(ctaSeqAdjPos, s.Pos)
					n.Uint32(ctaSeqAdjBefore, uint32(s.Before))
					n.Uint32(ctaSeqAdjAfter, uint32(s.After))
					return nil
				})
			}
		}
	})
}

func everything() *Connection {
	return &Connection{
		Orig: tuple("192.0.2.2:50001", "203.0.113.7:40001"), Reply: tuple("10.0.0.9:40001", "192.0.2.2:50001"),
		Expected: true, Master: tuple("192.0.2.2:50000", "198.51.100.9:0"), Zone: 3, Mark: 0xabcdef01, Status: StatusExpected | StatusDstNAT,
		Shown: ShownStatus | ShownTimeout | ShownMark | ShownHelper, Timeout: 60, Helper: "RAS",
		Adjusted: true, Adjust: [2]SeqAdj{{Pos: 0xfffffff0, Before: 0, After: -2}, {Pos: 5, Before: 12, After: 24}},
	}
}

func TestParse(t *testing.T) {
	want := everything()
	var got Connection
	if err := got.Parse(connection(t, want)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*want, got, addresses); diff != "" {
		t.Error(diff)
	}
}

func TestParseBad(t *testing.T) {
	short := func(attr uint16, n int) []byte {
		return append(connection(t, everything()), encode(t, func(ae *netlink.AttributeEncoder) { ae.Bytes(attr, make([]byte, n)) })...)
	}
	tests := []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "no addresses"},
		{"short zone", short(ctaZone, 1), "read a connection"},
		{"long mark", short(ctaMark, 8), "read a connection"},
		{"length beyond the end", append(connection(t, everything()), 0xff, 0xff, 0, 1), "read a connection"},
		{"address of five bytes", encode(t, func(ae *netlink.AttributeEncoder) {
			ae.Nested(ctaTupleOrig, func(n *netlink.AttributeEncoder) error {
				n.Nested(ctaTupleIP, func(ip *netlink.AttributeEncoder) error {
					ip.Bytes(ctaIPv4Src, make([]byte, 5))
					return nil
				})
				return nil
			})
		}), "of a wrong length"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c Connection
			if err := c.Parse(tt.b); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%+v, error %v, want %q", c, err, tt.want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	err := noHelperObjects(&Error{Op: "register a helper object", Errno: unix.EINVAL})
	if !errors.Is(err, ErrNoHelperObjects) || !errors.Is(err, unix.EINVAL) {
		t.Errorf("%v names neither feature nor errno", err)
	}
	if err := noHelperObjects(&Error{Op: "register a helper object", Errno: unix.EBUSY}); errors.Is(err, ErrNoHelperObjects) {
		t.Errorf("%v is no missing feature", err)
	}
}
