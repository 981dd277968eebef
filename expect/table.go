package expect

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Flags of an Expectation (NF_CT_EXPECT_*).
const (
	FlagPermanent uint32 = 1 << iota // it can be used again and again
	FlagInactive                     // it is not looked at until a program makes it active
	FlagUserspace                    // a program in user space made it
)

// Expectation is an entry of the expectation table as the kernel has it.
type Expectation struct {
	Transport       helpers.Transport
	Tuple, Mask     helpers.Tuple // what counts of Tuple are the bits of Mask; no Mask: all of it but a port of 0
	MasterTransport helpers.Transport
	Master          helpers.Tuple // original tuple of the connection that it belongs to
	Timeout         uint32        // seconds from now
	ID              uint32
	Zone            uint16
	Class           uint32 // of the master's helper
	Flags           uint32
	Helper          string // of the master
	Function        string // the kernel's, that is called for the new connection: "nat-follow-master"
	NAT             bool
	NATDir          helpers.Dir
	NATTuple        helpers.Tuple // its source is what NAT restores
}

// Reasons of the kernel's, beside those of package flows.
var (
	ErrNotFound = errors.New("no such expectation")
	ErrNoMaster = errors.New("there is no such master connection")
	ErrNoHelper = errors.New("the master connection has no helper")
	ErrInTheWay = errors.New("another expectation is in its way")
)

// Table is the expectation table of one network namespace. It is for one goroutine.
type Table struct {
	conn  *nfnl.Conn
	entry nfnl.Expectation // kept for answers
}

// Open opens the table of the calling thread's network namespace. flows.ErrPermission and flows.ErrNoTable are said here.
func Open() (*Table, error) {
	t := &Table{}
	var err error
	if t.conn, err = nfnl.Dial(); err == nil {
		if _, err = t.Stats(); err == nil {
			return t, nil
		}
		err = errors.Join(err, t.Close())
	}
	const what = "open the expectation table"
	if nfnl.NoSubsystem(err) {
		err = &flows.Error{Op: what, Reason: flows.ErrNoTable}
	} else if e := (*flows.Error)(nil); errors.As(err, &e) {
		e.Op = what // not the question that tried it
	}
	return nil, err
}

// Close closes the table's socket.
func (t *Table) Close() error { return t.conn.Close() }

// List gives all entries, of both families. An Expectation is valid until the next one is taken. While it goes on, the
// table may be used for anything else, by sockets of the calling thread's namespace.
func (t *Table) List() iter.Seq2[*Expectation, error] {
	return func(yield func(*Expectation, error) bool) {
		c, err := nfnl.Dial()
		if err != nil {
			yield(nil, err)
			return
		}
		defer c.Close()
		var out Expectation
		left := false
		err = c.ListExpectations(unix.AF_UNSPEC, func(e *nfnl.Expectation) bool {
			out = shown(e)
			left = !yield(&out, nil)
			return !left
		})
		if err != nil && !left {
			yield(nil, refused(err, "", nil))
		}
	}
}

// Get finds the expectation with this tuple. ErrNotFound: there is none.
func (t *Table) Get(tr helpers.Transport, tuple helpers.Tuple, zone uint16) (Expectation, error) {
	name := rawTuple(tr, tuple)
	b := t.conn.Begin()
	b.GetExpectation(&name, zone, &t.entry)
	if err := b.Do(); err != nil {
		return Expectation{}, refused(err, tr.String()+" "+tuple.String(), nil)
	}
	return shown(&t.entry), nil
}

// Create puts e into the table; ID and Helper are not looked at. The kernel takes the timeout of the class, so another one
// is set behind that.
func (t *Table) Create(e *Expectation) error {
	raw := e.raw()
	err := t.conn.CreateExpectation(&raw)
	if err != nil {
		return refused(err, e.name(), map[unix.Errno]error{
			unix.ENOENT: ErrNoMaster, unix.EOPNOTSUPP: ErrNoHelper, unix.EEXIST: ErrInTheWay, unix.EBUSY: ErrInTheWay,
			unix.EMFILE: ErrFull,
		})
	}
	if e.Timeout == 0 {
		return nil
	}
	return t.Change(e)
}

// Change sets the timeout of the expectation with e's tuple to e's.
func (t *Table) Change(e *Expectation) error {
	raw := e.raw()
	return refused(t.conn.ChangeExpectation(&raw), e.name(), nil)
}

