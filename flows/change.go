package flows

import (
	"errors"
	"iter"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Change is what becomes of an entry. What is nil, and what a mask does not cover, stays.
type Change struct {
	Timeout            *uint32 // seconds from now
	Mark, MarkMask     uint32  // mark = mark &^ MarkMask ^ Mark
	Labels, LabelsMask Labels
	Status             Status  // bits to add: StatusSeenReply, StatusAssured, StatusFixedTimeout; none can be taken away
	Helper             *string // "": none; an entry that began without a helper cannot be given one
}

// named is f's name in the table: the zone of the original tuple.
func named(f *Flow) (nfnl.Tuple, uint16) {
	zone := f.Zone
	if f.ZoneDir == ZoneReply {
		zone = 0
	}
	return raw(f.Transport, f.Orig), zone
}

// Create puts an entry into the table that no packet has made. Orig and Timeout must be given. Reply is that with NAT, of
// which StatusSrcNAT and StatusDstNAT say that there is one; zero: Orig turned round. A port that NAT does not change may
// become another one if it is taken. Of Status the bits SeenReply, Assured and FixedTimeout count beside. ErrExists: one of
// the tuples is there. ErrNoLabels: it is made, but without its labels.
func (t *Table) Create(f *Flow) error {
	if bits := f.Orig.Src.Addr().BitLen(); bits == 0 || f.Orig.Dst.Addr().BitLen() != bits || f.Timeout == 0 {
		return &Error{Op: "create a connection", Entry: entry(f), Reason: errCreate}
	}
	e := nfnl.Connection{
		Orig: raw(f.Transport, f.Orig), Reply: raw(f.Transport, f.Reply), Zone: f.Zone, ZoneDir: nfnl.ZoneDir(f.ZoneDir),
		Mark: f.Mark, Status: uint32(f.Status), Timeout: f.Timeout, Helper: f.Helper, Labels: f.Labels, State: f.State,
		TCPFlags: f.TCPFlags, TCPScale: f.TCPScale, SCTPTags: f.SCTPTags, DCCPRole: f.DCCPRole, Handshake: f.Handshake,
		Adjust: [2]nfnl.SeqAdj{nfnl.SeqAdj(f.Adjust[0]), nfnl.SeqAdj(f.Adjust[1])},
	}
	if f.Master.Src.IsValid() {
		e.Expected, e.Master = true, raw(f.MasterTransport, f.Master)
	}
	plain := raw(f.Transport, f.turned(f.Orig))
	if !f.Reply.Src.IsValid() {
		e.Reply = plain
	}
	b := t.conn.Begin()
	b.EnterConnection(&e, &plain)
	if err := b.Do(); err != nil || f.Labels == (Labels{}) {
		return refused(err, f, refusedCreation)
	}
	name, zone := named(f)
	if made, err := t.conn.Get(name, zone); err != nil || made.Labels != f.Labels { // the kernel leaves them out silently
		return &Error{Op: "create a connection", Entry: entry(f), Reason: ErrNoLabels}
	}
	return nil
}

func entry(f *Flow) string { return f.Transport.String() + " " + f.Orig.String() }

// refused names f in an error.
func refused(err error, f *Flow, reasons map[unix.Errno]error) error {
	if err == nil {
		return nil
	}
	err = explain(err, entry(f), reasons)
	if e := (*Error)(nil); errors.As(err, &e) && e.Errno == unix.EPERM && f.Has&HasStatus != 0 && f.Status&StatusFixedTimeout != 0 {
		e.Reason = ErrFixed
	}
	return err
}

var (
	errCreate   = errors.New("it wants a timeout, tuples of one family and, for TCP, a state")
	errNoMaster = errors.New("there is no such master")
	errNoHelper = errors.New("the kernel has no such helper for it")
	errHelper   = errors.New("the kernel has no such helper, or the entry began without one and cannot be given one")
)

// What error numbers mean of a new entry, and of a change.
var (
	refusedCreation = map[unix.Errno]error{unix.EINVAL: errCreate, unix.ENOENT: errNoMaster, unix.EOPNOTSUPP: errNoHelper}
	refusedChange   = map[unix.Errno]error{unix.EOPNOTSUPP: errHelper, unix.ENOSPC: ErrNoLabels, unix.EBUSY: ErrBusy}
)

// Update changes the entry that f names by Transport, Orig and Zone. ErrNotFound: there is none.
func (t *Table) Update(f *Flow, c *Change) error {
	now := *f
	for try := 0; ; try++ {
		if c.Status != 0 && (try > 0 || now.Has&HasStatus == 0) {
			name, zone := named(f)
			got, err := t.conn.Get(name, zone)
			if err != nil {
				return refused(err, f, nil)
			}
			now.Status = Status(got.Status)
		}
		b := t.conn.Begin()
		change(b, &now, c)
		err := b.Do()
		if errors.Is(err, unix.EBUSY) && c.Status != 0 && try < 2 { // a packet has added a bit meanwhile
			continue
		}
		if errors.Is(err, unix.EPERM) && now.Has&HasStatus == 0 { // no rights, or a fixed timeout
			if got, err := t.conn.Get(named(f)); err == nil {
				now.Has, now.Status = HasStatus, Status(got.Status)
			}
		}
		return refused(err, &now, refusedChange)
	}
}

func change(b *nfnl.Batch, f *Flow, c *Change) {
	name, zone := named(f)
	raw := nfnl.Change{
		Timeout: c.Timeout, Mark: c.Mark, MarkMask: c.MarkMask, Labels: c.Labels, LabelsMask: c.LabelsMask, Helper: c.Helper,
	}
	var status uint32
	if c.Status != 0 {
		status = uint32(f.Status | c.Status)
		raw.Status = &status
	}
	b.ChangeConnection(&name, zone, &raw)
}

// Delete deletes the entry that f names by Transport, Orig and Zone, and by ID if it has one: not another one that has
// come in its place, unless it is in the same place in memory, of which the kernel makes ids. Expectations that hang on it
// go with it. ErrNotFound: there is none.
func (t *Table) Delete(f *Flow) error {
	b := t.conn.Begin()
	remove(b, f)
	return refused(b.Do(), f, refusedChange)
}

func remove(b *nfnl.Batch, f *Flow) {
	name, zone := named(f)
	if f.Has&HasID != 0 {
		b.DeleteThis(&name, zone, f.ID)
	} else {
		b.DeleteConnection(&name, zone)
	}
}

// Flush deletes all entries but those that flow tables have.
func (t *Table) Flush() error {
	b := t.conn.Begin()
	b.DeleteMatching(&nfnl.Filter{})
	return explain(b.Do(), "", nil)
}

// Done says what became of many entries.
type Done struct {
	Entries uint64 // that were changed or deleted
	Exact   bool   // no: the kernel did it by itself, and Entries is by how much the table got smaller meanwhile
	Gone    uint64 // that had ended by themselves before
	Refused uint64 // the error is the first one's
}

// DeleteAll deletes what f means. A few entries, and what the kernel cannot test by itself, are listed and deleted in
// batches, and every answer is looked at. Many go by one request for each family, if it is known that the kernel tests all
// of f when it deletes. Where that takes a trial that walks through the machine's tables (addresses of IPv6, reply tuples,
// zones), only Plan makes it: it pays for who deletes by the same filter again. Entries that flow tables have stay (ErrBusy).
func (t *Table) DeleteAll(f *Filter) (Done, error) {
	if f == nil {
		f = &Filter{}
	}
	if !t.shown(f) {
		return t.DeleteEach(t.List(f))
	}
	done := Done{Exact: true}
	asks := f.requests(f.parts())
	most := t.few
	if many, err := t.many(f); err != nil {
		return done, err
	} else if many {
		most = 0
	}
	conns, err := t.ask(nfnl.CTGet, asks)
	defer t.leave(conns)
	if err != nil {
		return done, err
	}
	var failed error // what is refused of one family does not save the other
	for i, c := range conns {
		some, more, err := sample(c, f, most)
		switch {
		case errors.Is(err, errTrial):
			return done, errors.Join(failed, done.add(t.DeleteEach(t.List(f))))
		case err != nil:
			return done, errors.Join(failed, explain(err, "", nil))
		case more:
			err = done.add(t.deleteMatching(&asks[i]))
		default:
			t.keep(c)
			conns[i] = nil
			err = done.add(t.DeleteEach(each(some)))
		}
		if failed == nil {
			failed = err
		}
	}
	return done, failed
}

func (d *Done) add(more Done, err error) error {
	d.Entries, d.Gone, d.Refused = d.Entries+more.Entries, d.Gone+more.Gone, d.Refused+more.Refused
	d.Exact = d.Exact && more.Exact
	return err
}

// few is how many entries are as well deleted one by one.
const few = 4096

// first is how many entries show what share of all is meant: where one is in the table is chance.
const first = 1000

// many says whether f means more than a few entries, as far as the first ones of the table show.
func (t *Table) many(f *Filter) (bool, error) {
	all, _, err := t.Count()
	if err != nil || int(all) <= max(t.few, first) {
		return false, err
	}
	seen, meant := uint64(0), uint64(0)
	for e, err := range t.List(nil) {
		if err != nil {
			return false, err
		}
		if f.Match(e) {
			meant++
		}
		if seen++; seen == first {
			break
		}
	}
	return meant*uint64(all) > uint64(t.few)*first, nil
}

// sample takes a listing's entries, if there are not more than most. errTrial: the kernel lists what f does not mean.
func sample(c *nfnl.Conn, f *Filter, most int) (some []Flow, more bool, err error) {
	strange := false
	err = c.Take(func(e *nfnl.Connection) bool {
		one := flow(e)
		if strange, more = !f.Match(&one), len(some) == most; strange || more {
			return false
		}
		some = append(some, one)
		return true
	})
	if strange {
		err = errTrial
	}
	return some, more, err
}

func each(all []Flow) iter.Seq2[*Flow, error] {
	return func(yield func(*Flow, error) bool) {
		for i := range all {
			if !yield(&all[i], nil) {
				return
			}
		}
	}
}

// deleteMatching has the kernel delete all that ask means.
func (t *Table) deleteMatching(ask *nfnl.Filter) (Done, error) {
	before, _, err := t.Count()
	if err != nil {
		return Done{}, err
	}
	b := t.conn.Begin()
	b.DeleteMatching(ask)
	if err := b.Do(); err != nil {
		return Done{}, explain(err, "", nil)
	}
	after, _, err := t.Count()
	return Done{Entries: uint64(max(int64(before)-int64(after), 0))}, err
}

// DeleteEach deletes entries, in batches; it stops at an error of the sequence.
func (t *Table) DeleteEach(all iter.Seq2[*Flow, error]) (Done, error) {
	return t.inBatches(all, remove, nil)
}

// UpdateAll changes what f means, in batches.
func (t *Table) UpdateAll(f *Filter, c *Change) (Done, error) {
	again := func(f *Flow) error {
		f.Has &^= HasStatus
		return t.Update(f, c)
	}
	return t.inBatches(t.List(f), func(b *nfnl.Batch, f *Flow) { change(b, f, c) }, again)
}

// together is how many entries are changed at once.
const together = 128

// inBatches adds a message for each entry and sends so many at a time. again is for one that was busy.
func (t *Table) inBatches(all iter.Seq2[*Flow, error], add func(*nfnl.Batch, *Flow), again func(*Flow) error) (Done, error) {
	done := Done{Exact: true}
	c, err := t.lister() // who makes the sequence may use t.conn
	if err != nil {
		return done, err
	}
	defer t.keep(c)
	var first error
	held := make([]Flow, 0, together)
	b := c.Begin()
	send := func() {
		_ = b.Do() // each answer is looked at
		for i := range held {
			err := b.Err(i)
			if again != nil && errors.Is(err, unix.EBUSY) {
				err = again(&held[i])
			}
			switch {
			case err == nil:
				done.Entries++
			case errors.Is(err, unix.ENOENT):
				done.Gone++
			default:
				if done.Refused++; done.Refused == 1 {
					first = refused(err, &held[i], refusedChange)
				}
			}
		}
		held, b = held[:0], c.Begin()
	}
	for f, err := range all {
		if err != nil {
			send()
			return done, errors.Join(err, first)
		}
		held = append(held, *f)
		add(b, f)
		if len(held) == together {
			send()
		}
	}
	send()
	return done, first
}
