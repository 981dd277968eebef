// Package helpers is the contract between cthelperd and a protocol helper: what a folder under helpers/ exports, what
// it is given, and what it may answer. It holds plain values only, so that a helper stays pure: no I/O, no goroutine,
// no clock. A helper speaks in the addresses that it reads; turning them into kernel tuples is package expect.
package helpers

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// A Protocol is what a folder under helpers/ exports, by func Protocol() helpers.Protocol. The programs take a slice
// of them; there is no registry.
type Protocol struct {
	Name    string // folder, section of the configuration, NAME of --port and --helper
	Options any    // pointer to a struct of defaults, decoded strictly from helpers.<Name>; nil: no options
	// Helpers makes the protocol's helpers from its decoded options (a value of the type of Options). An error says
	// which option is wrong, and begins with its key and a colon.
	Helpers func(options any) ([]Helper, error)
}

// Helper describes one parser: data and a constructor. A protocol that is spoken over both transports has one of the same
// name, classes and PerPair for each: then a pair's Session reads both.
type Helper struct {
	Name      string    // at most 11 bytes: the kernel's 15 less "cth-"
	Transport Transport // of the flows that it reads
	Ports     []uint16  // default server ports; empty if reached only by an expectation
	Classes   []Class   // 1 to 4; index from 0 = kernel class
	Backlog   int       // most unconsumed stream bytes kept per direction; 0: 4096
	PerPair   bool      // one Session for all flows of the name between two hosts (SIP); else one a flow
	Announced bool      // Expectation.Helper may name it: such connections are read too. Without Ports they are in any case
	New       func() Session
	Restore   func(state []byte) (Session, error) // of a Snapshotter; nil: a moved flow starts with Gap
}

// ReadsAnnounced tells whether connections of the helper may be announced.
func (h *Helper) ReadsAnnounced() bool { return h.Announced || len(h.Ports) == 0 }

// Class is a class of expectations, with the limits of NFCTH_POLICY (linux/netfilter/nfnetlink_cthelper.h).
type Class struct {
	Name    string
	Max     uint32        // pending at once per session
	Timeout time.Duration // how long an expectation waits for its connection
}

// A Session lives while it has a flow, or a Group of it has not run out. Calls are serialised.
type Session interface {
	// Inspect looks at the next bytes of a flow and appends to out, which the caller empties and uses again. It
	// keeps neither seg nor seg.Data. An error is a *ParseError or wraps ErrForeign; the packet passes all the same.
	Inspect(seg *Segment, out *Result) error
	// Close says that a flow ended (FIN, RST, conntrack entry gone).
	Close(id FlowID, out *Result)
}

// A Rewriter's payload carries addresses. Rewrite is called under NAT only, straight after the Inspect that it belongs
// to, with the same seg, whether or not anything was announced (Via, Contact …). The edits are sorted and disjoint and
// lie in the bytes that Inspect consumed.
type Rewriter interface {
	Rewrite(seg *Segment, nat NAT, edits []Edit) []Edit
}

// NAT tells a Rewriter what the reader of the segment must see. It is valid during the call.
type NAT interface {
	// At is where Result.Expect[i].To is seen from the other side; false: it was refused, leave its bytes.
	At(i int) (netip.AddrPort, bool)
	// Translate is what the reader of this segment must see for a; false: unchanged.
	Translate(a netip.AddrPort) (netip.AddrPort, bool)
}

// A Snapshotter can move to another process or node. The first byte is a version. No clocks, no pointers.
type Snapshotter interface{ encoding.BinaryAppender }

// FlowID names a flow among those of one Session.
type FlowID uint64

// Tuple is one direction of a flow.
type Tuple struct{ Src, Dst netip.AddrPort }

// Turned is the tuple of the answer.
func (t Tuple) Turned() Tuple { return Tuple{Src: t.Dst, Dst: t.Src} }

// String is src>dst, IPv6 in brackets.
func (t Tuple) String() string { return t.Src.String() + ">" + t.Dst.String() }

// Flow is a tracked connection as conntrack knows it.
type Flow struct {
	ID          FlowID
	Transport   Transport
	Orig, Reply Tuple        // without NAT, Reply is Orig turned round
	Late        bool         // its first bytes were not seen
	Announced   *Expectation // a copy of the expectation that led here; nil: found by its port
}

