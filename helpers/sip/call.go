package sip

import (
	"net/netip"
	"slices"

	"github.com/cthelperd/cthelperd/helpers"
)

const (
	maxDialogs = 8   // of a call that forks
	maxOpen    = 4   // INVITE transactions of a call that are followed
	maxParts   = 128 // end points of a call that are remembered
	fewParts   = 16  // the same, when there are many calls
	maxLines   = 256 // m= lines of a session description that are read
)

// call is an entry of the table: a call, that is, all dialogs that one INVITE leads to (RFC 3261, section 12); or a
// registration.
type call struct {
	// What a look-up and the end of a call need comes first: each line of memory that is not there has to be waited for.
	hash  uint64
	heard uint32 // the table's clock at the latest message
	next  int32  // of entries that are not used
	key   key
	id    uint64 // Group.ID

	parts   []part
	dialogs []dialog
	lastID  uint16 // Group.Part of the latest part
	live    bool

	// Of a registration.
	clears bool // Contact: *
	cseq   uint32

	open  [maxOpen]transaction // INVITEs without a final answer that would begin the call
	asked [2]requests          // by host
	// generation counts the session descriptions that a host has sent one after the other, and which is the latest.
	generation [2]uint16
	latest     [2]exchange
	offered    [2]bool  // the latest is an offer without an answer
	_          [22]byte // entries are whole lines of memory
}

// dialog is one by the tag of the called side.
type dialog struct {
	tag       uint64
	confirmed bool // by a 2xx
}

// transaction is an INVITE that waits for its final answer, by the branch of its Via; zero: none.
type transaction struct {
	branch uint64
	cseq   uint32
}

// requests are the latest ones of a host that may carry an offer.
type requests struct {
	invite, other       uint32 // CSeq of the INVITE, and of the UPDATE or PRACK
	inviteSDP, otherSDP bool   // it offered something
	answers             bool   // the PRACK answered something
}

// exchange names a session description: repeated, it is the same.
type exchange struct {
	method method
	answer bool // it came in a response
	cseq   uint32
}

// part is an end point that was announced, or that is known: a Group.Part.
type part struct {
	to        netip.AddrPort
	transport helpers.Transport
	owner     host
	line      uint8 // m= line that it belongs to
	role      role
	quiet     bool // known, but not announced: nobody connects to it
	paired    bool
	secure    bool // of a registration: by TLS

	id         uint16
	born, seen uint16 // generations of its owner; of a registration, its series and the CSeq that last named it
	asked      int32  // of a registration: seconds; -1: the request does not say
	of         uint64 // the tag of its dialog; of a registration, what stands for the user of its URI
}

func (p *part) end() endPoint { return endPoint{p.to, p.transport} }

// role is what an end point of an m= line is for.
type role uint8

const (
	streamRole role = iota // the line's own port
	rtcpRole
	candidateRole
)

// inCall carries out a message of a method that belongs to calls.
func (s *session) inCall(seg *helpers.Segment, m *message, out *helpers.Result) {
	b := seg.Data
	if m.callID.len() > maxCallID {
		s.fail(m.callID.off, errCallIDLong)
		return
	}
	by := hostOf(seg.Flow, seg.Dir)
	requester := by // who sent the request that the message is or answers
	if m.status > 0 {
		requester = by.other()
	}
	from, to := tagOf(m.fromTag.of(b)), tagOf(m.toTag.of(b))
	k, tag := key{callID: m.callID.of(b), tag: from, caller: requester}, to // the tag of the called side
	c := s.table.find(s.all.seed, &k)
	if c == nil && to != 0 { // a request of the called side
		back := key{callID: k.callID, tag: to, caller: requester.other()}
		if c = s.table.find(s.all.seed, &back); c != nil {
			tag = from
		}
	}
	if c == nil {
		if !m.begins() {
			return
		}
		c = s.begin(seg, &k, m, out)
	}
	if m.status > 0 {
		s.response(seg, m, c, by, tag, out)
	} else {
		s.request(seg, m, c, by, tag, out)
	}
}

