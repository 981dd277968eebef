package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// results are all samples.
type results struct {
	kernels []string // in order of appearance
	samples []sample
	memory  []string // what the engine's tests printed
}

// goal compares two variants of a measure: the ratio is ours to theirs.
type goal struct {
	text, measure, unit string
	ours, theirs        string
	bound
}

// bound says how large a ratio must be.
type bound struct {
	least, most float64   // 0: no bound
	base        string    // variant that is taken away from both
	inverse     bool      // the ratio of times per packet, from packets per time
	by          [2]string // variants: the ratio is divided by theirs
}

var shown = bound{} // not a goal

func least(r float64) bound  { return bound{least: r} }
func most(r float64) bound   { return bound{most: r} }
func added(r float64) bound  { return bound{most: r, base: none} }
func slower(r float64) bound { return bound{most: r, inverse: true} }

const (
	perCPU    = "per cpu second"
	userShare = "user share" // of the worker's processor time
)

var goals = []goal{
	{"control packets per second and core: cthelperd / go-nfqueue driver", "accept", perCPU, own, reference, least(3)},
	{"the same: cthelperd / conntrackd", "accept", perCPU, own, conntrackd, least(2)},
	{"the same: cthelperd / C, a verdict for each packet", "accept", perCPU, own, cSingle, least(0.8)},
	{"the same: cthelperd / C, recvmmsg and batch verdicts", "accept", perCPU, own, cBatch, least(0.8)},
	{"the same while packets come all the time: cthelperd / C, a verdict for each packet", "steady", perCPU, own, cSingle, shown},
	{"the same while packets come all the time: cthelperd / C, recvmmsg and batch verdicts", "steady", perCPU, own, cBatch, shown},
	{"announcements per second: cthelperd / conntrackd", "announce", "per second", own, conntrackd, least(3)},
	{"announcements per processor second: cthelperd / conntrackd", "announce", perCPU, own, conntrackd, shown},
	{"the same for clients behind a masquerade: cthelperd / conntrackd", "masquerade", "per second", own, conntrackd, least(3)},
	{"round trip added over no helper: cthelperd / conntrackd", "roundtrip", "ns", own, conntrackd, added(0.8)},
	{"the same: cthelperd / go-nfqueue driver", "roundtrip", "ns", own, reference, bound{base: none}},
	{"round trip, whole: in-kernel helper / no helper", "roundtrip", "ns", inKernel, none, shown},
	{"expectation placed and acknowledged: cthelperd / C, same bytes", "place", "ns", own, cExpect, most(1.2)},
	{"bulk data of a RELATED connection: cthelperd / no helper", "bulk", "bytes per second", own, none, least(0.98)},
	{"time per packet, 200,000 / 1,000 connections: cthelperd", "flows", perCPU, own + " 200000", own + " 1000", slower(1.15)},
	{"the same: C, which knows no connections (the kernel's share)", "flows", perCPU, cBatch + " 200000", cBatch + " 1000",
		slower(0)},
	{"the first divided by the second: what cthelperd adds to the kernel's share", "flows", perCPU, own + " 200000", own + " 1000",
		bound{inverse: true, by: [2]string{cBatch + " 200000", cBatch + " 1000"}}},
}

// report writes RESULTS.md from the files of a folder: samples, and the output of the engine's memory tests.
func report(w io.Writer, folder string) error {
	r, err := read(folder)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmarks\n\nWritten by `%s` on %s at commit %s, on %s, %d processors.\n", os.Getenv("command"),
		time.Now().UTC().Format("2006-01-02"), os.Getenv("commit"), processor(), runtime.NumCPU())
	b.WriteString(`
A cell is the ratio of medians, and in brackets the smallest and the largest ratio in one round: in a round each variant
has one sample, so they meet the same machine. Peers were measured in the same run. "6.1" is Debian's kernel in an
emulated machine (no hardware virtualization: what costs much there is not what costs much on a real processor; a first
round was thrown away, because code is translated when it first runs); the
other kernel runs on the machine itself and has no nfnetlink_cthelper, which conntrackd's helpers need.

## Ratios

`)
	r.goals(&b)
	b.WriteString("\n## Medians\n\nWith the smallest and the largest sample, and how many samples.\n")
	r.medians(&b)
	b.WriteString("\n## What could not be measured\n\n")
	r.missing(&b)
	b.WriteString(method)
	_, err = io.WriteString(w, b.String())
	return err
}

