// Package flows is the connection table of the kernel's conntrack: look up, adjust, watch.
package flows

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// ErrNotFound says that there is no such connection.
var ErrNotFound = errors.New("no such connection")

// Flow is an entry of the connection table.
type Flow struct {
	Transport   helpers.Transport
	Orig, Reply helpers.Tuple
	Master      *helpers.Tuple // original tuple of the connection that this one was expected by; nil: none
	Zone        uint16
	Mark        uint32
	Status      uint32     // enum ip_conntrack_status
	Helper      string     // of the connection itself
	Adjust      [2]*SeqAdj // sequence adjustment by helpers.Dir; nil: none is shown
	Liberal     bool       // numbers outside of the window pass in both directions
}

// SeqAdj is the sequence adjustment of one direction (struct nf_ct_seqadj): segments behind Pos are moved by After,
// others by Before.
type SeqAdj struct {
	Pos           uint32
	Before, After int32
}

// Expected says whether the connection was expected (IPS_EXPECTED).
func (f *Flow) Expected() bool { return f.Status&nfnl.StatusExpected != 0 }

// Translated says whether a NAT changes its addresses or ports.
func (f *Flow) Translated() bool { return f.Orig != f.Reply.Turned() }

// Table is the connection table of one network namespace.
type Table struct{ conn *nfnl.Conn }

// Open opens the table of the calling thread's network namespace.
func Open() (*Table, error) {
	c, err := nfnl.Dial()
	if err != nil {
		return nil, err
	}
	return &Table{c}, nil
}

// Close closes the table's socket.
func (t *Table) Close() error { return t.conn.Close() }

// Get finds the connection that has tuple in one of its directions. ErrNotFound: there is none.
func (t *Table) Get(tr helpers.Transport, tuple helpers.Tuple, zone uint16) (Flow, error) {
	c, err := t.conn.Get(raw(tr, tuple), zone)
	if errors.Is(err, unix.ENOENT) {
		return Flow{}, fmt.Errorf("%s %s: %w", tr, tuple, ErrNotFound)
	}
	if err != nil {
		return Flow{}, fmt.Errorf("%s %s: %w", tr, tuple, err)
	}
	return flow(&c), nil
}

// Parse reads a connection's attributes as a queued packet brings them (NFQA_CT).
func Parse(attributes []byte) (Flow, error) {
	c, err := nfnl.Parse(attributes)
	if err != nil {
		return Flow{}, err
	}
	return flow(&c), nil
}

// Adjust sets the sequence adjustment of one direction of the connection with the original tuple orig. A connection
// without the extension for it ignores that silently: ask Adjustable first.
func (t *Table) Adjust(tr helpers.Transport, orig helpers.Tuple, zone uint16, dir helpers.Dir, s SeqAdj) error {
	if err := t.conn.SetAdjust(raw(tr, orig), zone, uint8(dir), nfnl.SeqAdj(s)); err != nil {
		return fmt.Errorf("%s %s: %w", tr, orig, err)
	}
	return nil
}

// Adjustable says whether the kernel can adjust f's sequence numbers. It sets an adjustment of nothing, where there is
// none, and reads it back: the kernel shows no other sign of the extension.
func (t *Table) Adjustable(f *Flow) (bool, error) {
	if f.Adjust[0] != nil || f.Adjust[1] != nil {
		return true, nil
	}
	if err := t.Adjust(f.Transport, f.Orig, f.Zone, helpers.Original, SeqAdj{}); err != nil {
		return false, err
	}
	back, err := t.Get(f.Transport, f.Orig, f.Zone)
	if err != nil {
		return false, err
	}
	return back.Adjust[0] != nil, nil
}

// ErrNotLiberal says that the kernel took the wish for nothing.
var ErrNotLiberal = errors.New("the kernel keeps checking the connection's window")

// Liberal has the kernel let all numbers of the TCP connection with the original tuple orig pass, in both directions, and
// reads it back: who moves numbers himself moves them out of the window that conntrack sees (IP_CT_TCP_FLAG_BE_LIBERAL).
// ErrNotFound: there is no such connection.
func (t *Table) Liberal(orig helpers.Tuple, zone uint16) error {
	err := t.conn.SetTCPFlags(raw(helpers.TCP, orig), zone, nfnl.TCPLiberal, nfnl.TCPLiberal)
	if errors.Is(err, unix.ENOENT) {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", helpers.TCP, orig, err)
	}
	back, err := t.Get(helpers.TCP, orig, zone)
	if err == nil && !back.Liberal {
		err = fmt.Errorf("%s %s: %w", helpers.TCP, orig, ErrNotLiberal)
	}
	return err
}

// Each gives every connection of both families to each.
func (t *Table) Each(each func(*Flow)) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := t.conn.Connections(family, func(c *nfnl.Connection) {
			f := flow(c)
			each(&f)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func flow(c *nfnl.Connection) Flow {
	f := Flow{
		Transport: helpers.Transport(c.Orig.Proto), Orig: cooked(&c.Orig), Reply: cooked(&c.Reply),
		Zone: c.Zone, Mark: c.Mark, Status: c.Status, Helper: c.Helper,
		Liberal: c.TCPFlags[0]&c.TCPFlags[1]&nfnl.TCPLiberal != 0,
	}
	if c.Master != nil {
		m := cooked(c.Master)
		f.Master = &m
	}
	for dir, s := range c.Adjust {
		if s != nil {
			a := SeqAdj(*s)
			f.Adjust[dir] = &a
		}
	}
	return f
}

func cooked(t *nfnl.Tuple) helpers.Tuple {
	return helpers.Tuple{Src: netip.AddrPortFrom(t.Src, t.SrcPort), Dst: netip.AddrPortFrom(t.Dst, t.DstPort)}
}

func raw(tr helpers.Transport, t helpers.Tuple) nfnl.Tuple {
	return nfnl.Tuple{
		Src: t.Src.Addr(), SrcPort: t.Src.Port(), Dst: t.Dst.Addr(), DstPort: t.Dst.Port(), Proto: uint8(tr),
	}
}
