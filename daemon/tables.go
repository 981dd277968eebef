package daemon

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/nfnl"
	"github.com/cthelperd/cthelperd/internal/rules"
	"github.com/cthelperd/cthelperd/queue"
)

// tables are the kernel's connections and expectations, as the engine asks for them.
type tables struct {
	kernel  *expect.Kernel
	flows   *flows.Table
	origins *rules.Origins // nil: the queue tells
	watcher *flows.Watcher
	sight   nfnl.Sight      // kept for packetConn
	changes []expect.Change // kept for Do
	used    []expect.ID     // that connections have met, until drive is done
	packet  engine.Conn
	// together: verdicts can take adjustments along. Those that are to be taken: as messages, and to be sent otherwise.
	together bool
	adjusts  []byte
	owed     []engine.Adjust
	flush    func() // sends the verdicts that are noted; nil: there are none
	told     bool   // the queue tells a packet's connection
	control  ports  // of the configuration
	zones    zones  // if the queue does not tell
	// existing are control connections that began before the daemon did, or before it knew their port.
	existing map[connection]struct{}
	unasked  []connection // of existing, in this round of askExisting
	// renewed are connections that got a new entry while they were met, and how many events will tell of it.
	renewed  map[connection]int
	suspects map[expect.ID]bool // were not in the kernel's table the last time
}

// connection names an entry of the connection table.
type connection struct {
	transport helpers.Transport
	orig      helpers.Tuple
	zone      uint16
}

