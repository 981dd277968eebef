package engine_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// move puts the engine's state into another engine.
func (b *bed) move(change func(*engine.Config)) {
	b.t.Helper()
	b.drive(b.e.Release())
	state, err := b.e.Save()
	if err != nil {
		b.t.Fatal(err)
	}
	b.e = b.engine(change)
	if err := b.e.Load(state); err != nil {
		b.t.Fatal(err)
	}
}

func TestState(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(snatConn(helpers.TCP), 1000)
	seq, ack := f.next[orig], f.next[reply]
	text := "open tcp 10.0.0.1:4000 group 1\n"
	first := f.say(orig, text)
	c := snatConn(helpers.UDP)
	b.udp(c, orig, "open udp 10.0.0.1:5000 group 1\n")
	early := "open tcp 10.0.0.1:4001 group 3\n"
	f.raw(orig, packet.ACK, f.next[orig]+9, ack, early) // behind a hole
	b.move(nil)
	b.events("expect tcp *>10.0.0.1:4000 at 203.0.113.1:4000", `edit orig 9 "10.0.0.1:4000" "203.0.113.1:4000"`,
		"expect udp *>10.0.0.1:5000 at 203.0.113.1:5000", `edit orig 9 "10.0.0.1:5000" "203.0.113.1:5000"`)

	// A late copy leaves as the first did.
	id := f.raw(orig, packet.ACK|packet.PSH, seq, ack, text)
	if string(b.out[id]) != string(b.out[first]) {
		t.Errorf("a copy left as\n%x\nthe first as\n%x", b.out[id], b.out[first])
	}
	if s := b.e.Stats(); s.Flows != 2 || s.Sessions != 2 || s.Pending != 2 {
		t.Errorf("%+v", s)
	}
	// The port of another client is still taken, that of the same group still the same.
	if got := b.payload(b.udp(otherClient(c), orig, "open udp 10.0.0.2:5000 group 1\n")); !strings.Contains(got, ":5001") {
		t.Errorf("another client was announced as %q", got)
	}
	if got := b.payload(b.udp(c, orig, "open udp 10.0.0.1:5000 group 1\n")); !strings.Contains(got, ":5000") {
		t.Errorf("a refresh was announced as %q", got)
	}
	f.say(orig, "cancel 1\n")
	f.next[orig] += uint32(len(early))
	f.say(orig, "open tcp 10.0.0.1:4002 group 2\n")
	b.pass(time.Minute)
	b.events("expect udp *>10.0.0.2:5000 at 203.0.113.1:5001", `edit orig 9 "10.0.0.2:5000" "203.0.113.1:5001"`,
		`edit orig 9 "10.0.0.1:5000" "203.0.113.1:5000"`,
		"cancel tcp *>10.0.0.1:4000 at 203.0.113.1:4000 ended",
		"refuse tcp *>10.0.0.1:4001 at 203.0.113.1:4001 held-out", // it left with Release
		"expect tcp *>10.0.0.1:4002 at 203.0.113.1:4002", `edit orig 9 "10.0.0.1:4002" "203.0.113.1:4002"`,
		"cancel udp *>10.0.0.1:5000 at 203.0.113.1:5000 expired", "cancel udp *>10.0.0.2:5000 at 203.0.113.1:5001 expired",
		"cancel tcp *>10.0.0.1:4002 at 203.0.113.1:4002 expired")
}

// A helper without state starts anew: with a gap, on a flow whose beginning it has not seen.
func TestStateWithoutSnapshot(t *testing.T) {
	without := func(c *engine.Config) { c.Helpers[0].Restore = nil }
	b := newBed(t, without)
	f := b.tcp(plainConn(helpers.TCP), 1000)
	f.say(orig, "open tcp 10.0.0.1:4000 group 1\nopen tcp 10.0.0")
	b.move(without)
	f.say(orig, ".1:4001\nopen tcp 10.0.0.1:4002 group 2\n")
	b.events("expect tcp *>10.0.0.1:4000", "expect tcp *>10.0.0.1:4002")
}

func TestStateOfAHelperThatIsNoMore(t *testing.T) {
	b := newBed(t, nil)
	b.tcp(plainConn(helpers.TCP), 1000).say(orig, "open tcp 10.0.0.1:4000 group 1\n")
	b.move(func(c *engine.Config) { c.Helpers = c.Helpers[1:] })
	b.done = nil
	b.pass(time.Second)
	if len(b.done) != 1 || b.done[0] != "forget" {
		t.Errorf("done: %q", b.done)
	}
}

