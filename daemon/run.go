package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/rules"
)

type runCommand struct{ configFile }

// Help is the text behind the flags.
func (runCommand) Help() string {
	return `Without a configuration every helper reads its standard ports, the table inet cthelperd is installed, and all is
removed at the end. One daemon is enough for a network namespace; in another one: ip netns exec NAME cthelperd run.

Signals: SIGTERM and SIGINT end it, SIGHUP reads the configuration again, SIGUSR1 logs the counters.

Examples:

  cthelperd run
  cthelperd run --config /etc/cthelperd.yaml`
}

func (c runCommand) Run(p *program) (err error) {
	cfg, err := c.load(p)
	if err != nil {
		return err
	}
	if err := permitted(); err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(engine.GCPercent)
	}
	// A collection costs much beside a few packets, and a small heap would have one every few thousand announcements. It
	// is due when the heap has grown by half, so the heap begins with something that nobody touches: it takes no memory.
	ballast := make([]byte, 32<<20)
	defer runtime.KeepAlive(ballast)
	out := newLogWriter(p.stderr, cfg.Log)
	defer out.close()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1)
	defer signal.Stop(signals)
	signal.Ignore(unix.SIGPIPE) // the reader of the log may go; the daemon stays

	d := &daemon{
		load: func() (*config.Config, error) { return c.load(p) },
		cfg:  cfg,
		out:  out,
		log:  newLogger(out, cfg.Log),
	}
	defer func() { err = errors.Join(err, d.close(err != nil)) }()
	if err := d.start(); err != nil {
		return err
	}
	return d.loop(signals)
}

// permitted says early and clearly what would fail later and anyhow.
func permitted() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // the kernel writes two of version 3
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("ask for the process's capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errors.New("not permitted: it changes netfilter tables, run it as root or with CAP_NET_ADMIN")
	}
	return nil
}

// daemon is a running cthelperd. Its own goroutine starts and ends it, and takes signals, events and the engine's timer;
// each queue has another one (serve.go). Whoever has mu has all but what only the first goroutine uses.
type daemon struct {
	load     func() (*config.Config, error)
	out      *logWriter
	lock     *lock
	place    place
	features rules.Features
	running  bool // everything is in place
	saved    bool // the state was loaded from the file, which is of no more use
	queues   []driver
	serving  sync.WaitGroup
	ended    chan error    // a queue can no longer be read
	wake     chan struct{} // the engine's next timer is earlier than before
	failed   atomic.Uint64 // verdicts that could not be sent

	mu      sync.Mutex
	cfg     *config.Config
	log     *slog.Logger
	lines   *logLimit
	tables  *tables
	engine  *engine.Engine
	steps   engine.Batch
	guard   ruleGuard
	touched uint64    // by bits: the queues that have verdicts to send
	next    [][]byte  // the packets at hand, for engine.Prepare
	alarm   time.Time // when the engine's timer is to fire
	left    bool      // what is to stay is decided: no packet is read any more
	shut    bool      // packets that are not read are dropped
	unseen  unseen
	missed  uint64 // packets that did not fit into the queues, as it was said
	asks    asks
	cut     uint64 // packets that were longer than a queue can show

	ambiguous  bool    // it was said that connections of several zones look alike
	repairs    uint64  // entries of the kernel's tables that somebody else took out
	eventsLost uint64  // times that the kernel could not tell what happened to connections
	untold     uint64  // connections that ended, and the kernel did not say so
	cuts       uint64  // of the engine, when doubts were noted
	doubts     []doubt // by queue; nil: none yet
	pace       pace
}

// start puts everything in place, rules last: from then on packets come.
func (d *daemon) start() (err error) {
	if d.lock, err = takeLock(lockFolder); err != nil {
		return err
	}
	if d.place, err = here(); err != nil {
		return err
	}
	if d.features, err = rules.Probe(); err != nil {
		return err
	}
	if d.tables, err = openTables(d.cfg, d.features.Conntrack); err != nil {
		return err
	}
	d.tables.kernel.Repaired = d.repaired
	d.tables.kernel.Now = func() time.Time { return d.engine.Now() }
	d.lines = newLogLimit()
	fresh, err := engine.New(d.engineConfig(d.cfg))
	if err != nil {
		return err
	}
	d.use(fresh)
	d.leftovers()
	d.takeOver()
	if err := d.openQueues(); err != nil {
		return err
	}
	if d.guard.watcher, err = rules.Watch(); err != nil {
		return err
	}
	if err := d.install(d.cfg); err != nil {
		return err
	}
	d.running = true
	if d.saved { // a later start must not take it for its own
		if err := os.Remove(d.cfg.State); err != nil {
			d.log.Warn("the state file that was read cannot be removed", "file", d.cfg.State, "error", err)
		}
	}
	d.log.Info("ready", "version", version(), "helpers", helperNames(d.cfg.Helpers()), "queue", d.cfg.Queue.Number,
		"rules", string(d.cfg.Rules), "expectations", d.tables.kernel.Way())
	d.notify(systemd.SdNotifyReady)
	return nil
}

// leftovers says what an earlier run left that did not end in good order. Rules are replaced; what was announced stays
// open until it is used, runs out, or is announced again, and is removed with all else at the end.
func (d *daemon) leftovers() {
	table, err := rules.Installed()
	kernel, e := expect.Left()
	if err = errors.Join(err, e); err != nil {
		d.log.Warn("what an earlier run left cannot be counted", "error", err)
		return
	}
	if table || kernel != (expect.Cleaned{}) {
		d.log.Info("an earlier run left something: it is taken over", "table", table,
			"shadows", kernel.Shadows, "expectations", kernel.Expectations)
	}
}