const method = `
## How

The programs are bench/*.go and bench/c/*.c. Each sample is a process in a network namespace of its own: a router whose
forward chain drops all but established, related, and TCP port 21. Whoever decides about packets (the worker) has the first
processor, who makes them the last one. Limits of announcements are lifted in cthelperd's configuration, and it logs errors
only; conntrackd logs nothing. The processor time is that of all the worker's threads, in the kernel too: reinjecting a
packet is the worker's.

| measure | what is done | what must be true, or the sample is an error |
|---|---|---|
| accept | packets of 3,500 established FTP connections (NOOP, 200, acknowledgement), written to a TUN device, forwarded to an ifb device. The worker is stopped while 3,500 wait and then let go; counted are packets per processor second | nfnetlink_queue counted each packet, lost none; the ifb device got each |
| steady | the same, while packets come as fast as they can be made | the same |
| announce | PASV and its 227 on 1,600 connections, another port each time | the kernel made as many expectations (nf_conntrack's expect_create) |
| masquerade | as announce, with clients behind a masquerade; the 227 stays as it is | as announce |
| roundtrip | NOOP and its reply over sockets, client and server in namespaces of their own; median of all in a sample | the reply is whole; packets came to the queue |
| place | an expectation on a shadow master that is there, and the kernel's answer; removed again outside of the time; median of all. The C program sends the bytes that cthelperd sends | the kernel made as many |
| bulk | at least 200 MB over the connection that a 227 announced, both ends on the last processor, so that it counts whatever a packet costs; median of slices of 20 ms; without a helper a rule lets it through | its port is open by the announcement alone |
| flows | as accept, over 1,000 and 200,000 connections in random order | as accept |
` + tablesMethod

func read(folder string) (*results, error) {
	r := &results{}
	for _, name := range []string{"native", "vm"} {
		f, err := os.Open(filepath.Join(folder, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		for d := json.NewDecoder(f); ; {
			var s sample
			if err := d.Decode(&s); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("%s: %w", f.Name(), err)
			}
			if !slices.Contains(r.kernels, s.Kernel) {
				r.kernels = append(r.kernels, s.Kernel)
			}
			r.samples = append(r.samples, s)
		}
	}
	f, err := os.Open(filepath.Join(folder, "memory"))
	if err != nil {
		return r, nil // without the tests
	}
	defer f.Close()
	said := regexp.MustCompile(`_test\.go:\d+: (.*)`)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if m := said.FindStringSubmatch(lines.Text()); m != nil {
			r.memory = append(r.memory, m[1])
		}
	}
	return r, nil
}

// values are those of a variant, by round.
func (r *results) values(kernel, measure, variant, unit string) map[int]float64 {
	out := map[int]float64{}
	for _, s := range r.samples {
		if v, ok := s.Values[unit]; ok && s.Kernel == kernel && s.Measure == measure && s.Variant == variant {
			out[s.Round] = v
		}
	}
	return out
}

