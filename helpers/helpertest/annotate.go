package helpertest

import (
	"fmt"
	"strings"

	"github.com/cthelperd/cthelperd/helpers"
)

// Annotate gives a script with the "=" lines that h makes of it, in place of its own: for a test's -update. Somebody has
// to read them.
func Annotate(h helpers.Helper, script string) (string, error) {
	s, err := Parse(script)
	if err != nil {
		return "", err
	}
	p := newPlayer(h, s, nil)
	var w strings.Builder
	next := 0
	for line := range strings.SplitSeq(strings.TrimRight(script, "\n"), "\n") {
		if strings.HasPrefix(line, "= ") {
			continue
		}
		w.WriteString(line + "\n")
		before := Script{Says: s.Says}
		if before.parseLine(line) != nil || len(before.Says) == len(s.Says) {
			continue
		}
		p.all = Output{}
		if err := p.feed(s.Says[next]); err != nil {
			return "", err
		}
		next++
		for _, l := range p.said() {
			fmt.Fprintf(&w, "= %s\n", l)
		}
	}
	return w.String(), nil
}

// said is what the last segment gave, as "=" lines.
func (p *player) said() []string {
	lines := p.all.lines(p.h)
	for _, err := range p.errs {
		lines = append(lines, fmt.Sprintf("error %q", err))
	}
	return lines
}
