package expect

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Kernel is the table of expectations of one network namespace. Expectations hang on shadow masters: entries of the
// connection table that no packet can meet, one for each session and master, made at the first announcement. It is
// for one goroutine.
type Kernel struct {
	conn    *nfnl.Conn
	own     map[string]*helpers.Helper // helpers with objects of our own
	carrier map[uint8]carrier          // by family, where there are none
	shadows map[shadowKey]*shadow
	placed  map[ID]place
	left    map[nfnl.Tuple]nfnl.Tuple // what was in the table before: expectation → its master
	now     func() time.Time
}

// shadowKey names a shadow.
type shadowKey struct {
	session uint64
	orig    nfnl.Tuple
	zone    uint16
}

type shadow struct {
	orig, reply nfnl.Tuple
	zone        uint16
	mark        uint32
	carrier     carrier
	until       time.Time // when the kernel forgets it
	placed      map[ID]struct{}
}

// place is where an expectation is.
type place struct {
	shadow *shadow
	tuple  nfnl.Tuple
	until  time.Time
}

// spare is how much longer than its longest expectation a shadow lives.
const spare = 60 * time.Second

// OpenKernel opens the table of the calling thread's network namespace, for what these helpers announce. ErrNoCarrier:
// this kernel cannot do it.
func OpenKernel(all []helpers.Helper) (*Kernel, error) {
	conn, err := nfnl.Dial()
	if err != nil {
		return nil, err
	}
	k := &Kernel{
		conn: conn, own: map[string]*helpers.Helper{}, carrier: map[uint8]carrier{},
		shadows: map[shadowKey]*shadow{}, placed: map[ID]place{}, left: map[nfnl.Tuple]nfnl.Tuple{}, now: time.Now,
	}
	err = k.Use(all)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err == nil {
			err = conn.Expectations(family, func(e *nfnl.Expectation) { k.left[e.Tuple] = e.Master })
		}
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return k, nil
}

// Use makes the table ready for more helpers; what is there stays.
func (k *Kernel) Use(all []helpers.Helper) error {
	for i := range all {
		err := register(k.conn, &all[i])
		if errors.Is(err, nfnl.ErrNoHelperObjects) {
			return k.findCarriers()
		}
		if err != nil {
			return err
		}
		k.own[all[i].Name] = &all[i]
	}
	return nil
}

func (k *Kernel) findCarriers() error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if k.carrier[family].name != "" {
			continue
		}
		c, err := find(k.conn, family)
		if err != nil {
			return err
		}
		k.carrier[family] = c
	}
	return nil
}

// Close closes the socket. What is in the table stays.
func (k *Kernel) Close() error { return k.conn.Close() }

// Label is the helper's name that rules match on connections which helper led to (nft `ct helper`).
func (k *Kernel) Label(helper string) string {
	if k.own[helper] != nil {
		return Label(helper)
	}
	return k.carrier[unix.AF_INET].name
}

// Own says whether expectations hang on helper objects of our own.
func (k *Kernel) Own() bool { return len(k.own) > 0 }

// Way says in words what expectations hang on.
func (k *Kernel) Way() string {
	if len(k.own) > 0 {
		return "own helper objects"
	}
	return fmt.Sprintf("in-kernel helper %s as carrier (IPv6: %s)", k.carrier[unix.AF_INET].name, k.carrier[unix.AF_INET6].name)
}

func (k *Kernel) carrierOf(m *Master, class uint8) carrier {
	if h := k.own[m.Helper]; h != nil && int(class) < len(h.Classes) {
		c := h.Classes[class]
		return carrier{
			name: Label(h.Name), l4: uint8(m.Transport), own: true,
			capacity: int(min(max(c.Max, 1), maxPolicy)), timeout: max(seconds(c.Timeout), 1),
		}
	}
	return k.carrier[nfnl.Family(m.Orig.Src.Addr())]
}

