package flows_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/ti-mo/conntrack"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// TestSecondReader has another implementation of ctnetlink read what we wrote, and us what it wrote.
func TestSecondReader(t *testing.T) {
	for _, tt := range []struct{ name, src, dst, server string }{
		{"IPv4", "192.0.2.2:50000", "203.0.113.7:21", "10.0.0.9:2121"},
		{"IPv6", "[2001:db8:1::2]:50000", "[2001:db8:3::7]:21", "[fd00::9]:2121"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inside(t, func() error {
				conn, err := nfnl.Dial()
				if err != nil {
					return err
				}
				defer conn.Close()
				other, err := conntrack.Dial(nil)
				if err != nil {
					return err
				}
				defer other.Close()
				table, err := flows.Open()
				if err != nil {
					return err
				}
				defer table.Close()

				ours, err := carried(conn, entry(tt.src, tt.dst, tt.server))
				if err != nil {
					return err
				}
				read, err := other.Get(conntrack.Flow{TupleOrig: theirs(ours.Orig)})
				if err != nil {
					return err
				}
				if read.TupleOrig != theirs(ours.Orig) || read.TupleReply != theirs(ours.Reply) || read.Mark != ours.Mark {
					return fmt.Errorf("it reads %v %v mark %d of %+v", read.TupleOrig, read.TupleReply, read.Mark, ours)
				}
				if !read.Status.Assured() || !read.Status.SeenReply() || read.ProtoInfo.TCP == nil || read.ProtoInfo.TCP.State != 3 {
					return fmt.Errorf("it reads status %v, %+v: not assured and established", read.Status, read.ProtoInfo.TCP)
				}

				written := conntrack.NewFlow(6, 0, netip.MustParseAddrPort(tt.src).Addr(), netip.MustParseAddrPort(tt.dst).Addr(), 50001, 21, 60, 7)
				if err := other.Create(written); err != nil {
					return err
				}
				want := helpers.Tuple{
					Src: netip.AddrPortFrom(netip.MustParseAddrPort(tt.src).Addr(), 50001), Dst: netip.MustParseAddrPort(tt.dst),
				}
				got, err := table.Get(helpers.TCP, want.Turned(), 0)
				if err != nil {
					return err
				}
				if got.Orig != want || got.Reply != want.Turned() || got.Mark != 7 || got.Translated() {
					return fmt.Errorf("we read %+v, want %v with mark 7", got, want)
				}
				return nil
			})
		})
	}
}

// theirs is a tuple in the other implementation's type.
func theirs(t nfnl.Tuple) conntrack.Tuple {
	return conntrack.Tuple{
		IP:    conntrack.IPTuple{SourceAddress: t.Src, DestinationAddress: t.Dst},
		Proto: conntrack.ProtoTuple{Protocol: t.Proto, SourcePort: t.SrcPort, DestinationPort: t.DstPort},
	}
}