// use makes e the engine.
func (d *daemon) use(e *engine.Engine) {
	d.engine, d.tables.flush = e, d.flush
	d.steps = engine.Batch{Engine: e, Table: d.tables, Verdict: d.verdict}
}

// takeOver goes on with what an earlier run left, if it is there and whole.
func (d *daemon) takeOver() {
	if d.cfg.State == "" {
		return
	}
	state, err := readState(d.cfg.State, d.place)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err == nil {
		err = d.loadState(state)
	}
	if err != nil {
		d.log.Warn("the state file is not used: sessions begin anew", "file", d.cfg.State, "error", err)
		return
	}
	d.saved = true
	s := d.engine.Stats()
	d.log.Info("took over from an earlier run", "file", d.cfg.State, "flows", s.Flows, "sessions", s.Sessions, "pending", s.Pending)
	d.resync()
}

// loop works until a signal or a failure ends it.
func (d *daemon) loop(signals <-chan os.Signal) error {
	d.serve()
	timer := time.NewTimer(0)
	defer timer.Stop()
	audit := time.NewTicker(auditEvery)
	defer audit.Stop()
	for {
		err, ending := error(nil), false
		select {
		case err = <-d.ended:
		case _, ok := <-d.tables.watcher.Ready():
			if !ok {
				return d.tables.watcher.Err()
			}
			d.do(func() { err = d.events() })
		case _, ok := <-d.guard.watcher.Changed():
			if !ok {
				return d.guard.watcher.Err()
			}
			d.do(d.checkRules)
		case <-audit.C:
			d.do(d.audit)
		case <-timer.C:
			d.do(func() { d.drive(d.engine.Tick(time.Now())) })
		case <-d.wake:
		case sig := <-signals:
			switch sig {
			case unix.SIGHUP:
				d.do(d.reload)
			case unix.SIGUSR1:
				d.do(d.summary)
			default:
				d.log.Info("ending", "signal", sig.String())
				ending = true
			}
		}
		if err != nil || ending {
			return err
		}
		d.mu.Lock()
		d.alarm = d.engine.Next()
		next := d.alarm
		d.mu.Unlock()
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(time.Until(next), tick))
		}
	}
}

const (
	tick       = time.Millisecond // how often the engine's clock is looked at, at most
	auditEvery = 5 * time.Second  // how often it is asked what the kernel tells by no event
)

// audit asks for what the kernel tells by no event: expectations that were evicted, packets that did not fit into the
// queue.
func (d *daemon) audit() {
	evicted, err := d.tables.evicted()
	if err != nil {
		d.log.Warn("the table of expectations cannot be read", "error", err)
	}
	for _, id := range evicted {
		d.gone(id)
	}
	untold, err := d.tables.askExisting()
	if err != nil {
		d.log.Warn("the connection table cannot be read", "error", err)
	}
	for _, c := range untold {
		d.untold++
		d.tables.ended(&flows.Flow{Transport: c.transport, Orig: c.orig, Zone: c.zone})
		d.drive(d.engine.Vanished(c.transport, c.orig, c.zone, time.Now()))
	}
	d.noteCuts()
	d.overflow()
	d.catchUp()
	if n := d.lines.unsaid(); n > 0 && !d.log.Enabled(context.Background(), slog.LevelDebug) {
		d.log.Warn("lines of refusals, errors, notes and edits were left out: a client causes too many", "lines", n)
	}
}

func (d *daemon) lookup(t helpers.Transport, seen helpers.Tuple) (engine.Conn, error) {
	f, err := d.tables.lookup(t, seen)
	switch {
	case errors.Is(err, flows.ErrNotFound):
		return d.tables.first(t, seen)
	case errors.Is(err, errAmbiguous):
		if !d.ambiguous {
			d.log.Warn("a connection is not read: several zones have one with these addresses and ports, and without "+
				"NFQA_CT the kernel does not tell which one a packet is of; more of this is not said", "seen", seen)
			d.ambiguous = true
		}
		return engine.Conn{}, err
	case err != nil:
		return engine.Conn{}, err
	}
	return conn(&f), nil
}

// rules is what the table inet cthelperd is made from.
func (d *daemon) rules(cfg *config.Config) rules.Config {
	return rulesConfig(cfg, d.features, d.tables.kernel.Label, d.tables.kernel.Reading)
}

func (d *daemon) engineConfig(cfg *config.Config) engine.Config {
	c := cfg.Engine()
	c.Lookup = d.lookup
	c.Complete = d.tables.complete
	c.Missed = d.askMissing
	c.Record = func(ev *engine.Event) {
		if ev.Kind == engine.EventRelated && !ev.Permanent {
			d.tables.used = append(d.tables.used, ev.ID)
		}
		if d.lines.allows(ev) || d.log.Enabled(context.Background(), slog.LevelDebug) {
			logEvent(d.log, ev)
		}
	}
	c.Wanted = func(kind engine.EventKind) bool {
		return d.log.Enabled(context.Background(), eventLevel(kind))
	}
	return c
}

func (d *daemon) notify(state string) {
	if err := notify(state); err != nil {
		d.log.Warn("the service manager cannot be told", "error", err)
	}
}
