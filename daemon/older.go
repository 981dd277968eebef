package daemon

import (
	"errors"
	"slices"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
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
		if err := d.renew(cfg, all); err != nil {
			return err
		}
	}
	return d.setRules(d.rules(cfg))
}

// renew replaces the entries of connections. Packets of their ports are on hold meanwhile: one that came between the old
// entry and the new would make a third, or meet the firewall itself.
func (d *daemon) renew(cfg *config.Config, all []flows.Flow) error {
	if len(all) == 0 {
		return nil
	}
	hold := d.rules(cfg)
	for i := range all {
		hold.Hold = append(hold.Hold, all[i].Orig.Dst.Port(), all[i].Reply.Src.Port())
	}
	slices.Sort(hold.Hold)
	hold.Hold = slices.Compact(hold.Hold)
	if err := d.setRules(hold); err != nil {
		return err
	}
	const often = 256 // so that the ends of the old entries do not fill the socket that tells of them
	renewed := 0
	for i := range all {
		if i%often == often-1 {
			if err := d.events(); err != nil {
				return err
			}
		}
		switch err := d.tables.flows.Replace(&all[i]); {
		case err == nil:
			renewed++
		case errors.Is(err, flows.ErrNotFound): // it has ended
		case errors.Is(err, flows.ErrNotReplaceable):
			d.log.Warn("a connection under NAT is older than this daemon: announcements of another length are refused", "error", err)
		default:
			d.log.Error("a connection under NAT lost its entry in the connection table", "error", err)
		}
	}
	d.log.Info("connections under NAT that began before have new entries: their numbers can be adjusted", "connections", renewed)
	if err := d.events(); err != nil {
		return err
	}
	return d.tables.noteExisting(cfg)
}

// rigid are the established connections at the helpers' ports that are under NAT and whose numbers the kernel cannot
// adjust. Those that are read already are left out: their end would be taken for the connection's.
func (d *daemon) rigid(cfg *config.Config) (out []flows.Flow, err error) {
	read := map[connection]struct{}{}
	for c := range d.engine.Connections() {
		read[connection{c.Transport, c.Orig, c.Zone}] = struct{}{}
	}
	var under []flows.Flow
	control := controlPorts(cfg)
	err = d.tables.flows.Each(func(f *flows.Flow) {
		_, known := read[connection{f.Transport, f.Orig, f.Zone}]
		if f.Transport == helpers.TCP && f.Established() && f.Translated() && control.has(f) && !known {
			under = append(under, *f)
		}
	})
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
