package engine

import (
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

// Engine is one shard: it handles the packets of one queue, one call at a time.
type Engine struct{}

// New makes an engine. An error names the helper that breaks the contract (two helpers on a port, a name too long).
func New(cfg Config) (*Engine, error) { panic("todo") }

// Handle takes one packet.
func (e *Engine) Handle(p Packet) *Step { panic("todo") }

// Resume goes on where a Step with a Ticket stopped; answers are those to its Requests, one each, in order.
func (e *Engine) Resume(t Ticket, answers []error) *Step { panic("todo") }

// Tick lets go what waited too long and expires what has run out at now.
func (e *Engine) Tick(now time.Time) *Step { panic("todo") }

// Next is when Tick has something to do; zero: nothing waits.
func (e *Engine) Next() time.Time { panic("todo") }

// Related says that the table met an expectation: c is the new connection, first seen in packet (0: not known). A
// connection that no expectation of this engine led to is ignored.
func (e *Engine) Related(c Conn, packet uint64, now time.Time) *Step { panic("todo") }

// Gone says that the table lost an expectation that was neither used nor removed by this engine.
func (e *Engine) Gone(id expect.ID, now time.Time) *Step { panic("todo") }

// Ended says that conntrack has no such connection any more; orig is its original tuple.
func (e *Engine) Ended(t helpers.Transport, orig helpers.Tuple, zone uint16, now time.Time) *Step {
	panic("todo")
}

// Reload changes helpers, policy and limits for what comes; flows and what they announced live on.
func (e *Engine) Reload(cfg Config) error { panic("todo") }

// Release gives the verdicts of all packets that wait, unchanged: before the process leaves its state to the next one.
func (e *Engine) Release() *Step { panic("todo") }

// Stop releases all packets and asks to remove all expectations and shadows. The engine is empty afterwards.
func (e *Engine) Stop(now time.Time) *Step { panic("todo") }

// Save is the state of sessions, mappings, journals and pending expectations, for Load in another process.
func (e *Engine) Save() ([]byte, error) { panic("todo") }

// Load takes over what Save wrote. It fails as a whole or not at all.
func (e *Engine) Load(state []byte) error { panic("todo") }

// Stats is a copy of the engine's counters and gauges.
func (e *Engine) Stats() Stats { panic("todo") }

// Stats counts since the engine was made.
type Stats struct {
	Packets, Unknown, Undecodable uint64            // received; of no connection that is read; not IP, TCP or UDP that could be read
	Announced, Related            uint64            // expectations placed; used
	Refused                       map[Reason]uint64 // by reason
	Errors                        map[string]uint64 // by helper name
	Gaps, HeldOut                 uint64            // stream bytes lost; packets whose bytes waited and left unchanged
	Edits                         uint64
	Flows, Sessions, Pending      int // now
}
