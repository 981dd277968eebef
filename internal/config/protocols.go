package config

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/cthelperd/cthelperd/helpers"
)

// common are the keys that every section helpers.<name> has.
var common = []string{"enabled", "ports"}

// section is what the file says of a protocol.
type section struct {
	protocol helpers.Protocol
	options  any                     // a copy of the protocol's defaults, changed by the file
	keys     []string                // of options
	key      ast.Node                // where the section is; nil: not in the file
	own      []*ast.MappingValueNode // options in the file
	enabled  bool
	ports    ast.Node // nil: standard ports
}

// about is the value that a protocol complains of, by the option's name before a colon.
func (s *section) about(err error) ast.Node {
	name, _, _ := strings.Cut(err.Error(), ":")
	for _, v := range s.own {
		if v.Key.GetToken().Value == name {
			return v.Value
		}
	}
	return s.key
}

func protocolSections(protocols []helpers.Protocol) ([]section, error) {
	sections := make([]section, len(protocols))
	for i, p := range protocols {
		sections[i] = section{protocol: p, enabled: true}
		if p.Options == nil {
			continue
		}
		v := reflect.ValueOf(p.Options)
		if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
			return nil, fmt.Errorf("protocol %s: Options is a %T, it must be a pointer to a struct", p.Name, p.Options)
		}
		options := reflect.New(v.Elem().Type())
		options.Elem().Set(v.Elem())
		sections[i].options = options.Interface()
		for f := range fields(v.Elem().Type()) {
			if slices.Contains(common, f) {
				return nil, fmt.Errorf("protocol %s: the option %s is a key that all protocols have", p.Name, f)
			}
			sections[i].keys = append(sections[i].keys, f)
		}
	}
	return sections, nil
}

// fields are the keys of a struct, as the YAML library names them.
func fields(t reflect.Type) func(func(string) bool) {
	return func(yield func(string) bool) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if name == "" {
				name = strings.ToLower(f.Name)
			}
			if f.IsExported() && name != "-" && !yield(name) {
				return
			}
		}
	}
}

// helperSections reads the part of the file that is about helpers.
func (r *reader) helperSections(n ast.Node, sections []section) {
	var names []string
	for _, s := range sections {
		names = append(names, s.protocol.Name)
	}
	for _, e := range r.mapping(n, "helpers", names) {
		s := &sections[slices.Index(names, e.name)]
		s.key = e.key
		r.section(e, s)
	}
}

func (r *reader) section(e entry, s *section) {
	known := slices.Concat(common, s.keys)
	var own []*ast.MappingValueNode
	for _, k := range r.mapping(e.value, "helpers."+e.name, known) {
		switch {
		case k.name == "enabled":
			if !empty(k.value) {
				r.boolean(k, &s.enabled)
			}
		case k.name == "ports":
			if !empty(k.value) {
				s.ports = k.value
			}
		default:
			own = append(own, &ast.MappingValueNode{BaseNode: &ast.BaseNode{}, Start: k.key.GetToken(), Key: k.key.(ast.MapKeyNode), Value: k.value})
		}
	}
	if len(own) == 0 {
		return
	}
	if alias := findAlias(own); alias != nil {
		r.bad(tokenOf(alias), "anchors and aliases are not read here: write the value itself")
		return
	}
	s.own = own
	options := ast.Mapping(own[0].Start, false, own...)
	if err := yaml.NodeToValue(options, s.options, yaml.Strict()); err != nil {
		r.yamlError(options, err)
	}
}

// findAlias finds an alias: they could make a short file stand for a huge value.
func findAlias(values []*ast.MappingValueNode) ast.Node {
	var found aliasFinder
	for _, v := range values {
		ast.Walk(&found, v.Value)
	}
	return found.node
}

type aliasFinder struct{ node ast.Node }

func (f *aliasFinder) Visit(n ast.Node) ast.Visitor {
	switch n.(type) {
	case *ast.AliasNode, *ast.AnchorNode:
		if f.node == nil {
			f.node = n
		}
	}
	return f
}

// port is what two helpers must not share.
type port struct {
	transport helpers.Transport
	number    uint16
}

// helpers makes the helpers of all sections. The error is about a protocol, not about the file.
func (r *reader) helpers(cfg *Config, sections []section) error {
	names := map[string]string{} // helper → protocol
	givens := make([]map[string]map[uint16]*token.Token, len(sections))
	for i, s := range sections {
		made, err := s.protocol.Helpers(s.options)
		if err != nil {
			if s.key == nil {
				return fmt.Errorf("protocol %s: %w", s.protocol.Name, err)
			}
			r.bad(tokenOf(s.about(err)), "helpers.%s: %v", s.protocol.Name, err)
			continue
		}
		for _, h := range made {
			if other, taken := names[h.Name]; taken && other != s.protocol.Name {
				return fmt.Errorf("protocols %s and %s both have a helper %s", other, s.protocol.Name, h.Name)
			}
			names[h.Name] = s.protocol.Name
		}
		givens[i] = r.ports(&s, made)
		for _, h := range made {
			if numbers, ok := givens[i][h.Name]; ok {
				h.Ports = slices.Sorted(maps.Keys(numbers))
			} else {
				h.Ports = slices.Clone(h.Ports)
			}
			cfg.served = append(cfg.served, served{s.protocol.Name, s.enabled, h})
		}
	}
	for i, s := range sections {
		if s.enabled {
			r.taken(cfg, s.protocol.Name, givens[i])
		}
	}
	return nil
}

// ports are the ports that the file gives to the helpers of a protocol, and where it does so.
func (r *reader) ports(s *section, made []helpers.Helper) map[string]map[uint16]*token.Token {
	if s.ports == nil {
		return nil
	}
	given := map[string]map[uint16]*token.Token{}
	switch n := s.ports.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		var names []string
		for _, h := range made {
			if !slices.Contains(names, h.Name) { // one for each transport
				names = append(names, h.Name)
			}
		}
		for _, e := range r.mapping(n, "helpers."+s.protocol.Name+".ports", names) {
			given[e.name] = r.portList(e.value)
		}
	default:
		for _, h := range made {
			if len(h.Ports) > 0 { // others are reached by an announcement only
				given[h.Name] = r.portList(n)
			}
		}
	}
	return given
}

func (r *reader) portList(n ast.Node) map[uint16]*token.Token {
	given := map[uint16]*token.Token{}
	values := r.list(n)
	if len(values) == 0 {
		r.bad(tokenOf(n), "no port: give at least one, or write enabled: false")
	}
	for _, v := range values {
		if p, ok := r.number(v, "a port", 1, math.MaxUint16); ok {
			given[uint16(p)] = tokenOf(v)
		}
	}
	return given
}

// taken notes the given ports of a protocol that another helper has too.
func (r *reader) taken(cfg *Config, protocol string, given map[string]map[uint16]*token.Token) {
	for _, s := range cfg.served {
		for number, where := range given[s.helper.Name] {
			other := cfg.owner(s, port{s.helper.Transport, number})
			if s.protocol != protocol || other == "" {
				continue
			}
			r.bad(where, "%v port %d is also read by helper %s: give each its own, by ports: {NAME: [N]} or enabled: false",
				s.helper.Transport, number, other)
		}
	}
}