// openTables opens the tables of the calling thread's network namespace. Events count from here on. told: the queue
// tells a packet's connection.
func openTables(cfg *config.Config, told bool) (t *tables, err error) {
	t = &tables{told: told, zones: zones{}, control: controlPorts(cfg), renewed: map[connection]int{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if t.kernel, err = expect.OpenKernel(cfg.Helpers()); err != nil {
		return t, err
	}
	if t.flows, err = flows.Open(); err != nil {
		return t, err
	}
	if t.watcher, err = flows.Watch(flows.Watching{Kinds: flows.News | flows.Destroys, Once: true}); err != nil {
		return t, err
	}
	if !told {
		t.origins, err = rules.OpenOrigins()
	}
	return t, err
}

func (t *tables) close() (err error) {
	if t.watcher != nil {
		err = errors.Join(err, t.watcher.Close())
	}
	if t.flows != nil {
		err = errors.Join(err, t.flows.Close())
	}
	if t.origins != nil {
		err = errors.Join(err, t.origins.Close())
	}
	if t.kernel != nil {
		err = errors.Join(err, t.kernel.Close())
	}
	return err
}

// reload makes the tables ready for another configuration.
func (t *tables) reload(cfg *config.Config) error {
	t.control = controlPorts(cfg)
	return t.kernel.Use(cfg.Helpers())
}

// noteExisting remembers the connections at the helpers' ports that are there now, and forgets those that are not: not
// of all the kernel says that they ended. Of those that are read already it changes nothing.
func (t *tables) noteExisting() error {
	t.existing = map[connection]struct{}{}
	for f, err := range t.flows.List(nil) {
		if err != nil {
			return err
		}
		t.noteZone(f)
		if t.control.has(f) {
			t.existing[connection{f.Transport, f.Orig, f.Zone}] = struct{}{}
		}
	}
	return nil
}

// Do carries out requests of the engine: what is for the table of expectations, and not cut in two by something else,
// at once.
func (t *tables) Do(requests []engine.Request, answers []error) {
	for first := 0; first < len(requests); {
		if a := requests[first].Adjust; a != nil {
			answers[first] = t.adjust(a)
			first++
			continue
		}
		t.changes = t.changes[:0]
		for _, r := range requests[first:] {
			if r.Adjust != nil {
				break
			}
			if r.Place != nil {
				t.refreshMark(&r.Place.Master)
			}
			t.changes = append(t.changes, expect.Change{Place: r.Place, Remove: r.Remove, Forget: r.Forget})
		}
		last := first + len(t.changes)
		t.kernel.Do(t.changes, answers[first:last])
		first = last
	}
}

// adjust sets a sequence adjustment: with the next verdict on a packet that was changed, if that can be. Should the
// daemon die between the two, the kernel would go on moving the numbers of a text whose new length was never sent.
func (t *tables) adjust(a *engine.Adjust) error {
	if !t.together || a.Zone != 0 {
		t.before()
		return t.flows.Adjust(a.Transport, a.Orig, a.Zone, a.Dir, flows.SeqAdj(a.SeqAdjust))
	}
	t.adjusts = flows.AppendAdjust(t.adjusts, a.Transport, a.Orig, a.Dir, flows.SeqAdj(a.SeqAdjust))
	t.owed = append(t.owed, *a)
	return nil
}

// settle sets the adjustments that no verdict took along.
func (t *tables) settle() (err error) {
	t.before()
	for i := range t.owed {
		a := &t.owed[i]
		e := t.flows.Adjust(a.Transport, a.Orig, a.Zone, a.Dir, flows.SeqAdj(a.SeqAdjust))
		if !errors.Is(e, flows.ErrNotFound) {
			err = errors.Join(err, e)
		}
	}
	t.taken()
	return err
}

// before sends what must be on its way before an adjustment changes: the numbers of these packets fit the one that is.
func (t *tables) before() {
	if t.flush != nil {
		t.flush()
	}
}

// taken says that the adjustments were sent.
func (t *tables) taken() { t.adjusts, t.owed = t.adjusts[:0], t.owed[:0] }

// noteZone remembers a control connection's zone, where the queue does not tell it.
func (t *tables) noteZone(f *flows.Flow) {
	if !t.told && (t.control.has(f) || f.Expected()) {
		t.zones.add(f)
	}
}

// refreshMark asks for the control connection's mark, where packets do not bring it: it may have been set since the
// connection was met, and what is announced inherits it.
func (t *tables) refreshMark(m *expect.Master) {
	if t.told {
		return
	}
	if f, err := t.flows.Get(m.Transport, m.Orig, m.Zone); err == nil {
		m.Mark = f.Mark
	}
}

// packetConn is what a queued packet itself says of its connection, valid until the next call; nil: nothing that can be
// read.
func (t *tables) packetConn(p *queue.Packet) *engine.Conn {
	s := &t.sight
	if s.Parse(p.Conntrack) != nil {
		return nil
	}
	c := &t.packet
	c.Transport, c.Orig, c.Reply = helpers.Transport(s.Orig.Proto), endPoints(&s.Orig), endPoints(&s.Reply)
	c.Zone, c.Mark, c.Unconfirmed = s.Zone, s.Mark, s.Status&nfnl.StatusConfirmed == 0
	c.Adjust = [2]engine.SeqAdjust{engine.SeqAdjust(s.Adjust[0]), engine.SeqAdjust(s.Adjust[1])}
	c.Adjustable, c.Existing = false, false // left to complete
	return c
}

func endPoints(t *nfnl.Tuple) helpers.Tuple {
	return helpers.Tuple{Src: netip.AddrPortFrom(t.Src, t.SrcPort), Dst: netip.AddrPortFrom(t.Dst, t.DstPort)}
}

// conn is what an entry of the connection table says.
func conn(f *flows.Flow) engine.Conn {
	c := engine.Conn{
		Transport: f.Transport, Orig: f.Orig, Reply: f.Reply, Zone: f.Zone, Mark: f.Mark, Unconfirmed: !f.Confirmed(),
	}
	for dir, a := range f.Adjust {
		c.Adjust[dir] = engine.SeqAdjust(a)
	}
	return c
}

// complete adds what is known beside the entry.
func (t *tables) complete(c *engine.Conn) {
	name := connection{c.Transport, c.Orig, c.Zone}
	_, c.Existing = t.existing[name]
	if c.Transport != helpers.TCP || c.Orig == c.Reply.Turned() || c.Unconfirmed {
		return
	}
	f := flows.Flow{Transport: c.Transport, Orig: c.Orig, Reply: c.Reply, Zone: c.Zone}
	f.Adjusted = c.Adjust != [2]engine.SeqAdjust{}
	can, err := t.flows.Adjustable(&f)
	c.Adjustable = can && err == nil || err == nil && t.renew(&f)
}

// renew gives a connection that was expected a new entry, which the kernel can adjust: nat-follow-master translates before
// rules could make room for it. It is met at its SYN-ACK, which waits in the queue: nothing else is under way.
func (t *tables) renew(f *flows.Flow) bool {
	now, err := t.flows.Get(f.Transport, f.Orig, f.Zone)
	if err != nil || !now.Expected() || t.flows.Replace(&now) != nil {
		return false
	}
	t.renewed[connection{f.Transport, f.Orig, f.Zone}] = 2 // the end of the old one, the beginning of the new one
	return true
}

// isRenewal tells whether an event tells of a renewal only.
func (t *tables) isRenewal(f *flows.Flow) bool {
	name := connection{f.Transport, f.Orig, f.Zone}
	n, ok := t.renewed[name]
	if n--; n <= 0 {
		delete(t.renewed, name)
	} else {
		t.renewed[name] = n
	}
	return ok
}

// ended forgets what is known of a connection.
func (t *tables) ended(f *flows.Flow) {
	name := connection{f.Transport, f.Orig, f.Zone}
	delete(t.existing, name)
	t.zones.remove(f)
}

// askedAtOnce bounds askExisting: what it takes is a system call each.
const askedAtOnce = 256

// askExisting asks for some connections that are older than the daemon, in turns, and gives those that are gone. With
// nf_conntrack_events=2, the default, the kernel says nothing of the end of what began while nobody listened.
func (t *tables) askExisting() (gone []connection, err error) {
	if len(t.unasked) == 0 {
		t.unasked = slices.AppendSeq(t.unasked, maps.Keys(t.existing))
	}
	n := min(len(t.unasked), askedAtOnce)
	for _, c := range t.unasked[:n] {
		if _, there := t.existing[c]; !there {
			continue
		}
		there, err := t.flows.Has(c.transport, c.orig, c.zone)
		if err != nil {
			return gone, err
		}
		if !there {
			gone = append(gone, c)
		}
	}
	t.unasked = t.unasked[n:]
	return gone, nil
}

// evicted are the expectations that have left the kernel's table and nobody said so: not used, as an event would have
// come since they were missed first.
func (t *tables) evicted() ([]expect.ID, error) {
	lost, err := t.kernel.Lost()
	if err != nil {
		return nil, err
	}
	var out []expect.ID
	suspects := map[expect.ID]bool{}
	for _, id := range lost {
		if t.suspects[id] {
			out = append(out, id)
		} else {
			suspects[id] = true
		}
	}
	t.suspects = suspects
	return out, nil
}

// repaired says what somebody else took out of the kernel's tables. The expectations that went with it are missed, and
// said to be gone, as if they had been evicted.
func (d *daemon) repaired(r expect.Repair) {
	d.repairs++
	if r.Object {
		d.log.Warn("a helper object was deleted: it is registered again, what hung on it is closed", "object", r.Name)
		return
	}
	d.log.Warn("a shadow master was deleted: it is made again, what hung on it is closed", "helper", r.Name, "expectations", r.Lost)
}

// saveState is what the next daemon needs: the engine's state, behind its length of 8 bytes, and what is in the
// kernel's table.
func (d *daemon) saveState() ([]byte, error) {
	e, err := d.engine.Save()
	if err != nil {
		return nil, err
	}
	k, err := d.tables.kernel.Save()
	if err != nil {
		return nil, err
	}
	return slices.Concat(binary.BigEndian.AppendUint64(nil, uint64(len(e))), e, k), nil
}

// loadState takes over what saveState made. If it fails, nothing of it is in use.
func (d *daemon) loadState(state []byte) error {
	if len(state) < 8 || binary.BigEndian.Uint64(state) > uint64(len(state)-8) {
		return errors.New("the state is damaged")
	}
	n := 8 + binary.BigEndian.Uint64(state)
	if err := d.engine.Load(state[8:n]); err != nil {
		return err
	}
	err := d.tables.kernel.Load(state[n:])
	if err != nil { // the engine must not believe that something is open
		fresh, e := engine.New(d.engineConfig(d.cfg))
		if e != nil {
			return errors.Join(err, e)
		}
		d.use(fresh)
	}
	return err
}
