package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// conntrackdConfig is its user-space ftp helper and nothing else; %s is a folder for its files.
const conntrackdConfig = `Helper {
	Setup yes
	Type ftp inet tcp {
		QueueNum 6
		QueueLen 10240
		Policy ftp {
			ExpectMax 4
			ExpectTimeout 300
		}
	}
}
General {
	HashSize 8192
	HashLimit 65535
	LogFile %[1]s/log
	LockFile %[1]s/lock
	UNIX {
		Path %[1]s/socket
	}
	NetlinkBufferSize 2097152
	NetlinkBufferSizeMaxGrowth 8388608
}
`

// conntrackdRules attach the helper that conntrackd has registered, as its documentation says.
const conntrackdRules = `table ip conntrackd {
	ct helper uh {
		type "ftp" protocol tcp
		l3proto ip
	}
	chain prerouting {
		type filter hook prerouting priority -150;
		tcp dport 21 ct state new ct helper set "uh"
	}
}
`

// TestBesideConntrackd kills conntrackd and cthelperd, each behind the same rules, after two changes of length on a
// control connection: with conntrackd dead no new control connection gets through, and the old one is cut off; with
// cthelperd dead both work. Lengths change by PORT, the transfer is by PASV: of conntrackd 1.4.7 a connection to a client
// behind a masquerade is expected, but not translated.
func TestBesideConntrackd(t *testing.T) {
	if testing.Short() {
		t.Skip("end to end: not with -short")
	}
	table, err := nfnl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() }) // after what is registered later
	if _, err := table.Helpers(); errors.Is(err, nfnl.ErrNoHelperObjects) {
		t.Skip("conntrackd's helpers need nfnetlink_cthelper: ", err)
	} else if err != nil {
		t.Fatal(err)
	}
	peer, err := exec.LookPath("conntrackd")
	if err != nil {
		t.Fatalf("%v: run scripts/install", err)
	}
	unloadFTP(t)

	theirs, ours := newSite(t, masquerade), newSite(t, masquerade)
	for _, s := range []*site{theirs, ours} {
		s.strict()
		s.serve(serverKinds[0], 21, false)
	}
	conf := filepath.Join(theirs.folder, "conntrackd.conf")
	theirs.write(conf, fmt.Sprintf(conntrackdConfig, theirs.folder))
	t.Cleanup(func() { // the list of helpers is the machine's
		theirs.firewall.Do(func() { exec.Command("nft", "delete", "table", "ip", "conntrackd").Run() })
		until(t, "conntrackd's helper is deleted", func() bool {
			err := table.DeleteHelper(&nfnl.HelperObject{Name: "ftp", L3: unix.AF_INET, L4: unix.IPPROTO_TCP})
			return err == nil || errors.Is(err, unix.ENOENT)
		})
	})
	c := start(t, theirs.firewall, peer, "-C", conf)
	c.until("registers its helper", func() bool {
		all, err := table.Helpers()
		for _, h := range all {
			if err == nil && h.Name == "ftp" {
				return true
			}
		}
		return false
	})
	theirs.firewall.Run("nft", conntrackdRules)
	d := ours.daemon()

	old := map[*site]*dialogue{}
	for name, s := range map[string]*site{"conntrackd": theirs, "cthelperd": ours} {
		if n := s.counter("related"); n != 0 {
			t.Fatalf("%s: %d packets were related before the first transfer", name, n)
		}
		old[s] = s.login(t, ipv4.client(), 21)
		for range 2 {
			l := old[s].listen(0)
			// vsftpd takes no address but the one it sees: that it takes this one shows that it was rewritten.
			old[s].ask(200, strings.TrimSpace(portCommand(endPoint(l))))
		}
		if err := old[s].fetchPassive(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if s.counter("related") == 0 {
			t.Errorf("%s: the transfer was not related to the control connection", name)
		}
		old[s].ask(200, "NOOP")
	}
	c.kill()
	d.kill()

	if err := theirs.answers(ipv4); err == nil {
		t.Error("conntrackd is dead, and a new control connection gets through: this test's reason is gone")
	} else {
		t.Logf("conntrackd is dead: a new control connection: %v", err)
	}
	if err := old[theirs].noop(); err == nil {
		t.Error("conntrackd is dead, and a control connection whose lengths it changed goes on: this test's reason is gone")
	} else {
		t.Logf("conntrackd is dead: an old control connection: %v", err)
	}
	if err := ours.answers(ipv4); err != nil {
		t.Errorf("cthelperd is dead: a new control connection: %v", err)
	}
	if err := old[ours].noop(); err != nil {
		t.Errorf("cthelperd is dead: an old control connection: %v", err)
	}
	old[ours].ask(221, "QUIT")
}

// cutOff is how long a control connection may take to answer: long enough for packets that are sent again.
const cutOff = 4 * time.Second

// answers opens a control connection and waits for the greeting.
func (s *site) answers(f family) error {
	var c net.Conn
	var err error
	s.client.Do(func() { c, err = net.DialTimeout("tcp", netip.AddrPortFrom(s.host(f), 21).String(), cutOff) })
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(cutOff))
	_, err = c.Read(make([]byte, 1))
	return err
}

// noop asks for an answer.
func (d *dialogue) noop() error {
	d.conn.SetDeadline(time.Now().Add(cutOff))
	defer d.conn.SetDeadline(time.Now().Add(4 * patience))
	if _, err := d.conn.Write([]byte("NOOP\r\n")); err != nil {
		return err
	}
	_, _, err := d.text.ReadResponse(200)
	return err
}

// unloadFTP takes away the kernel's own FTP helper, whose name conntrackd wants.
func unloadFTP(t *testing.T) {
	t.Helper()
	until(t, "the kernel's modules for FTP are unloaded", func() bool {
		exec.Command("modprobe", "-r", "nf_nat_ftp", "nf_conntrack_ftp").Run()
		loaded, err := os.ReadFile("/proc/modules")
		return err != nil || !strings.Contains(string(loaded), "nf_conntrack_ftp ")
	})
}
