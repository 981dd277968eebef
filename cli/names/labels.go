package names

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/cthelperd/cthelperd/flows"
)

// LabelFile is where the names of connection labels are: lines NUMBER NAME, # begins a comment. Lines that say something
// else are passed over, as conntrack(8) does.
const LabelFile = "/etc/xtables/connlabel.conf"

// maxLabel is the highest number of a label; labels have 128 bits.
const maxLabel = 127

// Labels are the names of labels. The zero value knows none.
type Labels struct {
	byName   map[string]uint8
	byNumber [maxLabel + 1]string
}

// LoadLabels reads LabelFile. That there is none is no error.
func LoadLabels() (*Labels, error) {
	f, err := os.Open(LabelFile)
	if os.IsNotExist(err) {
		return &Labels{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadLabels(f)
}

// ReadLabels reads a file of names; the first name of a number is the one that is shown, and the first number of a name the
// one that is meant.
func ReadLabels(r io.Reader) (*Labels, error) {
	l := &Labels{byName: map[string]uint8{}}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		text, _, _ := strings.Cut(lines.Text(), "#")
		text = strings.TrimSpace(text)
		first, _, _ := strings.Cut(strings.ReplaceAll(text, "\t", " "), " ")
		name := strings.TrimSpace(text[len(first):])
		number, err := strconv.ParseUint(first, 0, 8)
		if _, known := l.byName[name]; err != nil || number > maxLabel || name == "" || known {
			continue
		}
		if l.byNumber[number] == "" {
			l.byNumber[number] = name
		}
		l.byName[name] = uint8(number)
	}
	return l, lines.Err()
}

// Name is the name of a label, or its number.
func (l *Labels) Name(number int) string {
	if l == nil || l.byNumber[number] == "" {
		return strconv.Itoa(number)
	}
	return l.byNumber[number]
}

// Names are those of the labels that are set.
func (l *Labels) Names(set *flows.Labels) (list []string) {
	for n := range 8 * len(set) {
		if set.Has(n) {
			list = append(list, l.Name(n))
		}
	}
	return list
}

// Known says whether a label has a name.
func (l *Labels) Known(number int) bool { return l != nil && l.byNumber[number] != "" }

// Number finds a label by name or number.
func (l *Labels) Number(text string) (number int, ok bool) {
	if l != nil {
		if n, ok := l.byName[text]; ok {
			return int(n), true
		}
	}
	n, err := strconv.ParseUint(text, 10, 8)
	return int(n), err == nil && n <= maxLabel
}
