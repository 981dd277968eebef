package expect

import (
	"net/netip"
	"slices"

	"github.com/cthelperd/cthelperd/helpers"
)

// Memory is the table of expectations without a kernel: for replays and tests. It keeps no time; whoever asked for an
// expectation removes it when it has run out.
type Memory struct {
	spots map[spot][]*Request
	byID  map[ID]*Request
}

// spot is where connections meet an expectation: the destination is always exact (nf_ct_expect_find_get).
type spot struct {
	transport helpers.Transport
	at        netip.AddrPort
	zone      uint16
}

// NewMemory is an empty table.
func NewMemory() *Memory {
	return &Memory{spots: map[spot][]*Request{}, byID: map[ID]*Request{}}
}

func spotOf(q *Request) spot { return spot{q.Transport, q.At, q.Master.Zone} }

// Place puts q into the table. ErrTaken: some connection could meet both q and one that is there (expect_clash in
// net/netfilter/nf_conntrack_expect.c), or its ID is in use.
func (m *Memory) Place(q Request) error {
	if m.byID[q.ID] != nil {
		return ErrTaken
	}
	s := spotOf(&q)
	for _, other := range m.spots[s] {
		if overlap(q.From, other.From) {
			return ErrTaken
		}
	}
	m.spots[s], m.byID[q.ID] = append(m.spots[s], &q), &q
	return nil
}

// Remove takes an expectation out; it is no error if it is not there.
func (m *Memory) Remove(id ID) error {
	q := m.byID[id]
	if q == nil {
		return nil
	}
	delete(m.byID, id)
	s := spotOf(q)
	if rest := slices.DeleteFunc(m.spots[s], func(o *Request) bool { return o == q }); len(rest) > 0 {
		m.spots[s] = rest
	} else {
		delete(m.spots, s)
	}
	return nil
}

// Forget takes out all that hangs on a session's shadow.
func (m *Memory) Forget(session uint64) error {
	for id, q := range m.byID {
		if q.Master.Session == session {
			if err := m.Remove(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// Match gives the expectation that a new connection in zone 0 meets, orig being its original tuple, and uses it up
// unless it is permanent.
func (m *Memory) Match(t helpers.Transport, orig helpers.Tuple) (Request, bool) {
	for _, q := range m.spots[spot{t, orig.Dst, 0}] {
		if overlap(q.From, orig.Src) {
			if !q.Permanent {
				if err := m.Remove(q.ID); err != nil {
					return Request{}, false
				}
			}
			return *q, true
		}
	}
	return Request{}, false
}

// overlap says whether one initiator can be both a and b, where a zero address or port is any.
func overlap(a, b netip.AddrPort) bool {
	anyAddr := func(x netip.Addr) bool { return !x.IsValid() || x.IsUnspecified() }
	return (anyAddr(a.Addr()) || anyAddr(b.Addr()) || a.Addr() == b.Addr()) &&
		(a.Port() == 0 || b.Port() == 0 || a.Port() == b.Port())
}
