package daemon

import (
	"errors"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/rules"
)

// drainTime bounds how long the end of the daemon waits for packets that are still in the queue.
const drainTime = time.Second

// close takes away what start put in place, as far as it came: no packet is lost, and nothing stays but what a state file
// is to bring back. After a failure with "fail: closed" the rules stay, so that no control connection passes unread.
func (d *daemon) close(failed bool) (err error) {
	d.shut = failed && d.cfg.FailClosed
	if d.running {
		d.notify(systemd.SdNotifyStopping)
		if !d.shut {
			err = rules.Clear()
		}
		err = errors.Join(err, d.drain())
		d.do(d.leave)
		d.do(d.summary)
		d.running = false
	}
	if d.guard.watcher != nil {
		err = errors.Join(err, d.guard.watcher.Close())
	}
	if d.lock != nil && d.queues != nil {
		if d.shut && d.cfg.Rules != config.RulesNone {
			err = errors.Join(err, shutError())
		} else {
			err = errors.Join(err, rules.Remove())
		}
	}
	for _, q := range d.queues {
		err = errors.Join(err, q.Close())
	}
	d.serving.Wait()
	if d.tables != nil {
		err = errors.Join(err, d.tables.close())
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.release())
	}
	return err
}

// shutError says what follows from rules that stay with nobody to read what they queue.
func shutError() error {
	installed, err := rules.Installed()
	if err != nil || !installed {
		return err
	}
	return errors.New("fail: closed: the table inet cthelperd stays, and control connections are dropped until cthelperd " +
		"runs again, or cthelperd cleanup")
}

// drain waits for the verdicts of all packets that are in the queues, now that no more come.
func (d *daemon) drain() error {
	const pause = 10 * time.Millisecond
	deadline := time.Now().Add(drainTime)
	for {
		select {
		case err := <-d.ended:
			return err
		case <-time.After(pause):
		}
		d.do(func() { d.drive(d.engine.Release()) })
		waiting := uint32(0)
		for _, q := range d.queues {
			s, err := q.Stats()
			if err != nil {
				return err
			}
			waiting += s.Kernel.Waiting
		}
		if waiting == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			d.log.Warn("packets wait in the queue and are dropped", "packets", waiting)
			return nil
		}
	}
}

// leave ends the reading of packets, which pass if more come by rules of the administrator's own. It writes the state, or
// removes shadows and expectations if there is no file for it.
func (d *daemon) leave() {
	d.left = true
	if d.cfg.State != "" {
		state, err := d.saveState()
		if err == nil {
			err = writeState(d.cfg.State, d.place, state)
		}
		if err == nil {
			d.log.Info("state written", "file", d.cfg.State)
			return
		}
		d.log.Error("the state cannot be written: what was announced is closed", "file", d.cfg.State, "error", err)
	}
	d.drive(d.engine.Stop(time.Now()))
	if _, err := expect.Clean(); err != nil { // what a run before left, too
		d.log.Error("something may be left: cthelperd cleanup removes it", "error", err)
	}
}
