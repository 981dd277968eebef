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

// command is a word of the command line, and what kong reads the rest into.
type command struct {
	name, help string
	rest       any
	alias      string
}

func commands() []command {
	return []command{
		{"list", "List connections.", &listCommand{}, "ls"},
		{"count", "Count connections.", &countCommand{}, ""},
		{"get", "Print one connection by its addresses and ports.", &getCommand{}, ""},
		{"delete", "Delete connections.", &deleteCommand{}, ""},
		{"update", "Change connections: timeout, mark, status, labels, helper.", &updateCommand{}, ""},
		{"create", "Create a connection, or those of a save file.", &createCommand{}, ""},
		{"restore", "Create, update and delete what the lines of a save file say.", &restoreCommand{}, ""},
		{"flush", "Empty the connection table.", &flushCommand{}, ""},
		{"watch", "Print events, or run a program for each.", &watchCommand{}, ""},
		{"stats", "Print the kernel's statistics.", &statsCommand{}, ""},
		{"top", "Show connections live: sort, filter, rates, kill.", &topCommand{}, ""},
		{"why", "Tell why a connection is RELATED.", &whyCommand{}, ""},
		{"expect", "The table of expected connections.", &expectCommand{}, ""},
		{"replay", "Print what the daemon would do with captured traffic.", &replayCommand{}, ""},
		{"fields", "Print the fields of expressions and the table's columns.", &fieldsCommand{}, ""},
		{"completion", "Print a script that completes command lines.", &completionCommand{}, ""},
		{"version", "Print the version.", &versionCommand{}, ""},
	}
}

// Main runs cthelper with the process's arguments and gives the exit code: 0 fine, 1 failed, 2 wrong usage.
func Main(protocols ...helpers.Protocol) int {
	return Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, protocols...)
}

// Run is Main with everything that a process has.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer, protocols ...helpers.Protocol) int {
	c := &context{stdin: stdin, stdout: stdout, stderr: stderr, protocols: protocols}
	done := false // kong's way to say that --help has been printed
	out := stdout
	if len(args) == 0 {
		args = []string{"--help"}
		c.code = exitUsage
		out = stderr
	}
	parser, err := newParser(args[0], kong.Writers(out, stderr), kong.Exit(func(int) { done = true }))
	if err != nil {
		return c.fail(exitFailed, err)
	}
	c.parser = parser
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

// newParser knows the command that is named, or all if there is none of that name: to describe all takes as long as the rest
// of a short command's work.
func newParser(named string, options ...kong.Option) (*kong.Kong, error) {
	options = append(options,
		kong.Name("cthelper"),
		kong.Description("The administrator's side of cthelperd: the tables of the kernel's connection tracking, and the "+
			"replay of captures."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
	)
	all := commands()
	for i, c := range all {
		if named != "" && (named == c.name || named == c.alias) {
			all = all[i : i+1]
			break
		}
	}
	for _, c := range all {
		options = append(options, kong.DynamicCommand(c.name, c.help, "", c.rest, `aliases:"`+c.alias+`"`))
	}
	return kong.New(&struct{}{}, options...)
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
