package engine_test

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// clients are FTP clients of one server that have all said the same, so that a million of them can be made from the
// packets of one.
type clients struct {
	tb      testing.TB
	e       *engine.Engine
	list    []helpers.Helper
	nat     bool
	conn    engine.Conn
	now     time.Time
	packets []clientPacket
	id      uint64
}

type clientPacket struct {
	dir  helpers.Dir
	data []byte
}

var ftpServer = netip.MustParseAddrPort("198.51.100.9:21")

// login is what a client and its server say before they fall silent; "S: " is said by the server.
var login = []string{
	"S: 220 ready\r\n", "C: USER anonymous\r\n", "S: 331 password\r\n", "C: PASS guest@\r\n", "S: 230-welcome\r\n",
	"S: 230 logged in\r\n", "C: SYST\r\n", "S: 215 UNIX Type: L8\r\n", "C: PWD\r\n", "S: 257 \"/\"\r\n", "C: TYPE I\r\n", "S: 200 ok\r\n",
}

// listing is a passive transfer.
var listing = []string{
	"C: PASV\r\n", "S: 227 Entering Passive Mode (198,51,100,9,200,10)\r\n", "C: LIST\r\n", "S: 150 here it comes\r\n", "S: 226 done\r\n",
}

func newClients(tb testing.TB, nat bool, dialogue []string) *clients {
	list, err := ftp.Protocol().Helpers(nil)
	if err != nil {
		tb.Fatal(err)
	}
	e, err := engine.New(engine.Config{Helpers: list, Limits: engine.Limits{Rate: 1 << 30}})
	if err != nil {
		tb.Fatal(err)
	}
	c := &clients{tb: tb, e: e, list: list, nat: nat, now: time.Unix(1e9, 0)}
	c.conn = c.of(0)
	next := [2]uint32{1000, 5000}
	add := func(dir helpers.Dir, flags byte, text string) {
		data := tcpPacket(c.seen(&c.conn, dir), flags, next[dir], next[dir.Other()], text)
		next[dir] += uint32(len(text)) + uint32(flags>>1&1) // a SYN counts
		c.packets = append(c.packets, clientPacket{dir, data})
	}
	add(orig, packet.SYN, "")
	add(reply, packet.SYN|packet.ACK, "")
	add(orig, packet.ACK, "")
	for _, line := range dialogue {
		dir, text := orig, line[3:]
		if line[0] == 'S' {
			dir = reply
		}
		add(dir, packet.ACK|packet.PSH, text)
		add(dir.Other(), packet.ACK, "")
	}
	return c
}

// of is the connection of client n.
func (c *clients) of(n int) engine.Conn {
	client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 50000)
	o := helpers.Tuple{Src: client, Dst: ftpServer}
	conn := engine.Conn{Transport: helpers.TCP, Orig: o, Reply: o.Turned(), Adjustable: true}
	if c.nat {
		a := client.Addr().As4()
		a[0] = 203
		conn.Reply.Dst = netip.AddrPortFrom(netip.AddrFrom4(a), 50000)
	}
	return conn
}

// limit has the engine keep n flows.
func (c *clients) limit(n int) {
	if err := c.e.Reload(engine.Config{Helpers: c.list, Limits: engine.Limits{Flows: n}}); err != nil {
		c.tb.Fatal(err)
	}
}

func (c *clients) seen(conn *engine.Conn, dir helpers.Dir) helpers.Tuple {
	if dir == orig {
		return conn.Reply.Turned()
	}
	return conn.Orig.Turned()
}

