package daemon

import (
	"errors"
	"slices"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/rules"
)

// errAmbiguous: packets of two connections look alike, and the queue does not tell which one a packet is of.
var errAmbiguous = errors.New("connections of several zones have these addresses and ports")

// zones are the control connections outside of zone 0, by either of their tuples. They are kept where a queued packet
// does not tell its connection: a look-up needs the zone, and nothing in the packet says it.
type zones map[zoned][]uint16

type zoned struct {
	transport helpers.Transport
	tuple     helpers.Tuple
}

func (z zones) add(f *flows.Flow) {
	if f.Zone == 0 {
		return
	}
	for _, tuple := range [2]helpers.Tuple{f.Orig, f.Reply} {
		k := zoned{f.Transport, tuple}
		if !slices.Contains(z[k], f.Zone) {
			z[k] = append(z[k], f.Zone)
		}
	}
}

func (z zones) remove(f *flows.Flow) {
	if f.Zone == 0 {
		return
	}
	for _, tuple := range [2]helpers.Tuple{f.Orig, f.Reply} {
		k := zoned{f.Transport, tuple}
		rest := slices.DeleteFunc(z[k], func(zone uint16) bool { return zone == f.Zone })
		if len(rest) == 0 {
			delete(z, k)
		} else {
			z[k] = rest
		}
	}
}

// lookup finds the connection of a packet that was seen behind NAT: the table has the turned tuple, in one zone. If it is
// in several, each may be the packet's, and none is read: what one tenant says must not open anything at the other's.
func (t *tables) lookup(tr helpers.Transport, seen helpers.Tuple) (flows.Flow, error) {
	tuple := seen.Turned()
	found, err := t.flows.Get(tr, tuple, 0)
	if err != nil && !errors.Is(err, flows.ErrNotFound) {
		return flows.Flow{}, err
	}
	for _, zone := range t.zones[zoned{tr, tuple}] {
		other, e := t.flows.Get(tr, tuple, zone)
		switch {
		case errors.Is(e, flows.ErrNotFound):
		case e != nil:
			return flows.Flow{}, e
		case err == nil:
			return flows.Flow{}, errAmbiguous
		default:
			found, err = other, nil
		}
	}
	return found, err
}

// first is the connection of a datagram that is the first of it: conntrack enters it after the verdict only.
func (t *tables) first(tr helpers.Transport, seen helpers.Tuple) (engine.Conn, error) {
	if tr != helpers.UDP || t.origins == nil {
		return engine.Conn{}, engine.ErrNotTracked
	}
	orig, mark, err := t.origins.Find(seen)
	if errors.Is(err, rules.ErrNoOrigin) {
		err = engine.ErrNotTracked
	}
	return engine.Conn{Transport: tr, Orig: orig, Reply: seen.Turned(), Mark: mark, Unconfirmed: true}, err
}

// ports are those of control connections.
type ports map[port]bool

type port struct {
	transport helpers.Transport
	number    uint16
}

func controlPorts(cfg *config.Config) ports {
	all := ports{}
	for _, h := range cfg.Helpers() {
		for _, p := range h.Ports {
			all[port{h.Transport, p}] = true
		}
	}
	return all
}

// has says whether f is a control connection, or one that was announced and may be.
func (p ports) has(f *flows.Flow) bool {
	return p[port{f.Transport, f.Orig.Dst.Port()}] || p[port{f.Transport, f.Reply.Src.Port()}]
}
