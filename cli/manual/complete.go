package manual

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// Bash is a script for bash.
func Bash(app *kong.Application, values Values) string {
	var b strings.Builder
	function := "_" + app.Name
	fmt.Fprintf(&b, "# Completion of %s for bash; made by '%s completion bash'.\n%s() {\n", app.Name, app.Name, function)
	b.WriteString(`	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= options= i
	COMPREPLY=()
	if [[ $word == = ]]; then # --option=VALUE is three words to bash
		word=
	elif [[ $before == = ]]; then
		before=${COMP_WORDS[COMP_CWORD-2]}
	fi
	for ((i = 1; i < COMP_CWORD; i++)); do
		[[ ${COMP_WORDS[i]} == -* ]] || command="$command ${COMP_WORDS[i]}"
	done
	case "$command " in
`)
	for _, c := range commandsOf(app) {
		words := c.arguments()
		for _, f := range c.flags {
			words = append(words, spellings(f)...)
		}
		var patterns []string
		for _, path := range c.spelled() {
			patterns = append(patterns, `" `+strings.Join(path, " ")+` "*`)
		}
		fmt.Fprintf(&b, "	%s)\n		options=%s\n", strings.Join(patterns, "|"), quote(strings.Join(words, " ")))
		fmt.Fprintf(&b, "		case $before in\n")
		for _, f := range c.flags {
			if !takesValue(f) {
				continue
			}
			if words := wordsOf(f, values); len(words) > 0 {
				fmt.Fprintf(&b, "		%s) COMPREPLY=($(compgen -W %s -- \"$word\")); return ;;\n",
					strings.Join(spellings(f), "|"), quote(strings.Join(words, " ")))
			} else {
				fmt.Fprintf(&b, "		%s) return ;;\n", strings.Join(spellings(f), "|"))
			}
		}
		b.WriteString("		esac\n		;;\n")
	}
	for prefix, words := range starts(app) {
		fmt.Fprintf(&b, "	%s) COMPREPLY=($(compgen -W %s -- \"$word\")); return ;;\n", quote(prefix+" "), quote(strings.Join(words, " ")))
	}
	b.WriteString("	esac\n	COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n}\n")
	fmt.Fprintf(&b, "complete -o default -F %s %s\n", function, app.Name)
	return b.String()
}

// starts are the words that may follow, by the words before: those of the first level, then of commands with commands.
func starts(app *kong.Application) func(yield func(string, []string) bool) {
	return func(yield func(string, []string) bool) {
		var walk func(n *kong.Node, prefix string) bool
		walk = func(n *kong.Node, prefix string) bool {
			var words []string
			for _, child := range n.Children {
				if !child.Hidden {
					words = append(words, child.Name)
				}
			}
			if len(words) == 0 {
				return true
			}
			if !yield(prefix, words) {
				return false
			}
			for _, child := range n.Children {
				if !child.Hidden && !walk(child, prefix+" "+child.Name) {
					return false
				}
			}
			return true
		}
		walk(app.Node, "")
	}
}

