package daemon

import (
	"errors"
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/internal/config"
)

// install puts the rules of cfg in place. Connections under NAT that began without them get new entries in the connection
// table before any of their packets is queued: the kernel can adjust the numbers of those, as it can of newer ones.
func (d *daemon) install(cfg *config.Config) error {
	if !cfg.KeepOlder {
		all, err := d.rigid(cfg)
		if err != nil {
			return err
		}
		if err := d.renew(cfg, all); err != nil { // nothing may stay on hold
			return errors.Join(err, d.setRules(d.rules(cfg)))
		}
	}
	if err := d.setRules(d.rules(cfg)); err != nil {
		return err
	}
	return d.tables.noteExisting() // now, as what began before these rules was not seen
}

const (
	heldAtMost  = 5 * time.Second        // should this process die meanwhile
	heldAtOnce  = 2048                   // connections whose packets are dropped at a time: for less than TCP waits to repeat one
	heldLong    = time.Second            // ends a turn on a slow machine: well before heldAtMost
	inFlight    = 10 * time.Millisecond  // for packets on other CPUs that have just passed the rules before conntrack
	betweenHold = 100 * time.Millisecond // for which all packets pass then
	betweenRead = 256                    // entries, so that their ends do not fill the socket that tells of them
)

// renew replaces the entries of connections, so many at a time that none is held up for long.
func (d *daemon) renew(cfg *config.Config, all []flows.Flow) error {
	if len(all) == 0 {
		return nil
	}
	renewed, turns := 0, 0
	for len(all) > 0 {
		if turns > 0 {
			if err := d.rest(); err != nil {
				return err
			}
			read := d.read()
			all = slices.DeleteFunc(all, func(f flows.Flow) bool { return read.has(&f) })
		}
		turns++
		done, n, err := d.replace(cfg, all[:min(len(all), heldAtOnce)])
		if err != nil {
			return err
		}
		renewed += n
		all = all[done:]
	}
	d.log.Info("connections under NAT that began before have new entries: their numbers can be adjusted",
		"connections", renewed, "turns", turns)
	return nil
}

// replace replaces the entries of some connections, of the first done. Packets of their ports are on hold meanwhile: one
// that came between the old entry and the new would make a third, or meet the firewall itself.
func (d *daemon) replace(cfg *config.Config, part []flows.Flow) (done, renewed int, err error) {
	hold := d.rules(cfg)
	began := time.Now()
	hold.HoldUntil = began.Add(heldAtMost)
	for i := range part {
		hold.Hold = append(hold.Hold, part[i].Orig.Dst.Port(), part[i].Reply.Src.Port())
	}
	slices.Sort(hold.Hold)
	hold.Hold = slices.Compact(hold.Hold)
	if err := d.setRules(hold); err != nil {
		return 0, 0, err
	}
	time.Sleep(inFlight)
	var kept, lost failures
	for ; done < len(part) && (done == 0 || time.Since(began) < heldLong); done++ {
		if done%betweenRead == betweenRead-1 {
			if err := d.events(); err != nil {
				return done, renewed, err
			}
		}
		switch err := d.tables.flows.Replace(&part[done]); {
		case err == nil:
			renewed++
		case errors.Is(err, flows.ErrNotFound): // it has ended
		case errors.Is(err, flows.ErrNotReplaceable):
			kept.add(err)
		default:
			lost.add(err)
		}
	}
	if kept.n > 0 {
		d.log.Warn("connections under NAT are older than this daemon: announcements of another length are refused",
			"connections", kept.n, "first", kept.first)
	}
	if lost.n > 0 {
		d.log.Error("connections under NAT lost their entries in the connection table", "connections", lost.n, "first", lost.first)
	}
	return done, renewed, d.events()
}

// failures are told together: there may be as many as connections.
type failures struct {
	n     int
	first error
}

func (f *failures) add(err error) {
	if f.n++; f.n == 1 {
		f.first = err
	}
}

// rest lets packets pass for a while, by the rules that were there before; a daemon that reads already reads them.
func (d *daemon) rest() error {
	r := d.rules(d.cfg)
	if !d.running || d.guard.broken { // then there were none, or nobody served them
		r.Manual = r.Manual || !d.cfg.FailClosed
	}
	if err := d.setRules(r); err != nil {
		return err
	}
	if d.running {
		d.unlock()
		defer d.mu.Lock()
	}
	time.Sleep(betweenHold)
	return nil
}

// rigid are the established connections at the helpers' ports that are under NAT and whose numbers the kernel cannot
// adjust. Those that are read already are left out: their end would be taken for the connection's.
func (d *daemon) rigid(cfg *config.Config) (out []flows.Flow, err error) {
	read := d.read()
	var under []flows.Flow
	control := controlPorts(cfg)
	for f, err := range d.tables.flows.List(nil) {
		if err != nil {
			return nil, err
		}
		if f.Established() && f.Translated() && control.has(f) && !read.has(f) {
			under = append(under, *f)
		}
	}
	for i := range under {
		can, e := d.tables.flows.Adjustable(&under[i])
		switch {
		case e == nil && !can:
			out = append(out, under[i])
		case e != nil && !errors.Is(e, flows.ErrNotFound):
			err = errors.Join(err, e)
		}
	}
	return out, err
}

// connections are those of some entries of the connection table.
type connections map[connection]struct{}

func (c connections) has(f *flows.Flow) bool {
	_, ok := c[connection{f.Transport, f.Orig, f.Zone}]
	return ok
}

// read are the connections that the engine reads.
func (d *daemon) read() connections {
	all := connections{}
	for c := range d.engine.Connections() {
		all[connection{c.Transport, c.Orig, c.Zone}] = struct{}{}
	}
	return all
}
