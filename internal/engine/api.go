// Package engine turns packets of primary flows into announcements and verdicts: flows, stream order, sessions, policy,
// port mappings, the edit journal. It has no goroutine, no clock and no I/O of its own: a daemon and a replay drive the
// very same code, and so does the simulation in its tests.
package engine

import (
	"errors"
	"net/netip"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

// Packet is one packet as it was queued: at the end of postrouting or of input, behind NAT, or as captured.
type Packet struct {
	ID   uint64    // the caller's name for it; comes back in Verdict and Event: queue id in the daemon, frame number in a replay
	Time time.Time // arrival
	Data []byte    // from the IP header on; the engine copies what it needs beyond the call
	Conn *Conn     // what the queue said of its connection (NFQA_CT); nil: the engine asks Config.Lookup once a flow
	// Doubtful: it may have been queued before the newest entry that Vanished told of was gone. Then the kernel still moves
	// its numbers as that entry says.
	Doubtful bool
}

// Conn is a connection as conntrack knows it.
type Conn struct {
	Transport   helpers.Transport
	Orig, Reply helpers.Tuple
	Zone        uint16
	Mark        uint32
	Adjustable  bool         // the kernel can adjust this flow's sequence numbers (it has the extension); false: lengths must not change
	Adjust      [2]SeqAdjust // by helpers.Dir, what the kernel adjusts now
	Existing    bool         // known to have begun before the daemon or the capture did
	Unconfirmed bool         // conntrack enters it after the verdict only: nobody can look it up, nor adjust it
}

// SeqAdjust is the kernel's sequence adjustment of one direction (struct nf_ct_seqadj): segments behind Pos are moved
// by After, others by Before.
type SeqAdjust struct {
	Pos           uint32 // sequence number of the changed segment, as its sender numbers it
	Before, After int32
}

// Config is what an engine is made with and reloaded with.
type Config struct {
	Helpers []helpers.Helper // Ports resolved from the configuration
	Policy  Policy
	Limits  Limits
	// Lookup finds the connection of a packet that was seen, after NAT, with the tuple seen. An error: the packet passes.
	Lookup func(t helpers.Transport, seen helpers.Tuple) (Conn, error)
	// Missed says how many packets have passed unseen until now, or were dropped. It is asked when a connection is met
	// late of which nothing else says why, and at times when a stream has a hole; nil: only Overflowed tells.
	Missed func() uint64
	// Complete adds to what a packet (Packet.Conn) or Lookup says of a connection what costs more to know: Adjustable,
	// Existing. It is asked once a flow, and for connections only that a helper reads; nil: nothing is to be added.
	Complete func(*Conn)
	// Record gets every event in order, during the calls below. The event's bytes are valid during the call.
	Record func(*Event)
	// Wanted tells whether anybody wants to know now that an expectation was placed, refused or cancelled (Kind); nil: Record
	// is told. What nobody wants is not made.
	Wanted func(EventKind) bool
}

// ErrNotTracked is Lookup's answer if there is no such connection.
var ErrNotTracked = errors.New("connection is not tracked")

// Policy says who may announce what. It is the same for all helpers.
type Policy struct {
	RefuseLate bool           // flows whose beginning was not seen may not announce
	Foreign    []netip.Prefix // prefixes that may be announced though they are not the owner's address
	ForeignAny bool           // any address may be announced
	MinPort    uint16         // lowest port that may be announced; 0 means 1024
}

// Limits bound memory and what an attacker can open. Zero means the default.
type Limits struct {
	PerPeer   int           // pending expectations of one owner address (512)
	Total     int           // pending expectations of all (1024)
	Rate      int           // announcements a second and owner address, with a burst of twice that (256)
	Flows     int           // tracked flows (1 << 20)
	HoldTime  time.Duration // how long bytes wait for their edit (2 s)
	HoldBytes int           // held per direction (64 KiB)
	HoldSegs  int           // held per direction (48)
	HoldAll   int           // packets that wait in all flows together; the queue must hold more (1024)
	Ahead     int           // out-of-order bytes kept per direction (64 KiB)
	Memory    int           // stream bytes kept in all flows together (64 MiB)
}

// Step is what the caller has to do now: carry out Requests in order and hand the answers to Resume if Ticket is not
// zero; give the Verdicts, in order too, and as Request.After says. A Step and all it points to are valid until the next call of the engine.
type Step struct {
	Ticket   Ticket
	Requests []Request
	Verdicts []Verdict
}

// Ticket stands for packets that wait for answers.
type Ticket uint64

// Request is one change of the kernel's tables. Exactly one of the other fields is set.
type Request struct {
	After  int             // so many of the Step's Verdicts come first: their numbers fit the adjustments as they are
	Place  *expect.Request // answer: nil, expect.ErrTaken, expect.ErrFull or a failure
	Remove expect.ID       // take the expectation out; not there: no error
	Adjust *Adjust         // set the sequence adjustment, before the verdict of the packet that needs it
	Forget uint64          // the session is over: delete its shadow, and with it all that hangs on it
}

// Adjust sets one direction's sequence adjustment of the connection with the original tuple Orig.
type Adjust struct {
	Transport helpers.Transport
	Orig      helpers.Tuple
	Zone      uint16
	Dir       helpers.Dir
	SeqAdjust
}

// Verdict lets one packet go: traffic passes. Drop says when not.
type Verdict struct {
	ID   uint64
	Data []byte // nil: as it came; else the whole packet, checksums right
	// Drop: it is an answer that nobody has translated, because conntrack has lost its connection. It would not reach the
	// one it is for, but make an entry that is in the way of the connection's own, and have itself answered by a RST. Or
	// nobody knows what the kernel will do to its numbers (Packet.Doubtful). Or under NAT too many wait for bytes before
	// them that the wire has lost, or have waited until the sender's clock repeats them (Stats.Behind). TCP repeats it.
	Drop bool
}

// EventKind is what an Event tells. The strings are those of replay's JSON Lines.
type EventKind string

const (
	EventExpect  EventKind = "expect"
	EventCancel  EventKind = "cancel"
	EventRefuse  EventKind = "refuse"
	EventRelated EventKind = "related"
	EventNote    EventKind = "note"
	EventEdit    EventKind = "edit"
	EventError   EventKind = "error"
)

// Reason says why something was refused or cancelled, or what an error was.
type Reason string

const (
	RefuseForeignAddress Reason = "foreign-address"
	RefuseLowPort        Reason = "low-port"
	RefuseLimitFlow      Reason = "limit-flow"
	RefuseLimitPeer      Reason = "limit-peer"
	RefuseLimitTotal     Reason = "limit-total"
	RefuseRate           Reason = "rate"
	RefuseLate           Reason = "late"
	RefusePortTaken      Reason = "port-taken"
	RefuseLockIn         Reason = "lock-in"
	RefuseKernel         Reason = "kernel"    // the kernel refused: the packet passes unchanged
	RefuseNoAdjust       Reason = "no-adjust" // of another length: the kernel cannot adjust this flow, or not send it
	RefuseHeldOut        Reason = "held-out"  // its first bytes left, unchanged, before they could be rewritten

	CancelEnded     Reason = "ended"    // the helper said so
	CancelReplaced  Reason = "replaced" // the helper said so in the segment that announced a newer one
	CancelExpired   Reason = "expired"
	CancelEvicted   Reason = "evicted" // taken out by somebody else (the kernel, an administrator)
	CancelFlowEnded Reason = "flow-ended"

	ErrorForeign  Reason = "foreign"  // not the helper's protocol: this direction is not read any more
	ErrorParse    Reason = "parse"    // one message was not understood
	ErrorContract Reason = "contract" // the helper broke the contract; what it wanted was not done
)

// Event is the one record of what the engine saw and did: it feeds log, counters and replay's JSON Lines.
type Event struct {
	Kind      EventKind
	Packet    uint64    // Packet.ID that caused it; 0: none (a timer)
	Time      time.Time // of that packet, or of the Tick
	Helper    string
	Flow      helpers.Tuple // original tuple; of Related: the new flow's
	FlowProto helpers.Transport
	ID        expect.ID // of expect, cancel, related
	Dir       helpers.Dir
	Class     string // the class's name
	Transport helpers.Transport
	From, To  netip.AddrPort // as in expect.Request; To is the end point itself
	At        netip.AddrPort // where To is seen; equal to To without NAT
	Permanent bool
	Timeout   time.Duration
	Group     helpers.Group
	Note      string
	Reason    Reason
	Text      string // of errors: what was wrong
	Announced uint64 // of related: Packet.ID of the announcement
	Offset    int    // of edit and error: in the payload of the packet
	Old, New  []byte // of edit
}