// Peer is the address by which the owner of dir's end of f knows the other end: what a segment of dir may name.
func (f *Flow) Peer(dir Dir) netip.AddrPort {
	if dir == Original {
		return f.Orig.Dst
	}
	return f.Reply.Dst
}

// Own is dir's own end point as its owner knows it, before any NAT.
func (f *Flow) Own(dir Dir) netip.AddrPort {
	if dir == Original {
		return f.Orig.Src
	}
	return f.Reply.Src
}

// Segment is what Inspect looks at. It is valid during the call.
type Segment struct {
	Flow *Flow
	Dir  Dir       // Original or Reply: who sent Data
	Data []byte    // a datagram, or the stream bytes not yet consumed, the newest last; may be empty if Gap or End
	Gap  bool      // stream bytes before Data are lost (joined late, lost, too long)
	End  bool      // no byte will follow in this direction
	Time time.Time // arrival, or capture time in a replay: a helper never asks the clock
}

// Result is what Inspect found. The caller owns and reuses it.
type Result struct {
	Consumed int           // the rest comes back with more behind it; may exceed len(Data): the excess is skipped unread (TLS record, RTSP frame)
	Hold     int           // the last Hold bytes of Data may still need an edit: under NAT they wait for more
	Expect   []Expectation // in stream order
	Cancel   []Group       // in stream order; carried out before Expect
	Notes    []Note        // what became known later ("RETR pub/file")
}

// Reset empties r and keeps its memory.
func (r *Result) Reset() {
	r.Consumed, r.Hold = 0, 0
	r.Expect, r.Cancel, r.Notes = r.Expect[:0], r.Cancel[:0], r.Notes[:0]
}

// Group is a call and a stream of it. Cancel with Part 0 takes all of ID. Zero: none. Groups are scoped to a session
// and its children.
type Group struct{ ID, Part uint64 }

// Note is said of a Group after its announcement.
type Note struct {
	Group Group
	Text  string
}

// Expectation is one announced end point.
type Expectation struct {
	Class     uint8
	Transport Transport
	Owner     Dir            // whose end point To is; not always the sender (2xx of REGISTER, RCF, RTSP's answer)
	From      netip.AddrPort // who will connect, as the Owner knows him (Flow.Peer); a zero address or port matches any
	To        netip.AddrPort // as read in this segment, address and port whole; the engine translates back what a NAT had changed
	Paired    bool           // To's port and its partner (port^1) stay an even/odd pair, even if the partner comes later or never
	Permanent bool           // may match more than once (a registration)
	Reserve   bool           // only fix the outside port; nothing opens until it is announced again without Reserve
	Relayed   bool           // To may be another host's, if that has opened it to the sender, who passes it on to the reader
	Lasting   bool           // it stays open when its flow ends: what follows comes after that
	Timeout   time.Duration  // zero: the class's
	Group     Group
	Helper    string // helper for the new connection; empty: none
	Note      string
}

// Edit replaces Len bytes of seg.Data at Off by New.
type Edit struct {
	Off, Len int
	New      []byte
}

// ErrForeign says that the bytes are not of this protocol: the direction is never trusted again.
var ErrForeign = errors.New("not this protocol")

// ParseError refuses one message. Off is its place in seg.Data; Result.Consumed says where to go on.
type ParseError struct {
	Off int
	Err error
}

func (e *ParseError) Error() string { return fmt.Sprintf("at byte %d: %v", e.Off, e.Err) }
func (e *ParseError) Unwrap() error { return e.Err }

// Transport is an IP protocol number.
type Transport uint8

// The transports that conntrack knows expectations for here (IANA protocol numbers).
const (
	TCP Transport = 6
	UDP Transport = 17
)

func (t Transport) String() string {
	switch t {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return fmt.Sprintf("ip-protocol-%d", uint8(t))
}

// Dir is a direction of a flow (enum ip_conntrack_dir).
type Dir uint8

// Original is the direction of the flow's first packet, Reply the answers'.
const (
	Original Dir = 0
	Reply    Dir = 1
)

// Other is the opposite direction.
func (d Dir) Other() Dir { return d ^ 1 }

func (d Dir) String() string {
	if d == Original {
		return "orig"
	}
	return "reply"
}
