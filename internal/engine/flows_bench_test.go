package engine_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// chat has logged-in clients say NOOP and be answered, any of them at any time, as long as one likes.
type chat struct {
	*clients
	said    []uint16 // by client: packets up to now
	base    [2]uint32
	packets [4][]byte
}

const (
	noop = "NOOP\r\n"
	fine = "200 ok\r\n"
)

func newChat(tb testing.TB, nat bool, flows int) *chat {
	h := &chat{clients: newClients(tb, nat, login[:2]), said: make([]uint16, flows)}
	h.run(0, flows)
	var v packet.View
	if err := v.Decode(h.clients.packets[len(h.clients.packets)-1].data); err != nil { // the server's last acknowledgement
		tb.Fatal(err)
	}
	h.base = [2]uint32{v.Ack(), v.Seq()}
	for i, text := range [...]string{noop, "", fine, ""} {
		h.packets[i] = tcpPacket(h.seen(&h.conn, chatDir(i)), packet.ACK, 0, 0, text)
	}
	return h
}

// chatDir is who sends packet i of a round: the command, its acknowledgement, the reply, its acknowledgement.
func chatDir(i int) helpers.Dir { return helpers.Dir((i + i/2) & 1) }

// make puts the next packet of client n into b.
func (h *chat) make(b []byte, n int) []byte {
	i, round := int(h.said[n]&3), uint32(h.said[n]>>2)
	h.said[n]++
	data := b[:copy(b, h.packets[i])]
	at, addr := ipSource, [4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}
	client, server := h.base[0]+round*uint32(len(noop)), h.base[1]+round*uint32(len(fine))
	if i > 0 {
		client += uint32(len(noop))
	}
	if i > 2 {
		server += uint32(len(fine))
	}
	l4 := data[ipHeader:]
	if chatDir(i) == reply {
		at = ipDestination
		client, server = server, client
	} else if h.nat {
		addr[0] = 203
	}
	copy(data[at:], addr[:])
	binary.BigEndian.PutUint32(l4[4:], client)
	binary.BigEndian.PutUint32(l4[8:], server)
	return data
}

func (h *chat) handle(n int, data []byte, conn bool) {
	p := engine.Packet{ID: uint64(n), Time: h.now, Data: data}
	if conn {
		h.conn = h.of(n)
		p.Conn = &h.conn
	}
	if s := h.e.Handle(p); len(s.Verdicts) != 1 || s.Ticket != 0 || s.Verdicts[0].Data != nil {
		h.tb.Fatalf("client %d: %+v", n, s)
	}
}

const ipHeader = 20

// burst is how many packets come at once from a queue that has much to do.
const burst = 64

// The time of a packet among few and among many flows, any of which it may be of. The ratio to the first is what the
// caches and the look-up cost.
func BenchmarkFlows(b *testing.B) {
	for _, prepared := range []bool{false, true} {
		first := 0.0
		for _, flows := range []int{1000, 10000, 200000, 1000000} {
			b.Run(fmt.Sprintf("prepared=%v/%d", prepared, flows), func(b *testing.B) {
				h := newChat(b, false, flows)
				rnd := rand.New(rand.NewPCG(1, uint64(flows)))
				var who [burst]int
				var data [burst][]byte
				var memory [burst][64]byte
				at := burst
				b.ReportAllocs()
				for b.Loop() {
					if at == burst {
						for i := range who {
							who[i] = rnd.IntN(flows)
							data[i] = h.make(memory[i][:], who[i])
						}
						at = 0
						if prepared {
							h.e.Prepare(data[:])
						}
					}
					h.handle(who[at], data[at], false)
					at++
				}
				each := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
				if first == 0 {
					first = each
				}
				b.ReportMetric(each/first, "of-first")
				if s := h.e.Stats(); s.Flows != flows || s.Errors["ftp"]+s.Gaps > 0 {
					b.Fatalf("%+v", s)
				}
			})
		}
	}
}
