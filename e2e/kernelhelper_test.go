package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/helpers/h323"
	"github.com/cthelperd/cthelperd/helpers/sip"
	"github.com/cthelperd/cthelperd/internal/capture"
	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/nfnl"
	"github.com/cthelperd/cthelperd/pcaps"
)

// kernelOnly are expectations that one of the kernel's own helpers makes and we do not, or later, with the reason. The key is the
// capture's name and the end point.
var kernelOnly = map[string]string{
	"low-port.pcap 192.0.2.2:22":      "a port under 1024 is refused by policy",
	"low-port.pcap 198.51.100.9:1023": "a port under 1024 is refused by policy",
	"slipstream.pcap 192.0.2.2:50001": "commands inside an HTTP request are foreign: slipstreaming",
	"slipstream.pcap 192.0.2.3:50001": "commands inside an HTTP request are foreign: slipstreaming",

	"PcapPlusPlus-sdp.pcap 10.33.6.100:6013":  "a fax by UDPTL has no RTCP at the next port",
	"sip-sipp-fax.pcap 10.1.0.2:20021":        "a fax by UDPTL has no RTCP at the next port",
	"sip-sipp-fax.pcap 192.168.200.102:30021": "a fax by UDPTL has no RTCP at the next port",

	"sip-forked.pcap 192.0.2.3:4001":     muxOnly,
	"sip-forked.pcap 198.51.100.9:30001": muxOnly,
	"sip-shared.pcap 192.0.2.2:4001":     muxOnly,
	"sip-shared.pcap 198.51.100.9:30001": muxOnly,

	"h323-neighbours.pcap 203.0.113.1:1721": thirdHost,
	"h323-slipstream.pcap 192.0.2.2:4444":   "a frame behind an HTTP request is foreign: slipstreaming",
	"h323-slipstream.pcap 192.0.2.2:4445":   "a datagram behind one that is not RAS is foreign",
	"h323-slow.pcap 192.0.2.2:4000":         onlyRTCP,
	"nDPI-h323.pcap 10.1.3.143:5000":        onlyRTCP,
	"nDPI-h323.pcap 10.1.6.18:2006":         onlyRTCP,
	"nDPI-h323.pcap 17.2.0.124:1720":        unconfirmed,
	"nDPI-h323.pcap 10.47.208.204:1720":     unconfirmed,
	"nDPI-h323.pcap 17.2.0.122:1720":        thirdHost,
}

const (
	muxOnly     = "rtcp-mux-only: RTCP comes to RTP's port (RFC 8858)"
	thirdHost   = "a gatekeeper names a third host: refused by policy"
	onlyRTCP    = "who opens a channel receives RTCP on it, no RTP: that is opened when it is announced"
	unconfirmed = "a registration opens nothing before it is confirmed"
)

// parser is our protocol, and the kernel's helpers for it.
type parser struct {
	protocol helpers.Protocol
	kernel   []kernelParser
}

type kernelParser struct {
	name      string
	transport helpers.Transport
	port      uint16
}

// The kernel's helper for H.245 comes with the expectations of Q.931's.
var parsers = map[string]parser{
	"ftp":  {ftp.Protocol(), []kernelParser{{"ftp", helpers.TCP, 21}}},
	"sip":  {sip.Protocol(), []kernelParser{{"sip", helpers.UDP, 5060}, {"sip", helpers.TCP, 5060}}},
	"h323": {h323.Protocol(), []kernelParser{{"RAS", helpers.UDP, 1719}, {"Q.931", helpers.TCP, 1720}}},
}

// made is an expectation and the frame that led to it.
type made struct {
	frame uint64
	to    netip.AddrPort
}

