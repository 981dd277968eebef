package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Who lists, deletes and watches connections.
const (
	tool      = "conntrack"
	ours      = "cthelper"
	oursLines = "cthelper -o conntrack"
	oursFour  = "cthelper -f ipv4"
	oursHere  = "cthelper --where" // a condition that no kernel tests
	library   = "flows, IPv4, planned"
	cTables   = "C, IPv4" // bench/c/tables.c
	cBoth     = "C, both families"
	cEach     = "C, each"
	timo      = "ti-mo"
)

// Measures of one sample of "tables".
const (
	listed   = "list"
	filtered = "filtered list"
	killed   = "kill of "
	watched  = "events"
)

// share is a destination port, and how many connections in a thousand have it.
type share struct {
	port  uint16
	parts int
}

func (s share) name() string { return fmt.Sprintf("%s%g %%", killed, float64(s.parts)/10) }

var shares = []share{{2121, 1}, {25, 40}, {443, 200}, {80, 759}}

// tableMeasures are how the report shows them.
func tableMeasures() []measure {
	all := []measure{
		{listed, []string{tool, ours, oursLines, cTables}, nil},
		{filtered, []string{tool, ours, oursFour, cTables, cBoth}, nil},
	}
	for _, s := range shares {
		all = append(all, measure{s.name(), []string{tool, ours, oursFour, oursHere, library, cTables, cBoth, cEach}, nil})
	}
	return append(all, measure{watched, []string{own, timo}, nil})
}

func tableGoals() []goal {
	goals := []goal{
		{"all connections as text to a file: cthelper / conntrack", listed, "ms", ours, tool, most(0.7)},
		{"the same, conntrack's own lines", listed, "ms", oursLines, tool, most(0.7)},
		{"the same: C that throws the answer away / conntrack", listed, "ms", cTables, tool, shown},
		{"those of one port, 0.1 %: cthelper / conntrack", filtered, "ms", ours, tool, most(0.1)},
		{"the same, IPv4 only", filtered, "ms", oursFour, tool, most(0.1)},
		{"the same: C, the request alone / conntrack", filtered, "ms", cTables, tool, shown},
		{"both families: C, the two requests / conntrack", filtered, "ms", cBoth, tool, shown},
	}
	for _, s := range shares {
		what := s.name() + " of the connections, by port: "
		goals = append(goals,
			goal{what + "cthelper / conntrack -D", s.name(), "ms", ours, tool, most(0.1)},
			goal{what + "C, the kernel's own delete for each family alone / conntrack -D", s.name(), "ms", cBoth, tool, shown},
			goal{what + "cthelper / that C", s.name(), "ms", ours, cBoth, shown},
			goal{what + "cthelper, IPv4 only / conntrack -D", s.name(), "ms", oursFour, tool, most(0.1)},
			goal{what + "cthelper, by a condition that no kernel tests / conntrack -D", s.name(), "ms", oursHere, tool, most(0.2)},
			goal{what + "C that lists all and deletes in batches / conntrack -D", s.name(), "ms", cEach, tool, shown},
			goal{what + "cthelper, by a condition that no kernel tests / that C", s.name(), "ms", oursHere, cEach, shown},
			goal{what + "the kernel's own delete, after its trial, IPv4 only / conntrack -D", s.name(), "ms", library, tool, most(0.1)},
			goal{what + "C, the kernel's own delete alone, IPv4 only / conntrack -D", s.name(), "ms", cTables, tool, shown},
		)
	}
	for _, m := range tableMeasures() { // which says more where the machine does other things too
		for _, v := range m.variants[1:] {
			if m.name != watched && v != library {
				goals = append(goals, goal{m.name + ", processor time: " + v + " / conntrack", m.name, "cpu ms", v, tool, shown})
			}
		}
	}
	return append(goals,
		goal{"processor time for an event: flows / ti-mo's Listen", watched, "ns", own, timo, most(0.5)})
}

