package rules

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cthelperd/cthelperd/helpers"
)

// textTable is the table of the printed rules. It is not TableName: that one stays the daemon's (Config.Manual).
const textTable = "cthelperd_queue"

// Text is cfg as rules for an administrator who keeps his own rule set: an nft script where nft can queue, iptables
// commands where only xtables can, in both cases with what belongs beside it as comments.
func Text(cfg Config) (string, error) {
	cfg.Manual = false
	if err := cfg.check(); err != nil {
		return "", err
	}
	own := cfg
	own.Manual = true
	var w strings.Builder
	if cfg.Features.NFTQueue {
		comment(&w, textHead+textNFT)
		fmt.Fprintf(&w, "\ntable inet %s\ndelete table inet %s\n", textTable, textTable)
		writeTable(&w, "", textTable, controlChains(&cfg))
	} else {
		comment(&w, textHead+textXT)
		w.WriteString("\n")
		writeIPTables(&w, &cfg)
	}
	w.WriteString("\n")
	if cfg.Features.ExpectObject {
		comment(&w, textOwn+textOwnObject)
	} else {
		comment(&w, textOwn+textNoObject)
	}
	comment(&w, "")
	writeTable(&w, "# ", TableName, layout(&own))
	w.WriteString("\n")
	comment(&w, textBeside)
	writeBeside(&w, &cfg)
	w.WriteString("\n")
	comment(&w, textNotes)
	if cfg.FailClosed {
		comment(&w, textClosed)
	} else {
		comment(&w, textOpen)
	}
	return w.String(), nil
}

const (
	textHead = `cthelperd installs its rules by itself. These are the same for a rule set that you keep yourself; the
configuration then says "rules: none".
`
	textNFT = `They load with "nft -f": the table is replaced as a whole. Packets of control connections are queued behind NAT
and behind all filters, so only what you accept is read.`
	textXT = `This kernel's nft cannot queue (CONFIG_NFT_QUEUE is missing), and iptables cannot queue behind NAT: its last table in
POSTROUTING before that is mangle, and the answers of destination NAT are translated there, too. So these commands leave
out connections under NAT and the first datagram of each UDP flow. For those only cthelperd's own table will do (by netlink it puts the target NFQUEUE behind
NAT).`
	textOwn = `With "rules: none" cthelperd still installs this table of its own.
`
	textOwnObject = `The nft command cannot load it, as it refuses an object of size 0; without the object the length of a rewritten
message cannot change under NAT.`
	textNoObject = `This kernel has no ct expectation objects (nft_ct, since Linux 5.3): under NAT messages can only be rewritten at
the same length.`
	textBeside = `Beside it, in your own filter chains (forward, input, output): accept the control port as ever, and`
	textNotes  = `Packets of connections that a flowtable or the network card forwards (flow add, hardware offload) never come to the
queue: keep the control ports out of your flowtable. Flows that are not tracked (notrack) are not read.
A server whose port you change by DNAT is listed with the port that the clients use.`
	textOpen   = `"bypass": while cthelperd does not run, packets pass unseen and announced connections are not expected.`
	textClosed = `No "bypass": while cthelperd does not run, packets of these connections are dropped.`
)

// comment writes each line of text behind a #.
func comment(w *strings.Builder, text string) {
	for line := range strings.Lines(text + "\n") {
		w.WriteString(strings.TrimRight("# "+strings.TrimRight(line, "\n"), " ") + "\n")
	}
}

