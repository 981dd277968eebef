package daemon

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// TestExistingIsBounded: what is remembered of older connections is never more than there are, though the kernel does
// not say that they ended (nf_conntrack_events 0, or 2 for those that began while nobody listened).
func TestExistingIsBounded(t *testing.T) {
	cfg, err := config.Default([]helpers.Protocol{ftp.Protocol()})
	if err != nil {
		t.Fatal(err)
	}
	netnstest.New(t).Do(func() {
		tables := &tables{zones: zones{}, control: controlPorts(cfg)}
		if tables.flows, err = flows.Open(); err != nil {
			t.Error(err)
			return
		}
		defer tables.close()
		conn, err := nfnl.Dial()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.9")
		for round := range uint16(3) {
			e := nfnl.Connection{
				Orig:    nfnl.Tuple{Src: a, SrcPort: 50000 + round, Dst: b, DstPort: 21, Proto: unix.IPPROTO_TCP},
				Reply:   nfnl.Tuple{Src: b, SrcPort: 21, Dst: a, DstPort: 50000 + round, Proto: unix.IPPROTO_TCP},
				Timeout: 60,
			}
			for _, e.Helper = range []string{"Q.931", "irc", "sane", "ftp"} {
				if err = conn.CreateConnection(&e); err == nil {
					break
				}
			}
			if err != nil {
				t.Error(err)
				return
			}
			if err := tables.noteExisting(); err != nil {
				t.Error(err)
			}
			if n := len(tables.existing); n != 1 {
				t.Errorf("%d connections are remembered, there is one", n)
			}
			if err := conn.DeleteConnection(e.Orig, 0); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestPace: that events are lost all the time does not make the daemon compare tables all the time.
func TestPace(t *testing.T) {
	var p pace
	begin := time.Now()
	now, busy, times := begin, time.Duration(0), 0
	for now.Sub(begin) < time.Hour {
		p.lost++
		if !p.due(now) {
			now = now.Add(time.Millisecond)
			continue
		}
		const takes = 500 * time.Millisecond
		p.done(now, now.Add(takes))
		now, busy, times = now.Add(takes), busy+takes, times+1
		if p.due(now) {
			t.Fatal("due again at once")
		}
	}
	if busy > time.Hour/paceShare+time.Second || times < 100 {
		t.Errorf("compared %d times, for %v of an hour", times, busy)
	}
	now = now.Add(time.Hour)
	if p = (pace{}); p.due(now) {
		t.Error("due though nothing was lost")
	}
	p.lost++
	if !p.due(now) {
		t.Error("not due at once when something is lost for the first time")
	}
}

// TestAsks: the first questions of each second are answered anew, however many there are.
func TestAsks(t *testing.T) {
	var a asks
	now := time.Now()
	for second := range 3 {
		answered := 0
		for i := range 10 * asksPerSec {
			if a.may(now.Add(time.Duration(i) * 10 * time.Microsecond)) {
				answered++
			}
		}
		if answered != asksPerSec {
			t.Errorf("second %d: %d questions answered anew, want %d", second, answered, asksPerSec)
		}
		now = now.Add(time.Second)
	}
}

// noting is a queue with a verdict that is noted; sent tells what the connection's adjustment is when it is sent.
type noting struct {
	driver
	waits bool
	sent  func()
}

func (q *noting) Verdict(uint32, []byte) error {
	q.waits = true
	return nil
}

func (q *noting) Flush() error {
	if q.waits {
		q.waits = false
		q.sent()
	}
	return nil
}

// TestAdjustAfterVerdicts: the numbers of a packet that was given back fit the adjustment as it was. So it leaves before
// that changes, whatever queue it came from.
func TestAdjustAfterVerdicts(t *testing.T) {
	for _, together := range []bool{false, true} {
		netnstest.New(t).Do(func() {
			d := &daemon{tables: &tables{together: together}}
			defer func() { d.tables.close() }()
			var err error
			if d.tables.flows, err = flows.Open(); err != nil {
				t.Error(err)
				return
			}
			d.tables.flush = d.flush
			c := flows.Flow{Transport: helpers.TCP, Timeout: 60, Status: flows.StatusSeenReply}
			c.Orig.Src, c.Orig.Dst = netip.MustParseAddrPort("192.0.2.1:50000"), netip.MustParseAddrPort("198.51.100.9:5060")
			c.Reply = c.Orig.Turned()
			if err := d.tables.flows.Create(&c); err != nil {
				t.Error(err)
				return
			}
			after := func() int32 {
				f, err := d.tables.flows.Get(c.Transport, c.Orig, 0)
				if err != nil {
					t.Error(err)
				}
				return f.Adjust[helpers.Original].After
			}
			at := int32(-1)
			other := &noting{sent: func() { at = after() }}
			d.queues = []driver{&noting{}, other}
			d.verdict(engine.Verdict{ID: 1<<32 | 1})
			adjust := engine.Adjust{Transport: c.Transport, Orig: c.Orig, SeqAdjust: engine.SeqAdjust{Pos: 1, After: 7}}
			d.tables.Do([]engine.Request{{Adjust: &adjust}}, make([]error, 1))
			d.settle()
			if at != 0 || after() != 7 {
				t.Errorf("together %v: the verdict was sent with an adjustment by %d, which is %d then; want 0 and 7", together, at, after())
			}
		})
	}
}
