package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"
)

// takeAccept lets a worker read control packets that announce nothing.
func takeAccept(o *options, variant string) (map[string]float64, error) {
	return commands(o, variant, 1000)
}

// takeFlows is the same over another number of connections, in random order.
func takeFlows(o *options, variant string) (map[string]float64, error) {
	name, count, _ := strings.Cut(variant, " ")
	n, err := strconv.Atoi(count)
	if err != nil {
		return nil, err
	}
	return commands(o, name, n)
}

func commands(o *options, variant string, flows int) (map[string]float64, error) {
	return withFlood(o, variant, flows, func(g *flood, w *worker) (float64, error) {
		before, ok := w.count()
		if !ok {
			return 0, fmt.Errorf("nobody serves the queue")
		}
		sent := g.sent
		for end := time.Now().Add(o.length); time.Now().Before(end); {
			for range 64 {
				if err := g.command(&g.flows[rand.IntN(len(g.flows))]); err != nil {
					return 0, err
				}
			}
		}
		if err := g.wait(0); err != nil {
			return 0, err
		}
		after, ok := w.count()
		n := g.sent - sent
		if !ok || after.queued-before.queued != n || after.dropped+after.userDropped != 0 {
			return 0, fmt.Errorf("%d packets made, the queue counted %+v, before %+v", n, after, before)
		}
		return float64(n), nil
	})
}

// takeAnnounce lets a worker place an expectation for each of many PASV replies.
func takeAnnounce(o *options, variant string) (map[string]float64, error) {
	const flows = 64 // each keeps up to 8 expectations; the kernel's table has 4096
	return withFlood(o, variant, flows, func(g *flood, w *worker) (float64, error) {
		before, err := expectations()
		if err != nil {
			return 0, err
		}
		for end := time.Now().Add(o.length); time.Now().Before(end); {
			for i := range g.flows {
				if err := g.announce(&g.flows[i]); err != nil {
					return 0, err
				}
			}
		}
		if err := g.wait(0); err != nil {
			return 0, err
		}
		after, err := expectations()
		if err != nil {
			return 0, err
		}
		if n := after - before; n != uint64(g.announced) {
			return 0, fmt.Errorf("%d announcements, the kernel made %d expectations", g.announced, n)
		}
		return float64(g.announced), nil
	})
}

// withFlood measures f, which gives how much it did, while a worker has a processor of its own.
func withFlood(o *options, variant string, flows int, f func(*flood, *worker) (float64, error)) (map[string]float64, error) {
	g, err := newFlood()
	if err != nil {
		return nil, err
	}
	unpin()
	w, err := startWorker(o, variant, true)
	if err != nil {
		return nil, err
	}
	defer w.stop()
	if err := pin(generatorCPU()); err != nil {
		return nil, err
	}
	if err := g.open(flows); err != nil {
		return nil, err
	}
	cpu, begin := w.cpu(), time.Now()
	n, err := f(g, w)
	spent, cpu := time.Since(begin), w.cpu()-cpu
	if err != nil {
		return nil, err
	}
	values := map[string]float64{"per second": n / spent.Seconds(), "done": n}
	if cpu > 0 {
		values["per cpu second"] = n / cpu.Seconds()
		values["load"] = cpu.Seconds() / spent.Seconds()
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