// begins tells whether a message may be the first of a call that is seen.
func (m *message) begins() bool {
	switch m.method {
	case invite, update, prack, ack:
		return m.status == 0 && (m.method == invite && m.toTag.empty() || len(m.media) > 0) ||
			m.status > 100 && m.status < 300 && len(m.media) > 0
	}
	return false
}

// begin makes room for a call.
func (s *session) begin(seg *helpers.Segment, k *key, m *message, out *helpers.Result) *call {
	if s.table.used >= int(s.all.Calls) {
		s.fail(m.callID.off, errTooManyCalls)
		s.forget(s.table.oldest(), out)
	}
	c := s.table.add(s.all.seed, k)
	if s.last == 0 && seg.Flow.Announced != nil {
		s.last = familyOf(seg.Flow)
	}
	s.last++
	c.id = s.last
	return c
}

// familyOf is where the numbers of groups begin in a session that a registration led to. Its groups are known to the
// session of the registration too, whose numbers are lower, and to those of other callers.
func familyOf(f *helpers.Flow) uint64 {
	a, b := f.Orig.Src.Addr().As16(), f.Reply.Src.Addr().As16()
	return max(1, (tagOf(a[:])^tagOf(b[:]))>>32) << 32
}

// forget cancels all of a call.
func (s *session) forget(c *call, out *helpers.Result) {
	if slices.ContainsFunc(c.parts, func(p part) bool { return !p.quiet }) {
		out.Cancel = append(out.Cancel, helpers.Group{ID: c.id})
	}
	s.table.remove(c)
}

// before tells whether a CSeq is that of a message which has been late for longer than others; latest 0: none is known.
func before(cseq, latest uint32) bool { return latest != 0 && int32(cseq-latest) < 0 }

func (s *session) request(seg *helpers.Segment, m *message, c *call, by host, tag uint64, out *helpers.Result) {
	r := &c.asked[by]
	has := len(m.media) > 0
	switch m.method {
	case invite:
		if before(m.cseq, r.invite) {
			return
		}
		r.invite, r.inviteSDP = m.cseq, has
		if tag == 0 {
			c.opened(transaction{branchOf(m, seg.Data), m.cseq})
		}
		if has {
			s.described(seg, m, c, by, tag, false, false, out)
		}
	case update:
		if before(m.cseq, r.other) {
			return
		}
		r.other, r.otherSDP, r.answers = m.cseq, has, false
		if has {
			s.described(seg, m, c, by, tag, false, false, out)
		}
	case prack:
		if before(m.cseq, r.other) {
			return
		}
		if r.other != m.cseq {
			r.answers = has && c.offered[by.other()]
		}
		r.other, r.otherSDP = m.cseq, has && !r.answers
		if has {
			s.described(seg, m, c, by, tag, r.answers, r.answers, out)
		}
	case ack:
		if has {
			s.described(seg, m, c, by, tag, true, true, out)
		}
	case bye:
		s.hangUp(c, tag, out)
	case cancel:
		if c.answered(transaction{branchOf(m, seg.Data), m.cseq}) && !c.alive() {
			s.forget(c, out)
		}
	}
}

func (s *session) response(seg *helpers.Segment, m *message, c *call, by host, tag uint64, out *helpers.Result) {
	r := &c.asked[by.other()]
	final := m.status >= 200
	has := len(m.media) > 0
	switch m.method {
	case invite:
		switch {
		case m.status >= 300:
			s.failedInvite(seg, m, c, by, tag, out)
			return
		case m.status == 100 || before(m.cseq, r.invite):
			return
		}
		if by != c.key.caller && (tag != 0 || final) {
			d := c.dialog(tag)
			if final {
				d.confirmed = true
				c.answered(transaction{branchOf(m, seg.Data), m.cseq})
			}
		}
		answers := r.inviteSDP && r.invite == m.cseq
		if has {
			s.described(seg, m, c, by, tag, answers, answers && final, out)
		} else if final && answers {
			s.settle(c, tag, out)
		}
	case update, prack:
		switch {
		case before(m.cseq, r.other):
		case m.status >= 300 && r.other == m.cseq && r.otherSDP:
			s.revert(c, by.other(), exchange{m.method, false, m.cseq}, out)
		case has && final && m.status < 300:
			s.described(seg, m, c, by, tag, r.otherSDP && r.other == m.cseq, true, out)
		}
	}
}