// split makes a sample of "tables" those of its measures.
func split(s sample) []sample {
	if s.Measure != "tables" || s.Missing != "" {
		return []sample{s}
	}
	var all []sample
	for _, key := range slices.Sorted(maps.Keys(s.Values)) {
		part := strings.Split(key, "/")
		if n := len(all); n == 0 || all[n-1].Measure != part[0] || all[n-1].Variant != part[1] {
			all = append(all, sample{s.Kernel, part[0], part[1], s.Round, map[string]float64{}, ""})
		}
		all[len(all)-1].Values[part[2]] = s.Values[key]
	}
	return all
}

const tablesMethod = `| list, kill | 1,000,000 TCP connections of IPv4 (50,000 in the emulated machine), no events and no accounting; conntrack(8) and cthelper write to a file. Kills are by destination port, and the table is filled again after each. Both families are meant where no other is named, as conntrack(8) means them: it lists all and tests itself. The kernel's filter is for one family, so that both are two walks through the table, and a delete waits for another walk to end. At 50,000 connections, and with the emulated machine's processor, the beginning of a process is a large part of a kill: goals are for 1,000,000. "Planned" is flows' DeleteAll when its filter has been tried before. The C program sends one request for a family, and nothing else; for "each" it lists all, as cthelper does, and deletes in batches | as many lines as connections; as many are gone |
| events | 100,000 connections made and deleted as fast as it goes; who reads is a process of its own: flows with its default buffer, ti-mo/conntrack with 1 GiB, as it ends when one is lost; its processor time by events that it saw | each was seen, or counted as lost |
`

// tables is a namespace full of connections.
type tables struct {
	o      *options
	conn   *nfnl.Conn
	folder string
	values map[string]float64
	// filters: the kernel tests what it is to delete (Linux 6.11).
	filters bool
}

// takeTables measures all of it in one namespace, as to fill it takes long. Who goes first is drawn.
func takeTables(o *options, _ string) (map[string]float64, error) {
	conn, err := nfnl.Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	folder, err := os.MkdirTemp("", "tables")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	t := &tables{o: o, conn: conn, folder: folder, values: map[string]float64{}}
	if err := t.probe(); err != nil {
		return nil, err
	}
	if err := t.watch(); err != nil {
		return nil, err
	}
	if err := t.fill(); err != nil {
		return nil, err
	}
	port := fmt.Sprint(shares[0].port)
	n, few := o.entries, o.entries*shares[0].parts/1000
	if err := t.inAnyOrder(
		func() error { return t.run(listed, tool, n, tool, "-L") },
		func() error { return t.run(listed, ours, n+1, ours, "list") }, // a head
		func() error { return t.run(listed, oursLines, n, ours, "list", "-o", "conntrack") },
		func() error { return t.run(listed, cTables, 1, "tables", "list") },
	); err != nil {
		return nil, err
	}
	if err := t.inAnyOrder(
		func() error { return t.run(filtered, tool, few, tool, "-L", "-p", "tcp", "--dport", port) },
		func() error { return t.run(filtered, ours, few+1, ours, "list", "-p", "tcp", "--orig-port-dst", port) },
		func() error {
			return t.run(filtered, oursFour, few+1, ours, "list", "-f", "ipv4", "-p", "tcp", "--orig-port-dst", port)
		},
		func() error { return t.run(filtered, cTables, 1, "tables", "list", "4", port) },
		func() error { return t.run(filtered, cBoth, 1, "tables", "list", "46", port) },
	); err != nil {
		return nil, err
	}
	for _, s := range shares {
		if err := t.kill(s); err != nil {
			return nil, err
		}
	}
	return t.values, nil
}

