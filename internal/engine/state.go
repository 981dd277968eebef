package engine

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

// stateVersion is the first byte of what Save writes. Whoever changes the meaning of a field below raises it.
const stateVersion = 1

var (
	errState    = errors.New("engine: damaged state")
	errNotEmpty = errors.New("engine: state can be loaded before the first packet only")
)

// state is an engine on its way to another process.
type state struct {
	Time       time.Time
	Last       names
	Overflowed bool
	Sessions   []savedSession
	Flows      []savedFlow
}

type savedSession struct {
	ID, Family uint64
	Helper     string
	Depth      int
	Shadow     bool
	A, B       netip.Addr // of a pair
	Zone       uint16
	State      []byte // nil: the helper has none
	Entries    []savedEntry
}

type savedEntry struct {
	ID                             expect.ID
	Said                           helpers.Expectation
	From, To, At                   netip.AddrPort
	Toward                         helpers.Dir
	NAT, Translated, Pending, Used bool
	UsedBy                         helpers.Tuple
	Master                         expect.Master
	Announced                      uint64
	Timeout                        time.Duration
	Expires                        time.Time
	Note                           string
}

type savedFlow struct {
	ID                       helpers.FlowID
	Session                  uint64 // 0: closed
	Conn                     Conn
	KeyZone                  uint16
	Late, Missed, Translated bool
	Announced                *helpers.Expectation
	Until                    time.Time // of a closed one
	Dirs                     [2]savedDirection
}

type savedDirection struct {
	Next, Released, ISN, FIN                    uint32
	Skip                                        int
	Kept                                        []byte
	Ahead                                       []savedChunk
	Known, Begun, Lost, Locked, Finished, Ended bool
	Base                                        int32
	Steps                                       []savedStep
}

type savedChunk struct {
	Seq, Ack uint32
	Acks     bool
	Data     []byte
}

type savedStep struct {
	Start, Old uint32
	By         []byte
	After      int32
	Alone      bool
}

// Save is the state of sessions, mappings, journals and pending expectations, for Load in another process. Packets that
// wait are not in it: Release comes first.
func (e *Engine) Save() ([]byte, error) {
	s := state{Time: e.now, Last: e.last, Overflowed: e.overflowed}
	families := map[*family]uint64{}
	for _, id := range slices.Sorted(maps.Keys(e.sessions)) {
		from := e.sessions[id]
		if families[from.family] == 0 {
			families[from.family] = id
		}
		to := savedSession{
			ID: id, Family: families[from.family], Helper: from.helper.Name, Depth: from.depth, Shadow: from.shadow,
		}
		if from.helper.PerPair {
			to.A, to.B, to.Zone = unpack(from.pair.a, from.pair.ipv6), unpack(from.pair.b, from.pair.ipv6), from.pair.zone
		}
		if w, ok := from.impl.(helpers.Snapshotter); ok {
			b, err := w.AppendBinary(nil)
			if err != nil {
				return nil, fmt.Errorf("helper %s: %w", from.helper.Name, err)
			}
			to.State = b
		}
		for _, x := range from.entries {
			to.Entries = append(to.Entries, x.save())
		}
		s.Sessions = append(s.Sessions, to)
	}
	for f := e.oldest; f != nil; f = f.newer {
		s.Flows = append(s.Flows, f.save())
	}
	b := bytes.NewBuffer([]byte{stateVersion})
	err := gob.NewEncoder(b).Encode(&s)
	return b.Bytes(), err
}

func (x *entry) save() savedEntry {
	return savedEntry{
		ID: x.id, Said: x.said, From: x.from, To: x.to, At: x.at, Toward: x.toward, NAT: x.nat,
		Translated: x.translated, Pending: x.pending, Used: x.used, UsedBy: x.usedBy.tuple(), Master: x.master,
		Announced: x.announced, Timeout: x.timeout, Expires: x.timer.when, Note: x.note,
	}
}