// Zsh is a script for zsh.
func Zsh(app *kong.Application, values Values) string {
	var b strings.Builder
	fmt.Fprintf(&b, "#compdef %s\n# Completion of %s for zsh; made by '%s completion zsh'.\n_%s() {\n", app.Name, app.Name, app.Name, app.Name)
	b.WriteString("	local command=\"${(j: :)${(@)words[2,CURRENT-1]:#-*}} \"\n	case $command in\n")
	for _, c := range commandsOf(app) {
		var patterns []string
		for _, path := range c.spelled() {
			patterns = append(patterns, strings.Join(path, `\ `)+`\ *`)
		}
		fmt.Fprintf(&b, "	(%s)\n		_arguments -S \\\n", strings.Join(patterns, "|"))
		for _, f := range c.flags {
			for _, s := range spellings(f) {
				spec := s
				if takesValue(f) && strings.HasPrefix(s, "--") {
					spec += "="
				} else if takesValue(f) {
					spec += "+"
				}
				spec = "*" + spec + "[" + zshEscape(f.Help) + "]"
				if takesValue(f) {
					spec += ":" + zshEscape(f.FormatPlaceHolder()) + ":(" + strings.Join(wordsOf(f, values), " ") + ")"
				}
				fmt.Fprintf(&b, "			%s \\\n", quote(spec))
			}
		}
		files := "_files"
		if words := c.arguments(); len(words) > 0 {
			files = "(" + strings.Join(words, " ") + ")"
		}
		fmt.Fprintf(&b, "			'*: :%s'\n		;;\n", files)
	}
	for prefix, words := range starts(app) {
		pattern := `(\ )`
		if prefix != "" {
			pattern = "(" + strings.ReplaceAll(strings.TrimSpace(prefix), " ", `\ `) + `\ )`
		}
		fmt.Fprintf(&b, "	%s) compadd -- %s ;;\n", pattern, strings.Join(words, " "))
	}
	fmt.Fprintf(&b, "	esac\n}\ncompdef _%s %s\n", app.Name, app.Name)
	return b.String()
}

func zshEscape(text string) string {
	return strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`, "\n", " ").Replace(text)
}

// Fish is a script for fish.
func Fish(app *kong.Application, values Values) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Completion of %s for fish; made by '%s completion fish'.\n", app.Name, app.Name)
	for prefix, words := range starts(app) {
		condition := "__fish_use_subcommand"
		if prefix != "" {
			condition = seen(strings.Fields(prefix), words)
		}
		for _, n := range nodesAt(app.Node, strings.Fields(prefix)) {
			fmt.Fprintf(&b, "complete -c %s -f -n %s -a %s -d %s\n", app.Name, quote(condition), n.Name, quote(n.Help))
		}
	}
	var groups []string // commands with commands, some of which have names of the first level
	for _, n := range nodesAt(app.Node, nil) {
		if len(n.Children) > 0 {
			groups = append(groups, n.Name)
		}
	}
	for _, c := range commandsOf(app) {
		others := groups
		if len(c.path) > 1 {
			others = nil
		}
		condition := seen(c.path, others, c.node.Aliases...)
		if words := c.arguments(); len(words) > 0 {
			fmt.Fprintf(&b, "complete -c %s -f -n %s -a %s\n", app.Name, quote(condition), quote(strings.Join(words, " ")))
		}
		for _, f := range c.flags {
			fmt.Fprintf(&b, "complete -c %s -n %s", app.Name, quote(condition))
			if f.Short != 0 {
				fmt.Fprintf(&b, " -s %c", f.Short)
			}
			fmt.Fprintf(&b, " -l %s", f.Name)
			for _, alias := range f.Aliases {
				fmt.Fprintf(&b, " -l %s", alias)
			}
			if words := wordsOf(f, values); takesValue(f) && len(words) > 0 {
				fmt.Fprintf(&b, " -x -a %s", quote(strings.Join(words, " ")))
			} else if takesValue(f) {
				b.WriteString(" -r")
			}
			fmt.Fprintf(&b, " -d %s\n", quote(f.Help))
		}
	}
	return b.String()
}

// seen is fish's condition that a command's words were given, the last one or an alias of it, and none of others.
func seen(path, others []string, aliases ...string) string {
	var parts []string
	for _, w := range path {
		parts = append(parts, "__fish_seen_subcommand_from "+w)
	}
	if len(aliases) > 0 {
		parts[len(parts)-1] += " " + strings.Join(aliases, " ")
	}
	if len(others) > 0 {
		parts = append(parts, "not __fish_seen_subcommand_from "+strings.Join(others, " "))
	}
	return strings.Join(parts, "; and ")
}

func nodesAt(n *kong.Node, path []string) (all []*kong.Node) {
	for _, word := range path {
		for _, child := range n.Children {
			if child.Name == word {
				n = child
				break
			}
		}
	}
	for _, child := range n.Children {
		if !child.Hidden {
			all = append(all, child)
		}
	}
	return all
}

// quote is text as one word of a shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
