package manual

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// Page is what a manual page has beside the model.
type Page struct {
	Section int
	Summary string // behind the name, in one line
	Tail    string // roff, at the end: exit status, files, see also
}

// Man is a manual page in the language of man(7).
func Man(app *kong.Application, p Page) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s %d \"\" cthelperd\n.SH NAME\n%s \\- %s\n", strings.ToUpper(app.Name), p.Section, app.Name, roff(p.Summary))
	b.WriteString(".SH SYNOPSIS\n.nf\n")
	all := commandsOf(app)
	for _, c := range all {
		fmt.Fprintf(&b, "%s\n", roff(app.Name+" "+synopsis(c)))
	}
	fmt.Fprintf(&b, ".fi\n.SH DESCRIPTION\n%s\n.SH COMMANDS\n", roff(app.Help))
	for _, c := range all {
		fmt.Fprintf(&b, ".SS %s\n%s\n", roff(synopsis(c)), roff(c.node.Help))
		for _, arg := range c.node.Positional {
			fmt.Fprintf(&b, ".TP\n\\fI%s\\fR\n%s\n", roff(arg.Summary()), roff(arg.Help))
		}
		titles, of := groups(c.flags)
		for _, title := range titles {
			for _, f := range of[title] {
				if f.Name != "help" {
					fmt.Fprintf(&b, ".TP\n%s\n%s\n", option(f), roff(f.Help))
				}
			}
		}
		if c.node.Detail != "" {
			fmt.Fprintf(&b, ".PP\n.nf\n%s\n.fi\n", roff(strings.TrimSpace(c.node.Detail)))
		}
	}
	b.WriteString(p.Tail)
	return b.String()
}

func synopsis(c command) string {
	text := strings.Join(c.path, " ")
	for _, f := range c.flags {
		if f.Name != "help" {
			text += " [options]"
			break
		}
	}
	for _, arg := range c.node.Positional {
		text += " " + arg.Summary()
	}
	return text
}

func option(f *kong.Flag) string {
	var parts []string
	for _, s := range spellings(f) {
		parts = append(parts, `\fB`+roff(s)+`\fR`)
	}
	text := strings.Join(parts, ", ")
	if takesValue(f) {
		text += ` \fI` + roff(f.FormatPlaceHolder()) + `\fR`
	}
	return text
}

// roff writes text so that man(7) shows it as it is.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "~", `\(ti`, "^", `\(ha`).Replace(text)
	lines := strings.Split(text, "\n")
	for i := range lines {
		if strings.HasPrefix(lines[i], ".") {
			lines[i] = `\&` + lines[i]
		}
	}
	return strings.Join(lines, "\n")
}

// Text is text for a Page's Tail, shown as it is.
func Text(text string) string { return roff(text) }
