package h323

import (
	"net/netip"
	"slices"

	"github.com/cthelperd/cthelperd/helpers"
)

// maxUses bounds the end points that the channels of a call use. What is announced beyond is opened, but closed by the
// end of the call only.
const maxUses = 64

// channel is a logical channel, or the proposals of fastStart for one session.
type channel struct {
	opener helpers.Dir
	kind   channelKind
	number uint16 // forwardLogicalChannelNumber, or sessionID
}

type channelKind uint8

const (
	logical channelKind = iota
	fast                // number is a sessionID
	common              // CommunicationModeCommand: the MC's choice for all
)

// use says that a channel uses an end point.
type use struct {
	by        channel
	owner     helpers.Dir
	transport helpers.Transport
	end       netip.AddrPort
	part      uint32
}

// book is what is known of the channels of a call.
type book struct {
	uses []use
	odd  []opened
	last uint32 // part
}

// opened is what the opener of a channel has said that matters for the answer.
type opened struct {
	by       channel
	from     netip.Addr // he sends from a host that is neither of the connection's two; invalid: he does not
	reliable bool       // over TCP
}

// maxOdd bounds the channels of which there is such a thing to remember.
const maxOdd = 16

// part names an end point for as long as a channel uses it.
func (b *book) part(u use) uint32 {
	for i := range b.uses {
		if o := &b.uses[i]; o.owner == u.owner && o.transport == u.transport && o.end == u.end {
			if u.part = o.part; o.by == u.by {
				return u.part
			}
		}
	}
	if u.part == 0 {
		b.last = b.last%(1<<partBits-1-partMedia) + 1
		u.part = b.last
	}
	if len(b.uses) == maxUses {
		b.uses = slices.Delete(b.uses, 0, 1)
	}
	b.uses = append(b.uses, u)
	return u.part
}

// close forgets channels and tells which parts nothing uses any more.
func (b *book) close(gone func(channel) bool, unused func(part uint32)) {
	b.odd = slices.DeleteFunc(b.odd, func(o opened) bool { return gone(o.by) })
	kept := b.uses[:0]
	var last [maxUses]uint32
	parts := last[:0]
	for _, u := range b.uses {
		if gone(u.by) {
			parts = append(parts, u.part)
		} else {
			kept = append(kept, u)
		}
	}
	b.uses = kept
	slices.Sort(parts)
	for _, p := range slices.Compact(parts) {
		if !slices.ContainsFunc(b.uses, func(u use) bool { return u.part == p }) {
			unused(p)
		}
	}
}

// open is what is remembered of a channel.
func (b *book) open(by channel) *opened {
	if o := b.opened(by); o != nil {
		return o
	}
	if len(b.odd) == maxOdd {
		b.odd = slices.Delete(b.odd, 0, 1)
	}
	b.odd = append(b.odd, opened{by: by})
	return &b.odd[len(b.odd)-1]
}

// opened is the same, if there is anything.
func (b *book) opened(by channel) *opened {
	i := slices.IndexFunc(b.odd, func(o opened) bool { return o.by == by })
	if i < 0 {
		return nil
	}
	return &b.odd[i]
}
