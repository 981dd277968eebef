package daemon

import (
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// events takes what happened to connections until now to the engine.
func (d *daemon) events() error {
	batch, err := d.tables.watcher.Take()
	if err != nil {
		return err
	}
	for i := range batch {
		ev := &batch[i]
		switch now := time.Now(); {
		case ev.Kind == flows.Overrun:
			d.eventsLost++
			d.pace.lost++
		case d.tables.isRenewal(&ev.Flow):
		case ev.Kind == flows.Destroy:
			d.tables.ended(&ev.Flow)
			d.drive(d.engine.Vanished(ev.Flow.Transport, ev.Flow.Orig, ev.Flow.Zone, now))
		default:
			d.tables.noteZone(&ev.Flow)
			if ev.Flow.Expected() {
				d.drive(d.engine.Related(related(&ev.Flow), 0, now))
			}
		}
	}
	d.catchUp()
	d.noteCuts()
	return nil
}

// related is a connection that was expected. Nobody rewrites it.
func related(f *flows.Flow) engine.Conn {
	return engine.Conn{Transport: f.Transport, Orig: f.Orig, Reply: f.Reply, Zone: f.Zone, Mark: f.Mark}
}

// resync compares the engine with the kernel's tables, where events are missing: connections that are gone, and
// expectations that were used or are gone.
func (d *daemon) resync() {
	lost, err := d.tables.kernel.Lost()
	ended, existing, expected := d.read(), map[connection]struct{}{}, []flows.Flow{}
	if err != nil {
		d.log.Error("the kernel's tables cannot be read", "error", err)
		return
	}
	clear(d.tables.zones)
	clear(d.tables.renewed)
	for f, err := range d.tables.flows.List(nil) {
		if err != nil {
			d.log.Error("the kernel's tables cannot be read", "error", err)
			return
		}
		name := connection{f.Transport, f.Orig, f.Zone}
		delete(ended, name)
		if _, ok := d.tables.existing[name]; ok {
			existing[name] = struct{}{}
		}
		d.tables.noteZone(f)
		if f.Expected() && len(lost) > 0 {
			expected = append(expected, *f)
		}
	}
	d.tables.existing = existing
	now := time.Now()
	for i := range expected {
		d.drive(d.engine.Related(related(&expected[i]), 0, now))
	}
	for c := range ended {
		d.drive(d.engine.Vanished(c.transport, c.orig, c.zone, now))
	}
	for _, id := range lost {
		d.gone(id)
	}
}

// catchUp compares the tables if events were lost and it is time for it.
func (d *daemon) catchUp() {
	begun := time.Now()
	if !d.pace.due(begun) {
		return
	}
	d.log.Warn("conntrack events were lost: the tables are compared", "times", d.pace.lost)
	d.resync()
	d.pace.done(begun, time.Now())
}

// pace is how often the tables are compared. It takes time in proportion to all connections of the firewall, in which
// packets wait and more events are lost: whoever opens connections as fast as he can must not keep the daemon at it.
type pace struct {
	lost int // times that events were lost since the last comparison
	next time.Time
}

// paceShare is the part of the time that comparing may take: one of so many.
const paceShare = 20

func (p *pace) due(now time.Time) bool { return p.lost > 0 && !now.Before(p.next) }

func (p *pace) done(begun, now time.Time) {
	*p = pace{next: now.Add(max(time.Second, (paceShare-1)*now.Sub(begun)))}
}

// gone says that an expectation is in no table any more.
func (d *daemon) gone(id expect.ID) {
	d.tables.kernel.Used(id)
	d.drive(d.engine.Gone(id, time.Now()))
}
