package flows_test

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// TestCreateTranslated reads back what was created with a translation and with sequence adjustments.
func TestCreateTranslated(t *testing.T) {
	adjust := [2]flows.SeqAdj{{Pos: 0xfffffff0, Before: 0, After: 17}, {Pos: 5, Before: -3, After: -9}}
	withTable(t, func(table *flows.Table) error {
		for _, tt := range []struct {
			src, dst, answers, to string // the tuple's ends, who answers, and to whom
			status                flows.Status
		}{
			{"10.0.0.1:1000", "198.51.100.9:80", "198.51.100.9:80", "203.0.113.1:61000", flows.StatusSrcNAT},
			{"10.0.0.1:1001", "203.0.113.7:80", "10.0.9.9:8080", "10.0.0.1:1001", flows.StatusDstNAT},
			{"10.0.0.1:1002", "203.0.113.7:80", "10.0.9.9:8080", "10.0.9.1:61002", flows.StatusSrcNAT | flows.StatusDstNAT},
			{"[fd00::1]:1000", "[2001:db8::9]:80", "[2001:db8::9]:80", "[2001:db8::1]:61000", flows.StatusSrcNAT},
			{"[fd00::1]:1001", "[2001:db8::7]:80", "[fd00:9::9]:8080", "[fd00::1]:1001", flows.StatusDstNAT},
			{"10.0.0.1:1003", "198.51.100.9:80", "198.51.100.9:80", "10.0.0.1:1003", 0},
		} {
			f := flows.Flow{
				Transport: helpers.TCP, State: flows.TCPEstablished, Timeout: 300, Status: tt.status | flows.StatusSeenReply, Adjust: adjust,
				Orig:  helpers.Tuple{Src: ap(tt.src), Dst: ap(tt.dst)},
				Reply: helpers.Tuple{Src: ap(tt.answers), Dst: ap(tt.to)},
			}
			if err := table.Create(&f); err != nil {
				return err
			}
			for _, by := range []helpers.Tuple{f.Orig, f.Reply} {
				got, err := table.Get(f.Transport, by, 0)
				if err != nil {
					return err
				}
				const nat = flows.StatusSrcNAT | flows.StatusDstNAT
				if got.Orig != f.Orig || got.Reply != f.Reply || got.Status&nat != tt.status || got.Translated() != (tt.status != 0) {
					t.Errorf("%s: %+v", tt.src, got)
				}
				if !got.Adjusted || got.Adjust != adjust {
					t.Errorf("%s: adjusted %v by %+v, want %+v", tt.src, got.Adjusted, got.Adjust, adjust)
				}
			}
		}
		return nil
	})
}

// TestCreatedTranslates sends a datagram, and an answer, through a translation that no rule has made.
func TestCreatedTranslates(t *testing.T) {
	ns := netnstest.New(t)
	// Connections are tracked where a rule asks for them, and translated where there is any chain for that.
	ns.Run("nft", `table ip t {
	chain tracked { type filter hook output priority 0; ct state invalid drop; }
	chain a { type nat hook prerouting priority -100; }
	chain b { type nat hook input priority 100; }
	chain c { type nat hook output priority -100; }
	chain d { type nat hook postrouting priority 100; }
}`)
	var err error
	ns.Do(func() { err = translated() })
	if err != nil {
		t.Error(err)
	}
}

func translated() error {
	table, err := flows.Open()
	if err != nil {
		return err
	}
	defer table.Close()
	server, err := net.ListenPacket("udp4", "127.0.0.1:3000")
	if err != nil {
		return err
	}
	defer server.Close()
	client, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1000}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2000})
	if err != nil {
		return err
	}
	defer client.Close()
	f := flows.Flow{
		Transport: helpers.UDP, Timeout: 60, Status: flows.StatusDstNAT,
		Orig:  helpers.Tuple{Src: ap("127.0.0.1:1000"), Dst: ap("127.0.0.1:2000")},
		Reply: helpers.Tuple{Src: ap("127.0.0.1:3000"), Dst: ap("127.0.0.1:1000")},
	}
	if err := table.Create(&f); err != nil {
		return err
	}
	late := time.Now().Add(10 * time.Second)
	if err := errors.Join(server.SetDeadline(late), client.SetDeadline(late)); err != nil {
		return err
	}
	b := make([]byte, 16)
	if _, err := client.Write([]byte("question")); err != nil {
		return err
	}
	n, from, err := server.ReadFrom(b)
	if err != nil || string(b[:n]) != "question" {
		return fmt.Errorf("the server got %q: %w", b[:n], err)
	}
	if _, err := server.WriteTo([]byte("answer"), from); err != nil {
		return err
	}
	if n, err = client.Read(b); err != nil || string(b[:n]) != "answer" {
		return fmt.Errorf("the client got %q: %w", b[:n], err)
	}
	return nil
}

