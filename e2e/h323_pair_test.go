package e2e

import (
	"flag"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers/h323"
	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/pcaps"
)

var recordTo = flag.String("record", "", "folder for the captures of TestH323Pairs/kernel and TestSIPRecorded")

const h323Control = "tcp or udp port 1719" // in tcpdump's words

// kernelHelpers are the kernel's own parsers in the place of the daemon.
const kernelHelpers = `table inet kernel {
	ct helper ras { type "RAS" protocol udp; }
	ct helper q931 { type "Q.931" protocol tcp; }
	chain prerouting {
		type filter hook prerouting priority -150;
		udp dport 1719 ct helper set "ras"
		tcp dport 1720 ct helper set "q931"
	}
}
`

// TestH323Pairs records calls on both sides of a firewall that masquerades: once the kernel's own helpers translate what the
// messages say, once the daemon does. A replay of what was sent translates the same places.
func TestH323Pairs(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"kernel", "daemon"} {
		for i, name := range []string{"slow", "fast", "tunnelled", "back"} {
			if *onlyPairs && i > 0 {
				break
			}
			t.Run(how+", "+name, func(t *testing.T) {
				t.Parallel()
				s := newSiteWith(t, masquerade, rasControl, nil)
				if how == "kernel" {
					_ = exec.Command("modprobe", "-q", "nf_nat_h323").Run() // it may be in the kernel
					s.firewall.Run("nft", kernelHelpers)
				} else {
					s.daemon("--config", s.config("policy: {limits: {rate: 1000}}\n"))
				}
				folder := t.TempDir()
				if *recordTo != "" && how == "kernel" {
					folder = *recordTo
				}
				inside := filepath.Join(folder, "h323-"+name+".inside.pcap")
				stop := []func(){recordAt(t, s.client, "c", inside, h323Control), recordAt(t, s.server, "s", pcaps.Other(inside), h323Control)}
				h323Pair(t, s, styles[i])
				for _, f := range stop {
					f()
				}
				c := pcaps.Compare(t, inside, pcaps.Other(inside), nil, h323.Protocol())
				for _, d := range c.Wrong {
					if how == "kernel" && d.OnlyWe && d.Field == "mediaControlChannel" {
						t.Logf("%s: the kernel's helper leaves it on an H.245 connection of its own", d.Text)
					} else {
						t.Error(d.Text)
					}
				}
				t.Logf("%d messages, %d places", c.Messages, c.Places)
				if c.Places < 10 {
					t.Error("too few places")
				}
			})
		}
	}
}

// h323Pair makes a call in each direction.
func h323Pair(t *testing.T, s *site, st style) {
	endpoint, keeper := &party{t, s.client, ipv4.client()}, &party{t, s.server, ipv4.server()}
	callee, own := keeper.listen(callPort), endpoint.listen(endpointPort)
	g, registered, _ := endpoint.register(keeper.addr, keeper.datagrams(rasPort), 60)
	for i := range 2 {
		phones := [2]*phone{endpoint.phone(20000 + 100*i), keeper.phone(30000 + 100*i)}
		var k *link
		var err error
		if i == 0 {
			k, err = endpoint.connect(g.admit(netip.AddrPortFrom(keeper.addr, callPort)), callee)
		} else {
			phones[0], phones[1] = phones[1], phones[0]
			k, err = keeper.connect(registered, own)
		}
		if err != nil {
			t.Fatal(err)
		}
		c := &call{t, k, phones, 7}
		if arrived, err := c.arrives(st, time.Second); err != nil || arrived == 0 {
			t.Fatalf("%d datagrams arrived, error %v", arrived, err)
		}
		if i == 0 {
			g.disengage()
		}
	}
}

// recordAt records what a device sees; stop ends that.
func recordAt(t *testing.T, ns *netnstest.NS, device, file, filter string) (stop func()) {
	t.Helper()
	p := start(t, ns, "tcpdump", "-i", device, "--immediate-mode", "-U", "-s", "2000", "-B", strconv.Itoa(4096), "-Z", "root",
		"-w", file, filter)
	p.says("listening on", 1)
	return func() {
		t.Helper()
		time.Sleep(100 * time.Millisecond) // the last packets
		p.stop()
		if !strings.Contains(p.out.String(), "0 packets dropped by kernel") {
			t.Fatalf("%s lacks packets", file)
		}
	}
}
