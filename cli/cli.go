// Package cli is the command cthelper. A program of its own with other protocols is
//
//	func main() { os.Exit(cli.Main(ftp.Protocol(), mine.Protocol())) }
package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/helpers"
)

// Exit codes.
const (
	exitFine   = 0
	exitFailed = 1
	exitUsage  = 2
)

// commands are the command line.
type commands struct {
	List       listCommand       `cmd:"" aliases:"ls" help:"List connections."`
	Count      countCommand      `cmd:"" help:"Count connections."`
	Get        getCommand        `cmd:"" help:"Print one connection by its addresses and ports."`
	Delete     deleteCommand     `cmd:"" help:"Delete connections."`
	Update     updateCommand     `cmd:"" help:"Change connections: timeout, mark, status, labels, helper."`
	Create     createCommand     `cmd:"" help:"Create a connection, or those of a save file."`
	Restore    restoreCommand    `cmd:"" help:"Create, update and delete what the lines of a save file say."`
	Flush      flushCommand      `cmd:"" help:"Empty the connection table."`
	Watch      watchCommand      `cmd:"" help:"Print events, or run a program for each."`
	Stats      statsCommand      `cmd:"" help:"Print the kernel's statistics."`
	Top        topCommand        `cmd:"" help:"Show connections live: sort, filter, rates, kill."`
	Why        whyCommand        `cmd:"" help:"Tell why a connection is RELATED."`
	Expect     expectCommand     `cmd:"" help:"The table of expected connections."`
	Replay     replayCommand     `cmd:"" help:"Print what the daemon would do with captured traffic."`
	Fields     fieldsCommand     `cmd:"" help:"Print the fields of expressions and the table's columns."`
	Completion completionCommand `cmd:"" help:"Print a script that completes command lines."`
	Version    versionCommand    `cmd:"" help:"Print the version."`
}

// Main runs cthelper with the process's arguments and gives the exit code: 0 fine, 1 failed, 2 wrong usage.
func Main(protocols ...helpers.Protocol) int {
	return Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, protocols...)
}

// Run is Main with everything that a process has.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer, protocols ...helpers.Protocol) int {
	c := &context{stdin: stdin, stdout: stdout, stderr: stderr, protocols: protocols}
	done := false // kong's way to say that --help has been printed
	parser, err := newParser(kong.Writers(stdout, stderr), kong.Exit(func(int) { done = true }))
	if err != nil {
		return c.fail(exitFailed, err)
	}
	c.parser = parser
	if len(args) == 0 {
		args = []string{"--help"}
		c.code = exitUsage
		parser.Stdout = stderr
	}
	parsed, err := parser.Parse(args)
	var unwritten *fs.PathError
	switch {
	case done:
		return c.code
	case errors.As(err, &unwritten): // the help
		return c.fail(exitFailed, err)
	case err != nil:
		return c.usage(args, err)
	}
	err = parsed.Run(c)
	switch {
	case isUsage(err):
		return c.usage(args, err)
	case errors.Is(err, unix.EPIPE):
		return c.code // who reads has enough
	case err != nil:
		return c.fail(exitFailed, err)
	}
	return c.code
}

func newParser(options ...kong.Option) (*kong.Kong, error) {
	return kong.New(&commands{}, append([]kong.Option{
		kong.Name("cthelper"),
		kong.Description("The administrator's side of cthelperd: the tables of the kernel's connection tracking, and the " +
			"replay of captures."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
	}, options...)...)
}

// context is what commands work with.
type context struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	protocols      []helpers.Protocol
	parser         *kong.Kong
	code           int // what Run returns
}

// usageError is wrong usage that only the command notices.
type usageError struct{ error }

func isUsage(err error) bool {
	var wrong *caret.Error
	var other usageError
	return errors.As(err, &wrong) || errors.As(err, &other)
}

// fail prints err and keeps the exit code.
func (c *context) fail(code int, err error) int {
	fmt.Fprintf(c.stderr, "cthelper: %s\n", plainLines(err.Error()))
	c.code = code
	return code
}

// plainLines is text of several lines without what acts on a terminal.
func plainLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = caret.Plain(lines[i])
	}
	return strings.Join(lines, "\n")
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
