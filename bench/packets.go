package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// takeAccept lets a worker read control packets that announce nothing. It is stopped while a burst of them is made, and
// then let go: the time counts from there until all have come out. So it always has enough to do, and the making takes
// nothing from it.
func takeAccept(o *options, variant string) (map[string]float64, error) {
	return accept(o, variant, window)
}

// takeFlows is the same over another number of connections, in random order.
func takeFlows(o *options, variant string) (map[string]float64, error) {
	name, count, _ := strings.Cut(variant, " ")
	n, err := strconv.Atoi(count)
	if err != nil {
		return nil, err
	}
	return accept(o, name, n)
}

func accept(o *options, variant string, flows int) (map[string]float64, error) {
	const burst = window // of a flow conntrackd can have one packet at a time
	return withFlood(o, variant, crowd{flows: flows}, takeTurns, func(g *flood, w *worker) (done work, err error) {
		for end := time.Now().Add(o.length); time.Now().Before(end) && err == nil; done.count += burst {
			w.cmd.Process.Signal(unix.SIGSTOP)
			err = checked(g, w, func() error {
				for range burst {
					if err := g.command(g.next()); err != nil {
						return err
					}
				}
				begin := time.Now()
				w.cmd.Process.Signal(unix.SIGCONT)
				err := g.wait(0)
				done.spent += time.Since(begin)
				return err
			})
		}
		return done, err
	})
}

// takeSteady is the same while packets come all the time, as fast as they can be made.
func takeSteady(o *options, variant string) (map[string]float64, error) {
	return withFlood(o, variant, crowd{flows: window}, takeTurns, func(g *flood, w *worker) (done work, err error) {
		begin, sent := time.Now(), g.sent
		err = checked(g, w, func() error {
			for time.Since(begin) < o.length {
				for range 64 {
					if err := g.command(g.next()); err != nil {
						return err
					}
				}
			}
			return g.wait(0)
		})
		return work{float64(g.sent - sent), time.Since(begin)}, err
	})
}

// checked does f and fails unless each packet that it makes went to the queue, and none was lost.
func checked(g *flood, w *worker, f func() error) error {
	before, ok := w.count()
	if !ok {
		return errors.New("nobody serves the queue")
	}
	sent := g.sent
	if err := f(); err != nil {
		return err
	}
	after, ok := w.count()
	if n := g.sent - sent; !ok || after.queued-before.queued != n || after.dropped+after.userDropped != 0 {
		return fmt.Errorf("%d packets made, the queue counted %+v, before %+v", n, after, before)
	}
	return nil
}

// takeAnnounce lets a worker place an expectation for each of many PASV replies.
func takeAnnounce(o *options, variant string) (map[string]float64, error) {
	return announce(o, variant, false)
}

// takeHidden is the same while the clients are behind a masquerade. What a PASV reply says stays as it is.
func takeHidden(o *options, variant string) (map[string]float64, error) {
	return announce(o, variant, true)
}

func announce(o *options, variant string, hidden bool) (map[string]float64, error) {
	const flows = 1600 // so that little of the time are the pauses between one half of the exchange and the other
	return withFlood(o, variant, crowd{flows, hidden}, (*flood).announce, func(g *flood, w *worker) (done work, err error) {
		made, err := expectations()
		if err != nil {
			return done, err
		}
		begin, announced := time.Now(), g.announced
		for time.Since(begin) < o.length {
			if err := g.announce(); err != nil {
				return done, err
			}
		}
		done = work{float64(g.announced - announced), time.Since(begin)}
		after, err := expectations()
		if n := after - made; err == nil && float64(n) != done.count {
			err = fmt.Errorf("%.0f announcements, the kernel made %d expectations", done.count, n)
		}
		return done, err
	})
}

// takeTurns is a packet on each of some connections.
func takeTurns(g *flood) error {
	for range window {
		if err := g.command(g.next()); err != nil {
			return err
		}
	}
	return g.wait(0)
}

// work is what was done in a sample, and the time that counts for it.
type work struct {
	count float64
	spent time.Duration
}

// crowd is what connections a flood is made of.
type crowd struct {
	flows  int
	hidden bool // behind a masquerade
}

// withFlood measures f while a worker has a processor of its own. Before that warm is done again and again, so that
// nothing happens for the first time while it is measured.
func withFlood(
	o *options, variant string, of crowd, warm func(*flood) error, f func(*flood, *worker) (work, error),
) (map[string]float64, error) {
	g, err := newFlood()
	if err != nil {
		return nil, err
	}
	w, err := startWorker(o, variant, true)
	if err != nil {
		return nil, err
	}
	defer w.stop()
	if err := pin(generatorCPU()); err != nil {
		return nil, err
	}
	if of.hidden {
		if err := g.hide(); err != nil {
			return nil, err
		}
	}
	if err := g.open(of.flows); err != nil {
		return nil, err
	}
	for begin, i := time.Now(), 0; i < 2 || time.Since(begin) < o.length/2; i++ {
		if err := warm(g); err != nil {
			return nil, err
		}
	}
	cpu := w.cpu()
	user, all := w.ticks()
	done, err := f(g, w)
	if err != nil {
		return nil, err
	}
	values := map[string]float64{"per second": done.count / done.spent.Seconds(), "done": done.count}
	if cpu = w.cpu() - cpu; cpu > 0 {
		values[perCPU] = done.count / cpu.Seconds()
		if newUser, newAll := w.ticks(); newAll > all {
			values[userShare] = (newUser - user) / (newAll - all)
		}
	}
	return values, nil
}

// expectations is how many this network namespace has made.
func expectations() (n uint64, err error) {
	text, err := os.ReadFile("/proc/thread-self/net/stat/nf_conntrack")
	if err != nil {
		return 0, err
	}
	column := -1
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		fields := strings.Fields(line)
		if i == 0 {
			for j, f := range fields {
				if f == "expect_create" {
					column = j
				}
			}
			continue
		}
		if column < 0 || column >= len(fields) {
			return 0, fmt.Errorf("/proc/net/stat/nf_conntrack has no expect_create")
		}
		one, err := strconv.ParseUint(fields[column], 16, 64)
		if err != nil {
			return 0, err
		}
		n += one
	}
	return n, nil
}