// writeTable writes the chains in nft's language, each line behind prefix.
func writeTable(w *strings.Builder, prefix, name string, chains []chain) {
	line := func(indent int, format string, args ...any) {
		s := strings.Repeat("\t", indent) + fmt.Sprintf(format, args...)
		w.WriteString(strings.TrimRight(prefix+s, " \t") + "\n")
	}
	line(0, "table inet %s {", name)
	if slices.ContainsFunc(chains, usesObject) {
		line(1, "ct expectation %s {", objectName)
		for _, s := range []string{"protocol udp", "dport 9", "timeout 1ms", "size 0", "l3proto ip"} {
			line(2, "%s", s)
		}
		line(1, "}")
		line(0, "")
	}
	if slices.ContainsFunc(chains, func(c chain) bool { return c.name == "origin" }) {
		for _, t := range origins {
			line(1, "map %s {", t.name())
			for _, s := range t.declaration() {
				line(2, "%s", s)
			}
			line(1, "}")
			line(0, "")
		}
	}
	for i, c := range chains {
		if i > 0 {
			line(0, "")
		}
		for s := range strings.Lines(c.comment) {
			line(1, "# %s", strings.TrimRight(s, "\n"))
		}
		line(1, "chain %s {", c.name)
		if c.hook != "" {
			line(2, "type filter hook %s priority %d; policy accept;", c.hook, c.priority)
		}
		for _, r := range c.rules {
			line(2, "%s", r.text())
		}
		line(1, "}")
	}
	line(0, "}")
}

func usesObject(c chain) bool {
	return slices.ContainsFunc(c.rules, func(r rule) bool {
		return slices.ContainsFunc(r.terms, func(t term) bool { _, ok := t.(expectObject); return ok })
	})
}

// writeIPTables writes the queueing rules as commands for both families.
func writeIPTables(w *strings.Builder, cfg *Config) {
	const chain = "cthelperd"
	target := fmt.Sprintf("-j NFQUEUE --queue-num %d", cfg.Queue)
	if cfg.Queues > 1 {
		target = fmt.Sprintf("-j NFQUEUE --queue-balance %d:%d", cfg.Queue, int(cfg.Queue)+int(cfg.Queues)-1)
	}
	if !cfg.FailClosed {
		target += " --queue-bypass"
	}
	line := func(format string, args ...any) { fmt.Fprintf(w, "\t$ipt -t mangle "+format+"\n", args...) }
	w.WriteString("for ipt in iptables ip6tables; do\n")
	line("-N %s", chain)
	announced := map[helpers.Transport][]string{}
	for _, h := range cfg.Helpers {
		match := fmt.Sprintf("-A %s -p %s -m conntrack --ctstate ESTABLISHED ", chain, h.Transport)
		for _, p := range (ports{set: h.Ports}).sorted() {
			line("%s-m conntrack --ctorigdstport %d %s", match, p, target)
			line("%s-m conntrack --ctreplsrcport %d %s", match, p, target)
			if h.Transport == helpers.TCP { // connections that conntrack has forgotten
				midstream := fmt.Sprintf("-A %s -p tcp --tcp-flags SYN NONE -m conntrack --ctstate NEW ", chain)
				line("%s-m conntrack --ctorigdstport %d %s", midstream, p, target)
				line("%s-m conntrack --ctreplsrcport %d %s", midstream, p, target)
				line("%s--sport %d %s", midstream, p, target)
			}
		}
		if h.Announced != "" && !slices.Contains(announced[h.Transport], h.Announced) { // several helpers may share one
			announced[h.Transport] = append(announced[h.Transport], h.Announced)
			line("%s-m helper --helper %q %s", match, h.Announced, target)
		}
	}
	line("-A POSTROUTING ! -o lo -m conntrack ! --ctstate SNAT,DNAT -j %s", chain)
	line("-A INPUT -m conntrack ! --ctstate SNAT,DNAT -j %s", chain)
	w.WriteString("done\n")
}

// writeBeside writes the accept rules of the administrator's own chains.
func writeBeside(w *strings.Builder, cfg *Config) {
	w.WriteString("#   ct state established,related accept\n")
	var labels []string
	for _, h := range cfg.Helpers {
		for _, l := range []string{h.Label, h.Announced} {
			if l != "" && !slices.Contains(labels, l) {
				labels = append(labels, l)
			}
		}
	}
	if len(labels) == 0 {
		return
	}
	comment(w, "or, if only announced connections of some helpers may pass:")
	w.WriteString("#   ct state established accept\n")
	for _, l := range labels {
		var names []string
		for _, h := range cfg.Helpers {
			if (h.Label == l || h.Announced == l) && !slices.Contains(names, h.Name) {
				names = append(names, h.Name)
			}
		}
		fmt.Fprintf(w, "#   ct state related %s accept comment %q\n", ctHelper(l).text(), strings.Join(names, ", "))
	}
}