// Place puts an expectation into the table and waits for the kernel's answer. ErrTaken: an equal one is there.
// ErrFull: the kernel's table, or what one shadow holds, is full.
func (k *Kernel) Place(q Request) error {
	if _, ok := k.placed[q.ID]; ok {
		return ErrTaken
	}
	c := k.carrierOf(&q.Master, q.Class)
	orig, reply := shadowOf(&q.Master, c.l4)
	key := shadowKey{q.Master.Session, orig, q.Master.Zone}
	s := k.shadows[key]
	if s == nil {
		s = &shadow{orig: orig, reply: reply, zone: q.Master.Zone, mark: q.Master.Mark, carrier: c, placed: map[ID]struct{}{}}
	}
	k.prune(s)
	if len(s.placed) >= c.capacity {
		return fmt.Errorf("%w: carrier %s keeps %d at once", ErrFull, c.name, c.capacity)
	}
	class := q.Class
	if !c.own {
		class = 0
	}
	e := Compile(&q, orig, class)
	if err := k.mark(s, q.Master.Mark); err != nil {
		return err
	}
	if err := k.ensure(s, q.Timeout+spare); err != nil {
		return err
	}
	k.shadows[key] = s
	err := k.conn.CreateExpectation(&e)
	if errors.Is(err, unix.ENOENT) { // somebody has flushed the connection table
		s.until = time.Time{}
		if err = k.ensure(s, q.Timeout+spare); err == nil {
			err = k.conn.CreateExpectation(&e)
		}
	}
	if master, ok := k.left[e.Tuple]; ok && master == orig && (errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY)) {
		// The same end point of the same control connection, from a process that was killed.
		delete(k.left, e.Tuple)
		if err = k.gone(k.conn.DeleteExpectation(e.Tuple, e.Zone)); err == nil {
			err = k.conn.CreateExpectation(&e)
		}
	}
	switch {
	case errors.Is(err, unix.EEXIST), errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: %w", ErrTaken, err)
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("%w: nf_conntrack_expect_max: %w", ErrFull, err)
	case err != nil:
		return err
	}
	if e.Timeout != c.timeout {
		if err := k.conn.ChangeExpectation(&e); err != nil {
			return errors.Join(err, k.gone(k.conn.DeleteExpectation(e.Tuple, e.Zone)))
		}
	}
	k.placed[q.ID] = place{s, e.Tuple, k.now().Add(q.Timeout)}
	s.placed[q.ID] = struct{}{}
	return nil
}

// prune forgets what has run out on s.
func (k *Kernel) prune(s *shadow) {
	now := k.now()
	for id := range s.placed {
		if k.placed[id].until.Before(now) {
			k.Used(id)
		}
	}
}

// mark gives s the mark that the control connection has now: connections inherit it from their master.
func (k *Kernel) mark(s *shadow, mark uint32) error {
	if s.mark == mark {
		return nil
	}
	s.mark = mark
	if s.until.IsZero() { // it is still to be made
		return nil
	}
	return k.gone(k.prolong(s, seconds(s.until.Sub(k.now()))))
}

// ensure makes s live for d at least.
func (k *Kernel) ensure(s *shadow, d time.Duration) error {
	now := k.now()
	if !s.until.Before(now.Add(d)) {
		return nil
	}
	d += spare // so that not every announcement has to prolong it
	var err error
	if s.until.IsZero() {
		err = k.create(s, seconds(d))
	} else if err = k.prolong(s, seconds(d)); errors.Is(err, unix.ENOENT) {
		err = k.create(s, seconds(d))
	}
	if err != nil {
		return err
	}
	s.until = now.Add(d)
	return nil
}

func (k *Kernel) prolong(s *shadow, timeout uint32) error {
	b := k.conn.Begin()
	b.Prolong(&s.orig, s.zone, timeout, s.mark)
	return b.Do()
}

func (k *Kernel) create(s *shadow, timeout uint32) error {
	err := k.conn.CreateConnection(&nfnl.Connection{
		Orig: s.orig, Reply: s.reply, Zone: s.zone, Mark: s.mark, Timeout: timeout, Helper: s.carrier.name,
	})
	if errors.Is(err, unix.EEXIST) { // an earlier run's: what hangs on it stays
		return k.prolong(s, timeout)
	}
	if err != nil {
		return fmt.Errorf("shadow master with helper %s: %w", s.carrier.name, err)
	}
	return nil
}

// Remove takes an expectation out. It is no error if it has been used or has run out.
func (k *Kernel) Remove(id ID) error {
	p, ok := k.placed[id]
	if !ok {
		return nil
	}
	k.Used(id)
	return k.gone(k.conn.DeleteExpectation(p.tuple, p.shadow.zone))
}

// Used says that an expectation has left the table without Remove.
func (k *Kernel) Used(id ID) {
	if p, ok := k.placed[id]; ok {
		delete(p.shadow.placed, id)
		delete(k.placed, id)
	}
}

// saved is what Save writes of one shadow.
type saved struct {
	Session     uint64
	Orig, Reply nfnl.Tuple
	Zone        uint16
	Mark        uint32
	Carrier     savedCarrier
	Until       time.Time
	Placed      []savedPlace
}

type savedCarrier struct {
	Name     string
	L4       uint8
	Capacity int
	Timeout  uint32
	Own      bool
}

type savedPlace struct {
	ID    ID
	Tuple nfnl.Tuple
	Until time.Time
}

// Save is what is in the kernel's table, for Load in another process; it stays there.
func (k *Kernel) Save() ([]byte, error) {
	all := []saved{}
	for key, s := range k.shadows {
		one := saved{
			Session: key.session, Orig: s.orig, Reply: s.reply, Zone: s.zone, Mark: s.mark, Until: s.until,
			Carrier: savedCarrier{s.carrier.name, s.carrier.l4, s.carrier.capacity, s.carrier.timeout, s.carrier.own},
		}
		for id := range s.placed {
			one.Placed = append(one.Placed, savedPlace{id, k.placed[id].tuple, k.placed[id].until})
		}
		all = append(all, one)
	}
	return json.Marshal(all)
}

