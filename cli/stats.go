package cli

import (
	"fmt"
	"strings"

	"github.com/cthelperd/cthelperd/cli/format"
	"github.com/cthelperd/cthelperd/cli/where"
	"github.com/cthelperd/cthelperd/flows"
)

type statsCommand struct {
	Output string `short:"o" default:"table" enum:"table,conntrack,json" placeholder:"KIND" help:"table (the default), conntrack or json."`
}

func (s *statsCommand) Run(c *context) error {
	t, err := flows.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	all, err := t.Stats()
	if err != nil {
		return err
	}
	entries, limit, err := t.Count()
	if err != nil {
		return err
	}
	switch s.Output {
	case "conntrack":
		return c.statsConntrack(all)
	case "json":
		return c.statsJSON(all, entries, limit)
	}
	return c.statsTable(all, entries, limit)
}

// statsNames are the counters, in conntrack(8)'s order, and what they count.
func statsNames() [][2]string {
	return [][2]string{
		{"found", "searches that found an entry"},
		{"invalid", "packets that could not be tracked"},
		{"insert", "entries made"},
		{"insert_failed", "entries not made: somebody was faster"},
		{"drop", "packets dropped: no entry could be made"},
		{"early_drop", "entries dropped to make room"},
		{"error", "packets with an error in their ICMP"},
		{"search_restart", "searches begun again while the table changed"},
		{"clash_resolve", "entries that met an equal one, resolved"},
		{"chaintoolong", "packets dropped: a chain of the table is too long"},
	}
}

func statsOf(s *flows.CPUStats) []uint32 {
	return []uint32{
		s.Found, s.Invalid, s.Insert, s.InsertFailed, s.Drop, s.EarlyDrop, s.Error, s.SearchRestart, s.ClashResolve, s.ChainTooLong,
	}
}

func (c *context) statsConntrack(all []flows.CPUStats) error {
	var b strings.Builder
	for i := range all {
		fmt.Fprintf(&b, "cpu=%-4d\t", all[i].CPU)
		for k, n := range statsOf(&all[i]) {
			fmt.Fprintf(&b, "%s=%d ", statsNames()[k][0], n)
		}
		b.WriteByte('\n')
	}
	_, err := fmt.Fprint(c.stdout, b.String())
	return err
}

func (c *context) statsJSON(all []flows.CPUStats, entries, limit uint32) error {
	var b strings.Builder
	fmt.Fprintf(&b, `{"entries":%d,"max":%d,"cpus":[`, entries, limit)
	for i := range all {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"cpu":%d`, all[i].CPU)
		for k, n := range statsOf(&all[i]) {
			fmt.Fprintf(&b, `,"%s":%d`, statsNames()[k][0], n)
		}
		b.WriteByte('}')
	}
	b.WriteString("]}\n")
	_, err := fmt.Fprint(c.stdout, b.String())
	return err
}

func (c *context) statsTable(all []flows.CPUStats, entries, limit uint32) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%-16s%12d  connections", "entries", entries)
	if limit > 0 {
		fmt.Fprintf(&b, " of at most %d (%.1f %%)", limit, 100*float64(entries)/float64(limit))
	}
	b.WriteByte('\n')
	for k, name := range statsNames() {
		total := uint64(0)
		for i := range all {
			total += uint64(statsOf(&all[i])[k])
		}
		fmt.Fprintf(&b, "%-16s%12d  %s\n", name[0], total, name[1])
	}
	_, err := fmt.Fprint(c.stdout, b.String())
	return err
}

type fieldsCommand struct{}

func (fieldsCommand) Help() string {
	return `Expressions are CEL (https://cel.dev): && || ! == != < <= > >= + - * / % in, text functions such as
helper.startsWith("cth-"), and what is special here:

  orig.dst.in("10.0.0.0/8")             an address, prefix, address/mask or range FIRST-LAST; also a list of them
  mark.masked(0xff)                     the bits of a number under a mask
  "ASSURED" in status, "web" in labels  lists`
}

func (fieldsCommand) Run(c *context) error {
	_, err := fmt.Fprint(c.stdout, fieldsText())
	return err
}

// fieldsText explains the fields of expressions and the table's columns.
func fieldsText() string {
	var b strings.Builder
	b.WriteString("Fields of expressions:\n")
	for _, f := range where.Fields() {
		needs := [...]string{
			where.NeedsNothing: "", where.NeedsAccounting: " (nf_conntrack_acct=1)", where.NeedsTimestamps: " (nf_conntrack_timestamp=1)",
		}[f.Needs]
		fmt.Fprintf(&b, "  %-14s %-13s %s%s\n", f.Name, f.Type(), f.Help, needs)
	}
	b.WriteString("\nColumns of the table:\n")
	for _, col := range format.Columns() {
		fmt.Fprintf(&b, "  %-14s %s\n", col.Name, col.Help)
	}
	return b.String()
}
