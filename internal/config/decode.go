package config

import (
	"log/slog"
	"math"
	"net/netip"
	"path/filepath"

	"github.com/goccy/go-yaml/ast"
)

// config reads the whole file; the sections of protocols are kept for helpers.
func (r *reader) config(root ast.Node, cfg *Config, sections []section) {
	for _, e := range r.mapping(root, "the file", []string{"helpers", "policy", "queue", "rules", "older", "fail", "state", "log"}) {
		if empty(e.value) {
			continue
		}
		switch e.name {
		case "helpers":
			r.helperSections(e.value, sections)
		case "policy":
			r.policy(e.value, cfg)
		case "queue":
			r.queue(e.value, &cfg.Queue)
		case "rules":
			if word, ok := r.choice(e, string(RulesInstall), string(RulesNone)); ok {
				cfg.Rules = Rules(word)
			}
		case "older":
			word, _ := r.choice(e, "replace", "keep")
			cfg.KeepOlder = word == "keep"
		case "fail":
			word, _ := r.choice(e, "open", "closed")
			cfg.FailClosed = word == "closed"
		case "state":
			r.state(e, &cfg.State)
		case "log":
			r.log(e.value, &cfg.Log)
		}
	}
}

func (r *reader) policy(n ast.Node, cfg *Config) {
	for _, e := range r.mapping(n, "policy", []string{"late", "foreign", "min-port", "limits"}) {
		if empty(e.value) {
			continue
		}
		switch e.name {
		case "late":
			word, _ := r.choice(e, "allow", "refuse")
			cfg.Policy.RefuseLate = word == "refuse"
		case "foreign":
			r.foreign(e, cfg)
		case "min-port":
			if v, ok := r.number(e.value, e.name, 1, math.MaxUint16); ok {
				cfg.Policy.MinPort = uint16(v)
			}
		case "limits":
			r.limits(e.value, cfg)
		}
	}
}

func (r *reader) limits(n ast.Node, cfg *Config) {
	for _, e := range r.mapping(n, "limits", []string{"per-peer", "total", "rate", "flows"}) {
		if empty(e.value) {
			continue
		}
		switch e.name {
		case "per-peer":
			r.count(e, &cfg.Limits.PerPeer)
		case "total":
			r.count(e, &cfg.Limits.Total)
		case "rate":
			r.count(e, &cfg.Limits.Rate)
		case "flows":
			r.count(e, &cfg.Limits.Flows)
		}
	}
}

// foreign is `any` or a list of prefixes; an address alone is a prefix of one.
func (r *reader) foreign(e entry, cfg *Config) {
	if s, ok := e.value.(*ast.StringNode); ok && s.Value == "any" {
		cfg.Policy.ForeignAny = true
		return
	}
	for _, n := range r.list(e.value) {
		s, ok := n.(*ast.StringNode)
		if !ok {
			r.bad(tokenOf(n), "foreign must be any, or a list of prefixes such as [192.0.2.0/24, 2001:db8::/32]")
			continue
		}
		prefix, err := netip.ParsePrefix(s.Value)
		if err != nil {
			var addr netip.Addr
			if addr, err = netip.ParseAddr(s.Value); err == nil && addr.Zone() == "" {
				prefix = netip.PrefixFrom(addr, addr.BitLen())
			}
		}
		switch {
		case err != nil || !prefix.IsValid():
			r.bad(tokenOf(n), "%q is not a prefix: write such as 192.0.2.0/24 or 2001:db8::/32, or any for every address", s.Value)
		case prefix.Addr().Is4In6():
			r.bad(tokenOf(n), "%q is IPv4 written as IPv6: write it as IPv4", s.Value)
		case prefix != prefix.Masked():
			r.bad(tokenOf(n), "%q has bits behind its length: write %v, or %v/%d", s.Value, prefix.Masked(), prefix.Addr(), prefix.Addr().BitLen())
		default:
			cfg.Policy.Foreign = append(cfg.Policy.Foreign, prefix)
		}
	}
}

// minBuffer is room for one packet of 1500 bytes with what goes with it.
const minBuffer = 4096

func (r *reader) queue(n ast.Node, q *Queue) {
	for _, e := range r.mapping(n, "queue", []string{"number", "count", "length", "buffer", "driver"}) {
		if empty(e.value) {
			continue
		}
		switch e.name {
		case "number":
			if v, ok := r.number(e.value, e.name, 0, math.MaxUint16); ok {
				q.Number = uint16(v)
			}
		case "count":
			if v, ok := r.number(e.value, e.name, 1, MaxQueues); ok {
				q.Count = uint16(v)
			}
		case "driver":
			if word, ok := r.choice(e, string(DriverOwn), string(DriverReference)); ok {
				q.Driver = Driver(word)
			}
		case "length":
			if v, ok := r.number(e.value, e.name, 1, math.MaxInt32); ok {
				q.Length = uint32(v)
			}
		case "buffer":
			if v, ok := r.number(e.value, e.name, minBuffer, math.MaxInt32/2); ok {
				q.Buffer = int(v)
			}
		}
	}
	if last := int(q.Number) + int(q.Count) - 1; last > math.MaxUint16 {
		r.bad(tokenOf(n), "queues %d to %d: queue numbers end at %d", q.Number, last, math.MaxUint16)
	}
}

func (r *reader) state(e entry, into *string) {
	path, ok := r.text(e)
	if !ok {
		return
	}
	if !filepath.IsAbs(path) {
		r.bad(tokenOf(e.value), "state must be a path that begins with /, such as /var/lib/cthelperd/state")
		return
	}
	*into = filepath.Clean(path)
}

func (r *reader) log(n ast.Node, l *Log) {
	for _, e := range r.mapping(n, "log", []string{"format", "level"}) {
		if empty(e.value) {
			continue
		}
		switch e.name {
		case "format":
			word, _ := r.choice(e, "text", "json")
			l.JSON = word == "json"
		case "level":
			if word, ok := r.choice(e, "debug", "info", "warn", "error"); ok {
				l.Level = map[string]slog.Level{
					"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
				}[word]
			}
		}
	}
}
