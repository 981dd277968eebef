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

// BenchmarkAnnounce is PASV and its reply on one of many connections, another port each time, in batches as they come from a
// queue that has much to do.
func BenchmarkAnnounce(b *testing.B) {
	const flows = 5 * burst
	for _, nat := range []bool{false, true} {
		b.Run(fmt.Sprintf("nat=%v", nat), func(b *testing.B) {
			c := newClients(b, nat, login)
			c.run(0, flows)
			var last packet.View
			if err := last.Decode(c.packets[len(c.packets)-1].data); err != nil { // the client's acknowledgement
				b.Fatal(err)
			}
			var next [flows][2]uint32
			for i := range next {
				next[i] = [2]uint32{last.Seq(), last.Ack()}
			}
			steps := engine.Batch{Engine: c.e, Table: willing{}}
			var data [burst][]byte
			send := func(dir helpers.Dir, first int, text func() string) {
				for i := range data {
					n, line := first+i, text()
					c.conn = c.of(n)
					data[i] = tcpPacket(c.seen(&c.conn, dir), packet.ACK, next[n][dir], next[n][dir.Other()], line)
					next[n][dir] += uint32(len(line))
				}
				b.StartTimer()
				c.e.Prepare(data[:])
				for i := range data {
					c.conn = c.of(first + i)
					steps.Add(c.e.Handle(engine.Packet{ID: uint64(i), Time: c.now, Data: data[i], Conn: &c.conn}))
				}
				steps.Do()
				b.StopTimer()
			}
			b.ReportAllocs()
			b.StopTimer()
			for n := 0; n < b.N; n += flows {
				for first := 0; first < flows; first += burst {
					send(orig, first, func() string { return "PASV\r\n" })
				}
				for first := 0; first < flows; first += burst {
					send(reply, first, func() string {
						n++
						host := c.conn.Reply.Src.Addr().As4()
						return fmt.Sprintf("227 Entering Passive Mode (%d,%d,%d,%d,%d,%d).\r\n",
							host[0], host[1], host[2], host[3], 100+n%100, n/100%100)
					})
				}
				n -= flows
			}
			if s := c.e.Stats(); s.Announced < uint64(b.N) || len(s.Refused) > 0 {
				b.Fatalf("%+v", s)
			}
		})
	}
}