func (t *tables) kill(s share) error {
	port, gone := fmt.Sprint(s.port), t.o.entries*s.parts/1000
	after := func(variant string, lines int, program string, args ...string) func() error {
		return func() error {
			return errors.Join(t.run(s.name(), variant, lines, program, args...), t.gone(gone), t.fill())
		}
	}
	all := []func() error{
		after(tool, gone, tool, "-D", "-p", "tcp", "--dport", port),
		after(ours, 0, ours, "delete", "-p", "tcp", "--orig-port-dst", port),
	}
	if t.filters {
		all = append(all,
			after(cTables, 1, "tables", "delete", "4", port), after(cBoth, 1, "tables", "delete", "46", port))
	}
	if s.parts < 500 { // to fill the table again takes longer
		all = append(all,
			after(oursFour, 0, ours, "delete", "-f", "ipv4", "-p", "tcp", "--orig-port-dst", port),
			after(oursHere, 0, ours, "delete", "--where", "orig.dport + 0 == "+port),
			after(cEach, 1, "tables", "each", port))
		if t.filters {
			all = append(all, func() error { return errors.Join(t.planned(s), t.gone(gone), t.fill()) })
		}
	}
	return t.inAnyOrder(all...)
}

func (t *tables) inAnyOrder(all ...func() error) error {
	for _, i := range rand.Perm(len(all)) {
		if err := all[i](); err != nil {
			return err
		}
	}
	return nil
}

// run has a program write so many lines to a file.
func (t *tables) run(measure, variant string, lines int, program string, args ...string) error {
	if program != tool {
		program = filepath.Join(t.o.bin, program)
	}
	file := filepath.Join(t.folder, "out")
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer os.Remove(file)
	defer out.Close()
	cmd := exec.Command(program, args...)
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &stderr
	begin := time.Now()
	err = cmd.Run()
	took := time.Since(begin)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, &stderr)
	}
	if got, err := countLines(file); err != nil || got != lines {
		return fmt.Errorf("%s: %d lines, want %d (%v)", cmd, got, lines, err)
	}
	t.put(measure, variant, "ms", 1000*took.Seconds())
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	t.put(measure, variant, "cpu ms", 1000*cpu.Seconds())
	// Of this process too, as the child begins as it: more than the program's own.
	t.put(measure, variant, "KiB resident", float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss))
	return nil
}

func (t *tables) put(measure, variant, unit string, value float64) {
	t.values[measure+"/"+variant+"/"+unit] = value
}

func countLines(file string) (n int, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for b := make([]byte, 1<<20); ; {
		k, err := f.Read(b)
		n += bytes.Count(b[:k], []byte{'\n'})
		if errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil {
			return n, err
		}
	}
}

func (s share) filter() *flows.Filter {
	return &flows.Filter{Family: unix.AF_INET, Transport: helpers.TCP, Orig: flows.Ends{DstPort: flows.Port(s.port)}}
}

func (t *tables) probe() error {
	table, err := flows.Open()
	if err != nil {
		return err
	}
	t.filters = table.Plan(shares[0].filter()).Delete
	return table.Close()
}

// planned is the library's own way, when the trial is over.
func (t *tables) planned(s share) error {
	table, err := flows.Open()
	if err != nil {
		return err
	}
	defer table.Close()
	f := s.filter()
	table.Plan(f)
	begin := time.Now()
	if _, err = table.DeleteAll(f); err == nil {
		t.put(s.name(), library, "ms", 1000*time.Since(begin).Seconds())
	}
	return err
}

// gone says whether so many are missing.
func (t *tables) gone(n int) error {
	now, _, err := t.conn.Count()
	if err == nil && int(now) != t.o.entries-n {
		err = fmt.Errorf("%d connections are left of %d, want %d less", now, t.o.entries, n)
	}
	return err
}

