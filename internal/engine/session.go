package engine

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

const (
	maxDepth    = 4   // of children of children
	maxChildren = 128 // of a family at once
	maxQueue    = 64  // packets that wait while a session waits for answers: as many as come at once, all of one trunk perhaps
)

// helper is a helper in use. Flows keep theirs when the configuration is loaded anew.
type helper struct{ helpers.Helper }

// session is a helper's session. What it announced and what waits for it is in extra: most flows announce nothing for
// most of their time.
type session struct {
	id     uint64
	helper *helper
	impl   helpers.Session
	job    *job          // waits for answers; nil: not busy
	extra  *sessionExtra // nil: there is nothing of it
	place  uint32        // in Engine.sessions
	flows  int32
	depth  uint8
	shadow bool // something was placed: there is a shadow to be forgotten
	over   bool
}

type sessionExtra struct {
	list   list // what it announced
	queue  []Packet
	family *family        // nil: it is alone
	pair   pair           // of a helper with one session for two hosts
	master *expect.Master // of its latest announcement
}

// more gives the session an extra.
func (s *session) more() *sessionExtra {
	if s.extra == nil {
		s.extra = &sessionExtra{}
	}
	return s.extra
}

// slim takes the session's extra away if there is nothing in it.
func (s *session) slim() {
	if x := s.extra; x != nil && x.list.count == 0 && x.queue == nil && x.family == nil && !s.helper.PerPair {
		s.extra = nil
	}
}

// entries are what it announced.
func (s *session) entries() iter.Seq[*entry] {
	if s.extra == nil {
		return func(func(*entry) bool) {}
	}
	return s.extra.list.all()
}

// queue are the packets that wait for it.
func (s *session) queue() []Packet {
	if s.extra == nil {
		return nil
	}
	return s.extra.queue
}

// family is the session with its relatives, oldest first.
func (s *session) family() iter.Seq[*session] {
	return func(yield func(*session) bool) {
		if s.extra == nil || s.extra.family == nil {
			yield(s)
			return
		}
		for _, o := range s.extra.family.sessions {
			if !yield(o) {
				return
			}
		}
	}
}

// kin tells whether o is s or a relative.
func (s *session) kin(o *session) bool {
	return s == o || s.extra != nil && o.extra != nil && s.extra.family != nil && s.extra.family == o.extra.family
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
	s := &session{helper: h}
	if by != nil {
		parent := by.session
		kin := parent.more()
		if kin.family == nil {
			kin.family = &family{[]*session{parent}}
		}
		if parent.depth == maxDepth || len(kin.family.sessions) > maxChildren {
			return nil
		}
		s.depth = parent.depth + 1
		s.join(kin.family)
	}
	e.last.Session++
	s.id, s.impl = e.last.Session, h.New()
	if h.PerPair {
		s.more().pair = p
		e.pairs[p] = s
	}
	e.enter(s)
	return s
}

func (s *session) join(f *family) {
	s.more().family = f
	f.sessions = append(f.sessions, s)
}

// enter puts a session among all.
func (e *Engine) enter(s *session) {
	s.place = uint32(len(e.sessions))
	e.sessions = append(e.sessions, s)
}

// inOrder are all sessions, oldest first.
func (e *Engine) inOrder() []*session {
	return slices.SortedFunc(slices.Values(e.sessions), func(a, b *session) int { return cmp.Compare(a.id, b.id) })
}

// leftBy closes a session's flow.
func (e *Engine) leftBy(s *session, f *flow) {
	e.scratch.Reset()
	s.impl.Close(f.id, &e.scratch)
	for _, g := range e.scratch.Cancel {
		e.cancel(s, g, CancelEnded)
	}
	for _, n := range e.scratch.Notes {
		e.note(s, f, n)
	}
	if s.flows--; s.flows > 0 {
		return
	}
	if f.transport() == helpers.TCP && !s.helper.PerPair {
		for x := range s.entries() {
			if x.pending && x.said.Lasting {
				continue
			}
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
	if s.over || s.flows > 0 || s.job != nil || s.extra != nil && s.extra.list.pending > 0 {
		return
	}
	for x := range s.entries() {
		if x.timer.set() { // its child is still to come
			return
		}
	}
	s.over = true
	for x := range s.entries() {
		e.forget(x)
	}
	if s.shadow {
		e.request(Request{Forget: s.id})
	}
	last := e.sessions[len(e.sessions)-1]
	last.place, e.sessions[s.place] = s.place, last
	e.sessions[len(e.sessions)-1] = nil
	e.sessions = e.sessions[:len(e.sessions)-1]
	if s.extra == nil {
		return
	}
	if s.helper.PerPair && e.pairs[s.extra.pair] == s {
		delete(e.pairs, s.extra.pair)
	}
	if f := s.extra.family; f != nil {
		f.sessions = slices.DeleteFunc(f.sessions, func(o *session) bool { return o == s })
	}
}

// request asks the caller for a change.
func (e *Engine) request(r Request) {
	r.After = len(e.step.Verdicts)
	e.step.Requests = append(e.step.Requests, r)
}
