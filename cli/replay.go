package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/cthelperd/cthelperd/internal/capture"
	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/replay"
)

type replayCommand struct {
	JSON   bool     `name:"json" help:"Print JSON Lines, one object an event."`
	Config string   `placeholder:"FILE" help:"Use the daemon's configuration instead of the built-in one."`
	Helper []string `placeholder:"NAME" sep:"none" help:"Use only this helper, or this protocol's. Repeatable."`
	Port   []string `placeholder:"NAME=N[,N]" sep:"none" help:"Add server ports to a protocol or a helper. Repeatable."`
	NAT    []string `name:"nat" placeholder:"FROM=TO" sep:"none" help:"Imagine that all others see the hosts FROM (an address or a prefix) as TO. Repeatable."`
	Files  []string `arg:"" name:"file" help:"Captures: pcap or pcapng, also gzip'd; - is standard input."`
}

// Help is the text behind the flags.
func (replayCommand) Help() string {
	return `Every capture is put in stream order, read by the helpers and judged by the policy, as the daemon does it, and
what would happen is printed: announced end points, refusals, the connections that used them, rewrites under NAT.

Examples:

  cthelper replay passive.pcap
  cthelper replay --json --port ftp=2121,8021 *.pcapng | jq 'select(.event == "refuse")'
  cthelper replay --nat 192.168.1.0/24=203.0.113.1 inside.pcap
  tcpdump -i eth0 -w - port 21 | cthelper replay --config /etc/cthelperd.yaml -

Exit status: 0 fine, 1 a capture could not be read to its end, 2 wrong usage. Refusals do not change it.`
}

func (r *replayCommand) Run(c *context) error {
	var cfg *config.Config
	var err error
	if r.Config != "" {
		cfg, err = config.Load(r.Config, c.protocols)
	} else {
		cfg, err = config.Default(c.protocols)
	}
	if err != nil {
		return err
	}
	opt, err := r.options(cfg)
	if err != nil {
		return usageError{err}
	}
	p := newProgress(c.stderr)
	out := &output{json: r.JSON, w: c.stdout, progress: p}
	for _, name := range r.Files {
		if err := r.file(c, name, opt, out); err != nil {
			p.clear()
			c.fail(exitFailed, fmt.Errorf("%s: %w", name, err))
		}
	}
	return nil
}

// options checks the flags; errors are wrong usage.
func (r *replayCommand) options(cfg *config.Config) (replay.Options, error) {
	for _, v := range r.Port {
		name, list, ok := strings.Cut(v, "=")
		if !ok {
			return replay.Options{}, fmt.Errorf("--port: %q is not NAME=N[,N]", v)
		}
		for s := range strings.SplitSeq(list, ",") {
			n, err := strconv.ParseUint(s, 10, 16)
			if err != nil || n == 0 {
				return replay.Options{}, fmt.Errorf("--port %s: %q is not a port", v, s)
			}
			if err := cfg.AddPorts(name, uint16(n)); err != nil {
				return replay.Options{}, fmt.Errorf("--port %s: %w", v, err)
			}
		}
	}
	if len(r.Helper) > 0 {
		if err := cfg.Only(r.Helper...); err != nil {
			return replay.Options{}, fmt.Errorf("--helper: %w", err)
		}
	}
	opt := replay.Options{Engine: cfg.Engine()}
	for _, v := range r.NAT {
		t, err := replay.ParseTranslation(v)
		if err != nil {
			return replay.Options{}, fmt.Errorf("--nat: %w", err)
		}
		opt.NAT = append(opt.NAT, t)
	}
	return opt, nil
}

// file replays one capture.
func (r *replayCommand) file(c *context, name string, opt replay.Options, out *output) error {
	from, size := c.stdin, int64(0)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return cause(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return cause(err)
		}
		if info.IsDir() {
			return fmt.Errorf("is a directory")
		}
		from, size = f, info.Size()
	}
	out.begin(name)
	stats, err := replay.Run(name, out.progress.watch(name, from, size), opt, out.record)
	out.progress.clear()
	if e := out.end(stats); err == nil {
		err = e
	}
	return err
}

// cause leaves out the file's name, which is printed anyway.
func cause(err error) error {
	if e, ok := err.(*os.PathError); ok {
		return e.Err
	}
	return err
}

// output prints records as JSON Lines or as a table.
type output struct {
	json     bool
	w        io.Writer
	progress *progress
	record   func(*replay.Record) error
	table    *replay.Table
}

func (o *output) begin(file string) {
	write := replay.JSONLines(o.w)
	if !o.json {
		o.table = replay.NewTable(o.w, file)
		write = o.table.Write
	}
	o.record = func(r *replay.Record) error {
		o.progress.clear()
		return write(r)
	}
}

func (o *output) end(s capture.Stats) error {
	if o.json {
		return nil
	}
	return o.table.Close(s)
}
