package expect

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// ends are a client and a server, and how each is seen from the other side of the NAT.
type ends struct{ client, clientSeen, server, serverSeen string }

// TestCompile has passive and active mode through every kind of NAT.
func TestCompile(t *testing.T) {
	const none, snat, dnat, both = "none", "SNAT", "DNAT", "both"
	families := map[string]map[string]ends{
		"IPv4": {
			none: {"192.0.2.2", "192.0.2.2", "198.51.100.9", "198.51.100.9"},
			snat: {"10.0.0.2", "203.0.113.1", "198.51.100.9", "198.51.100.9"},
			dnat: {"192.0.2.2", "192.0.2.2", "10.0.1.9", "203.0.113.7"},
			both: {"10.0.0.2", "203.0.113.1", "10.0.1.9", "203.0.113.7"},
		},
		"IPv6": {
			none: {"2001:db8:1::2", "2001:db8:1::2", "2001:db8:2::9", "2001:db8:2::9"},
			snat: {"fd00::2", "2001:db8:3::1", "2001:db8:2::9", "2001:db8:2::9"},
			dnat: {"2001:db8:1::2", "2001:db8:1::2", "fd01::9", "2001:db8:3::7"},
			both: {"fd00::2", "2001:db8:3::1", "fd01::9", "2001:db8:3::7"},
		},
	}
	all := map[string]netip.Addr{"IPv4": all4, "IPv6": all6}
	for family, kinds := range families {
		for kind, e := range kinds {
			client, clientSeen := netip.MustParseAddr(e.client), netip.MustParseAddr(e.clientSeen)
			server, serverSeen := netip.MustParseAddr(e.server), netip.MustParseAddr(e.serverSeen)
			m := Master{
				Session: 1, Helper: "ftp", Transport: helpers.TCP, Zone: 4,
				Orig:  helpers.Tuple{Src: netip.AddrPortFrom(client, 50000), Dst: netip.AddrPortFrom(serverSeen, 21)},
				Reply: helpers.Tuple{Src: netip.AddrPortFrom(server, 21), Dst: netip.AddrPortFrom(clientSeen, 50000)},
			}
			directions := []struct {
				name         string
				toward       helpers.Dir
				from, at, to netip.Addr
				dir          uint32
			}{
				{"passive", helpers.Original, client, serverSeen, server, 0},
				{"active", helpers.Reply, server, clientSeen, client, 1},
			}
			for _, d := range directions {
				t.Run(family+"/"+kind+"/"+d.name, func(t *testing.T) {
					nat := kind != none
					q := Request{
						Master: m, Transport: helpers.TCP, Toward: d.toward, NAT: nat, Timeout: 1500 * time.Millisecond,
						From: netip.AddrPortFrom(d.from, 0), At: netip.AddrPortFrom(d.at, 40001), To: netip.AddrPortFrom(d.to, 40000),
					}
					master, reply := shadowOf(&m, 17, false)
					want := nfnl.Expectation{
						Master:  nfnl.Tuple{Src: client, SrcPort: 50000, Dst: serverSeen, Proto: 17},
						Tuple:   nfnl.Tuple{Src: d.from, Dst: d.at, DstPort: 40001, Proto: 6},
						Mask:    nfnl.Tuple{Src: all[family], Dst: all[family], DstPort: 65535, Proto: 6},
						Timeout: 2, Zone: 4, Class: 2,
					}
					if nat { // nf_nat_ftp: saved_addr and saved_proto are the announced end point's, dir the initiator's
						want.NAT, want.NATDir, want.Function = true, d.dir, "nat-follow-master"
						want.NATTuple = nfnl.Tuple{Src: d.to, SrcPort: 40000, Dst: d.at, DstPort: 40001, Proto: 6}
					}
					addresses := cmpopts.EquateComparable(netip.Addr{})
					if diff := cmp.Diff(want, Compile(&q, master, 2), addresses); diff != "" {
						t.Error(diff)
					}
					wantReply := nfnl.Tuple{Src: server, Dst: clientSeen, DstPort: 50000, Proto: 17}
					if diff := cmp.Diff(wantReply, reply, addresses); diff != "" {
						t.Error("reply tuple of the shadow: " + diff)
					}
				})
			}
		}
	}
}

func TestCompileOpen(t *testing.T) {
	addr := netip.MustParseAddrPort
	tests := []struct {
		name     string
		at, from netip.AddrPort
		src      netip.Addr
		mask     netip.Addr
		port     uint16
	}{
		{"IPv4, anybody", addr("192.0.2.1:5"), netip.AddrPort{}, any4, any4, 0},
		{"IPv4, anybody's port", addr("192.0.2.1:5"), addr("0.0.0.0:7"), any4, any4, 65535},
		{"IPv4, exactly one", addr("192.0.2.1:5"), addr("192.0.2.2:7"), netip.MustParseAddr("192.0.2.2"), all4, 65535},
		{"IPv6, anybody", addr("[2001:db8::1]:5"), netip.AddrPort{}, any6, any6, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := Compile(&Request{Transport: helpers.UDP, From: tt.from, At: tt.at, To: tt.at, Permanent: true}, nfnl.Tuple{}, 0)
			if e.Tuple.Src != tt.src || e.Mask.Src != tt.mask || e.Mask.SrcPort != tt.port {
				t.Errorf("source %v mask %v port mask %#x, want %v %v %#x", e.Tuple.Src, e.Mask.Src, e.Mask.SrcPort, tt.src, tt.mask, tt.port)
			}
			if e.Mask.DstPort != 65535 || e.Flags != nfnl.ExpectPermanent || e.NAT || e.Function != "" {
				t.Errorf("%+v", e)
			}
		})
	}
}

func benchmarkRequest() Request {
	at := netip.MustParseAddrPort("203.0.113.7:40001")
	client := netip.MustParseAddr("192.0.2.2")
	return Request{
		ID: 1, Transport: helpers.TCP, NAT: true, Timeout: time.Minute, At: at, To: netip.MustParseAddrPort("10.0.1.9:40001"),
		From: netip.AddrPortFrom(client, 0), Master: Master{
			Session: 1, Helper: "ftp", Transport: helpers.TCP,
			Orig:  helpers.Tuple{Src: netip.AddrPortFrom(client, 50000), Dst: netip.MustParseAddrPort("203.0.113.7:21")},
			Reply: helpers.Tuple{Src: netip.MustParseAddrPort("10.0.1.9:21"), Dst: netip.AddrPortFrom(client, 50000)},
		},
	}
}

func TestCompileAllocates(t *testing.T) {
	q := benchmarkRequest()
	var sink nfnl.Expectation
	if n := testing.AllocsPerRun(100, func() { sink = Compile(&q, nfnl.Tuple{}, 0) }); n != 0 || sink.Timeout != 60 {
		t.Errorf("%v allocations, timeout %d, want 0 and 60", n, sink.Timeout)
	}
}

func BenchmarkCompile(b *testing.B) {
	q := benchmarkRequest()
	b.ReportAllocs()
	for b.Loop() {
		Compile(&q, nfnl.Tuple{}, 0)
	}
}

func BenchmarkMemoryPlace(b *testing.B) {
	m, q := NewMemory(), benchmarkRequest()
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Place(q); err != nil {
			b.Fatal(err)
		}
		if err := m.Remove(q.ID); err != nil {
			b.Fatal(err)
		}
	}
}