func (f *flow) save() savedFlow {
	to := savedFlow{
		ID: f.id, KeyZone: f.seen[0].zone, Late: f.late, Missed: f.missed, Translated: f.nat != nil,
		Announced: f.announced,
		Conn: Conn{
			Transport: f.transport(), Orig: f.orig(), Reply: f.reply(), Zone: f.zone, Mark: f.mark, Adjustable: f.adjustable,
		},
	}
	if f.session != nil {
		to.Session = f.session.id
	} else {
		to.Until = f.timer.when
	}
	for i := range f.dirs {
		d, t := &f.dirs[i], &to.Dirs[i]
		*t = savedDirection{
			Next: d.next, Released: d.released, ISN: d.isn, FIN: d.fin, Skip: d.skip, Kept: d.kept,
			Known: d.known, Begun: d.begun, Lost: d.lost, Locked: d.locked, Finished: d.finished, Ended: d.ended,
		}
		for _, c := range d.ahead {
			t.Ahead = append(t.Ahead, savedChunk{c.seq, c.ack, c.acks, c.data})
		}
		if f.nat == nil {
			continue
		}
		j := &f.nat.journals[i]
		t.Base, to.Conn.Adjust[i] = j.base, j.kernel
		for _, st := range j.steps {
			t.Steps = append(t.Steps, savedStep{st.start, st.old, st.by, st.after, st.alone})
		}
	}
	return to
}