// TestDying: connections whose end could not be told to a listener that wants to hear of each are listed, as conntrack(8)
// does.
func TestDying(t *testing.T) {
	const all = 200
	withTable(t, func(table *flows.Table) error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		const destroy = 3 // NFNLGRP_CONNTRACK_DESTROY
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		for _, o := range [][3]int{
			{unix.SOL_SOCKET, unix.SO_RCVBUF, 4096},
			{unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, destroy},
			{unix.SOL_NETLINK, unix.NETLINK_BROADCAST_ERROR, 1},
		} {
			if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
				return err
			}
		}
		for i := range all {
			f := numbered(i)
			if err := errors.Join(table.Create(&f), table.Delete(&f)); err != nil {
				return err
			}
		}
		seen := 0
		for f, err := range table.Dying(&flows.Filter{Transport: helpers.UDP}) {
			if err != nil {
				return err
			}
			if f.Orig.Dst != numbered(0).Orig.Dst || f.Status&flows.StatusDying == 0 {
				t.Errorf("%+v", f)
			}
			seen++
		}
		theirs, err := exec.Command("conntrack", "-L", "dying").Output()
		if n := strings.Count(string(theirs), "\n"); err != nil || seen == 0 || seen > all || n != seen {
			t.Errorf("%d of %d listed; conntrack(8) lists %d, %v", seen, all, n, err)
		}
		left, err := list(table, nil)
		if len(left) != 0 {
			t.Errorf("%d in the table", len(left))
		}
		return err
	})
}

// TestUnconfirmed lists what conntrack(8) does: nothing, from kernels that keep no such list.
func TestUnconfirmed(t *testing.T) {
	withTable(t, func(table *flows.Table) error {
		f := numbered(1)
		if err := table.Create(&f); err != nil {
			return err
		}
		var ours strings.Builder
		for f, err := range table.Unconfirmed(nil) {
			if err != nil {
				return err
			}
			fmt.Fprintln(&ours, f)
		}
		theirs, err := exec.Command("conntrack", "-L", "unconfirmed").Output()
		if ours.String() != string(theirs) {
			t.Errorf("%q, conntrack(8): %q", ours.String(), theirs)
		}
		return err
	})
}

// TestStats has the numbers of conntrack -S and -C.
func TestStats(t *testing.T) {
	ns := netnstest.New(t)
	ns.Run("nft", "add table ip t; add chain ip t c { type filter hook output priority 0; }; add rule ip t c ct state invalid drop")
	ns.Sysctl("net.netfilter.nf_conntrack_tcp_loose", "0") // what comes out of nowhere is invalid
	var ours strings.Builder
	var count, invalid uint32
	var err error
	ns.Do(func() {
		for range 20 {
			err = errors.Join(err, sendSegment(helpers.Tuple{Src: ap("127.0.0.1:7"), Dst: ap("127.0.0.1:9")}, 1, 2, ""))
		}
		var table *flows.Table
		if table, err = flows.Open(); err != nil {
			return
		}
		defer table.Close()
		for i := range 30 {
			f := numbered(i)
			err = errors.Join(err, table.Create(&f))
		}
		all, e := table.Stats()
		for _, s := range all {
			invalid += s.Invalid
			fmt.Fprintf(&ours, "cpu=%-4d\tfound=%d invalid=%d insert=%d insert_failed=%d drop=%d early_drop=%d error=%d search_restart=%d "+
				"clash_resolve=%d chaintoolong=%d \n", s.CPU, s.Found, s.Invalid, s.Insert, s.InsertFailed, s.Drop, s.EarlyDrop, s.Error,
				s.SearchRestart, s.ClashResolve, s.ChainTooLong)
		}
		count, _, err = table.Count()
		err = errors.Join(err, e)
	})
	if err != nil {
		t.Fatal(err)
	}
	if theirs := ns.Run("conntrack", "-S"); theirs != ours.String() || invalid < 20 {
		t.Errorf("\n%sconntrack -S:\n%s", ours.String(), theirs)
	}
	if theirs := strings.TrimSpace(ns.Run("conntrack", "-C")); theirs != fmt.Sprint(count) || count < 30 {
		t.Errorf("%d entries, conntrack -C: %s", count, theirs)
	}
}
