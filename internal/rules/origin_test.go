package rules_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/rules"
)

// TestOrigins: what a first datagram was before NAT is known by what it is behind it, while nobody can look it up.
func TestOrigins(t *testing.T) {
	t.Parallel()
	f := probed(t)
	f.Conntrack = false
	const mark = `
table inet marks { chain c { type filter hook prerouting priority -150; ct mark set 0x1234; }; }`
	for _, tt := range []struct {
		name, script string
		to           family
	}{
		{"routed", "", serverAddr},
		{"masquerade", masquerade, serverAddr},
		{"dnat", redirectToServer, insideAddr},
		{"both", masquerade + strings.Replace(redirectToServer, "chain nat", "chain incoming", 1), insideAddr},
	} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, IPv6 %v", tt.name, v6), func(t *testing.T) {
				t.Parallel()
				b := newBed(t)
				b.nft(tt.script + mark)
				b.install(rules.Config{
					Queue: number, Features: f,
					Helpers: []rules.Helper{{Name: "sip", Transport: helpers.UDP, Ports: []uint16{21}}},
				})
				// A port that the rules of destination NAT know; two datagrams from one client, of two connections.
				var server *net.UDPConn
				var err error
				b.server.Do(func() {
					server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(serverAddr.of(v6), 21)))
				})
				if err != nil {
					t.Fatal(err)
				}
				defer server.Close()
				server.SetReadDeadline(time.Now().Add(5 * time.Second))
				var origins *rules.Origins
				b.fw.Do(func() { origins, err = rules.OpenOrigins() })
				if err != nil {
					t.Fatal(err)
				}
				defer origins.Close()
				for range 2 {
					var client net.Conn
					to := netip.AddrPortFrom(tt.to.of(v6), 21)
					b.client.Do(func() { client, err = net.Dial("udp", to.String()) })
					if err != nil {
						t.Fatal(err)
					}
					defer client.Close()
					client.Write([]byte("x"))
					_, from, err := server.ReadFromUDPAddrPort(make([]byte, 1))
					if err != nil {
						t.Fatal(err)
					}
					from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
					seen := helpers.Tuple{Src: from, Dst: netip.AddrPortFrom(serverAddr.of(v6), 21)}
					want := helpers.Tuple{Src: client.LocalAddr().(*net.UDPAddr).AddrPort(), Dst: to}
					orig, m, err := origins.Find(seen)
					if err != nil || orig != want || m != 0x1234 {
						t.Errorf("%v was %v with mark %#x, %v; want %v", seen, orig, m, err, want)
					}
					if _, _, err := origins.Find(seen.Turned()); !errors.Is(err, rules.ErrNoOrigin) {
						t.Errorf("of what was not seen: %v", err)
					}
				}
			})
		}
	}
}
