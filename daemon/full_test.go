package daemon_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// The kernel counts entries and expectations of each network namespace for itself, and compares with one limit for all.
// So a namespace can be filled without a harm to others.

// sysctl reads a number below /proc/sys/net/netfilter.
func sysctl(t *testing.T, name string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// filler is an entry of no connection: 198.18.0.0/15 is for tests (RFC 2544). An in-kernel helper's name is wanted only to
// hang expectations on some of them.
func filler(i int) nfnl.Connection {
	from := netip.AddrFrom4([4]byte{198, 18, byte(i >> 16), byte(i >> 8)})
	to := netip.AddrFrom4([4]byte{198, 19, 0, byte(i)})
	return nfnl.Connection{
		Orig:    nfnl.Tuple{Src: from, Dst: to, Proto: unix.IPPROTO_UDP, SrcPort: 7, DstPort: 7},
		Reply:   nfnl.Tuple{Src: to, Dst: from, Proto: unix.IPPROTO_UDP, SrcPort: 7, DstPort: 7},
		Timeout: 600, Helper: "RAS",
	}
}

const fillBatch = 128

// fill makes entries until the kernel takes no more. No event tells of them: they are many.
func (b *bed) fill(most int) (n int) {
	b.t.Helper()
	const events = "net.netfilter.nf_conntrack_events"
	b.firewall.Sysctl(events, "0")
	defer b.firewall.Sysctl(events, "2")
	b.nfnl(func(conn *nfnl.Conn) error {
		for n <= most {
			batch := conn.Begin()
			for i := range fillBatch {
				c := filler(n + i)
				batch.CreateConnection(&c)
			}
			err := batch.Do()
			for i := range fillBatch {
				if e := batch.Errno(i); e == unix.ENOMEM {
					return nil
				} else if e != 0 {
					return errors.Join(err, batch.Err(i))
				}
				n++
			}
		}
		return fmt.Errorf("the connection table takes more than %d entries", most)
	})
	return n
}

// enter makes n entries.
func (b *bed) enter(n int) {
	b.t.Helper()
	b.fillers(n, func(batch *nfnl.Batch, c *nfnl.Connection) { batch.CreateConnection(c) })
}

// drain takes n entries of fill away.
func (b *bed) drain(n int) {
	b.t.Helper()
	b.fillers(n, func(batch *nfnl.Batch, c *nfnl.Connection) { batch.DeleteConnection(&c.Orig, 0) })
}

// fillers does the same with n entries, many at once.
func (b *bed) fillers(n int, do func(*nfnl.Batch, *nfnl.Connection)) {
	b.t.Helper()
	b.nfnl(func(conn *nfnl.Conn) error {
		for at := 0; at < n; at += fillBatch {
			batch := conn.Begin()
			for i := at; i < min(n, at+fillBatch); i++ {
				c := filler(i)
				do(batch, &c)
			}
			if err := batch.Do(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *bed) nfnl(f func(*nfnl.Conn) error) {
	b.t.Helper()
	var err error
	b.firewall.Do(func() {
		var conn *nfnl.Conn
		if conn, err = nfnl.Dial(); err == nil {
			err = errors.Join(f(conn), conn.Close())
		}
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// A connection table that is full has no room for a shadow: announcements are refused, connections go on, and when there
// is room all is well.
func TestConntrackFull(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	most := sysctl(t, "nf_conntrack_max")
	if most > 1<<19 {
		t.Skipf("nf_conntrack_max is %d: it takes too much memory to fill the table", most)
	}
	d := b.run()
	c, e := b.connect(), b.connect()
	b.works("passive before", e.passive)
	n := b.fill(most)
	b.fails("an announcement that needs a shadow", c.passive)
	b.works("its control connection", c.alive)
	d.says("reason=kernel", 1)
	if got := d.counters(); got["refused.kernel"] == 0 {
		t.Errorf("counters %v, want refusals by the kernel", got)
	}
	b.drain(n)
	b.works("passive afterwards", c.passive)
	b.works("active afterwards", c.active)
	b.works("passive on a new connection", b.connect().passive)
	d.stop()
	b.wants("after the end", left{})
}

// fillExpectations makes masters with expectations until the kernel takes no more, and says how many; drain takes them
// away.
func (b *bed) fillExpectations() (masters int) {
	b.t.Helper()
	const each = 32 // RAS keeps so many on a master
	masters = (sysctl(b.t, "nf_conntrack_expect_max") + each - 1) / each
	b.nfnl(func(conn *nfnl.Conn) error {
		for i := range masters {
			master := filler(i)
			if err := conn.CreateConnection(&master); err != nil {
				return err
			}
			for port := range uint16(each) {
				one := master.Orig
				one.DstPort = 1 + port
				all := netip.AddrFrom4([4]byte{255, 255, 255, 255})
				err := conn.CreateExpectation(&nfnl.Expectation{
					Master: master.Orig, Tuple: one,
					Mask: nfnl.Tuple{Src: all, Dst: all, Proto: one.Proto, SrcPort: 0xffff, DstPort: 0xffff},
				})
				if errors.Is(err, unix.EMFILE) && i == masters-1 {
					return nil // what the daemon had counts too
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
	return masters
}

// A table of expectations that is full is the same, and named.
func TestExpectationsFull(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	d := b.run()
	c := b.connect()
	b.works("passive before", c.passive)
	masters := b.fillExpectations()
	b.fails("passive with a full table", c.passive)
	b.works("its control connection", c.alive)
	d.says("expectation table is full: nf_conntrack_expect_max", 1)
	if got := d.counters(); got["refused.kernel"] == 0 {
		t.Errorf("counters %v, want refusals by the kernel", got)
	}
	// Another network namespace has a table of its own, though the limit is one.
	other := newBed(t, false)
	beside := other.run()
	other.works("passive in another namespace", other.connect().passive)
	beside.stop()
	b.drain(masters)
	b.works("passive afterwards", c.passive)
	b.works("active afterwards", c.active)
	d.stop()
	b.wants("after the end", left{})
}

// More happens to connections than the socket of the events holds while the daemon does not read: it says so, and finds
// out from the tables what it was not told.
func TestEventsLost(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	d := b.run()
	c := b.connect()
	b.works("passive before", c.passive)
	d.says("msg=related", 1)
	pending, unused := c.epsv(), b.connect()
	unused.epsv()
	d.pause()
	const many = 40000 // of them some ten thousand fit
	b.enter(many)
	data, err := c.dial(pending) // what tells of it does not fit
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	b.drain(many)
	if n := b.deleteShadows(); n != 2 {
		t.Errorf("%d shadows are deleted, want two", n)
	}
	d.signal(unix.SIGCONT)
	d.says("conntrack events were lost", 1)
	d.says("msg=related", 2)
	if got := d.counters(); got["events-lost"] == 0 || got["pending"] != 0 {
		t.Errorf("counters %v, want lost events and nothing pending", got)
	}
	b.works("passive afterwards", unused.passive)
	b.works("passive on a new connection", b.connect().passive)
	d.stop()
	b.wants("after the end", left{})
}
