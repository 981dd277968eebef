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
	chains := rawChains(cfg)
	if cfg.Features.ExpectObject {
		chains = append(chains, firstChains(cfg)...)
	}
	chains = append(chains, originChains(cfg)...)
	if !cfg.Manual {
		chains = append(chains, controlChains(cfg)...)
	}
	return chains
}

// rawChains keep packets away from shadow masters: they would set their timeout and state. They drop what is on hold,
// too: it is repeated soon.
func rawChains(cfg *Config) []chain {
	const why = "shadow masters have port 0"
	var rules []rule
	for _, side := range []portKey{thDport, thSport} { // the port first: that is the cheaper question (see gate)
		rules = append(rules, rule{why, []term{
			ports{side, []uint16{0}}, l4protos{helpers.TCP, helpers.UDP}, counter{}, drop{}}})
	}
	if len(cfg.Hold) > 0 {
		for _, side := range []ports{{thDport, cfg.Hold}, {thSport, cfg.Hold}} {
			rules = append(rules, rule{"on hold", []term{
				l4proto(helpers.TCP), side, before(cfg.HoldUntil), counter{}, drop{}}})
		}
	}
	return []chain{
		{
			name: "raw_prerouting", hook: prerouting, priority: priorityRaw,
			comment: "No packet may reach a shadow master, the entry of port 0 that expectations hang on: before conntrack.",
			rules:   rules,
		},
		{name: "raw_output", hook: output, priority: priorityRaw, rules: rules},
	}
}

// firstChains attach the ct expectation object to the first packet of connections that will be read.
//
// A connection that "nat-follow-master" translates is under NAT before these chains see it (init_conntrack), so it has
// no sequence adjustment all the same: if it is read, the daemon gives it another entry.
func firstChains(cfg *Config) []chain {
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
			first.rules = append(first.rules, rule{h.Name, []term{
				ctState(stateNew), tcpDport(h.Ports), counter{}, expectObject{}}})
		}
		if h.Announced != "" {
			first.rules = append(first.rules, rule{h.Name, []term{
				l4proto(helpers.TCP), ctState(stateRelated), ctHelper(h.Announced), counter{}, expectObject{}}})
		}
	}
	if len(first.rules) == 0 {
		return nil
	}
	jumps := []rule{{"", []term{ctState(stateRelated | stateNew), jump(first.name)}}}
	return []chain{
		first,
		{name: "first_prerouting", hook: prerouting, priority: priorityMangle, rules: jumps},
		{name: "first_output", hook: output, priority: priorityMangle, rules: jumps},
	}
}

// Chains where packets are queued.
const (
	controlChain   = "control"
	shortenChain   = "shorten"
	midstreamChain = "midstream"
)

// controlChains queue the packets of control connections.
func controlChains(cfg *Config) []chain {
	control := chain{
		name: controlChain,
		comment: "Of TCP the SYN-ACK is the first packet to be seen, as a SYN announces nothing; of UDP it is the first\n" +
			"datagram. What goes over lo is seen once, in input.",
	}
	for _, h := range cfg.Helpers {
		for _, m := range matches(h) {
			terms := []term{l4proto(h.Transport), states(h.Transport), m, counter{}, cfg.queue()}
			control.rules = append(control.rules, rule{h.Name, terms})
		}
	}
	var chains []chain
	if shorten := shortenRules(cfg); len(shorten) > 0 {
		chains = append(chains, chain{
			name: shortenChain,
			comment: "The ends of a connection under NAT keep their segments short: rewritten they may be longer, and must\n" +
				"still fit where they did.",
			rules: shorten,
		})
		jump := rule{"", []term{tcpSyn{}, statusSrcNAT | statusDstNAT, jump(shortenChain)}}
		control.rules = append([]rule{jump}, control.rules...)
	}
	if midstream := midstreamRules(cfg); len(midstream) > 0 {
		chains = append(chains, chain{
			name: midstreamChain,
			comment: "Somebody has emptied the connection table: the first packet of a connection that goes on. That of a\n" +
				"server is not yet known as one of a control connection's.",
			rules: midstream,
		})
		control.rules = append(control.rules, rule{"", []term{ctState(stateNew), tcpNoSyn{}, jump(midstreamChain)}})
	}
	control.rules = append([]rule{{"", []term{oifLo{}, accept{}}}}, control.rules...)
	return append(chains, []chain{
		control,
		{
			name: "postrouting", hook: postrouting, priority: priorityLast,
			comment: "Behind NAT and all filters. Each packet of each connection comes here, so what costs least is asked\n" +
				"first. Where the destination is not translated the connection's port is one of the packet's own.",
			rules: gate(cfg),
		},
		{name: "input", hook: input, priority: priorityLast, rules: gate(cfg)},
	}...)
}

