// Package daemon is the command cthelperd: packets of control connections from a netfilter queue go through the engine,
// announcements into the kernel's table, and then the packets go on. A program of its own with other protocols is
//
//	func main() { os.Exit(daemon.Main(ftp.Protocol(), mine.Protocol())) }
package daemon

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/alecthomas/kong"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/rules"
)

// Exit codes.
const (
	exitFine   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Main runs cthelperd with the process's arguments and gives the exit code: 0 fine, 1 failed, 2 wrong usage.
func Main(protocols ...helpers.Protocol) int {
	return main(os.Args[1:], os.Stdout, os.Stderr, protocols)
}

// program is what commands work with.
type program struct {
	stdout, stderr io.Writer
	protocols      []helpers.Protocol
	probe          func([]helpers.Helper) (rules.Features, expectations, error)
	code           int // what main returns
}

func main(args []string, stdout, stderr io.Writer, protocols []helpers.Protocol) int {
	p := &program{stdout: stdout, stderr: stderr, protocols: protocols, probe: probeKernel}
	return p.main(args)
}

// commands are the command line.
type commands struct {
	Run     runCommand     `cmd:"" help:"Read control connections and open the way for what they announce, until SIGTERM."`
	Check   checkCommand   `cmd:"" help:"Say what is wrong in a configuration file, and where."`
	Rules   rulesCommand   `cmd:"" help:"Print the rules, for people who keep their own rule set."`
	Doctor  doctorCommand  `cmd:"" help:"Say what this kernel offers, what is missing, and what follows."`
	Cleanup cleanupCommand `cmd:"" help:"Remove everything that any run left in this network namespace."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

func newParser(options ...kong.Option) (*kong.Kong, error) {
	return kong.New(&commands{}, append([]kong.Option{
		kong.Name("cthelperd"),
		kong.Description(description),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}),
	}, options...)...)
}

func (p *program) main(args []string) int {
	helped := false // kong's way to say that --help has been printed
	parser, err := newParser(kong.Writers(p.stdout, p.stderr), kong.Exit(func(int) { helped = true }))
	if err != nil {
		return p.fail(exitFailed, err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
		p.code = exitUsage
		parser.Stdout = p.stderr
	}
	parsed, err := parser.Parse(args)
	switch {
	case helped:
		return p.code
	case err != nil:
		p.fail(exitUsage, err)
		fmt.Fprintln(p.stderr, "Try 'cthelperd --help'.")
		return p.code
	}
	if err := parsed.Run(p); err != nil {
		return p.fail(exitFailed, err)
	}
	return p.code
}

const description = `Connection tracking helpers in user space: lets FTP and other protocols that announce further connections through a firewall that drops what it does not know.

Examples:

  cthelperd run
  cthelperd run --config /etc/cthelperd.yaml
  cthelperd check --config /etc/cthelperd.yaml && systemctl reload cthelperd
  cthelperd rules --config /etc/cthelperd.yaml
  ip netns exec NAME cthelperd doctor

Exit status: 0 fine, 1 failed, 2 wrong usage.`

// fail prints err and keeps the exit code.
func (p *program) fail(code int, err error) int {
	fmt.Fprintf(p.stderr, "cthelperd: %v\n", err)
	p.code = code
	return code
}

// configFile is the flag that most commands have.
type configFile struct {
	Config string `placeholder:"FILE" help:"Configuration; without one the built-in default: every helper on its standard ports, own rules."`
}

func (f configFile) load(p *program) (*config.Config, error) {
	if f.Config == "" {
		return config.Default(p.protocols)
	}
	return config.Load(f.Config, p.protocols)
}

type checkCommand struct{ configFile }

func (c checkCommand) Run(p *program) error {
	cfg, err := c.load(p)
	if err != nil {
		return err
	}
	name := c.Config
	if name == "" {
		name = "the built-in configuration"
	}
	_, err = fmt.Fprintf(p.stdout, "%s is fine: %s.\n", name, helperNames(cfg.Helpers()))
	return err
}

// helperNames lists helpers with their ports: "ftp (tcp 21)".
func helperNames(all []helpers.Helper) string {
	if len(all) == 0 {
		return "no helper is enabled"
	}
	var s string
	for i, h := range all {
		if i > 0 {
			s += ", "
		}
		s += h.Name + " (" + h.Transport.String()
		for _, p := range h.Ports {
			s += fmt.Sprintf(" %d", p)
		}
		s += ")"
	}
	return s
}

type versionCommand struct{}

func (versionCommand) Run(p *program) error {
	_, err := fmt.Fprintln(p.stdout, "cthelperd", version())
	return err
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
