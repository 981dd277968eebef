package cli

import (
	stdcontext "context"
	"errors"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/criteria"
	"github.com/cthelperd/cthelperd/cli/format"
	"github.com/cthelperd/cthelperd/cli/hook"
	"github.com/cthelperd/cthelperd/flows"
)

// eventMask are kinds of events: ALL, NEW, UPDATES, DESTROY; with commas between.
type eventMask struct{ kinds flows.Kinds }

// UnmarshalText reads an option's value.
func (m *eventMask) UnmarshalText(b []byte) error {
	text := string(b)
	for rest := text; ; {
		word, tail, more := strings.Cut(rest, ",")
		switch strings.ToUpper(word) {
		case "ALL":
			m.kinds |= flows.AllEvents
		case "NEW":
			m.kinds |= flows.News
		case "UPDATES", "UPDATE":
			m.kinds |= flows.Updates
		case "DESTROY":
			m.kinds |= flows.Destroys
		default:
			return &caret.Error{Text: text, At: len(text) - len(rest), Message: "want ALL, NEW, UPDATES or DESTROY"}
		}
		if !more {
			return nil
		}
		rest = tail
	}
}

type watchCommand struct {
	criteria.Match
	criteria.More
	rendering
	EventMask  eventMask     `short:"e" placeholder:"KIND" group:"Events" help:"ALL, NEW, UPDATES, DESTROY; several with commas."`
	BufferSize int           `short:"b" placeholder:"BYTES" group:"Events" help:"Receive buffer of the socket."`
	List       bool          `group:"Events" help:"Begin with what is in the table."`
	Count      uint64        `placeholder:"N" group:"Events" help:"End after N events."`
	Exec       string        `placeholder:"CMD" group:"Program" help:"Run CMD for each event, with its fields as JSON on standard input and in the environment (CT_PROTO, CT_ORIG_SRC …). Words are separated by spaces; no shell is involved."`
	Shell      bool          `group:"Program" help:"Give CMD to /bin/sh -c."`
	Jobs       int           `default:"4" placeholder:"N" group:"Program" help:"At most so many programs at once."`
	Limit      time.Duration `default:"1m" placeholder:"TIME" group:"Program" help:"End a program that takes longer."`
}

func (watchCommand) Help() string {
	return `A line OVERRUN says that events were lost here, and how many; after it comes what is in the table (PRESENT), up to
SYNCED: what was known before and is not among it is gone.

SIGINT and SIGTERM end it; programs of --exec come to their end first. The second signal kills them.

Examples:
  cthelper watch -e NEW,DESTROY -p tcp -o timestamp
  cthelper watch --where 'related' -o json
  cthelper watch -e DESTROY --where 'bytes > 1000000000' --exec /usr/local/bin/notify`
}

func (w *watchCommand) Run(c *context) error {
	s, err := c.choose(&w.Match, &w.More)
	if err != nil {
		return err
	}
	if w.Jobs < 1 {
		return &caret.Error{Text: "--jobs", Message: "want at least 1"}
	}
	var run *hook.Runner
	if w.Exec != "" {
		run, err = hook.New(w.Exec, hook.Options{
			Shell: w.Shell, Jobs: w.Jobs, Limit: w.Limit, Labels: s.labels, Stdout: c.stdout, Stderr: c.stderr,
		})
		if err != nil {
			return err
		}
	}
	watcher, err := flows.Watch(flows.Watching{
		Kinds: w.EventMask.kinds, Filter: s.filter, Buffer: w.BufferSize, List: w.List,
	})
	if err != nil {
		return err
	}
	defer watcher.Close()
	c.warn(s, w.asked()...)
	if w.EventMask.kinds != flows.News {
		c.silent("connections")
	}
	p, err := w.printer(c, s.labels, true)
	if err != nil {
		return err
	}
	until, end := stdcontext.WithCancel(stdcontext.Background())
	defer end()
	defer onSignals(end, run.Kill)()
	return errors.Join(w.follow(until, watcher, p, run), run.Wait(), s.judged())
}

// onSignals does something at each SIGINT or SIGTERM, in turn, until stop is called.
func onSignals(all ...func()) (stop func()) {
	signals := make(chan os.Signal, len(all))
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	ended := make(chan struct{})
	go func() {
		for _, do := range all {
			select {
			case <-signals:
				do()
			case <-ended:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(ended)
	}
}

// silent says of what the kernel does not tell.
func (c *context) silent(of string) {
	const automatic = 2
	settings, err := flows.ReadSettings()
	if err == nil && settings.Events == automatic {
		c.say("what becomes of %s that began while nobody watched is not told: sysctl -w net.netfilter.nf_conntrack_events=1"+
			" changes that for all that begin later", of)
	}
}

// follow prints events, or runs a program for each.
func (w *watchCommand) follow(until stdcontext.Context, watcher *flows.Watcher, p *format.Printer, run *hook.Runner) error {
	n := uint64(0)
	for e, err := range watcher.All(until) {
		if err != nil {
			return errors.Join(err, p.End())
		}
		if run != nil && e.Kind != flows.Synced {
			run.Start(until, e)
		}
		if run != nil && until.Err() != nil { // programs take long, and more events may be at hand
			break
		}
		if run == nil || e.Kind == flows.Overrun {
			if err := p.Event(e); err != nil {
				return err
			}
			if err := p.Flush(); err != nil {
				return err
			}
		}
		if e.Kind == flows.Overrun || e.Kind == flows.Synced {
			continue
		}
		if n++; n == w.Count {
			break
		}
	}
	return p.End()
}
