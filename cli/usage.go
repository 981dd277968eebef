package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/cthelperd/cthelperd/cli/caret"
)

// usage prints err and shows the place on the command line, or in the text that was read.
func (c *context) usage(args []string, err error) int {
	c.fail(exitUsage, err)
	var wrong *caret.Error
	place := func(shown, arg string) int { return c.blamed(arg, err.Error()) }
	if errors.As(err, &wrong) {
		place = func(shown, arg string) int { return wrongIn(shown, arg, wrong) }
	}
	line, at := commandLine(args, place)
	switch {
	case wrong != nil && wrong.Text == "" || wrong == nil && at < 0:
		fmt.Fprintf(c.stderr, "Try 'cthelper %s--help'.\n", c.commandOf(args))
	case at >= 0:
		fmt.Fprint(c.stderr, caret.Show(line, at))
	default:
		fmt.Fprint(c.stderr, caret.Show(wrong.Text, wrong.At))
	}
	return exitUsage
}

// commandOf is the command that args name, with a space behind; empty if they name none.
func (c *context) commandOf(args []string) (words string) {
	for n := c.parser.Model.Node; len(args) > 0; args = args[1:] {
		var next *kong.Node
		for _, child := range n.Children {
			if child.Name == args[0] {
				next = child
			}
		}
		if next == nil {
			break
		}
		n, words = next, words+args[0]+" "
	}
	return words
}

// commandLine is what was typed, and the first place that place knows in it; -1 if it knows none.
func commandLine(args []string, place func(shown, arg string) int) (line string, at int) {
	at, line = -1, "cthelper"
	for _, arg := range args {
		shown := arg
		if arg == "" || strings.ContainsAny(arg, " \t\n\"'`$&|;<>(){}*?!\\#~") {
			shown = "'" + arg + "'"
		}
		line += " "
		if i := place(shown, arg); at < 0 && i >= 0 {
			at = len(line) + i
		}
		line += shown
	}
	return line, at
}

// wrongIn is where in the shown argument the value is wrong, or -1.
func wrongIn(shown, arg string, wrong *caret.Error) int {
	i := strings.LastIndex(shown, wrong.Text)
	if i < 0 || !strings.HasPrefix(arg, "-") && !slices.Contains(append(strings.Split(arg, ","), arg), wrong.Text) {
		return -1
	}
	return i + wrong.At
}

// blamed is 0 if kong's message is about the argument, else -1.
func (c *context) blamed(arg, message string) int {
	name, _, _ := strings.Cut(arg, "=")
	for _, quoted := range []string{"unknown flag " + name, "unexpected argument " + arg, `"` + arg + `"`} {
		before, after, ok := strings.Cut(message, quoted)
		if ok && (before == "" || after == "" || after[0] == ',') {
			return 0
		}
	}
	flag, _, ok := strings.Cut(message, ": ")
	if ok && strings.HasPrefix(flag, "--") && (name == flag || c.short(flag[2:]) != "" && strings.HasPrefix(arg, c.short(flag[2:]))) {
		return 0
	}
	return -1
}

// short is how a flag can be written with one letter; empty if it cannot.
func (c *context) short(flag string) (spelling string) {
	_ = kong.Visit(c.parser.Model, func(n kong.Visitable, next kong.Next) error {
		if f, ok := n.(*kong.Flag); ok && f.Name == flag && f.Short != 0 {
			spelling = "-" + string(f.Short)
		}
		return next(nil)
	})
	return spelling
}
