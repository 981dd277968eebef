package engine

import (
	"net/netip"
	"slices"

	"github.com/cthelperd/cthelperd/helpers"
)

const (
	maxDepth    = 4   // of children of children
	maxChildren = 128 // of a family at once
	maxQueue    = 16  // packets that wait while a session waits for answers
)

// helper is a helper in use. Flows keep theirs when the configuration is loaded anew.
type helper struct{ helpers.Helper }

// session is a helper's session, what it announced, and what waits for it.
type session struct {
	id      uint64
	helper  *helper
	impl    helpers.Session
	family  *family
	pair    pair // of a helper with one session for two hosts
	depth   int
	flows   int
	entries []*entry
	job     *job // waits for answers; nil: not busy
	queue   []Packet
	shadow  bool // something was placed: there is a shadow to be forgotten
	over    bool
}

// family is a session with its children and theirs. Groups are the family's.
type family struct{ sessions []*session }

// pair names the session of two hosts.
type pair struct {
	helper string
	a, b   [16]byte
	ipv6   bool
	zone   uint16
}

func pairOf(h *helper, a, b netip.Addr, zone uint16) pair {
	if b.Less(a) {
		a, b = b, a
	}
	return pair{h.Name, a.As16(), b.As16(), a.Is6(), zone}
}

// sessionFor makes or finds the session of a new flow, which the expectation by led to; nil: too many.
func (e *Engine) sessionFor(h *helper, f *flow, by *entry) *session {
	var p pair
	if h.PerPair {
		p = pairOf(h, f.orig().Src.Addr(), f.reply().Src.Addr(), f.zone)
		if s := e.pairs[p]; s != nil {
			return s
		}
	}
	s := &session{helper: h, pair: p, family: &family{}}
	if by != nil {
		parent := by.session
		if parent.depth+1 > maxDepth || len(parent.family.sessions) > maxChildren {
			return nil
		}
		s.family, s.depth = parent.family, parent.depth+1
	}
	e.last.Session++
	s.id, s.impl = e.last.Session, h.New()
	s.family.sessions = append(s.family.sessions, s)
	if h.PerPair {
		e.pairs[p] = s
	}
	e.sessions[s.id] = s
	return s
}

// leftBy closes a session's flow.
func (e *Engine) leftBy(s *session, f *flow) {
	e.scratch.Reset()
	s.impl.Close(f.id, &e.scratch)
	for _, g := range e.scratch.Cancel {
		e.cancel(s.family, g, CancelEnded)
	}
	for _, n := range e.scratch.Notes {
		e.note(s, f, n)
	}
	if s.flows--; s.flows > 0 {
		return
	}
	if f.transport() == helpers.TCP {
		for _, x := range slices.Clone(s.entries) {
			if x.pending {
				e.cancelEntry(x, CancelFlowEnded)
			}
			e.forget(x)
		}
	}
	e.maybeOver(s)
}

// maybeOver ends a session without flows that waits for no connection.
func (e *Engine) maybeOver(s *session) {
	waits := func(x *entry) bool { return x.pending || x.timer.place > 0 }
	if s.over || s.flows > 0 || s.job != nil || slices.ContainsFunc(s.entries, waits) {
		return
	}
	s.over = true
	for _, x := range slices.Clone(s.entries) {
		e.forget(x)
	}
	if s.shadow {
		e.request(Request{Forget: s.id})
	}
	delete(e.sessions, s.id)
	if s.helper.PerPair && e.pairs[s.pair] == s {
		delete(e.pairs, s.pair)
	}
	s.family.sessions = slices.DeleteFunc(s.family.sessions, func(o *session) bool { return o == s })
}

// request asks the caller for a change.
func (e *Engine) request(r Request) { e.step.Requests = append(e.step.Requests, r) }
