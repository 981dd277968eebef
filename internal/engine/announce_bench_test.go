package engine_test

import (
	"fmt"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// willing is a table that does all that it is asked for, at no cost.
type willing struct{}

func (willing) Do(_ []engine.Request, answers []error) { clear(answers) }

// announcers are FTP connections that announce another port each time, in batches as they come from a queue that has much
// to do.
type announcers struct {
	*clients
	steps     engine.Batch
	next      [announcing][2]uint32
	announced int
}

const announcing = 5 * burst

func newAnnouncers(tb testing.TB, nat bool) *announcers {
	a := &announcers{clients: newClients(tb, nat, login)}
	a.run(0, announcing)
	var last packet.View
	if err := last.Decode(a.packets[len(a.packets)-1].data); err != nil { // the client's acknowledgement
		tb.Fatal(err)
	}
	for i := range a.next {
		a.next[i] = [2]uint32{last.Seq(), last.Ack()}
	}
	a.steps = engine.Batch{Engine: a.e, Table: willing{}}
	return a
}

// make makes the packets of a batch: PASV, or its reply, on each connection from first on.
func (a *announcers) make(dir helpers.Dir, first int) (data [burst][]byte) {
	for i := range data {
		c, line := a.of(first+i), "PASV\r\n"
		if dir == reply {
			n, host := a.announced, c.Reply.Src.Addr().As4()
			line = fmt.Sprintf("227 Entering Passive Mode (%d,%d,%d,%d,%d,%d).\r\n",
				host[0], host[1], host[2], host[3], 100+n%100, n/100%100)
			a.announced++
		}
		next := &a.next[first+i]
		data[i] = tcpPacket(a.seen(&c, dir), packet.ACK, next[dir], next[dir.Other()], line)
		next[dir] += uint32(len(line))
	}
	return data
}

func (a *announcers) handle(data *[burst][]byte, first int) {
	a.e.Prepare(data[:])
	for i := range data {
		a.conn = a.of(first + i)
		a.steps.Add(a.e.Handle(engine.Packet{ID: uint64(i), Time: a.now, Data: data[i], Conn: &a.conn}))
	}
	a.steps.Do()
}

func (a *announcers) check(least int) {
	a.tb.Helper()
	if s := a.e.Stats(); s.Announced < uint64(least) || len(s.Refused) > 0 {
		a.tb.Fatalf("%+v", s)
	}
}

// An announcement in the place of an earlier one leaves no garbage: beside it a collection costs much.
func TestAnnouncementDoesNotAllocate(t *testing.T) {
	if raced() {
		t.Skip("the race detector has more variables escape")
	}
	const warm, runs = 20, 50
	a := newAnnouncers(t, false)
	var batches [][burst][]byte
	for range warm + runs + 1 {
		batches = append(batches, a.make(orig, 0), a.make(reply, 0))
	}
	both := func() {
		a.handle(&batches[0], 0)
		a.handle(&batches[1], 0)
		batches = batches[2:]
	}
	for range warm { // tables have grown
		both()
	}
	// Tables of Go's are rebuilt now and then.
	if n := testing.AllocsPerRun(runs, both); n > burst/8 {
		t.Errorf("%v allocations for %d announcements", n, burst)
	}
	a.check((warm + runs + 1) * burst)
}

func BenchmarkAnnounce(b *testing.B) {
	for _, nat := range []bool{false, true} {
		b.Run(fmt.Sprintf("nat=%v", nat), func(b *testing.B) {
			a := newAnnouncers(b, nat)
			b.ReportAllocs()
			b.StopTimer()
			for a.announced < b.N {
				for _, dir := range []helpers.Dir{orig, reply} {
					for first := 0; first < announcing; first += burst {
						data := a.make(dir, first)
						b.StartTimer()
						a.handle(&data, first)
						b.StopTimer()
					}
				}
			}
			a.check(b.N)
		})
	}
}
