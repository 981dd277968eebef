package engine

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

// stateVersion is the first byte of what Save writes. Whoever changes the meaning of a field below raises it.
const stateVersion = 2

var (
	errState    = errors.New("engine: damaged state")
	errNotEmpty = errors.New("engine: state can be loaded before the first packet only")
)

// state is an engine on its way to another process.
type state struct {
	Time     time.Time
	Last     names
	Excuse   time.Time
	Sessions []savedSession
	Flows    []savedFlow
}

type savedSession struct {
	ID, Family uint64
	Helper     string
	Transport  helpers.Transport // the helper's
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
	Reserved, Waits                bool
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
	Until                    time.Time // of a closed one, or one that was cut off
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
	s := state{Time: e.now, Last: e.last, Excuse: e.excuse}
	families := map[*family]uint64{}
	for _, from := range e.inOrder() {
		to := savedSession{
			ID: from.id, Family: from.id, Helper: from.helper.Name, Transport: from.helper.Transport, Depth: int(from.depth),
			Shadow: from.shadow,
		}
		if from.extra != nil && from.extra.family != nil {
			kin := from.extra.family
			if families[kin] == 0 {
				families[kin] = from.id
			}
			to.Family = families[kin]
		}
		if from.helper.PerPair {
			p := &from.extra.pair
			to.A, to.B, to.Zone = unpack(p.a, p.ipv6), unpack(p.b, p.ipv6), p.zone
		}
		if w, ok := from.impl.(helpers.Snapshotter); ok {
			b, err := w.AppendBinary(nil)
			if err != nil {
				return nil, fmt.Errorf("helper %s: %w", from.helper.Name, err)
			}
			to.State = b
		}
		for x := range from.entries() {
			to.Entries = append(to.Entries, x.save())
		}
		s.Sessions = append(s.Sessions, to)
	}
	for _, f := range e.flows.byAge() {
		s.Flows = append(s.Flows, f.save())
	}
	b := bytes.NewBuffer([]byte{stateVersion})
	err := gob.NewEncoder(b).Encode(&s)
	return b.Bytes(), err
}

func (x *entry) save() savedEntry {
	return savedEntry{
		ID: x.id(), Said: x.said, From: x.from, To: x.to, At: x.at, Toward: x.toward, NAT: x.nat,
		Translated: x.translated, Reserved: x.reserved, Waits: x.waits, Pending: x.pending, Used: x.used,
		UsedBy: x.usedBy.tuple(), Master: *x.master,
		Announced: x.announced, Timeout: x.timeout, Expires: x.timer.time(), Note: x.note,
	}
}

