// Package cli is the command cthelper. A program of its own with other protocols is
//
//	func main() { os.Exit(cli.Main(ftp.Protocol(), mine.Protocol())) }
package cli

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/alecthomas/kong"

	"github.com/cthelperd/cthelperd/helpers"
)

// Exit codes.
const (
	exitFine   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Main runs cthelper with the process's arguments and gives the exit code: 0 fine, 1 failed, 2 wrong usage.
func Main(protocols ...helpers.Protocol) int {
	return Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, protocols...)
}

// Run is Main with everything that a process has.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer, protocols ...helpers.Protocol) int {
	c := &context{stdin: stdin, stdout: stdout, stderr: stderr, protocols: protocols}
	var commands struct {
		Replay  replayCommand  `cmd:"" help:"Print what the daemon would do with captured traffic."`
		Version versionCommand `cmd:"" help:"Print the version."`
	}
	done := false // kong's way to say that --help has been printed
	parser, err := kong.New(&commands,
		kong.Name("cthelper"),
		kong.Description("The administrator's side of cthelperd. It needs no root."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { done = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
	)
	if err != nil {
		return c.fail(exitFailed, err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
		c.code = exitUsage
		parser.Stdout = stderr
	}
	parsed, err := parser.Parse(args)
	switch {
	case done:
		return c.code
	case err != nil:
		return c.usage(err)
	}
	if err := parsed.Run(c); err != nil {
		return c.fail(exitFailed, err)
	}
	return c.code
}

// context is what commands work with.
type context struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	protocols      []helpers.Protocol
	code           int // what Run returns
}

// fail prints err and keeps the exit code.
func (c *context) fail(code int, err error) int {
	fmt.Fprintf(c.stderr, "cthelper: %v\n", err)
	c.code = code
	return code
}

func (c *context) usage(err error) int {
	c.fail(exitUsage, err)
	fmt.Fprintln(c.stderr, "Try 'cthelper --help' or 'cthelper replay --help'.")
	return exitUsage
}

type versionCommand struct{}

func (versionCommand) Run(c *context) error {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	_, err := fmt.Fprintln(c.stdout, "cthelper", version)
	return err
}
