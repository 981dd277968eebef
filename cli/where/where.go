// Package where is the language of conditions: CEL (cel.dev) over the fields of a connection. An expression is checked
// before it runs, costs little and has no effect. What of it the kernel, or flows.Filter without an interpreter, can test
// goes there.
package where

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/flows"
)

// What an expression may cost.
const (
	maxText    = 4096 // bytes
	maxDepth   = 64
	maxCost    = 20_000 // CEL's units for one flow: about the bytes it looks at
	maxWord    = 256    // bytes of a field's text
	maxWords   = 128    // elements of a field's list
	maxAddress = 40     // bytes
)

// Expr is a condition. It is for one goroutine.
type Expr struct {
	filter   flows.Filter // what needs no interpreter
	rest     string       // what needs it; empty: nothing
	program  cel.Program
	fields   map[string]*Field
	used     []*Field
	entry    entry
	failed   uint64
	failure  error
	original string
}

// Compile checks text. An error is a *caret.Error. The empty text is true of every flow.
func Compile(text string, labels *names.Labels) (*Expr, error) {
	e := &Expr{original: text, fields: map[string]*Field{}, entry: entry{labels: labels}}
	all := fields()
	for i := range all {
		e.fields[all[i].Name] = &all[i]
	}
	if strings.TrimSpace(text) == "" {
		return e, nil
	}
	c := &compiler{Expr: e, sets: map[string]addresses{}}
	if err := c.compile(text); err != nil {
		return nil, err
	}
	return e, nil
}

// Filter is the condition for flows: the rest of the expression is called as Where. Ages are as of now.
func (e *Expr) Filter(now time.Time) *flows.Filter {
	f := e.filter
	if e.program != nil {
		e.entry.now = now
		f.Where = e.match
	}
	return &f
}

// Match says whether f is meant.
func (e *Expr) Match(f *flows.Flow, now time.Time) bool {
	e.entry.now = now
	return e.filter.Match(f) && (e.program == nil || e.match(f))
}

// Rest is the part that needs the interpreter; empty if there is none.
func (e *Expr) Rest() string { return e.rest }

// Needs says whether a field that is used, or is among more, is always zero without a setting.
func (e *Expr) Needs(n Need, more ...string) (field string, needed bool) {
	for _, f := range e.used {
		if f.Needs == n {
			return f.Name, true
		}
	}
	for _, f := range fields() {
		if f.Needs == n && slices.Contains(more, f.Name) {
			return f.Name, true
		}
	}
	return "", false
}

// Failed is for how many flows the expression had no value (a division by zero), and why for the first; they do not match.
func (e *Expr) Failed() (uint64, error) { return e.failed, e.failure }

func (e *Expr) match(f *flows.Flow) bool {
	e.entry.Flow = f
	v, _, err := e.program.Eval(activation{e})
	if err != nil {
		if e.failed++; e.failure == nil {
			e.failure = err
		}
		return false
	}
	return v == types.True
}

// activation resolves the fields of the flow at hand.
type activation struct{ *Expr }

func (a activation) ResolveName(name string) (any, bool) {
	f, ok := a.fields[name]
	if !ok {
		return nil, false
	}
	return f.get(&a.entry), true
}

func (activation) Parent() cel.Activation { return nil }

// compiler is an Expr in the making.
type compiler struct {
	*Expr
	sets map[string]addresses // what in() was given, by text
	info *ast.SourceInfo
	text string
}

func (c *compiler) compile(text string) error {
	if len(text) > maxText {
		return &caret.Error{Text: text, At: maxText, Message: fmt.Sprintf("longer than %d bytes", maxText)}
	}
	c.text = text
	env, err := c.env()
	if err != nil {
		return err
	}
	checked, err := c.check(env, text)
	if err != nil {
		return err
	}
	estimate, err := env.EstimateCost(checked, sizes{})
	if err != nil {
		return &caret.Error{Text: text, Message: err.Error()}
	}
	if estimate.Max > maxCost {
		return &caret.Error{Text: text, Message: fmt.Sprintf("costs up to %d for a flow, more than %d", estimate.Max, maxCost)}
	}
	native := checked.NativeRep()
	c.info = native.SourceInfo()
	if err := c.words(native.Expr()); err != nil {
		return err
	}
	rest := conjuncts(nil, native.Expr())
	for range 2 { // a state of TCP may come before the protocol
		rest = slices.DeleteFunc(rest, c.push)
	}
	if len(rest) == 0 {
		return nil
	}
	var parts []string
	for _, term := range rest {
		part, err := cel.ExprToString(term, c.info)
		if err != nil {
			return &caret.Error{Text: text, Message: err.Error()}
		}
		if len(rest) > 1 && term.Kind() == ast.CallKind && weak(term.AsCall().FunctionName()) {
			part = "(" + part + ")"
		}
		parts = append(parts, part)
	}
	inner := strings.Join(parts, " && ")
	c.rest = strings.ReplaceAll(inner, memberIn+"(", ".in(")
	last, issues := env.Compile(inner)
	if issues.Err() != nil {
		return &caret.Error{Text: text, Message: issues.Err().Error()}
	}
	c.program, err = env.Program(last, cel.EvalOptions(cel.OptOptimize))
	return err
}

