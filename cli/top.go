package cli

import (
	stdcontext "context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"

	"github.com/gdamore/tcell/v2"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/criteria"
	"github.com/cthelperd/cthelperd/cli/top"
	"github.com/cthelperd/cthelperd/flows"
)

type topCommand struct {
	criteria.Match
	criteria.More
	Sort     string        `enum:"rate,bytes,packets,age,timeout,source,destination,proto,state" default:"rate" placeholder:"KEY" group:"View" help:"Sort by rate, bytes, packets, age, timeout, source, destination, proto or state."`
	Interval time.Duration `default:"2s" placeholder:"TIME" group:"View" help:"Time between two pictures."`
	Tree     bool          `group:"View" help:"Announced connections below those that announced them."`
}

func (topCommand) Help() string {
	return `The key h shows what keys do. The first 500 connections in the order at hand are shown; totals are of all that match.

Examples:
  cthelper top
  cthelper top --where 'orig.dst.in("192.0.2.0/24")' --sort bytes`
}

func (k *topCommand) Run(c *context) error {
	s, err := c.choose(&k.Match, &k.More)
	if err != nil {
		return err
	}
	if k.Interval < 100*time.Millisecond {
		return &caret.Error{Text: k.Interval.String(), Message: "want at least 100ms"}
	}
	list, err := flows.Open()
	if err != nil {
		return err
	}
	defer list.Close()
	kill, err := flows.Open()
	if err != nil {
		return err
	}
	defer kill.Close()
	hint, ageless := "", ""
	if settings, err := flows.ReadSettings(); err == nil {
		if settings.Accounting == 0 {
			hint = "bytes and packets are not counted: sysctl -w net.netfilter.nf_conntrack_acct=1"
		}
		if settings.Timestamps == 0 {
			ageless = "ages are not known: sysctl -w net.netfilter.nf_conntrack_timestamp=1"
		}
	}
	screen, err := newScreen()
	if err != nil {
		return fmt.Errorf("it needs a terminal: %w", err)
	}
	until, stop := signal.NotifyContext(stdcontext.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	left := make(chan struct{})
	defer close(left)
	defer stdcontext.AfterFunc(until, func() {
		stop()
		select {
		case <-left:
		case <-time.After(time.Second): // the terminal takes nothing
			_ = unix.Kill(os.Getpid(), unix.SIGTERM)
		}
	})()
	// What the options say stays in force; the expression that is typed goes on top.
	given := k.Where
	k.Where = ""
	compile := func(text string) (*flows.Filter, error) {
		k.Where = text
		chosen, err := c.choose(&k.Match, &k.More)
		if err != nil {
			return nil, err
		}
		return chosen.Filter(time.Now()), nil
	}
	return top.Run(top.Options{
		Screen: screen, List: list.List, Count: list.Count, Delete: kill.Delete, Compile: compile, Why: explained,
		Filter: given, Base: s.filter, Every: k.Interval, Sort: k.Sort, Tree: k.Tree, Hint: hint, Ageless: ageless,
		Now: time.Now, Until: until, Stop: stopped,
	})
}

// newScreen is the terminal's. What old descriptions of terminals want to wait is not waited for: none needs it any more,
// and a picture would take seconds.
func newScreen() (tcell.Screen, error) {
	found, err := tcell.LookupTerminfo(os.Getenv("TERM"))
	if err != nil {
		return nil, err
	}
	description := *found
	description.PadChar = ""
	return tcell.NewTerminfoScreenFromTtyTerminfo(nil, &description)
}

// stopped stops this process, as Ctrl-Z does where the terminal sends signals, until somebody continues it. The thread is
// named, so that it is stopped before it comes back.
func stopped() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGTSTP)
}

// explained is what 'cthelper why' says.
func explained(f *flows.Flow) (string, error) {
	t, err := flows.Open()
	if err != nil {
		return "", err
	}
	defer t.Close()
	return (&whyCommand{}).explain(t, f, nil)
}