// Load takes over what Save wrote. It fails as a whole or not at all. What belongs to a helper that there is no more is
// left out, and its expectations are removed with the next Step.
func (e *Engine) Load(saved []byte) error {
	if e.count > 0 || len(e.sessions) > 0 {
		return errNotEmpty
	}
	if len(saved) == 0 {
		return errState
	}
	if saved[0] != stateVersion {
		return fmt.Errorf("engine: state of version %d, this is %d", saved[0], stateVersion)
	}
	var s state
	if err := gob.NewDecoder(bytes.NewReader(saved[1:])).Decode(&s); err != nil {
		return fmt.Errorf("%w: %w", errState, err)
	}
	n, err := New(Config{Policy: e.policy, Limits: e.limits})
	if err != nil {
		return err
	}
	n.helpers, n.ports, n.lookup, n.record = e.helpers, e.ports, e.lookup, e.record
	n.stats, n.now, n.last, n.overflowed = e.stats, latest(e.now, s.Time), s.Last, s.Overflowed
	families := map[uint64]*family{}
	fresh := map[uint64]bool{} // sessions that know nothing of what was before
	for i := range s.Sessions {
		if err := n.loadSession(&s.Sessions[i], families, fresh); err != nil {
			return err
		}
	}
	for i := range s.Flows {
		if err := n.loadFlow(&s.Flows[i], fresh); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.sessions)) {
		n.maybeOver(n.sessions[id])
	}
	n.owed = append(n.owed, n.step.Requests...)
	n.step = Step{}
	*e = *n
	return nil
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (e *Engine) loadSession(from *savedSession, families map[uint64]*family, fresh map[uint64]bool) error {
	h := e.helpers[from.Helper]
	if from.ID == 0 || from.ID > e.last.Session || e.sessions[from.ID] != nil {
		return errState
	}
	if h == nil || h.PerPair != from.A.IsValid() {
		if from.Shadow {
			e.owed = append(e.owed, Request{Forget: from.ID})
		}
		return nil
	}
	if families[from.Family] == nil {
		families[from.Family] = &family{}
	}
	s := &session{id: from.ID, helper: h, family: families[from.Family], depth: from.Depth, shadow: from.Shadow}
	if from.State != nil && h.Restore != nil {
		impl, err := h.Restore(from.State)
		if err != nil {
			return fmt.Errorf("helper %s: %w", h.Name, err)
		}
		s.impl = impl
	} else {
		s.impl, fresh[s.id] = h.New(), true
	}
	if h.PerPair {
		s.pair = pairOf(h, from.A, from.B, from.Zone)
		e.pairs[s.pair] = s
	}
	s.family.sessions = append(s.family.sessions, s)
	e.sessions[s.id] = s
	for i := range from.Entries {
		if err := e.loadEntry(s, &from.Entries[i]); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) loadEntry(s *session, from *savedEntry) error {
	if from.ID == 0 || uint64(from.ID) > e.last.Expectation || e.entries[from.ID] != nil ||
		!from.To.IsValid() || !from.At.IsValid() {
		return errState
	}
	if int(from.Said.Class) >= len(s.helper.Classes) {
		if from.Pending {
			e.owed = append(e.owed, Request{Remove: from.ID})
		}
		return nil
	}
	x := &entry{
		id: from.ID, session: s, said: from.Said, from: from.From, to: from.To, at: from.At, toward: from.Toward,
		nat: from.NAT, translated: from.Translated, used: from.Used, master: from.Master,
		announced: from.Announced, timeout: from.Timeout, note: from.Note,
	}
	if from.Used && from.UsedBy.Src.IsValid() && from.UsedBy.Dst.IsValid() {
		x.usedBy = pack(from.Said.Transport, from.UsedBy, 0)
	}
	x.timer.entry = x
	e.index(x)
	e.mappings++
	s.entries = append(s.entries, x)
	if from.Pending {
		used := x.used
		e.setPending(x, e.peer(x.to.Addr()))
		x.used, x.asked = used, true
		e.timers.set(&x.timer, from.Expires)
	} else if from.Used && from.Said.Helper != "" {
		e.timers.set(&x.timer, e.now.Add(lingers)) // for its child
	}
	return nil
}

func (e *Engine) loadFlow(from *savedFlow, fresh map[uint64]bool) error {
	c := &from.Conn
	for _, a := range []netip.AddrPort{c.Orig.Src, c.Orig.Dst, c.Reply.Src, c.Reply.Dst} {
		if !a.IsValid() {
			return errState
		}
	}
	s := e.sessions[from.Session]
	if s == nil && from.Session != 0 {
		return nil // its helper is no more
	}
	f := &flow{
		id: from.ID, session: s, seen: seenAs(c, from.KeyZone), mark: c.Mark, zone: c.Zone, adjustable: c.Adjustable,
		late: from.Late, missed: from.Missed, announced: from.Announced, closed: s == nil,
	}
	f.timer.flow = f
	if e.flows[f.seen[0]] != nil || e.flows[f.seen[1]] != nil || uint64(f.id) > e.last.Flow {
		return errState
	}
	if from.Translated {
		f.nat = &rewriting{}
	}
	for i := range f.dirs {
		t, d := &from.Dirs[i], &f.dirs[i]
		*d = direction{
			next: t.Next, released: t.Released, isn: t.ISN, fin: t.FIN, skip: max(0, t.Skip), kept: t.Kept,
			known: t.Known, begun: t.Begun, lost: t.Lost, locked: t.Locked, finished: t.Finished, ended: t.Ended,
			resumed: true,
		}
		for _, p := range t.Ahead {
			d.ahead = append(d.ahead, chunk{p.Seq, p.Ack, p.Acks, p.Data})
		}
		e.memory += d.size() + len(d.kept)
		if s != nil && fresh[s.id] {
			e.lose(d)
			d.skip, d.lost, f.late = 0, true, true
			d.release(d.next)
		}
		if f.nat == nil {
			continue
		}
		j := &f.nat.journals[i]
		j.base, j.kernel = t.Base, c.Adjust[i]
		for _, st := range t.Steps {
			j.steps = append(j.steps, step{st.Start, st.Old, st.By, st.After, st.Alone})
		}
	}
	e.flows[f.seen[0]], e.flows[f.seen[1]] = f, f
	e.count++
	e.recent(f)
	if s != nil {
		s.flows++
	} else {
		e.timers.set(&f.timer, from.Until)
	}
	return nil
}