// send hands packet i of client n to the engine.
func (c *clients) send(n, i int) {
	p := &c.packets[i]
	at := ipSource
	addr := [4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}
	if p.dir == reply {
		at = ipDestination
	} else if c.nat {
		addr[0] = 203
	}
	copy(p.data[at:], addr[:])
	c.conn = c.of(n)
	c.id++
	s := c.e.Handle(engine.Packet{ID: c.id, Time: c.now, Data: p.data, Conn: &c.conn})
	var announced *expect.Request
	for s.Ticket != 0 {
		if s.Requests[0].Place != nil {
			announced = s.Requests[0].Place
		}
		s = c.e.Resume(s.Ticket, make([]error, len(s.Requests)))
	}
	if len(s.Verdicts) != 1 {
		c.tb.Fatalf("client %d, packet %d: %+v", n, i, s)
	}
	if announced != nil { // and used at once
		data := engine.Conn{Transport: helpers.TCP, Orig: helpers.Tuple{Src: c.conn.Orig.Src, Dst: announced.At}}
		c.e.Related(data, 0, c.now)
	}
}

const (
	ipSource      = 12
	ipDestination = 16
)

// run has clients from..to say all that they have to say.
func (c *clients) run(from, to int) {
	for n := from; n < to; n++ {
		for i := range c.packets {
			c.send(n, i)
		}
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What is kept of streams takes no more memory than is allowed, however it is sent: single bytes behind holes, and long
// segments of which one byte is kept.
func TestStreamMemory(t *testing.T) {
	const flows, allowed = 1000, 1 << 20
	line := strings.Repeat("x", 60<<10) + "\n"
	for _, tt := range []struct {
		name string
		send func(*peerflow)
	}{
		{"single bytes", func(f *peerflow) {
			for i := range uint32(100) {
				f.raw(orig, packet.ACK, f.next[orig]+2*i+1, f.next[reply], "x")
			}
		}},
		{"long segments", func(f *peerflow) {
			f.say(orig, "x")
			f.say(orig, line+"x")
		}},
	} {
		b := newBed(t, func(c *engine.Config) { c.Limits.Memory = allowed })
		b.take = func(s *engine.Step) {
			for _, v := range s.Verdicts {
				delete(b.open, v.ID)
			}
		}
		var last *peerflow
		open := func(n int) *peerflow {
			c := plainConn(helpers.TCP)
			c.Orig.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}), 5000)
			c.Reply.Dst = c.Orig.Src
			return b.tcp(c, 1000)
		}
		var all []*peerflow
		for n := range flows {
			last = open(n)
			all = append(all, last)
		}
		before := heap()
		for _, f := range all {
			tt.send(f)
		}
		const extra = 400 // a flow that has anything has this, too
		if used := int(heap() - before); used > 3*allowed/2+flows*extra {
			t.Errorf("%s: %d bytes are kept, and %d are allowed", tt.name, used, allowed)
		}
		if n := b.e.Memory(); n == 0 || n > allowed {
			t.Errorf("%s: the engine counts %d", tt.name, n)
		}
		runtime.KeepAlive(b)
		runtime.KeepAlive(all)
	}
}

const resident = "CTHELPERD_TEST_RESIDENT" // set: the process is the child of TestResident

// The most memory that a million flows ever take, in a process of their own: while they come, and while as many others
// take their places.
func TestResident(t *testing.T) {
	const flows, most = 1000000, 600 << 20
	if os.Getenv(resident) != "" {
		debug.SetGCPercent(engine.GCPercent)
		c := newClients(t, false, login[:2])
		c.limit(flows)
		c.run(0, 2*flows)
		if n := c.e.Stats().Flows; n != flows {
			t.Fatalf("%d flows", n)
		}
		runtime.KeepAlive(c)
		return
	}
	if testing.Short() || raced() {
		t.Skip("it takes seconds, and the race detector takes memory of its own")
	}
	child := exec.Command(os.Args[0], "-test.run=^TestResident$", "-test.v")
	child.Env = append(os.Environ(), resident+"=1")
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	peak := child.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10 // getrusage(2): in KiB
	t.Logf("%d MiB", peak>>20)
	if peak > most {
		t.Errorf("%d MiB resident at the peak, more than %d", peak>>20, most>>20)
	}
}

// raced tells whether the race detector is in the program.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-race" && s.Value == "true" {
			return true
		}
	}
	return false
}
