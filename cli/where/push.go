package where

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

func (c *compiler) in(a, set ref.Val) ref.Val {
	addr, err := netip.ParseAddr(string(a.(types.String)))
	if err != nil {
		return types.False
	}
	s := c.sets[string(set.(types.String))]
	return types.Bool(s.has(addr))
}

func (c *compiler) inAny(a, list ref.Val) ref.Val {
	addr, err := netip.ParseAddr(string(a.(types.String)))
	if err != nil {
		return types.False
	}
	for it := list.(traits.Lister).Iterator(); it.HasNext() == types.True; {
		if s := c.sets[string(it.Next().(types.String))]; s.has(addr) {
			return types.True
		}
	}
	return types.False
}

// words checks the texts that fields are compared with, writes addresses as fields have them, and notes what is used.
func (c *compiler) words(e ast.Expr) error {
	var failed error
	ast.PostOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		if failed != nil {
			return
		}
		switch e.Kind() {
		case ast.IdentKind:
			if f := c.fields[e.AsIdent()]; f != nil && !slices.Contains(c.used, f) {
				c.used = append(c.used, f)
			}
		case ast.CallKind:
			failed = c.operands(e.AsCall())
		}
	}))
	return failed
}

// operands checks the constants of one operation.
func (c *compiler) operands(call ast.CallExpr) error {
	args := call.Args()
	switch call.FunctionName() {
	case operators.Equals, operators.NotEquals:
		for i := range 2 {
			if f := c.field(args[i]); f != nil {
				if err := c.word(f.kind, args[1-i]); err != nil {
					return err
				}
			}
		}
	case operators.In:
		if f := c.field(args[0]); f != nil { // proto in ["tcp", "udp"]
			for _, element := range elements(args[1]) {
				if err := c.word(f.kind, element); err != nil {
					return err
				}
			}
		}
		if f := c.field(args[1]); f != nil { // "ASSURED" in status
			return c.word(f.kind, args[0])
		}
	case strings.TrimPrefix(memberIn, "."):
		if f := c.field(call.Target()); f == nil || f.kind != address {
			return c.errorAt(call.Target(), "want an address: orig.src, orig.dst, reply.src, reply.dst, master.src or master.dst")
		}
		return c.set(args[0])
	}
	return nil
}

// elements are those of a list in the text; of anything else that itself.
func elements(e ast.Expr) []ast.Expr {
	if e.Kind() == ast.ListKind {
		return e.AsList().Elements()
	}
	return []ast.Expr{e}
}

// set reads what in() is given.
func (c *compiler) set(e ast.Expr) error {
	for _, element := range elements(e) {
		text, ok := textOf(element)
		if !ok {
			return c.errorAt(element, `want a text, or a list of texts: "10.0.0.0/8"`)
		}
		set, err := parseAddresses(text)
		if err != nil {
			return c.errorAt(element, err.Error())
		}
		c.sets[text] = set
	}
	return nil
}

// word checks a constant that is compared with a field.
func (c *compiler) word(k kind, e ast.Expr) error {
	text, ok := textOf(e)
	if !ok {
		return nil
	}
	switch k {
	case address:
		addr, err := parseAddress(text)
		if err != nil {
			return c.errorAt(e, `want an address; for prefixes and ranges there is orig.src.in("10.0.0.0/8")`)
		}
		e.SetKindCase(ast.NewExprFactory().NewLiteral(e.ID(), types.String(addr.String())))
	case protocol:
		n, ok := names.ParseProtocol(text)
		if !ok {
			return c.errorAt(e, "unknown protocol. Known are "+strings.Join(names.Protocols(), " ")+", and numbers")
		}
		e.SetKindCase(ast.NewExprFactory().NewLiteral(e.ID(), types.String(names.Protocol(n))))
	case family:
		if text != "ipv4" && text != "ipv6" {
			return c.errorAt(e, "want ipv4 or ipv6")
		}
	case state:
		if text != "" && !slices.Contains(names.States(0), text) {
			return c.errorAt(e, "unknown state. Known are "+strings.Join(names.States(0), " "))
		}
	case zoneDir:
		if !slices.Contains(zoneDirs(), text) {
			return c.errorAt(e, "want both, original or reply")
		}
	case status:
		if !slices.Contains(names.StatusNames(), text) {
			return c.errorAt(e, "unknown status. Known are "+strings.Join(names.StatusNames(), " "))
		}
	case labels:
		n, ok := c.entry.labels.Number(text)
		if !ok {
			return c.errorAt(e, "unknown label: neither in "+names.LabelFile+" nor a number from 0 to 127")
		}
		e.SetKindCase(ast.NewExprFactory().NewLiteral(e.ID(), types.String(c.entry.labels.Name(n))))
	}
	return nil
}

