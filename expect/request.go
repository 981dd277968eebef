// Package expect is the table of expectations (nf_conntrack_expect): what an announcement compiles to, how it is put
// into the kernel on shadow masters, and the same table in memory for replays and tests.
//
// For programs of administrators there is [Open]: a [Table] lists, gets, creates, changes and deletes any [Expectation] of
// the calling thread's network namespace, and [Watch] tells of what happens to them, with package flows' kinds of events
// and errors. An Expectation prints as the line of conntrack -L expect. Its master is a connection of package flows' table
// that has a helper.
package expect

import (
	"errors"
	"net/netip"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
)

// ID names an expectation for the life of the engine that asked for it, its state file included.
type ID uint64

// Master is what a shadow master is made of: the session's helper and the flow in which the announcement was made.
type Master struct {
	Session     uint64 // a shadow belongs to a session, not to a flow
	Helper      string // helpers.Helper.Name; the label on the shadow is "cth-" and this name where the kernel has own objects
	Transport   helpers.Transport
	Orig, Reply helpers.Tuple // of the flow, NAT included
	Zone        uint16
	Mark        uint32
}

// Request is an announcement that policy has passed, in addresses of the network: everything that NAT changes has
// been worked out.
type Request struct {
	ID        ID
	Master    Master
	Class     uint8
	Transport helpers.Transport
	Toward    helpers.Dir    // of the expected connection, seen from the master: Original if its initiator stands on the master's initiator's side (nf_conntrack_expect.dir)
	From      netip.AddrPort // the initiator on his own side, before any NAT; zero address or port: any
	At        netip.AddrPort // destination of the first packet, before any NAT
	To        netip.AddrPort // the announced end point itself; differs from At where NAT stands between
	NAT       bool           // the master is under NAT: the expected connection is translated as the master is (nf_nat_follow_master)
	Permanent bool           // matches again and again
	Helper    string         // reads the expected connection: it hangs on a shadow of its own, by whose label (Reading) rules know it
	Timeout   time.Duration
}

// Errors of Place that the caller acts on; everything else is a failure of the kernel's and is counted as such.
var (
	// ErrTaken: an equal expectation, or a connection in its way, exists (EEXIST, EBUSY). Another port may do.
	ErrTaken = errors.New("expectation is taken")
	// ErrFull: the kernel's table (nf_conntrack_expect_max) or the helper's class is full. Nothing helps but waiting.
	ErrFull = errors.New("expectation table is full")
)
