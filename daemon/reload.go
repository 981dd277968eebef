package daemon

import (
	"errors"

	systemd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/cthelperd/cthelperd/internal/config"
)

// reload changes what the configuration says; if it is wrong, all stays.
func (d *daemon) reload() {
	d.notify(reloading())
	defer d.notify(systemd.SdNotifyReady)
	cfg, err := d.load()
	if err == nil {
		err = d.change(cfg)
	}
	if err != nil {
		d.log.Error("the configuration is not used, the old one goes on", "error", err)
		return
	}
	d.log.Info("reloaded", "helpers", helperNames(cfg.Helpers()))
}

func (d *daemon) change(cfg *config.Config) error {
	if cfg.Queue != d.cfg.Queue || cfg.FailClosed != d.cfg.FailClosed {
		return errors.New("queue and fail cannot change while packets wait: restart instead")
	}
	if err := d.tables.reload(cfg); err != nil {
		return err
	}
	if err := d.engine.Reload(d.engineConfig(cfg)); err != nil {
		return errors.Join(err, d.tables.reload(d.cfg))
	}
	if err := d.install(cfg); err != nil {
		return errors.Join(err, d.engine.Reload(d.engineConfig(d.cfg)), d.tables.reload(d.cfg), d.install(d.cfg))
	}
	d.cfg = cfg
	d.log = newLogger(d.out, cfg.Log)
	d.guard.restored = nil
	d.rulesAreBack()
	return nil
}
