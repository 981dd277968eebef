package cli

import (
	"fmt"

	"github.com/cthelperd/cthelperd/cli/format"
	"github.com/cthelperd/cthelperd/cli/manual"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/cli/where"
)

type completionCommand struct {
	For string `arg:"" enum:"bash,zsh,fish,man" help:"bash, zsh or fish; man is the manual page cthelper(1)."`
}

func (completionCommand) Help() string {
	return `Examples:
  cthelper completion bash > /usr/share/bash-completion/completions/cthelper
  cthelper completion zsh > /usr/local/share/zsh/site-functions/_cthelper
  cthelper completion fish > /usr/share/fish/vendor_completions.d/cthelper.fish
  cthelper completion man > /usr/local/share/man/man1/cthelper.1`
}

func (k *completionCommand) Run(c *context) error {
	all, err := newParser("")
	if err != nil {
		return err
	}
	app := all.Model
	var text string
	switch k.For {
	case "bash":
		text = manual.Bash(app, completed)
	case "zsh":
		text = manual.Zsh(app, completed)
	case "fish":
		text = manual.Fish(app, completed)
	default:
		text = manual.Man(app, manual.Page{Section: 1, Summary: "connection tracking from the command line", Tail: manTail()})
	}
	_, err = fmt.Fprint(c.stdout, text)
	return err
}

// completed are the words that options take.
func completed(option string) []string {
	switch option {
	case "proto":
		return names.Protocols()
	case "family":
		return []string{"ipv4", "ipv6"}
	case "state":
		return names.States(0)
	case "status":
		return []string{"ASSURED", "SEEN_REPLY", "FIXED_TIMEOUT", "EXPECTED", "OFFLOAD", "UNSET"}
	case "role":
		return []string{"client", "server"}
	case "event-mask":
		return []string{"ALL", "NEW", "UPDATES", "DESTROY"}
	case "output":
		return append(format.Kinds(), format.Modifiers()...)
	case "columns":
		var all []string
		for _, c := range format.Columns() {
			all = append(all, c.Name)
		}
		return all
	case "sort":
		var all []string
		for _, f := range where.Fields() {
			all = append(all, f.Name)
		}
		return all
	}
	return nil
}

// manTail is the end of the manual page.
func manTail() string {
	return `.SH EXPRESSIONS
.nf
` + manual.Text((fieldsCommand{}).Help()+"\n\n"+fieldsText()) + `.fi
.SH EXIT STATUS
0 is fine, 1 a failure (also if there was nothing to delete or to update), 2 wrong usage.
.SH FILES
.TP
` + manual.Text(names.LabelFile) + `
names of labels
.SH SEE ALSO
.BR cthelperd (8),
.BR conntrack (8),
.BR nft (8)
`
}
