package flows

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Parser reads connections as queued packets bring them (NFQA_CT). It is for one goroutine.
type Parser struct{ entry nfnl.Connection }

// Parse reads a connection's attributes. It allocates nothing but for a helper's name.
func (p *Parser) Parse(attributes []byte) (Flow, error) {
	if err := p.entry.Parse(attributes); err != nil {
		return Flow{}, err
	}
	return flow(&p.entry), nil
}

// change carries out one change of the connection with the original tuple orig. Where that tuple is in no zone, but the
// reply is in zone, the kernel looks for it in zone 0.
func (t *Table) change(tr helpers.Transport, orig helpers.Tuple, zone uint16, add func(*nfnl.Batch, *nfnl.Tuple, uint16)) error {
	name := raw(tr, orig)
	b := t.conn.Begin()
	add(b, &name, zone)
	err := b.Do()
	if zone != 0 && errors.Is(err, unix.ENOENT) {
		b = t.conn.Begin()
		b.Get(&name, 0, &t.entry)
		if b.Do() == nil && t.entry.Zone == zone && t.entry.ZoneDir == nfnl.ZoneReply {
			b = t.conn.Begin()
			add(b, &name, 0)
			err = b.Do()
		}
	}
	if err != nil {
		return failed(tr, orig, err)
	}
	return nil
}

// Adjust sets the sequence adjustment of one direction of the connection with the original tuple orig. A connection
// without the extension for it ignores that silently: ask Adjustable first.
func (t *Table) Adjust(tr helpers.Transport, orig helpers.Tuple, zone uint16, dir helpers.Dir, s SeqAdj) error {
	return t.change(tr, orig, zone, func(b *nfnl.Batch, name *nfnl.Tuple, zone uint16) {
		b.SetAdjust(name, zone, uint8(dir), nfnl.SeqAdj(s))
	})
}

// AppendAdjust appends to dst what Adjust tells the kernel, as a netlink message that asks for no answer: to be sent
// together with something else. A connection of a zone is for Adjust only, which may have to look for it.
func AppendAdjust(dst []byte, tr helpers.Transport, orig helpers.Tuple, dir helpers.Dir, s SeqAdj) []byte {
	name := raw(tr, orig)
	return nfnl.AppendSetAdjust(dst, &name, 0, uint8(dir), nfnl.SeqAdj(s))
}

// Adjustable says whether the kernel can adjust f's sequence numbers. It sets an adjustment of nothing, where there is
// none, and reads it back: the kernel shows no other sign of the extension.
func (t *Table) Adjustable(f *Flow) (bool, error) {
	if f.Adjusted {
		return true, nil
	}
	if err := t.Adjust(f.Transport, f.Orig, f.Zone, helpers.Original, SeqAdj{}); err != nil {
		return false, err
	}
	back, err := t.again(f.Transport, f.Orig, f.Zone)
	if err != nil {
		return false, err
	}
	return back.Adjusted, nil
}

// again reads back a connection that change has found.
func (t *Table) again(tr helpers.Transport, orig helpers.Tuple, zone uint16) (Flow, error) {
	f, err := t.Get(tr, orig, zone)
	if zone != 0 && errors.Is(err, ErrNotFound) {
		if other, e := t.Get(tr, orig, 0); e == nil && other.Zone == zone {
			return other, nil
		}
	}
	return f, err
}

// Has says whether there is a connection with the original tuple orig.
func (t *Table) Has(tr helpers.Transport, orig helpers.Tuple, zone uint16) (bool, error) {
	_, err := t.again(tr, orig, zone)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// ErrNotReplaceable says that a connection's entry holds what a new one could not be given.
var ErrNotReplaceable = nfnl.ErrNotReplaceable

// Replace puts a new entry in the place of f's, equal in tuples, translation, zone, mark and labels: the kernel can
// adjust the numbers of an entry that was made so. No packet of f may come meanwhile, so have rules drop them. Its end
// and its beginning are events. Only TCP connections can be replaced whose SYN was answered and that nobody has closed.
//
// ErrNotFound and ErrNotReplaceable: nothing was changed. Another error: the kernel does not know the connection any more
// until its next packet.
func (t *Table) Replace(f *Flow) error {
	if err := t.conn.ReplaceConnection(raw(f.Transport, f.Orig), f.Zone); err != nil {
		return failed(f.Transport, f.Orig, err)
	}
	back, err := t.again(f.Transport, f.Orig, f.Zone)
	if err == nil && back.Reply != f.Reply {
		err = fmt.Errorf("%s %s: the new entry is answered by %s, not by %s", f.Transport, f.Orig, back.Reply, f.Reply)
	}
	return err
}
