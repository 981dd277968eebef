// Package replay runs the engine over a capture: what it prints is what the daemon would do. A small connection table
// stands for the kernel's, package expect's memory for its table of expectations, and the capture's time for the clock.
package replay

import (
	"errors"
	"io"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/capture"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// Options say how to replay.
type Options struct {
	Engine engine.Config // Record and Lookup are the replay's own
	NAT    []Translation
}

// Run replays one capture; file is its name in the records that emit gets, in frame order. Errors are those of package
// capture, after all that could be read was replayed, of engine.New, and of emit.
func Run(file string, from io.Reader, opt Options, emit func(*Record) error) (capture.Stats, error) {
	frames, err := capture.NewReader(from)
	if err != nil {
		return capture.Stats{}, err
	}
	r := &run{file: file, emit: emit, memory: expect.NewMemory(), nat: newTranslator(opt.NAT)}
	r.connections = newConnections(serverPorts(opt.Engine.Helpers), r.nat, r.ended)
	cfg := opt.Engine
	cfg.Record, cfg.Lookup = r.record, nil // every packet comes with its connection
	if r.engine, err = engine.New(cfg); err != nil {
		return capture.Stats{}, err
	}
	for {
		f, err := frames.Next()
		if errors.Is(err, io.EOF) {
			return frames.Stats(), r.failed
		}
		if err != nil {
			return frames.Stats(), errors.Join(r.failed, err)
		}
		if r.frame(f); r.failed != nil {
			return frames.Stats(), r.failed
		}
	}
}

// serverPorts says which ports are some helper's.
func serverPorts(all []helpers.Helper) func(helpers.Transport, uint16) bool {
	type port struct {
		transport helpers.Transport
		number    uint16
	}
	known := map[port]bool{}
	for _, h := range all {
		for _, p := range h.Ports {
			known[port{h.Transport, p}] = true
		}
	}
	return func(t helpers.Transport, p uint16) bool { return known[port{t, p}] }
}

// run is one capture's replay.
type run struct {
	file        string
	emit        func(*Record) error
	failed      error // the first of emit's
	engine      *engine.Engine
	memory      *expect.Memory
	nat         *translator
	connections *connections
	current     capture.Frame
	now         time.Time // never goes back, though a capture's time may
	scratch     []byte
}

// frame replays one frame: first what ran out before it, then a connection that it opens, then its packet.
func (r *run) frame(f capture.Frame) {
	r.current = f
	if f.Time.After(r.now) {
		r.now = f.Time
	}
	r.tick()
	r.connections.expire(r.now)
	if f.IP == nil {
		return
	}
	h, ok := parseHeader(f.IP)
	if !ok {
		return
	}
	conn, dir, fresh := r.connections.packet(&h, r.now)
	if conn == nil {
		return
	}
	if fresh {
		r.related(conn)
	}
	r.drive(r.engine.Handle(engine.Packet{
		ID: f.Number, Time: r.now, Data: r.seen(f.IP, &h, conn, dir), Conn: &conn.Conn,
	}))
}

// tick lets the engine's time pass, one due moment after the other, so that each has its own time.
func (r *run) tick() {
	for {
		next := r.engine.Next()
		if next.IsZero() || next.After(r.now) {
			return
		}
		r.drive(r.engine.Tick(next))
		if r.engine.Next().Equal(next) { // never twice for one moment
			r.drive(r.engine.Tick(r.now))
			return
		}
	}
}

// related tells the engine of a new connection that an expectation waited for.
func (r *run) related(conn *connection) {
	if _, ok := r.memory.Match(conn.Transport, conn.Orig); ok {
		r.drive(r.engine.Related(conn.Conn, r.current.Number, r.now))
	}
}

// seen is the packet as a queue behind NAT shows it: from the address that its receiver knows the sender by, and
// acknowledging what the receiver of rewritten bytes got.
func (r *run) seen(b []byte, h *header, conn *connection, dir helpers.Dir) []byte {
	src, ack := conn.Reply.Dst, conn.acknowledged(dir.Other(), h.ack)
	if dir == helpers.Reply {
		src = conn.Orig.Dst
	}
	if src == h.tuple.Src && ack == h.ack {
		return b
	}
	r.scratch = append(r.scratch[:0], b...)
	h.readdress(r.scratch, src, ack)
	return r.scratch
}

func (r *run) drive(s *engine.Step) { engine.Drive(r.engine, s, r, nil) }

// ended tells the engine that the connection table forgot a connection.
func (r *run) ended(conn *connection) {
	r.drive(r.engine.Ended(conn.Transport, conn.Orig, 0, r.now))
}

// Do carries out requests of the engine in memory.
func (r *run) Do(requests []engine.Request, answers []error) {
	for i := range requests {
		answers[i] = r.carryOut(&requests[i])
	}
}

func (r *run) carryOut(q *engine.Request) error {
	switch {
	case q.Place != nil:
		if err := r.memory.Place(*q.Place); err != nil {
			return err
		}
		r.nat.announce(q.Place)
	case q.Remove != 0:
		r.nat.withdraw(func(id expect.ID, _ uint64) bool { return id == q.Remove })
		return r.memory.Remove(q.Remove)
	case q.Adjust != nil:
		if conn := r.connections.origs[connKey{q.Adjust.Transport, q.Adjust.Orig}]; conn != nil {
			conn.adjust(q.Adjust.Dir, q.Adjust.SeqAdjust)
		}
	case q.Forget != 0:
		r.nat.withdraw(func(_ expect.ID, session uint64) bool { return session == q.Forget })
		return r.memory.Forget(q.Forget)
	}
	return nil
}

func (r *run) record(ev *engine.Event) {
	if r.failed != nil {
		return
	}
	frame, when := ev.Packet, ev.Time
	if frame == 0 {
		frame = r.current.Number
	} else if frame == r.current.Number {
		when = r.current.Time
	}
	r.failed = r.emit(newRecord(r.file, frame, when, ev, len(r.nat.rules) > 0))
}