func (r *results) goals(w io.Writer) {
	fmt.Fprintf(w, "| measure | goal | %s |\n|---|---|%s\n", strings.Join(r.kernels, " | "), strings.Repeat("---|", len(r.kernels)))
	for _, g := range append(slices.Clone(goals), tableGoals()...) {
		if !slices.ContainsFunc(r.samples, func(s sample) bool { return s.Measure == g.measure }) {
			continue // left out by -only
		}
		fmt.Fprintf(w, "| %s | %s |", g.text, &g.bound)
		for _, k := range r.kernels {
			fmt.Fprintf(w, " %s |", r.cell(k, g))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	for _, m := range r.memory {
		fmt.Fprintf(w, "* Memory, driven through the engine (goal: 400 bytes an idle flow; 600 MB resident at 1,000,000): %s.\n", m)
	}
}

func (b *bound) String() string {
	switch {
	case b.least > 0:
		return fmt.Sprintf("≥ %g", b.least)
	case b.most > 0:
		return fmt.Sprintf("≤ %g", b.most)
	}
	return "shown beside"
}

func (r *results) cell(kernel string, g goal) string {
	ours, theirs := r.values(kernel, g.measure, g.ours, g.unit), r.values(kernel, g.measure, g.theirs, g.unit)
	base := map[int]float64{}
	if g.base != "" {
		base = r.values(kernel, g.measure, g.base, g.unit)
	}
	if len(ours) == 0 || len(theirs) == 0 || g.base != "" && len(base) == 0 {
		return "not measured"
	}
	ratio := func(a, b, base float64) float64 {
		if g.inverse {
			return (b - base) / (a - base)
		}
		return (a - base) / (b - base)
	}
	whole := ratio(median(ours), median(theirs), median(base))
	low, high := whole, whole
	for round, a := range ours {
		if b, ok := theirs[round]; ok {
			if zero, ok := base[round]; ok || g.base == "" {
				one := ratio(a, b, zero)
				low, high = min(low, one), max(high, one)
			}
		}
	}
	if g.by[0] != "" {
		above, below := r.values(kernel, g.measure, g.by[0], g.unit), r.values(kernel, g.measure, g.by[1], g.unit)
		if len(above) == 0 || len(below) == 0 {
			return "not measured"
		}
		return fmt.Sprintf("%.2f", whole/ratio(median(above), median(below), 0))
	}
	text := fmt.Sprintf("%.2f (%.2f to %.2f)", whole, low, high)
	if g.least > 0 && whole < g.least || g.most > 0 && whole > g.most {
		return "**" + text + "**, not reached"
	}
	return text
}

func (r *results) medians(w io.Writer) {
	for _, k := range r.kernels {
		fmt.Fprintf(w, "\nLinux %s:\n\n| measure | variant | median | samples |\n|---|---|---|---|\n", k)
		for _, m := range append(measures(), tableMeasures()...) {
			for _, v := range m.variants {
				for _, unit := range []string{"per second", perCPU, "ns", "ns with timeout", "bytes per second", "ms", "cpu ms", "KiB resident", "lost"} {
					all := r.values(k, m.name, v, unit)
					if len(all) == 0 {
						continue
					}
					sorted := sortedValues(all)
					if share := r.values(k, m.name, v, userShare); unit == perCPU && len(share) > 0 {
						unit += fmt.Sprintf(", %.0f %% of it in user space", 100*median(share))
					}
					fmt.Fprintf(w, "| %s | %s | %s %s (%s to %s) | %d |\n", m.name, v, number(median(all)), unit,
						number(sorted[0]), number(sorted[len(sorted)-1]), len(all))
				}
			}
		}
	}
}

func (r *results) missing(w io.Writer) {
	var told []string
	for _, s := range r.samples {
		if s.Missing == "" {
			continue
		}
		line := fmt.Sprintf("* Linux %s, %s, %s: %s\n", s.Kernel, s.Measure, s.Variant,
			strings.ReplaceAll(strings.TrimPrefix(s.Missing, unavailable), "\n", "; "))
		if !slices.Contains(told, line) {
			told = append(told, line)
			io.WriteString(w, line)
		}
	}
	io.WriteString(w, "* What the in-kernel helper costs in processor time: it is part of forwarding, no process has it.\n")
}

func sortedValues(all map[int]float64) (out []float64) {
	for _, v := range all {
		out = append(out, v)
	}
	slices.Sort(out)
	return out
}

// median of nothing is 0.
func median(all map[int]float64) float64 {
	s := sortedValues(all)
	if len(s) == 0 {
		return 0
	}
	return (s[len(s)/2] + s[(len(s)-1)/2]) / 2
}

// number has three digits that count, and commas.
func number(v float64) string {
	unit := 1.0
	for v/unit >= 1000 {
		unit *= 10
	}
	s := strconv.FormatFloat(float64(int(v/unit+0.5))*unit, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	_, after, _ := strings.Cut(string(text), "model name\t: ")
	name, _, _ := strings.Cut(after, "\n")
	return name
}
