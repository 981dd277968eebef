// Command bench measures cthelperd beside its peers: `make bench` runs it, bench/RESULTS.md is what it writes.
//
// Each sample runs in a process and network namespaces of its own, which are gone with it. Variants take turns: one round
// is one sample of each, so that what else the machine does meets all of them.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// options are the same in the process of a sample.
type options struct {
	bin     string        // folder of the programs: cthelperd, nfq, expect
	rounds  int           // samples of each variant
	warm    bool          // one round more, which is thrown away
	length  time.Duration // how long a sample measures
	only    string        // measures to make, with commas; empty: all
	variant string        // variants, the same
	entries int           // connections in the table of "tables"
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin/bench", "`folder` of the programs that are measured")
	flag.IntVar(&o.rounds, "rounds", 5, "samples of each variant")
	flag.BoolVar(&o.warm, "warm", false, "throw a first round away: an emulated processor translates what it has not run yet")
	flag.DurationVar(&o.length, "length", 2*time.Second, "how long a sample measures")
	flag.StringVar(&o.only, "only", "", "measures to make, with commas; empty: all")
	flag.StringVar(&o.variant, "variant", "", "variants to measure, with commas; empty: all")
	flag.IntVar(&o.entries, "entries", 1_000_000, "connections in the table that is listed and deleted from")
	flag.Usage = func() {
		fmt.Fprint(os.Stderr, `usage: bench [FLAG…] measure > SAMPLES     take samples under this kernel, as root; a line of JSON each
       bench report FOLDER > RESULTS.md    medians and ratios of the files native, vm and memory in it

`)
		flag.PrintDefaults()
	}
	flag.Parse()
	var err error
	switch arg := flag.Arg(0); {
	case arg == "measure":
		err = measureAll(&o)
	case arg == "report" && flag.NArg() == 2:
		err = report(os.Stdout, flag.Arg(1))
	case arg == "sample" && flag.NArg() == 3: // of measureAll
		err = takeSample(&o, flag.Arg(1), flag.Arg(2))
	case arg == "reader" && flag.NArg() == 2: // of takeTables
		err = readEvents(flag.Arg(1))
	case arg == "peer": // of newSite
		err = peer(flag.Arg(1))
	default:
		flag.Usage()
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// interrupted is closed by the first signal that asks us to end.
func interrupted() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	return c
}

// among says whether name is in a list with commas; an empty list has all.
func among(list, name string) bool {
	return list == "" || strings.Contains(","+list+",", ","+name+",")
}