// TestKernelHelper puts captures through a firewall whose connections carry the kernel's own FTP, SIP or H.323 helpers: each
// expectation that it makes is one that the replay makes, not later, or is listed with the reason. What only the replay
// makes is shown.
func TestKernelHelper(t *testing.T) {
	if testing.Short() {
		t.Skip("end to end: not with -short")
	}
	dirs := []string{"../pcaps"}
	if dir := os.Getenv(pcaps.Variable); dir != "" {
		dirs = append(dirs, dir)
	}
	t.Parallel()
	var mu sync.Mutex
	all := map[string]int{}
	t.Cleanup(func() {
		if all["ftp"] == 0 || all["h323"] == 0 {
			t.Error("the kernel's helper has made no expectation at all: nothing was compared")
		}
		t.Logf("the kernel's helpers have made %v expectations", all)
	})
	for _, dir := range dirs {
		for _, path := range pcaps.Captures(t, dir) {
			name := filepath.Base(path)
			truth, err := pcaps.LoadTruth(path + ".truth.json")
			if err != nil {
				continue
			}
			p, ok := parsers[truth.Protocol]
			if !ok {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				more := truth.Ports[truth.Protocol]
				kernel := byKernel(t, path, p.kernel, more)
				mu.Lock()
				all[truth.Protocol] += len(kernel)
				mu.Unlock()
				ours := map[string]uint64{}
				var args []string
				if len(more) > 0 {
					args = append(args, "--port", truth.Protocol+"="+strings.Trim(strings.ReplaceAll(fmt.Sprint(more), " ", ","), "[]"))
				}
				for _, r := range pcaps.Records(t, path, args, p.protocol) {
					if r.Event == "expect" {
						if _, again := ours[r.To]; !again {
							ours[r.To] = r.Frame
						}
					}
				}
				for _, k := range kernel {
					frame, ok := ours[k.to.String()]
					switch reason := kernelOnly[name+" "+k.to.String()]; {
					case ok && frame <= k.frame:
					case reason != "":
						t.Logf("frame %d: the kernel expects %s, the replay not yet or not at all: %s", k.frame, k.to, reason)
					case !ok:
						t.Errorf("frame %d: the kernel expects %s, the replay does not", k.frame, k.to)
					default:
						t.Errorf("the kernel expects %s in frame %d, the replay in frame %d only", k.to, k.frame, frame)
					}
				}
				for to, frame := range ours {
					if !slices.ContainsFunc(kernel, func(k made) bool { return k.to.String() == to }) {
						t.Logf("frame %d: only the replay expects %s", frame, to)
					}
				}
			})
		}
	}
}

// byKernel gives the expectations that the kernel's helper makes of a capture, one each time that it makes it.
func byKernel(t *testing.T, path string, parsers []kernelParser, more []uint16) (all []made) {
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	frames, err := capture.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	ns := netnstest.New(t)
	tun := -1
	ns.Do(func() { tun, err = openTUN("tun0") })
	if err != nil {
		t.Fatalf("make a TUN device: %v", err)
	}
	defer unix.Close(tun)
	for name, value := range map[string]string{
		"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1", "net.ipv4.conf.all.accept_local": "1",
		"net.ipv4.conf.tun0.accept_local": "1", "net.ipv4.conf.tun0.route_localnet": "1", "net.ipv4.conf.all.rp_filter": "0",
		"net.ipv4.conf.tun0.rp_filter": "0", "net.ipv4.conf.all.send_redirects": "0", "net.ipv4.conf.tun0.send_redirects": "0",
	} {
		ns.Sysctl(name, value)
	}
	batch := filepath.Join(t.TempDir(), "ip")
	if err := os.WriteFile(batch, []byte("link set tun0 up\nroute add 0.0.0.0/0 dev tun0\nroute add ::/0 dev tun0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ns.Run("ip", "-batch", batch)
	objects, rules := "", ""
	for _, k := range parsers {
		list := strings.Trim(strings.ReplaceAll(fmt.Sprint(append([]uint16{k.port}, more...)), " ", ", "), "[]")
		objects += fmt.Sprintf("ct helper %[1]s-%[2]s { type %[1]q protocol %[2]s; }\n", k.name, k.transport)
		rules += fmt.Sprintf("%[2]s dport { %[3]s } ct helper set \"%[1]s-%[2]s\"\n", k.name, k.transport, list)
	}
	ns.Run("nft", "table inet t {\n"+objects+"chain pre { type filter hook prerouting priority -150;\n"+rules+"}; }")
	ns.Sysctl("net.netfilter.nf_conntrack_checksum", "0") // captures hold what network cards were to compute
	ns.Do(func() {
		table, err := nfnl.Dial()
		if err != nil {
			t.Error(err)
			return
		}
		defer table.Close()
		there := map[nfnl.Tuple]bool{}
		buf := make([]byte, 1<<16)
		for {
			f, err := frames.Next()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Logf("the capture ends: %v", err)
				}
				return
			}
			if len(f.IP) == 0 {
				continue
			}
			if _, err := unix.Write(tun, f.IP); err != nil {
				t.Logf("frame %d is not taken: %v", f.Number, err)
				continue
			}
			for { // what was forwarded comes back
				if n, err := unix.Read(tun, buf); err != nil || n <= 0 {
					break
				}
			}
			now := map[nfnl.Tuple]bool{}
			for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
				if err := table.Expectations(family, func(e *nfnl.Expectation) {
					if e.Flags&inactive == 0 {
						now[e.Tuple] = true
					}
				}); err != nil {
					t.Error(err)
				}
			}
			for tuple := range now {
				if !there[tuple] {
					all = append(all, made{f.Number, netip.AddrPortFrom(tuple.Dst, tuple.DstPort)})
				}
			}
			there = now
		}
	})
	return all
}

// inactive expectations wait for an answer: nothing meets them (NF_CT_EXPECT_INACTIVE).
const inactive = 2

// openTUN makes a TUN device that gives back what is forwarded.
func openTUN(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	time.Sleep(10 * time.Millisecond) // its sysctls appear
	return fd, nil
}
