package rules

import (
	"fmt"
	"strings"

	"github.com/cthelperd/cthelperd/helpers"
)

// Hook priorities (linux/netfilter_ipv4.h, enum nf_ip_hook_priorities).
const (
	priorityRaw    = -300 // before conntrack (-200), after fragments were put together (-400)
	priorityMangle = -150 // the connection is known, NAT (-100) not yet decided
	priorityLast   = 300  // after NAT (100), before confirmation (the highest)
)

type hook string

const (
	prerouting  hook = "prerouting"
	input       hook = "input"
	output      hook = "output"
	postrouting hook = "postrouting"
)

// chain is a base chain, or without a hook one to jump to.
type chain struct {
	name     string
	hook     hook
	priority int
	comment  string // of the text
	rules    []rule
}

// rule is a list of terms and the name of the helper that it is for.
type rule struct {
	comment string
	terms   []term
}

func (r rule) text() string {
	var s []string
	for _, t := range r.terms {
		s = append(s, t.text())
	}
	if r.comment != "" {
		s = append(s, fmt.Sprintf("comment %q", r.comment))
	}
	return strings.Join(s, " ")
}

// layout is the whole table: what Install sends and what Text prints.
func layout(cfg *Config) []chain {
	var chains []chain
	shadow := chain{
		name: "shadow",
		rules: []rule{
			{"shadow masters have port 0", []term{anyPort0(thDport), counter{}, drop{}}},
			{"shadow masters have port 0", []term{anyPort0(thSport), counter{}, drop{}}},
		},
		comment: "No packet may reach a shadow master, the entry of port 0 that expectations hang on: before conntrack.",
	}
	chains = append(chains, shadow,
		chain{name: "raw_prerouting", hook: prerouting, priority: priorityRaw, rules: both(jump("shadow"))},
		chain{name: "raw_output", hook: output, priority: priorityRaw, rules: both(jump("shadow"))},
	)
	if cfg.Features.ExpectObject {
		first := chain{
			name: "first",
			comment: "The first packet of a TCP connection, before NAT: an object of size 0 makes room for sequence\n" +
				"adjustment and expects nothing.",
		}
		for _, h := range cfg.Helpers {
			if h.Transport != helpers.TCP {
				continue
			}
			if len(h.Ports) > 0 {
				first.rules = append(first.rules, rule{h.Name, []term{ctState(stateNew), tcpDport(h.Ports), counter{}, expectObject{}}})
			}
			for _, l := range h.Announced {
				first.rules = append(first.rules, rule{h.Name, []term{l4proto(helpers.TCP), ctState(stateRelated), ctHelper(l), counter{}, expectObject{}}})
			}
		}
		if len(first.rules) > 0 {
			chains = append(chains, first,
				chain{name: "first_prerouting", hook: prerouting, priority: priorityMangle, rules: []rule{{"", []term{jump("first")}}}},
				chain{name: "first_output", hook: output, priority: priorityMangle, rules: []rule{{"", []term{jump("first")}}}},
			)
		}
	}
	if cfg.Manual {
		return chains
	}
	control := chain{
		name: "control",
		comment: "Of TCP the SYN-ACK is the first packet to be seen, as a SYN announces nothing; of UDP it is the first\n" +
			"datagram.",
	}
	for _, h := range cfg.Helpers {
		for _, state := range states(h.Transport, cfg) {
			for _, m := range matches(h) {
				terms := append([]term{l4proto(h.Transport)}, state...)
				terms = append(terms, m, counter{}, queue{cfg.Queue, max(cfg.Queues, 1), !cfg.FailClosed})
				control.rules = append(control.rules, rule{h.Name, terms})
			}
		}
	}
	return append(chains, control,
		chain{name: "postrouting", hook: postrouting, priority: priorityLast,
			rules:   []rule{{"", []term{oifLo{}, accept{}}}, {"", []term{jump("control")}}},
			comment: "Behind NAT and all filters. What goes over lo is seen once, in input."},
		chain{name: "input", hook: input, priority: priorityLast, rules: []rule{{"", []term{jump("control")}}}},
	)
}

// states are the states in which packets are queued. A first datagram is in no table yet: without NFQA_CT its
// connection cannot be looked up, and only without NAT it is known from the packet itself.
func states(t helpers.Transport, cfg *Config) [][]term {
	switch {
	case t == helpers.TCP:
		return [][]term{{ctState(stateEstablished)}}
	case cfg.Features.Conntrack:
		return [][]term{{ctState(stateNew | stateRelated | stateEstablished)}}
	}
	return [][]term{
		{ctState(stateEstablished)},
		{ctState(stateNew | stateRelated), ctStatusNone(statusSNAT | statusDNAT)},
	}
}

// matches are the ways in which a packet is known to be of a helper's connection.
func matches(h Helper) []term {
	var m []term
	if len(h.Ports) > 0 {
		m = append(m, ports{ctOriginalDport, h.Ports}, ports{ctReplySport, h.Ports})
	}
	for _, l := range h.Announced {
		m = append(m, ctHelper(l))
	}
	return m
}

func both(t term) []rule { return []rule{{"", []term{l4protos{helpers.TCP, helpers.UDP}, t}}} }