func (f *flow) save() savedFlow {
	to := savedFlow{
		ID: f.id, KeyZone: f.key.zone, Late: f.late, Missed: f.missed, Translated: f.nat != nil,
		Conn: Conn{
			Transport: f.transport(), Orig: f.orig(), Reply: f.reply(), Zone: f.zone, Mark: f.mark, Adjustable: f.adjustable,
		},
	}
	if f.extra != nil {
		to.Announced = f.extra.announced
	}
	switch {
	case f.closed():
		to.Until = f.extra.timer.time()
	case f.cut():
		to.Until = f.extra.cut
	}
	if !f.closed() {
		to.Session = f.session.id
	}
	for i := range f.dirs {
		d, t := &f.dirs[i], &to.Dirs[i]
		*t = savedDirection{
			Next: d.next, Released: d.released, ISN: d.isn, Skip: int(f.skip(helpers.Dir(i))), Kept: f.kept(helpers.Dir(i)),
			Known: d.known, Begun: d.begun, Lost: d.lost, Locked: d.locked, Finished: d.finished, Ended: d.ended,
		}
		if d.finished {
			t.FIN = f.fin(helpers.Dir(i))
		}
		for _, c := range f.chunks(helpers.Dir(i)) {
			t.Ahead = append(t.Ahead, savedChunk{c.seq, c.ack, c.acks, c.data})
		}
		if !f.changed() {
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
	if e.flows.count > 0 || len(e.sessions) > 0 {
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
	n.helpers, n.ports, n.lookup, n.complete = e.helpers, e.ports, e.lookup, e.complete
	n.missed, n.record = e.missed, e.record
	n.stats, n.now, n.last, n.excuse = e.stats, latest(e.now, s.Time), s.Last, s.Excuse
	l := loader{Engine: n, sessions: map[uint64]*session{}, families: map[uint64]*family{}, fresh: map[uint64]bool{}}
	for i := range s.Sessions {
		if err := l.session(&s.Sessions[i]); err != nil {
			return err
		}
	}
	for i := range s.Flows {
		if err := l.flow(&s.Flows[i]); err != nil {
			return err
		}
	}
	for _, s := range n.inOrder() {
		n.maybeOver(s)
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

// loader fills an engine from a state.
type loader struct {
	*Engine
	sessions map[uint64]*session // by their ids
	families map[uint64]*family  // by the id of the first one; nil: it was alone up to now
	fresh    map[uint64]bool     // sessions that know nothing of what was before
}

func (e *loader) session(from *savedSession) error {
	h := e.helpers[parser{from.Helper, from.Transport}]
	if from.ID == 0 || from.ID > e.last.Session || e.sessions[from.ID] != nil {
		return errState
	}
	if h == nil || h.PerPair != from.A.IsValid() {
		if from.Shadow {
			e.owed = append(e.owed, Request{Forget: from.ID})
		}
		return nil
	}
	if from.Depth < 0 || from.Depth > maxDepth {
		return errState
	}
	s := &session{id: from.ID, helper: h, depth: uint8(from.Depth), shadow: from.Shadow}
	if from.State != nil && h.Restore != nil {
		impl, err := h.Restore(from.State)
		if err != nil {
			return fmt.Errorf("helper %s: %w", h.Name, err)
		}
		s.impl = impl
	} else {
		s.impl, e.fresh[s.id] = h.New(), true
	}
	if h.PerPair {
		p := pairOf(h, from.A, from.B, from.Zone)
		s.more().pair, e.pairs[p] = p, s
	}
	if from.Family != from.ID || e.families[from.Family] != nil {
		if e.families[from.Family] == nil {
			e.families[from.Family] = &family{}
			if first := e.sessions[from.Family]; first != nil {
				first.join(e.families[from.Family])
			}
		}
		s.join(e.families[from.Family])
	}
	e.enter(s)
	e.sessions[s.id] = s
	for i := range from.Entries {
		if err := e.entry(s, &from.Entries[i]); err != nil {
			return err
		}
	}
	return nil
}

func (e *loader) entry(s *session, from *savedEntry) error {
	if from.ID == 0 || uint64(from.ID) > e.last.Expectation || e.byName(from.ID) != nil ||
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
		session: s, said: from.Said, from: from.From, to: from.To, at: from.At, toward: from.Toward,
		nat: from.NAT, translated: from.Translated, reserved: from.Reserved, used: from.Used, master: s.master(&from.Master),
		announced: from.Announced, timeout: from.Timeout, note: from.Note,
	}
	x.links[byID].hash = uint64(from.ID)
	if from.Used && from.UsedBy.Src.IsValid() && from.UsedBy.Dst.IsValid() {
		x.usedBy = pack(from.Said.Transport, from.UsedBy, 0)
	}
	e.enlist(x)
	if from.Pending {
		used := x.used
		e.setPending(x, e.peer(x.to.Addr()))
		x.used, x.asked = used, true
		e.wakeEntry(x, from.Expires)
	} else if from.Waits {
		e.stand(x, from.Expires)
	} else if from.Used && from.Said.Helper != "" {
		e.wakeEntry(x, e.now.Add(lingers)) // for its child
	}
	return nil
}

func (e *loader) flow(from *savedFlow) error {
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
	seen := seenAs(c, from.KeyZone)
	for i := range seen {
		if other, _ := e.flows.find(&seen[i]); other != nil {
			return errState
		}
	}
	if uint64(from.ID) > e.last.Flow {
		return errState
	}
	f := e.flows.take()
	f.id, f.session, f.key, f.mark, f.zone, f.adjustable = from.ID, s, seen[0], c.Mark, c.Zone, c.Adjustable
	f.late, f.missed = from.Late, from.Missed
	if from.Announced != nil {
		e.more(f).announced = from.Announced
	}
	if from.Translated || seen[1] != f.key.turned() {
		f.nat = &rewriting{reply: seen[1]}
	}
	for i := range f.dirs {
		dir := helpers.Dir(i)
		t, d := &from.Dirs[i], &f.dirs[i]
		*d = direction{
			next: t.Next, released: t.Released, isn: t.ISN,
			known: t.Known, begun: t.Begun, lost: t.Lost, locked: t.Locked, ended: t.Ended, resumed: true,
		}
		e.setSkip(f, dir, uint32(min(max(0, t.Skip), maxSkip)))
		if t.Finished {
			e.setFIN(f, dir, t.FIN)
		}
		e.setKept(f, dir, t.Kept)
		for _, p := range t.Ahead {
			x := e.more(f)
			x.streams[dir].ahead = append(x.streams[dir].ahead, chunk{p.Seq, p.Ack, p.Acks, p.Data})
		}
		e.memory += cost(f.chunks(dir))
		if s != nil && e.fresh[s.id] {
			e.lose(f, dir)
			d.lost, f.late = true, true
			e.setSkip(f, dir, 0)
			d.release(d.next)
		}
		if f.nat == nil || t.Base == 0 && len(t.Steps) == 0 && c.Adjust[i] == (SeqAdjust{}) {
			continue
		}
		j := f.nat.journal(dir)
		j.base, j.kernel = t.Base, c.Adjust[i]
		for _, st := range t.Steps {
			j.steps = append(j.steps, step{st.Start, st.Old, st.By, st.After, st.Alone})
		}
	}
	e.flows.enter(f)
	e.flows.touch(f)
	e.slim(f)
	if s != nil {
		s.flows++
	}
	if s == nil || !from.Until.IsZero() {
		e.wakeFlow(f, from.Until)
		if s != nil {
			f.extra.cut = from.Until
		}
	}
	return nil
}
