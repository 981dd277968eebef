package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/token"
)

// Error is one thing that is wrong in a configuration file.
type Error struct {
	File         string
	Line, Column int    // from 1
	Problem      string // what is wrong and what to do
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Problem)
}

// Errors is all that is wrong in a file, by line. It is never empty.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// reader collects what is wrong while it walks through a file.
type reader struct {
	file  string
	wrong Errors
}

// bad notes that something is wrong at t.
func (r *reader) bad(t *token.Token, format string, args ...any) {
	e := &Error{File: r.file, Line: 1, Column: 1, Problem: fmt.Sprintf(format, args...)}
	if t != nil && t.Position != nil {
		e.Line, e.Column = max(1, t.Position.Line), max(1, t.Position.Column)
	}
	r.wrong = append(r.wrong, e)
}

func (r *reader) errors() error {
	if len(r.wrong) == 0 {
		return nil
	}
	slices.SortStableFunc(r.wrong, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return slices.CompactFunc(r.wrong, func(a, b *Error) bool { return *a == *b })
}

// nearest is the known word that differs least from word, if it is near enough to be meant.
func nearest(word string, known []string) (string, bool) {
	best, least := "", max(3, len(word)/2+1)
	for _, k := range known {
		if d := distance(strings.ToLower(word), k); d < least {
			best, least = k, d
		}
	}
	return best, best != ""
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// did is advice for a word that is none of the known ones.
func did(word string, known []string) string {
	if n, ok := nearest(word, known); ok {
		return fmt.Sprintf("did you mean %s? Known are %s", n, strings.Join(known, ", "))
	}
	return "known are " + strings.Join(known, ", ")
}
