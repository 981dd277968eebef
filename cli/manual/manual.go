// Package manual makes manual pages and scripts that complete command lines out of a command line's model, so that they
// say what the program does.
package manual

import (
	"cmp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Values gives the words that an option or argument takes, by name; none: any.
type Values func(name string) []string

// command is a command that can be given: without those that only have commands below them.
type command struct {
	path  []string // its words
	node  *kong.Node
	flags []*kong.Flag
}

// commandsOf are all commands, in the model's order.
func commandsOf(app *kong.Application) (all []command) {
	var walk func(n *kong.Node, path []string)
	walk = func(n *kong.Node, path []string) {
		for _, child := range n.Children {
			if child.Hidden {
				continue
			}
			below := append(slices.Clone(path), child.Name)
			if len(child.Children) > 0 {
				walk(child, below)
				continue
			}
			all = append(all, command{path: below, node: child, flags: visible(child.Flags)})
		}
	}
	walk(app.Node, nil)
	return all
}

func visible(flags []*kong.Flag) (left []*kong.Flag) {
	for _, f := range flags {
		if !f.Hidden {
			left = append(left, f)
		}
	}
	return left
}

// spellings are how a flag can be written, short first.
func spellings(f *kong.Flag) (all []string) {
	if f.Short != 0 {
		all = append(all, "-"+string(f.Short))
	}
	all = append(all, "--"+f.Name)
	for _, alias := range f.Aliases {
		all = append(all, "--"+alias)
	}
	return all
}

// takesValue says whether a value follows.
func takesValue(f *kong.Flag) bool { return !f.IsBool() && !f.IsCounter() }

// wordsOf are the words that a flag takes.
func wordsOf(f *kong.Flag, values Values) []string {
	if f.Enum != "" {
		return enum(f.Value)
	}
	return values(f.Name)
}

func enum(v *kong.Value) (words []string) {
	for _, w := range strings.Split(v.Enum, ",") {
		if w != "" {
			words = append(words, w)
		}
	}
	return words
}

// spelled are the command's words, and those with an alias in the place of the last one.
func (c *command) spelled() [][]string {
	all := [][]string{c.path}
	for _, alias := range c.node.Aliases {
		all = append(all, append(slices.Clone(c.path[:len(c.path)-1]), alias))
	}
	return all
}

// arguments are the words that a command's arguments take.
func (c *command) arguments() (words []string) {
	for _, arg := range c.node.Positional {
		words = append(words, enum(arg)...)
	}
	return words
}

// groups are the flags by their group's title, in order of appearance; those without one come last.
func groups(flags []*kong.Flag) (titles []string, of map[string][]*kong.Flag) {
	of = map[string][]*kong.Flag{}
	for _, f := range flags {
		title := ""
		if f.Group != nil {
			title = cmp.Or(f.Group.Title, f.Group.Key)
		}
		if of[title] == nil {
			titles = append(titles, title)
		}
		of[title] = append(of[title], f)
	}
	slices.SortStableFunc(titles, func(a, b string) int {
		return cmp.Compare(boolInt(a == ""), boolInt(b == ""))
	})
	return titles, of
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