// Delete takes out the expectation with e's tuple.
func (t *Table) Delete(e *Expectation) error {
	return refused(t.conn.DeleteExpectation(rawTuple(e.Transport, e.Tuple), e.Zone), e.name(), nil)
}

// Flush takes all out.
func (t *Table) Flush() error { return refused(t.conn.FlushExpectations(), "", nil) }

// Count is how many entries the table has, and how many the kernel allows it (nf_conntrack_expect_max).
func (t *Table) Count() (entries, most int, err error) {
	for _, err := range t.List() {
		if err != nil {
			return entries, 0, err
		}
		entries++
	}
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_expect_max")
	if err != nil {
		return entries, 0, err
	}
	most, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return entries, most, err
}

// CPUStats are the counters of one processor since the namespace began (enum ctattr_expect_stats).
type CPUStats struct {
	CPU                 int
	New, Create, Delete uint32
}

// Stats gives the counters of each processor.
func (t *Table) Stats() ([]CPUStats, error) {
	raw, err := t.conn.Stats(nfnl.ExpStatsCPU)
	all := make([]CPUStats, 0, len(raw))
	for _, r := range raw {
		all = append(all, CPUStats{CPU: r.CPU, New: r.Counts[1], Create: r.Counts[2], Delete: r.Counts[3]})
	}
	return all, refused(err, "", nil)
}

// refused makes a *flows.Error of nfnl's.
func refused(err error, entry string, reasons map[unix.Errno]error) error {
	var k *nfnl.Error
	if !errors.As(err, &k) {
		return err
	}
	e := &flows.Error{Op: k.Op, Entry: entry, Errno: k.Errno, Text: k.Text, Reason: reasons[k.Errno]}
	if e.Reason == nil {
		e.Reason = map[unix.Errno]error{unix.ENOENT: ErrNotFound, unix.EPERM: flows.ErrPermission}[k.Errno]
	}
	return e
}

func (e *Expectation) name() string { return fmt.Sprintf("%s %s", e.Transport, e.Tuple) }

func (e *Expectation) raw() nfnl.Expectation {
	return nfnl.Expectation{
		Master: rawTuple(e.MasterTransport, e.Master), Tuple: rawTuple(e.Transport, e.Tuple),
		Mask: rawTuple(e.Transport, e.mask()), Timeout: e.Timeout, Zone: e.Zone, Class: e.Class, Flags: e.Flags,
		NAT: e.NAT, NATDir: uint32(e.NATDir), NATTuple: rawTuple(e.Transport, e.NATTuple), Function: e.Function,
	}
}

// mask is Mask, and where that has nothing all of Tuple that is not 0.
func (e *Expectation) mask() helpers.Tuple {
	whole := func(end, mask netip.AddrPort) netip.AddrPort {
		if mask.Addr().IsValid() {
			return mask
		}
		bits, _ := netip.AddrFromSlice(bytes.Repeat([]byte{0xff}, end.Addr().BitLen()/8))
		if end.Port() == 0 {
			return netip.AddrPortFrom(bits, 0)
		}
		return netip.AddrPortFrom(bits, 0xffff)
	}
	return helpers.Tuple{Src: whole(e.Tuple.Src, e.Mask.Src), Dst: whole(e.Tuple.Dst, e.Mask.Dst)}
}

// shown is an entry as nfnl reads it.
func shown(e *nfnl.Expectation) Expectation {
	return Expectation{
		Transport: helpers.Transport(e.Tuple.Proto), Tuple: cooked(&e.Tuple), Mask: cooked(&e.Mask),
		MasterTransport: helpers.Transport(e.Master.Proto), Master: cooked(&e.Master),
		Timeout: e.Timeout, ID: e.ID, Zone: e.Zone, Class: e.Class, Flags: e.Flags, Helper: e.Helper, Function: e.Function,
		NAT: e.NAT, NATDir: helpers.Dir(e.NATDir), NATTuple: cooked(&e.NATTuple),
	}
}

func cooked(t *nfnl.Tuple) helpers.Tuple {
	return helpers.Tuple{Src: netip.AddrPortFrom(t.Src, t.SrcPort), Dst: netip.AddrPortFrom(t.Dst, t.DstPort)}
}

func rawTuple(tr helpers.Transport, t helpers.Tuple) nfnl.Tuple {
	return nfnl.Tuple{
		Src: t.Src.Addr(), SrcPort: t.Src.Port(), Dst: t.Dst.Addr(), DstPort: t.Dst.Port(), Proto: uint8(tr),
	}
}
