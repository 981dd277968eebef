package criteria

import (
	"encoding"
	"errors"
	"reflect"
	"strings"

	"github.com/cthelperd/cthelperd/cli/caret"
)

// Command is what a line of a save file asks for.
type Command byte

// Commands of lines.
const (
	Add    Command = 'A' // that there is one already is no error
	Create Command = 'I'
	Update Command = 'U'
	Delete Command = 'D'
)

// Lines reads lines of save files: command and options, as conntrack -o save writes them.
type Lines struct {
	options map[string][]int // index of Draft's field by option
}

// NewLines prepares for reading lines.
func NewLines() *Lines {
	l := &Lines{options: map[string][]int{}}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Draft]()) {
		if field.Anonymous {
			continue
		}
		tag := field.Tag
		name := tag.Get("name")
		if name == "" {
			name = kebab(field.Name)
		}
		l.options["--"+name] = field.Index
		if short := tag.Get("short"); short != "" {
			l.options["-"+short] = field.Index
		}
		for _, alias := range strings.Split(tag.Get("aliases"), ",") {
			if alias != "" {
				l.options["--"+alias] = field.Index
			}
		}
	}
	return l
}

// kebab is how the option of a field is called: ReplyPortSrc, reply-port-src.
func kebab(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('-')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

// Parse reads a line. An error is a *caret.Error.
func (l *Lines) Parse(line string) (Command, *Draft, error) {
	var command Command
	draft := &Draft{}
	fields := reflect.ValueOf(draft).Elem()
	at := 0
	next := func() (word string, begin int) {
		rest := strings.TrimLeft(line[at:], " \t")
		begin = len(line) - len(rest)
		if quoted, ok := strings.CutPrefix(rest, `"`); ok {
			if word, _, ok = strings.Cut(quoted, `"`); ok && word != "" {
				at = begin + len(word) + 2
				return word, begin + 1
			}
		}
		word, _, _ = strings.Cut(rest, " ")
		word, _, _ = strings.Cut(word, "\t")
		at = begin + len(word)
		return word, begin
	}
	for {
		word, begin := next()
		fail := func(message string) (Command, *Draft, error) {
			return 0, nil, &caret.Error{Text: line, At: begin, Message: message}
		}
		if word == "" {
			break
		}
		if c, ok := commandOf(word); ok {
			if command != 0 {
				return fail("a second command")
			}
			command = c
			continue
		}
		if word == "conntrack" {
			continue // the table
		}
		name, value, attached := strings.Cut(word, "=")
		place := begin + len(name) + 1
		index, ok := l.options[name]
		if !ok && len(word) > 2 { // -t5
			if index, ok = l.options[word[:2]]; ok {
				name, value, attached, place = word[:2], word[2:], true, begin+2
			}
		}
		if !ok {
			return fail("unknown option " + name)
		}
		if !attached {
			value, place = next()
			if value == "" {
				return fail(name + " needs a value")
			}
		}
		if err := set(fields.FieldByIndex(index), value); err != nil {
			var c *caret.Error
			if !errors.As(err, &c) {
				return fail(err.Error())
			}
			return 0, nil, &caret.Error{Text: line, At: place + c.At, Message: name + ": " + c.Message}
		}
	}
	if command == 0 {
		return 0, nil, &caret.Error{Text: line, Message: "want a command: -A, -I, -U or -D"}
	}
	return command, draft, nil
}

func set(field reflect.Value, value string) error {
	if u, ok := field.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(value))
	}
	field.SetString(value)
	return nil
}

func commandOf(word string) (Command, bool) {
	switch word {
	case "-A", "--add":
		return Add, true
	case "-I", "--create":
		return Create, true
	case "-U", "--update":
		return Update, true
	case "-D", "--delete":
		return Delete, true
	}
	return 0, false
}