// Load takes over what Save wrote. It fails as a whole or not at all.
func (k *Kernel) Load(state []byte) error {
	var all []saved
	if err := json.Unmarshal(state, &all); err != nil {
		return fmt.Errorf("state of the expectation table: %w", err)
	}
	for _, one := range all {
		c := one.Carrier
		s := &shadow{
			orig: one.Orig, reply: one.Reply, zone: one.Zone, mark: one.Mark, until: one.Until, placed: map[ID]struct{}{},
			carrier: carrier{c.Name, c.L4, c.Capacity, c.Timeout, c.Own},
		}
		k.shadows[shadowKey{one.Session, one.Orig, one.Zone}] = s
		for _, p := range one.Placed {
			k.placed[p.ID] = place{s, p.Tuple, p.Until}
			s.placed[p.ID] = struct{}{}
		}
	}
	return nil
}

// Forget deletes the shadows of a session, and with them all that hangs on them.
func (k *Kernel) Forget(session uint64) error {
	var all error
	for key, s := range k.shadows {
		if key.session != session {
			continue
		}
		for id := range s.placed {
			delete(k.placed, id)
		}
		delete(k.shadows, key)
		if !k.shared(s) {
			all = errors.Join(all, k.gone(k.conn.DeleteConnection(s.orig, s.zone)))
		}
	}
	return all
}

// shared says whether another session has the same shadow: two on one pair of addresses and ports, one after the other.
func (k *Kernel) shared(s *shadow) bool {
	for key, other := range k.shadows {
		if key.orig == s.orig && key.zone == s.zone && other != s {
			return true
		}
	}
	return false
}

// gone is err, unless it says that what was to be deleted is not there.
func (k *Kernel) gone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Lost gives the expectations that are not in the table any more though nothing said so: used while events were lost,
// flushed by an administrator, evicted.
func (k *Kernel) Lost() (lost []ID, err error) {
	there := map[nfnl.Tuple]bool{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := k.conn.Expectations(family, func(e *nfnl.Expectation) { there[e.Tuple] = true }); err != nil {
			return nil, err
		}
	}
	for id, p := range k.placed {
		if !there[p.tuple] {
			lost = append(lost, id)
		}
	}
	return lost, nil
}

// Cleaned says what Clean removed.
type Cleaned struct{ Shadows, Expectations, Objects int }

// Clean removes the shadows that any run left in the calling thread's network namespace, with their expectations, and
// the helper objects of all helpers if objects is set: they are the machine's, so other daemons must not need them.
func Clean(all []helpers.Helper, objectsToo bool) (done Cleaned, err error) {
	conn, err := nfnl.Dial()
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		var found []nfnl.Connection
		if err := conn.Connections(family, func(c *nfnl.Connection) {
			if isShadow(c) {
				found = append(found, *c)
			}
		}); err != nil {
			return done, err
		}
		masters := map[nfnl.Tuple]bool{}
		for _, c := range found {
			masters[c.Orig] = true
		}
		if err := conn.Expectations(family, func(e *nfnl.Expectation) {
			if masters[e.Master] {
				done.Expectations++
			}
		}); err != nil {
			return done, err
		}
		for _, c := range found {
			if err := conn.DeleteConnection(c.Orig, c.Zone); err != nil && !errors.Is(err, unix.ENOENT) {
				return done, err
			}
			done.Shadows++
		}
	}
	if !objectsToo {
		return done, nil
	}
	there, err := conn.Helpers()
	if errors.Is(err, nfnl.ErrNoHelperObjects) {
		return done, nil
	}
	if err != nil {
		return done, err
	}
	for _, o := range there {
		for i := range all {
			if o.Name != Label(all[i].Name) {
				continue
			}
			switch err := conn.DeleteHelper(&o); {
			case err == nil:
				done.Objects++
			case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY):
				return done, err
			}
		}
	}
	return done, nil
}

// isShadow recognises a shadow by what no packet makes: port 0 where the server's is, a helper, assured.
func isShadow(c *nfnl.Connection) bool {
	if c.Orig.DstPort != 0 || c.Reply.SrcPort != 0 || c.Status&nfnl.StatusAssured == 0 || c.Helper == "" ||
		c.Orig.Proto != unix.IPPROTO_TCP && c.Orig.Proto != unix.IPPROTO_UDP {
		return false
	}
	if strings.HasPrefix(c.Helper, Label("")) {
		return true
	}
	for _, in := range inKernel {
		if in.name == c.Helper {
			return true
		}
	}
	return false
}

// Counts are how many expectations the calling thread's network namespace has now, and how many the kernel allows
// (nf_conntrack_expect_max, one number for all namespaces).
func Counts() (used, most int, err error) {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_expect_max")
	if err != nil {
		return 0, 0, err
	}
	if most, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
		return 0, 0, err
	}
	conn, err := nfnl.Dial()
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := conn.Expectations(family, func(*nfnl.Expectation) { used++ }); err != nil {
			return 0, 0, err
		}
	}
	return used, most, nil
}