func (c *compiler) errorAt(e ast.Expr, message string) error {
	l := c.info.GetStartLocation(e.ID())
	return &caret.Error{Text: c.text, At: offset(c.text, l.Line(), l.Column()), Message: message}
}

// field is the one that e names, or nil.
func (c *compiler) field(e ast.Expr) *Field {
	if e.Kind() != ast.IdentKind {
		return nil
	}
	return c.fields[e.AsIdent()]
}

func textOf(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

func numberOf(e ast.Expr) (int64, bool) {
	if e.Kind() != ast.LiteralKind {
		return 0, false
	}
	n, ok := e.AsLiteral().(types.Int)
	return int64(n), ok
}

// conjuncts are the terms that must all hold.
func conjuncts(list []ast.Expr, e ast.Expr) []ast.Expr {
	if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.LogicalAnd {
		for _, arg := range e.AsCall().Args() {
			list = conjuncts(list, arg)
		}
		return list
	}
	return append(list, e)
}

// push gives a term to the filter. False: the filter cannot hold it, or not any more.
func (c *compiler) push(e ast.Expr) bool {
	if f := c.field(e); f != nil {
		return c.pushBit(f.Name, true)
	}
	if e.Kind() != ast.CallKind {
		return false
	}
	call := e.AsCall()
	args := call.Args()
	switch call.FunctionName() {
	case operators.LogicalNot:
		if f := c.field(args[0]); f != nil {
			return c.pushBit(f.Name, false)
		}
		if args[0].Kind() == ast.CallKind && args[0].AsCall().FunctionName() == operators.In {
			return c.pushStatus(args[0].AsCall().Args(), false)
		}
	case operators.In:
		return c.pushStatus(args, true) || c.pushLabel(args)
	case operators.Equals:
		if c.field(args[0]) == nil && args[0].Kind() == ast.LiteralKind {
			args = []ast.Expr{args[1], args[0]}
		}
		return c.pushEqual(args[0], args[1])
	case operators.GreaterEquals, operators.LessEquals, operators.Greater, operators.Less:
		return c.pushOrder(call.FunctionName(), args[0], args[1])
	case strings.TrimPrefix(memberIn, "."):
		text, ok := textOf(args[0])
		set := c.sets[text]
		prefix, exact := set.prefix()
		return ok && exact && c.pushAddress(call.Target().AsIdent(), prefix)
	}
	return false
}

func (c *compiler) pushBit(name string, want bool) bool {
	bits := map[string]flows.Status{
		"related": flows.StatusExpected, "replied": flows.StatusSeenReply, "assured": flows.StatusAssured,
		"fixed": flows.StatusFixedTimeout, "offloaded": flows.StatusOffload, "snat": flows.StatusSrcNAT,
		"dnat": flows.StatusDstNAT,
	}
	b, ok := bits[name]
	return ok && c.pushStatusBit(b, want)
}

func (c *compiler) pushStatus(args []ast.Expr, want bool) bool {
	text, ok := textOf(args[0])
	f := c.field(args[1])
	if !ok || f == nil || f.kind != status {
		return false
	}
	b, _ := names.ParseStatus(text)
	return c.pushStatusBit(flows.Status(b), want)
}

func (c *compiler) pushStatusBit(b flows.Status, want bool) bool {
	f := &c.filter
	if f.StatusMask&b != 0 && (f.Status&b != 0) != want {
		return false // both cannot be: the rest says so
	}
	f.StatusMask |= b
	if want {
		f.Status |= b
	}
	return true
}

func (c *compiler) pushLabel(args []ast.Expr) bool {
	text, ok := textOf(args[0])
	f := c.field(args[1])
	if !ok || f == nil || f.kind != labels {
		return false
	}
	n, _ := c.entry.labels.Number(text)
	c.filter.Labels[n/8] |= 1 << (n % 8)
	return true
}

func (c *compiler) pushEqual(left, right ast.Expr) bool {
	if text, ok := textOf(right); ok && c.field(left) != nil {
		return c.pushText(c.field(left), text)
	}
	n, ok := numberOf(right)
	if !ok {
		return false
	}
	if f := c.field(left); f != nil {
		return c.pushNumber(f.Name, n)
	}
	if left.Kind() == ast.CallKind && left.AsCall().FunctionName() == "masked" {
		f := c.field(left.AsCall().Target())
		mask, ok := numberOf(left.AsCall().Args()[0])
		return ok && f != nil && f.Name == "mark" && mask > 0 && mask <= math.MaxUint32 && c.pushMark(n, uint32(mask))
	}
	return false
}

func (c *compiler) pushText(field *Field, text string) bool {
	f := &c.filter
	switch field.kind {
	case address:
		addr, err := netip.ParseAddr(text)
		return err == nil && c.pushAddress(field.Name, netip.PrefixFrom(addr, addr.BitLen()))
	case protocol:
		n, ok := names.ParseProtocol(text)
		if !ok || n == 0 || f.Transport != 0 {
			return false
		}
		f.Transport = helpers.Transport(n)
		return true
	case family:
		if f.Family != 0 {
			return false
		}
		f.Family = unix.AF_INET
		if text == "ipv6" {
			f.Family = unix.AF_INET6
		}
		return true
	case state:
		n, ok := names.ParseState(uint8(helpers.TCP), text)
		if !ok || f.Transport != helpers.TCP || f.State != nil { // other protocols have states of the same names
			return false
		}
		f.State = &n
		return true
	case zoneDir:
		if f.ZoneDir != nil {
			return false
		}
		dir := flows.ZoneDir(slices.Index(zoneDirs(), text))
		f.ZoneDir = &dir
		return true
	case word:
		if field.Name != "helper" || f.Helper != nil {
			return false
		}
		f.Helper = &text
		return true
	}
	return false
}

func (c *compiler) pushAddress(field string, p netip.Prefix) bool {
	var at *netip.Prefix
	switch field {
	case "orig.src":
		at = &c.filter.Orig.Src
	case "orig.dst":
		at = &c.filter.Orig.Dst
	case "reply.src":
		at = &c.filter.Reply.Src
	case "reply.dst":
		at = &c.filter.Reply.Dst
	default:
		return false
	}
	if at.IsValid() {
		return false
	}
	*at = p
	return true
}

func (c *compiler) pushNumber(field string, n int64) bool {
	switch field {
	case "mark":
		return c.pushMark(n, math.MaxUint32)
	case "zone":
		if n < 0 || n > math.MaxUint16 || c.filter.Zone != nil {
			return false
		}
		zone := uint16(n)
		c.filter.Zone = &zone
		return true
	}
	return c.pushPorts(field, n, n)
}

func (c *compiler) pushMark(n int64, mask uint32) bool {
	if c.filter.MarkMask != 0 || n < 0 || n > math.MaxUint32 || uint32(n)&^mask != 0 {
		return false
	}
	c.filter.Mark, c.filter.MarkMask = uint32(n), mask
	return true
}

func (c *compiler) pushOrder(operator string, left, right ast.Expr) bool {
	f := c.field(left)
	n, ok := numberOf(right)
	if f == nil || !ok || n < 0 || n > math.MaxUint16 {
		return false
	}
	switch operator {
	case operators.GreaterEquals:
		return c.pushPorts(f.Name, n, math.MaxUint16)
	case operators.Greater:
		return c.pushPorts(f.Name, n+1, math.MaxUint16)
	case operators.LessEquals:
		return c.pushPorts(f.Name, 0, n)
	}
	return c.pushPorts(f.Name, 0, n-1)
}

// pushPorts narrows the range of a port. Flows without ports have 0 in the language, which the filter does not know.
func (c *compiler) pushPorts(field string, low, high int64) bool {
	var at *flows.Ports
	switch field {
	case "orig.sport":
		at = &c.filter.Orig.SrcPort
	case "orig.dport":
		at = &c.filter.Orig.DstPort
	case "reply.sport":
		at = &c.filter.Reply.SrcPort
	case "reply.dport":
		at = &c.filter.Reply.DstPort
	default:
		return false
	}
	if *at != (flows.Ports{}) {
		low, high = max(low, int64(at.Min)), min(high, int64(at.Max))
	}
	if low < 1 || high > math.MaxUint16 || low > high {
		return false
	}
	*at = flows.Ports{Min: uint16(low), Max: uint16(high)}
	return true
}

// Explain says which part of the expression is tested where, for people.
func (e *Expr) Explain(p flows.Plan) string {
	var b strings.Builder
	line := func(what, how string) {
		if how == "" {
			how = "nothing"
		}
		fmt.Fprintf(&b, "%-22s %s\n", what, how)
	}
	if e.original != "" {
		line("condition", e.original)
	}
	line("tested by the kernel", p.Kernel.String())
	line("tested here", p.Here.String())
	if e.rest != "" {
		line("interpreted here", e.rest)
	}
	line("passes over the table", strconv.Itoa(p.Requests))
	deleted := "in batches, with one message for each connection"
	if p.Unasked {
		deleted = "many by the kernel alone, a few " + deleted
	}
	line("deleted", deleted)
	return b.String()
}