func TestLoadRefuses(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(snatConn(helpers.TCP), 1000)
	f.say(orig, "open tcp 10.0.0.1:4000\nopen tcp 10.")
	b.drive(b.e.Release())
	state, err := b.e.Save()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.e.Load(state); err == nil {
		t.Error("an engine with flows took over others")
	}
	e := b.engine(nil)
	for name, bad := range map[string][]byte{
		"empty": {}, "another version": append([]byte{200}, state[1:]...), "cut": state[:len(state)/2], "nothing": state[:1],
	} {
		if err := e.Load(bad); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 3000 { // a file has a checksum; what goes round it must not panic
		bad := append([]byte(nil), state...)
		bad[1+rnd.IntN(len(bad)-1)] ^= byte(1 << rnd.IntN(8))
		if e := b.engine(nil); e.Load(bad) != nil && e.Stats().Flows+e.Stats().Sessions+e.Stats().Pending > 0 {
			t.Fatal("a state was loaded in part")
		}
	}
	if err := e.Load(state); err != nil || e.Stats().Flows != 1 {
		t.Errorf("the good state after the bad ones: %v, %+v", err, e.Stats())
	}
}

// Flows go on when the configuration changes.
func TestReload(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(plainConn(helpers.TCP), 1000)
	f.say(orig, "open tcp 10.0.0.1:4000\n")
	cfg := engine.Config{
		Helpers: []helpers.Helper{toyHelper("new", helpers.TCP, 2100)}, Policy: engine.Policy{MinPort: 5000},
		Record: func(ev *engine.Event) { b.log = append(b.log, ev.Helper+" "+line(ev)) },
	}
	if err := b.e.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	f.say(orig, "open tcp 10.0.0.1:4001\nopen tcp 10.0.0.1:5001\n")
	g := b.tcp(otherClient(plainConn(helpers.TCP)), 1000)
	g.say(reply, "open tcp 198.51.100.9:6001\n")
	b.events("expect tcp *>10.0.0.1:4000", "toy refuse tcp *>10.0.0.1:4001 low-port", "toy expect tcp *>10.0.0.1:5001",
		"new expect tcp *>198.51.100.9:6001")
	cfg.Helpers = append(cfg.Helpers, cfg.Helpers[0])
	if err := b.e.Reload(cfg); err == nil {
		t.Error("two helpers with one name were taken")
	}
	f.say(orig, "open tcp 10.0.0.1:5002\n")
	if n := b.e.Stats().Announced; n != 4 {
		t.Errorf("%d announced", n)
	}
}

// What the caller is asked is asked after Load, too.
func TestLoadKeepsTheCaller(t *testing.T) {
	completed, lookedUp, missed := 0, 0, 0
	caller := func(c *engine.Config) {
		c.Complete = func(*engine.Conn) { completed++ }
		c.Lookup = func(helpers.Transport, helpers.Tuple) (engine.Conn, error) {
			lookedUp++
			return engine.Conn{}, engine.ErrNotTracked
		}
		c.Missed = func() uint64 { missed++; return 0 }
	}
	b := newBed(t, caller)
	b.move(caller)
	b.late(plainConn(helpers.TCP), 1000).say(orig, "open tcp 10.0.0.1:4000\n")
	other := tcpPacket(otherClient(plainConn(helpers.TCP)).Orig, packet.ACK, 1, 1, "x")
	b.e.Handle(engine.Packet{ID: 100, Time: b.now, Data: other})
	b.events("refuse tcp *>10.0.0.1:4000 late")
	if completed == 0 || lookedUp == 0 || missed == 0 {
		t.Errorf("Complete was called %d times, Lookup %d, Missed %d", completed, lookedUp, missed)
	}
}

// Neither a direction that turned out foreign nor a connection that was met late without excuse is trusted by the next
// process.
func TestDistrustIsSaved(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(plainConn(helpers.TCP), 1000)
	f.say(orig, "foreign\n")
	late := b.late(otherClient(plainConn(helpers.TCP)), 1000)
	late.say(orig, "hello\n")
	b.move(nil)
	f.say(orig, "open tcp 10.0.0.1:4000\n")
	late.say(orig, "open tcp 10.0.0.2:4000\n")
	b.events("error orig 0 foreign", "refuse tcp *>10.0.0.2:4000 at 10.0.0.1:4000 late")
}
