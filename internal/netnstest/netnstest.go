// Package netnstest gives tests network namespaces of their own, for tests that need a real kernel. They have no names
// and are gone with the test, however it ends.
package netnstest

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is a network namespace.
type NS struct {
	t  testing.TB
	fd netns.NsHandle
}

// New makes a namespace with lo up, until the test ends. Without root the test fails; under -short it is left out.
func New(t testing.TB) *NS {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root and network namespaces: left out under -short")
	}
	if os.Geteuid() != 0 {
		t.Fatal("needs root: network namespaces (left out under -short)")
	}
	made := make(chan error)
	n := &NS{t: t}
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err == nil {
			if n.fd, err = netns.New(); err == nil {
				err = netns.Set(home)
			}
			home.Close()
		}
		if err == nil {
			runtime.UnlockOSThread()
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { n.fd.Close() })
	n.Sysctl("net.ipv6.conf.default.accept_dad", "0") // link-local addresses count at once
	n.Do(func() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Errorf("set lo up: %v", err)
		}
	})
	return n
}

// Do runs f on a thread in the namespace: sockets that f opens, and programs that it starts, belong there. f must not
// call t.Fatal.
func (n *NS) Do(f func()) {
	n.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		if err := netns.Set(n.fd); err != nil {
			done <- err
			return
		}
		f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- nil
	}()
	if err := <-done; err != nil {
		n.t.Fatalf("enter the network namespace: %v", err)
	}
}

// DoWithoutRights is Do on a thread that has no capabilities.
func (n *NS) DoWithoutRights(f func()) {
	n.t.Helper()
	var err error
	n.Do(func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var had [2]unix.CapUserData
		if err = unix.Capget(&header, &had[0]); err != nil {
			return
		}
		none := had
		none[0].Effective, none[1].Effective = 0, 0
		if err = unix.Capset(&header, &none[0]); err != nil {
			return
		}
		f()
		err = unix.Capset(&header, &had[0])
	})
	if err != nil {
		n.t.Fatalf("give up capabilities: %v", err)
	}
}

// Printed is Do, and what f prints on os.Stdout, which must be nobody else's meanwhile. soFar is told what that is whenever
// there is more.
func (n *NS) Printed(f func(), soFar func(string)) string {
	n.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		n.t.Fatal(err)
	}
	defer r.Close()
	stdout := os.Stdout
	os.Stdout = w
	read := make(chan string)
	go func() {
		var text []byte
		for piece := make([]byte, 4096); ; {
			some, err := r.Read(piece)
			if err != nil { // io.EOF
				read <- string(text)
				return
			}
			text = append(text, piece[:some]...)
			soFar(string(text))
		}
	}()
	n.Do(f)
	os.Stdout = stdout
	w.Close()
	return <-read
}

// Run runs a program in the namespace and returns what it printed; the test fails if it fails.
func (n *NS) Run(name string, args ...string) string {
	n.t.Helper()
	var out []byte
	var err error
	n.Do(func() { out, err = exec.Command(name, args...).CombinedOutput() })
	if err != nil {
		n.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Sysctl sets a value below /proc/sys, its name with dots: net.ipv4.ip_forward.
func (n *NS) Sysctl(name, value string) {
	n.t.Helper()
	var err error
	n.Do(func() {
		// /proc/sys/net is that of the thread that opens it.
		err = os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0)
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

// Veth joins two namespaces. Each end is set up and gets its addresses, in prefix notation; IPv6 addresses can be used
// at once (no duplicate address detection).
func Veth(a *NS, aName string, aAddrs []string, b *NS, bName string, bAddrs []string) {
	a.t.Helper()
	var err error
	a.Do(func() {
		err = netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: aName},
			PeerName:      bName,
			PeerNamespace: netlink.NsFd(b.fd),
		})
	})
	if err != nil {
		a.t.Fatalf("make veth %s-%s: %v", aName, bName, err)
	}
	a.up(aName, aAddrs)
	b.up(bName, bAddrs)
}

func (n *NS) up(name string, addrs []string) {
	n.t.Helper()
	var err error
	n.Do(func() {
		var link netlink.Link
		if link, err = netlink.LinkByName(name); err != nil {
			return
		}
		for _, s := range addrs {
			var a *netlink.Addr
			if a, err = netlink.ParseAddr(s); err != nil {
				return
			}
			if a.IP.To4() == nil {
				a.Flags = 0x02 // IFA_F_NODAD
			}
			if err = netlink.AddrAdd(link, a); err != nil {
				return
			}
		}
		err = netlink.LinkSetUp(link)
	})
	if err != nil {
		n.t.Fatalf("set up %s: %v", name, err)
	}
}

// Route adds a default route by way of the gateway.
func (n *NS) Route(gateway string) {
	n.t.Helper()
	var err error
	n.Do(func() { err = netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}) })
	if err != nil {
		n.t.Fatalf("route by way of %s: %v", gateway, err)
	}
}

// Neighbours makes the ends of a link know each other's link-layer addresses, which they get; nobody has to ask. Each end
// has the addresses given.
func Neighbours(a *NS, aName, aMAC string, aAddrs []netip.Addr, b *NS, bName, bMAC string, bAddrs []netip.Addr) {
	a.t.Helper()
	a.neighbours(aName, aMAC, bMAC, bAddrs)
	b.neighbours(bName, bMAC, aMAC, aAddrs)
}

// neighbours gives a device a link-layer address, and the others' addresses theirs.
func (n *NS) neighbours(name, own, others string, addrs []netip.Addr) {
	n.t.Helper()
	var err error
	n.Do(func() {
		var mac, far net.HardwareAddr
		var link netlink.Link
		if mac, err = net.ParseMAC(own); err != nil {
			return
		}
		if far, err = net.ParseMAC(others); err != nil {
			return
		}
		if link, err = netlink.LinkByName(name); err != nil {
			return
		}
		err = netlink.LinkSetHardwareAddr(link, mac)
		for _, a := range addrs {
			if err == nil {
				err = netlink.NeighSet(&netlink.Neigh{
					LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: far,
				})
			}
		}
	})
	if err != nil {
		n.t.Fatalf("neighbours of %s: %v", name, err)
	}
}
