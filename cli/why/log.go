package why

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Line is a line of the daemon's log about an announcement or the connection that used it.
type Line map[string]string

// Announced is what the log says of a connection.
type Announced struct {
	Used Line // the line of the connection itself ("related"); nil: none
	Said Line // the line of its announcement ("expect"); nil: none
}

// longest is what of a line is read.
const longest = 64 << 10

// Search reads a log of cthelperd, of either form, for connections that are named as in the log: "tcp
// 192.0.2.1:20>198.51.100.9:1024". The last one of a name counts: ports are used again. Memory is bounded by the
// announcements that were not used.
func Search(log io.Reader, flows ...string) (map[string]Announced, error) {
	found := map[string]Announced{}
	pending := map[string]Line{} // announcements by what they have in common with their use
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, longest)
	for lines.Scan() {
		line := parse(lines.Text())
		switch line["msg"] {
		case "expect":
			if len(pending) < maxPending {
				pending[line.use()] = line
			}
		case "cancel":
			delete(pending, line.use())
		case "related":
			said := pending[line.use()]
			if said["permanent"] == "" {
				delete(pending, line.use())
			}
			if slices.Contains(flows, line["flow"]) {
				found[line["flow"]] = Announced{Used: line, Said: said}
			}
		}
	}
	return found, lines.Err()
}

// maxPending bounds the announcements that wait for their connection.
const maxPending = 1 << 16

// use is what an announcement and the connection that it led to have in common.
func (l Line) use() string {
	return strings.Join([]string{l["helper"], l["class"], l["transport"], l["from"], l["to"], l["at"]}, "\x00")
}

// parse reads a line as log/slog writes it: JSON, or key=value with quotes where they are needed. What is before it (as
// journalctl writes) is left out. Anything else has no keys.
func parse(text string) Line {
	line := Line{}
	if i := strings.IndexByte(text, '{'); i >= 0 {
		var object map[string]any
		if json.Unmarshal([]byte(text[i:]), &object) == nil {
			for key, value := range object {
				line[key] = fmt.Sprint(value)
			}
			return line
		}
	}
	for rest := text; rest != ""; {
		word, tail, _ := strings.Cut(rest, " ")
		key, value, is := strings.Cut(word, "=")
		if is && strings.HasPrefix(value, `"`) {
			quoted, err := strconv.QuotedPrefix(rest[len(key)+1:])
			if err != nil {
				return line
			}
			tail = strings.TrimPrefix(rest[len(key)+1+len(quoted):], " ")
			value, _ = strconv.Unquote(quoted)
		}
		if is {
			line[key] = value
		}
		rest = tail
	}
	return line
}