// weak operators bind less than &&.
func weak(operator string) bool {
	return operator == operators.LogicalOr || operator == operators.Conditional
}

// sizes tells the cost of what fields hold.
type sizes struct{}

func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	if len(n.Path()) == 0 {
		return nil
	}
	if n.Type().Kind() == types.ListKind {
		return &cost.SizeEstimate{Max: maxWords}
	}
	return &cost.SizeEstimate{Max: maxWord}
}

// EstimateCallCost is that of our own functions: an address is read, and compared with each of a list in the text.
func (sizes) EstimateCallCost(_, overload string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	switch overload {
	case "address_in_text", "number_masked":
		return &cost.CallEstimate{CostEstimate: cost.FixedCostEstimate(maxAddress)}
	case "address_in_list":
		return &cost.CallEstimate{CostEstimate: cost.FixedCostEstimate(maxText)}
	}
	return nil
}

// CEL has a keyword "in". A method of that name is written with a capital letter inside, at the same place.
const memberIn = ".In"

var writtenIn = regexp.MustCompile(`"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|\.\s*in\s*\(`)

// dotted is a name.
var dotted = regexp.MustCompile(`^[\w.]*`)

func inward(text string) string {
	return writtenIn.ReplaceAllStringFunc(text, func(s string) string {
		if s[0] == '.' {
			return strings.Replace(s, "in", "In", 1)
		}
		return s
	})
}

// check parses text and finds its types.
func (c *compiler) check(env *cel.Env, text string) (*cel.Ast, error) {
	checked, issues := env.Compile(inward(text))
	if issues.Err() != nil {
		first := issues.Errors()[0]
		at := offset(text, first.Location.Line(), first.Location.Column())
		return nil, &caret.Error{Text: text, At: at, Message: c.plain(first.Message, at)}
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, &caret.Error{Text: text, Message: "want a condition, this is " + article(checked.OutputType().String())}
	}
	return checked, nil
}

func article(t string) string {
	switch t {
	case "int":
		return "a number"
	case "string":
		return "a text"
	}
	return "a " + t
}

// offset is that of a line (from 1) and a column (from 0, in characters) in bytes.
func offset(text string, line, column int) int {
	at := 0
	for ; line > 1; line-- {
		at += strings.IndexByte(text[at:], '\n') + 1
	}
	for i := range text[at:] {
		if column == 0 {
			return at + i
		}
		column--
	}
	return len(text)
}

// plain says in words what CEL says in its own.
func (c *compiler) plain(message string, at int) string {
	if what, ok := strings.CutPrefix(message, "undeclared reference to '"); ok {
		if function, _, _ := strings.Cut(what, "'"); strings.HasPrefix(c.text[at:], "(") {
			return "unknown function: " + function
		}
		return "unknown: " + dotted.FindString(c.text[at:]) + ". Known are " + strings.Join(c.names(), " ")
	}
	if what, ok := strings.CutPrefix(message, "found no matching overload for '"); ok {
		operator, operands, _ := strings.Cut(what, "' applied to '")
		operator = strings.Trim(strings.NewReplacer("@in", "in", "In", "in").Replace(operator), "_")
		return operator + " does not go with " + strings.TrimSuffix(operands, "'")
	}
	if strings.HasPrefix(message, "Syntax error: ") {
		message, _, _ = strings.Cut(message, " expecting {")
	}
	return message
}

func (c *compiler) names() []string {
	var all []string
	for _, f := range fields() {
		all = append(all, f.Name)
	}
	return all
}

func (c *compiler) env() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.CrossTypeNumericComparisons(true),
		cel.ClearMacros(),
		cel.ParserRecursionLimit(maxDepth),
		cel.ParserExpressionSizeLimit(maxText),
		cel.Function(strings.TrimPrefix(memberIn, "."),
			cel.MemberOverload("address_in_text", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType,
				cel.BinaryBinding(func(a, set ref.Val) ref.Val { return c.in(a, set) })),
			cel.MemberOverload("address_in_list", []*cel.Type{cel.StringType, cel.ListType(cel.StringType)}, cel.BoolType,
				cel.BinaryBinding(func(a, list ref.Val) ref.Val { return c.inAny(a, list) }))),
		cel.Function("masked",
			cel.MemberOverload("number_masked", []*cel.Type{cel.IntType, cel.IntType}, cel.IntType,
				cel.BinaryBinding(func(a, mask ref.Val) ref.Val { return a.(types.Int) & mask.(types.Int) }))),
	}
	for _, f := range c.fields {
		options = append(options, cel.Variable(f.Name, f.kind.cel()))
	}
	return cel.NewEnv(options...)
}
