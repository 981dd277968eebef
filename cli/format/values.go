package format

import (
	"iter"
	"strings"
	"time"

	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/flows"
)

// Values are the columns of CSV, by name: the fields of an event.
func Values(e *flows.Event, labels *names.Labels, now time.Time) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		line := string(appendCSV(nil, e, labels, now, true))
		for _, name := range strings.Split(strings.TrimSuffix(csvHead(csvColumns, true), "\n"), ",") {
			value, rest := cutCSV(line)
			line = rest
			if value != "" && !yield(name, value) {
				return
			}
		}
	}
}

// cutCSV is the first field of a line.
func cutCSV(line string) (value, rest string) {
	if !strings.HasPrefix(line, `"`) {
		value, rest, _ = strings.Cut(line, ",")
		return value, rest
	}
	for i := 1; i < len(line); i++ {
		if line[i] != '"' {
			continue
		}
		if i+1 < len(line) && line[i+1] == '"' {
			i++
			continue
		}
		return strings.ReplaceAll(line[1:i], `""`, `"`), strings.TrimPrefix(line[i+1:], ",")
	}
	return "", ""
}
