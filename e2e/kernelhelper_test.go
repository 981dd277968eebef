package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/internal/capture"
	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/nfnl"
	"github.com/cthelperd/cthelperd/pcaps"
)

// kernelOnly are expectations that the kernel's own FTP helper makes and we do not, with the reason. The key is the
// capture's name and the end point.
var kernelOnly = map[string]string{
	"low-port.pcap 192.0.2.2:22":      "a port under 1024 is refused by policy",
	"low-port.pcap 198.51.100.9:1023": "a port under 1024 is refused by policy",
	"slipstream.pcap 192.0.2.2:50001": "commands inside an HTTP request are foreign: slipstreaming",
	"slipstream.pcap 192.0.2.3:50001": "commands inside an HTTP request are foreign: slipstreaming",
}

// made is an expectation and the frame that led to it.
type made struct {
	frame uint64
	to    netip.AddrPort
}

// TestKernelHelper puts captures through a firewall whose connections carry the kernel's own FTP helper: each expectation
// that it makes is one that the replay makes, not later, or is listed with the reason.
func TestKernelHelper(t *testing.T) {
	if testing.Short() {
		t.Skip("end to end: not with -short")
	}
	dirs := []string{"../pcaps"}
	if dir := os.Getenv(pcaps.Variable); dir != "" {
		dirs = append(dirs, dir)
	}
	all := 0
	for _, dir := range dirs {
		for _, path := range pcaps.Captures(t, dir) {
			name := filepath.Base(path)
			truth, err := pcaps.LoadTruth(path + ".truth.json")
			if err != nil || truth.Protocol != "ftp" {
				continue
			}
			t.Run(name, func(t *testing.T) {
				ports := append([]uint16{21}, truth.Ports["ftp"]...)
				kernel := byKernel(t, path, ports)
				all += len(kernel)
				ours := map[string]uint64{}
				var args []string
				if more := truth.Ports["ftp"]; len(more) > 0 {
					args = append(args, "--port", "ftp="+strings.Trim(strings.ReplaceAll(fmt.Sprint(more), " ", ","), "[]"))
				}
				for _, r := range pcaps.Records(t, path, args, ftp.Protocol()) {
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
					case !ok && reason != "":
						t.Logf("frame %d: only the kernel expects %s: %s", k.frame, k.to, reason)
					case !ok:
						t.Errorf("frame %d: the kernel expects %s, the replay does not", k.frame, k.to)
					default:
						t.Errorf("the kernel expects %s in frame %d, the replay in frame %d only", k.to, k.frame, frame)
					}
				}
			})
		}
	}
	if all == 0 {
		t.Error("the kernel's helper has made no expectation at all: nothing was compared")
	}
}

// byKernel gives the expectations that the kernel's helper makes of a capture, one each time that it makes it.
func byKernel(t *testing.T, path string, ports []uint16) (all []made) {
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	frames, err := capture.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	list := strings.Trim(strings.ReplaceAll(fmt.Sprint(ports), " ", ", "), "[]")
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
	ns.Run("ip", "link", "set", "tun0", "up")
	ns.Run("ip", "-4", "route", "add", "default", "dev", "tun0")
	ns.Run("ip", "-6", "route", "add", "default", "dev", "tun0")
	for _, rule := range []string{
		"add table inet t", "add ct helper inet t h { type \"ftp\" protocol tcp; }",
		"add chain inet t pre { type filter hook prerouting priority -150; }",
		"add rule inet t pre tcp dport { " + list + " } ct helper set \"h\"",
	} {
		ns.Run("nft", rule)
	}
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
				if err := table.Expectations(family, func(e *nfnl.Expectation) { now[e.Tuple] = true }); err != nil {
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