// gate leaves out what no match can be true of. A number in the packet and `ct status` are compared within the kernel's
// loop over the rules; a set, and what else `ct` says, are calls, and cost a packet several times as much.
func gate(cfg *Config) (rules []rule) {
	add := func(verdict term, terms ...term) { rules = append(rules, rule{"", append(terms, verdict)}) }
	control := goTo(controlChain)
	var served ports
	var labels []string
	for _, h := range cfg.Helpers {
		served.set = append(served.set, h.Ports...)
		if h.Announced != "" {
			labels = append(labels, h.Announced)
		}
	}
	if prefix := commonPrefix(labels); prefix != "" {
		add(control, ctHelperPrefix(prefix))
	} else {
		for _, l := range labels {
			add(control, ctHelper(l))
		}
	}
	if len(served.set) == 0 {
		return rules
	}
	all := served.sorted()
	highest := all[len(all)-1]
	add(control, statusDstNAT)
	add(accept{}, above{thSport, highest}, above{thDport, highest}) // most of what moves bulk data
	for _, side := range []portKey{thDport, thSport} {
		for _, p := range all {
			add(control, ports{side, []uint16{p}})
		}
	}
	return rules
}

// commonPrefix is what all begin with.
func commonPrefix(all []string) (prefix string) {
	for i, s := range all {
		if i == 0 {
			prefix = s
		}
		for !strings.HasPrefix(s, prefix) {
			prefix = prefix[:len(prefix)-1]
		}
	}
	return prefix
}

// shortSegment leaves a fifth of what each link carries (IPv6: 1280 bytes) to what rewriting adds to a segment. A segment that
// does not fit is fragmented (IPv4), or has its end cut off, which to TCP is a loss in each full segment.
const shortSegment = 1000

// shortenRules say so in the SYNs of control connections, both ways.
func shortenRules(cfg *Config) (rules []rule) {
	for _, h := range cfg.Helpers {
		if h.Transport != helpers.TCP {
			continue
		}
		for _, m := range matches(h) {
			rules = append(rules, rule{h.Name, []term{l4proto(helpers.TCP), m, counter{}, maxSegment(shortSegment)}})
		}
	}
	return rules
}

// midstreamRules queue what conntrack takes for the beginning of a connection and TCP does not. The engine knows better
// what it is of; to numbers that the kernel has forgotten it sees itself.
func midstreamRules(cfg *Config) (rules []rule) {
	for _, h := range cfg.Helpers {
		if h.Transport != helpers.TCP || len(h.Ports) == 0 {
			continue
		}
		for _, key := range []portKey{ctOriginalDport, ctReplySport} { // nft wants the protocol before such a port
			rules = append(rules, rule{h.Name, []term{l4proto(helpers.TCP), ports{key, h.Ports}, counter{}, cfg.queue()}})
		}
		rules = append(rules, rule{h.Name, []term{ports{thSport, h.Ports}, counter{}, cfg.queue()}})
	}
	return rules
}

func (cfg *Config) queue() queue { return queue{cfg.Queue, max(cfg.Queues, 1), !cfg.FailClosed} }

// states are the states in which packets are queued.
func states(t helpers.Transport) term {
	if t == helpers.TCP {
		return ctState(stateEstablished)
	}
	return ctState(stateNew | stateRelated | stateEstablished)
}

// matches are the ways in which a packet is known to be of a helper's connection.
func matches(h Helper) []term {
	var m []term
	if len(h.Ports) > 0 {
		m = append(m, ports{ctOriginalDport, h.Ports}, ports{ctReplySport, h.Ports})
	}
	if h.Announced != "" {
		m = append(m, ctHelper(h.Announced))
	}
	return m
}