// branchOf stands for a transaction (RFC 3261, section 17.1.3); peers of RFC 2543 have the CSeq alone.
func branchOf(m *message, b []byte) uint64 {
	if m.branch.empty() {
		return 1
	}
	return tagOf(m.branch.of(b))
}

// opened notes an INVITE that begins the call, or begins it anew on another branch.
func (c *call) opened(t transaction) {
	free := 0
	for i, o := range c.open {
		switch {
		case o == t:
			return
		case o == transaction{}:
			free = i
		}
	}
	c.open[free] = t
}

// answered takes an INVITE out of those that wait, and tells whether it was among them.
func (c *call) answered(t transaction) bool {
	for i, o := range c.open {
		if o == t {
			c.open[i] = transaction{}
			return true
		}
	}
	return false
}

// confirmed tells whether a dialog is confirmed.
func (c *call) confirmed() bool {
	return slices.ContainsFunc(c.dialogs, func(d dialog) bool { return d.confirmed })
}

// alive tells whether the call may go on: an INVITE waits for its answer, or a dialog is confirmed.
func (c *call) alive() bool {
	return c.confirmed() || slices.ContainsFunc(c.open[:], func(t transaction) bool { return t != transaction{} })
}

// failedInvite carries out a final answer over 299.
func (s *session) failedInvite(seg *helpers.Segment, m *message, c *call, by host, tag uint64, out *helpers.Result) {
	t := transaction{branchOf(m, seg.Data), m.cseq}
	if c.answered(t) {
		s.endDialog(c, tag, out)
		return
	}
	if r := &c.asked[by.other()]; r.invite == m.cseq && r.inviteSDP { // of a re-INVITE: all stays as it was
		s.revert(c, by.other(), exchange{invite, false, m.cseq}, out)
	}
}

// dialog is the one of a tag, a new one if need be, for which another one that never came to be may have to go.
func (c *call) dialog(tag uint64) *dialog {
	for i := range c.dialogs {
		if c.dialogs[i].tag == tag {
			return &c.dialogs[i]
		}
	}
	if len(c.dialogs) == maxDialogs {
		i := max(0, slices.IndexFunc(c.dialogs, func(d dialog) bool { return !d.confirmed }))
		c.dialogs = slices.Delete(c.dialogs, i, i+1)
	}
	c.dialogs = append(c.dialogs, dialog{tag: tag})
	return &c.dialogs[len(c.dialogs)-1]
}

// hangUp carries out a BYE. One of a dialog that is not known is not believed if there are others. When the last one
// that was confirmed ends, the call does: what comes late of its INVITE does not keep it.
func (s *session) hangUp(c *call, tag uint64, out *helpers.Result) {
	if len(c.dialogs) > 0 && !slices.ContainsFunc(c.dialogs, func(d dialog) bool { return d.tag == tag }) {
		return
	}
	if c.confirmed() {
		c.dialogs = slices.DeleteFunc(c.dialogs, func(d dialog) bool { return d.tag == tag })
		if !c.confirmed() {
			s.forget(c, out)
			return
		}
	}
	s.endDialog(c, tag, out)
}

// endDialog takes down what the called side of a dialog has announced, or all if nothing else keeps the call alive.
func (s *session) endDialog(c *call, tag uint64, out *helpers.Result) {
	c.dialogs = slices.DeleteFunc(c.dialogs, func(d dialog) bool { return d.tag == tag })
	if !c.alive() {
		s.forget(c, out)
		return
	}
	c.drop(out, func(p *part) bool { return p.owner != c.key.caller && p.of == tag })
}

// drop cancels and forgets parts.
func (c *call) drop(out *helpers.Result, dead func(*part) bool) {
	kept := c.parts[:0]
	for i := range c.parts {
		p := &c.parts[i]
		if !dead(p) {
			kept = append(kept, *p)
		} else if !p.quiet {
			out.Cancel = append(out.Cancel, p.group(c))
		}
	}
	c.parts = kept
}

func (p *part) group(c *call) helpers.Group { return helpers.Group{ID: c.id, Part: uint64(p.id)} }