// entry is connection number i: its port is that of its share.
func entry(i int) nfnl.Connection {
	at, port := i%1000, uint16(0)
	for _, s := range shares {
		if port = s.port; at < s.parts {
			break
		}
		at -= s.parts
	}
	tuple := nfnl.Tuple{
		Src: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), SrcPort: uint16(1024 + i%60000),
		Dst: netip.AddrFrom4([4]byte{198, 51, 100, 1}), DstPort: port, Proto: unix.IPPROTO_TCP,
	}
	return nfnl.Connection{
		Orig:  tuple,
		Reply: nfnl.Tuple{Src: tuple.Dst, SrcPort: tuple.DstPort, Dst: tuple.Src, DstPort: tuple.SrcPort, Proto: tuple.Proto},
		State: nfnl.TCPEstablished, Status: nfnl.StatusSeenReply | nfnl.StatusAssured, Timeout: 3600,
	}
}

// fill makes all connections that are not there.
func (t *tables) fill() error {
	for i := 0; i < t.o.entries; {
		b := t.conn.Begin()
		for ; b.Len() < 128 && i < t.o.entries; i++ {
			e := entry(i)
			b.EnterConnection(&e, &e.Reply)
		}
		_ = b.Do()
		for i := range b.Len() {
			if err := b.Err(i); err != nil && !errors.Is(err, unix.EEXIST) {
				return err
			}
		}
	}
	return nil
}

// madeFlows are created and deleted for who watches.
const madeFlows = 100000

// watch measures what an event costs a process that reads events and nothing else. Both get a flow of each. ti-mo's ends
// at the first event that is lost, so that its buffer has room for all.
func (t *tables) watch() error {
	return t.inAnyOrder(func() error { return t.reader(own) }, func() error { return t.reader(timo) })
}

func (t *tables) reader(who string) error {
	cmd := exec.Command("/proc/self/exe", "reader", who)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil { // it listens
		return err
	}
	for i := 0; i < madeFlows; {
		b, first := t.conn.Begin(), i
		for ; i < first+64 && i < madeFlows; i++ {
			e := entry(i)
			b.EnterConnection(&e, &e.Reply)
			b.DeleteConnection(&e.Orig, 0)
		}
		if err := b.Do(); err != nil {
			return err
		}
	}
	var got read1
	if err := json.NewDecoder(lines).Decode(&got); err != nil {
		return err
	}
	if got.Seen+got.Lost != 2*madeFlows {
		return fmt.Errorf("%s saw %d events and lost %d, of %d", who, got.Seen, got.Lost, 2*madeFlows)
	}
	t.put(watched, who, "ns", got.Nanoseconds/float64(got.Seen))
	t.put(watched, who, "lost", float64(got.Lost))
	return nil
}

// read1 is what a reader says at its end.
type read1 struct {
	Seen, Lost  uint64
	Nanoseconds float64 // of all its processors, in the kernel too
}

// readEvents is the process of a reader.
func readEvents(who string) error {
	var got read1
	var begin float64
	listens := func() {
		begin = processorTime()
		fmt.Println("listens")
	}
	if who == own {
		w, err := flows.Watch(flows.Watching{Kinds: flows.News | flows.Destroys})
		if err != nil {
			return err
		}
		defer w.Close()
		listens()
		for e, err := range w.All(context.Background()) {
			if err != nil {
				return err
			}
			switch e.Kind {
			case flows.New, flows.Destroy:
				got.Seen++
			case flows.Overrun:
				got.Lost += e.Lost
			}
			if got.Seen+got.Lost >= 2*madeFlows {
				break
			}
		}
	} else {
		c, err := conntrack.Dial(nil)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetReadBuffer(1 << 30); err != nil {
			return err
		}
		events := make(chan conntrack.Event, 1024)
		failed, err := c.Listen(events, 1, []netfilter.NetlinkGroup{netfilter.GroupCTNew, netfilter.GroupCTDestroy})
		if err != nil {
			return err
		}
		listens()
		for got.Seen < 2*madeFlows {
			select {
			case <-events:
				got.Seen++
			case err := <-failed:
				return err
			}
		}
	}
	got.Nanoseconds = processorTime() - begin
	return json.NewEncoder(os.Stdout).Encode(got)
}

// processorTime is what this process has used, in nanoseconds.
func processorTime() float64 {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano() + u.Stime.Nano())
}
