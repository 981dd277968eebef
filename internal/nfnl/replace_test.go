package nfnl

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDisplace enters a connection of which packets have made entries of their own: the client's was translated to another
// port, the server's is taken for the beginning of a connection to the host itself.
func TestDisplace(t *testing.T) {
	client, server := netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.2.0.2")
	outside := netip.MustParseAddr("10.2.0.101")
	for _, zone := range []uint16{0, 7} {
		e := Connection{
			Orig:  Tuple{Src: client, SrcPort: 1025, Dst: server, DstPort: 21, Proto: unix.IPPROTO_TCP},
			Reply: Tuple{Src: server, SrcPort: 21, Dst: outside, DstPort: 1025, Proto: unix.IPPROTO_TCP},
			Zone:  zone, Timeout: 600, State: TCPEstablished,
		}
		clients, servers := e, e
		clients.Reply.DstPort = 40000
		servers.Orig, servers.Reply = e.Reply, Tuple{Src: outside, SrcPort: 1025, Dst: server, DstPort: 21, Proto: unix.IPPROTO_TCP}
		for _, others := range [][]*Connection{{}, {&clients}, {&servers}, {&clients, &servers}} {
			c := dial(t)
			for _, o := range others {
				b := c.Begin()
				b.copyConnection(o)
				errno(t, b.Do(), 0)
			}
			if len(others) > 0 {
				b := c.Begin()
				b.copyConnection(&e)
				errno(t, b.Do(), unix.EEXIST)
			}
			errno(t, c.displace(&e), 0)
			for _, tuple := range []Tuple{e.Orig, e.Reply} {
				if got, err := c.Get(tuple, zone); err != nil || got.Orig != e.Orig || got.Reply != e.Reply {
					t.Errorf("zone %d, %d others: %v is of %v %v, %v", zone, len(others), tuple, got.Orig, got.Reply, err)
				}
			}
		}
	}
}
