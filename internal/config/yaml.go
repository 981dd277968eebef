package config

import (
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a file that is worth reading: more is a mistake, or somebody's try to exhaust the parser.
const (
	maxFile  = 1 << 20 // bytes
	maxDepth = 64      // brackets inside brackets
)

// parse is the file's only document; nil if there is none or it cannot be read.
func (r *reader) parse(data []byte) (root ast.Node) {
	if len(data) > maxFile {
		r.bad(nil, "the file has %d bytes, more than %d: is it a configuration?", len(data), maxFile)
		return nil
	}
	if i := slices.Index(data, 0); i >= 0 {
		r.bad(&token.Token{Position: position(data, i)}, "a byte 0: the file is not text")
		return nil
	}
	if i, deep := tooDeep(data); deep {
		r.bad(&token.Token{Position: position(data, i)}, "more than %d brackets inside each other", maxDepth)
		return nil
	}
	// No file is known that makes the parser panic. If there is one, SIGHUP must not end a running daemon.
	defer func() {
		if recover() != nil {
			r.bad(nil, "this is not YAML: the parser cannot say where it breaks")
			root = nil
		}
	}()
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		r.yamlError(nil, err)
		return nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc == nil || doc.Body == nil {
			continue
		}
		if body != nil {
			r.bad(tokenOf(doc.Body), "a second document: a configuration is one document, without ---")
			return nil
		}
		body = doc.Body
	}
	return body
}

func position(data []byte, offset int) *token.Position {
	before := string(data[:offset])
	return &token.Position{
		Line:   strings.Count(before, "\n") + 1,
		Column: offset - strings.LastIndex(before, "\n"),
	}
}

// tooDeep finds the bracket that is one too many; quotes are not looked at, as no sensible file has so many in them.
func tooDeep(data []byte) (int, bool) {
	depth := 0
	for i, c := range data {
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(0, depth-1)
		}
		if depth > maxDepth {
			return i, true
		}
	}
	return 0, false
}

// yamlError notes an error of the library's at its own place, else at n.
func (r *reader) yamlError(n ast.Node, err error) {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil {
		r.bad(e.GetToken(), "%s", e.GetMessage())
		return
	}
	r.bad(tokenOf(n), "%v", err)
}

// tokenOf is where n begins.
func tokenOf(n ast.Node) *token.Token {
	switch n := n.(type) {
	case nil:
		return nil
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 { // its own token is the first colon
			return tokenOf(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return tokenOf(n.Key)
	}
	return n.GetToken()
}

// entry is one key of a mapping with its value.
type entry struct {
	name  string
	key   ast.Node
	value ast.Node
}

// empty says whether n holds nothing (`key:` alone), which leaves the default.
func empty(n ast.Node) bool {
	_, null := n.(*ast.NullNode)
	return n == nil || null
}

// mapping is the content of n, which what names; keys that are not known are wrong.
func (r *reader) mapping(n ast.Node, what string, known []string) []entry {
	if empty(n) {
		return nil
	}
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		r.bad(tokenOf(n), "%s must be keys with values, one a line: known are %s", what, strings.Join(known, ", "))
		return nil
	}
	var out []entry
	for _, v := range values {
		name, ok := v.Key.(*ast.StringNode)
		switch {
		case !ok:
			r.bad(tokenOf(v.Key), "%s is not a key of %s: known are %s", v.Key.String(), what, strings.Join(known, ", "))
		case !slices.Contains(known, name.Value):
			r.bad(tokenOf(v.Key), "unknown key %q in %s: %s", name.Value, what, did(name.Value, known))
		default:
			out = append(out, entry{name.Value, v.Key, v.Value})
		}
	}
	return out
}

// list is the values of n; one value alone is a list of one.
func (r *reader) list(n ast.Node) []ast.Node {
	if s, ok := n.(*ast.SequenceNode); ok {
		return s.Values
	}
	return []ast.Node{n}
}

// text is a word or several; ok is false if n is something else.
func (r *reader) text(e entry) (string, bool) {
	switch n := e.value.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return strings.TrimSuffix(n.Value.Value, "\n"), true
	}
	r.bad(tokenOf(e.value), "%s must be text, in quotes if YAML takes it for something else", e.name)
	return "", false
}

// choice is one of the words; the place says which. Nothing is changed if it is none.
func (r *reader) choice(e entry, words ...string) (string, bool) {
	if n, ok := e.value.(*ast.StringNode); ok {
		if slices.Contains(words, n.Value) {
			return n.Value, true
		}
		r.bad(tokenOf(e.value), "%s cannot be %q: %s", e.name, n.Value, did(n.Value, words))
		return "", false
	}
	r.bad(tokenOf(e.value), "%s must be one of %s", e.name, strings.Join(words, ", "))
	return "", false
}

func (r *reader) boolean(e entry, into *bool) {
	if n, ok := e.value.(*ast.BoolNode); ok {
		*into = n.Value
		return
	}
	r.bad(tokenOf(e.value), "%s must be true or false", e.name)
}

// number is an integer from low to high.
func (r *reader) number(n ast.Node, name string, low, high uint64) (uint64, bool) {
	if i, ok := n.(*ast.IntegerNode); ok {
		if v, ok := i.Value.(uint64); ok && low <= v && v <= high {
			return v, true
		}
		if v, ok := i.Value.(int64); ok && v >= 0 && low <= uint64(v) && uint64(v) <= high {
			return uint64(v), true
		}
	}
	r.bad(tokenOf(n), "%s must be a number from %d to %d", name, low, high)
	return 0, false
}

// count is a number of things that fits into an int everywhere.
func (r *reader) count(e entry, into *int) {
	if v, ok := r.number(e.value, e.name, 1, math.MaxInt32); ok {
		*into = int(v)
	}
}
