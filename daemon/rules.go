package daemon

import (
	"fmt"

	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/rules"
)

type rulesCommand struct{ configFile }

// Help is the text behind the flags.
func (rulesCommand) Help() string {
	return `What is printed fits this kernel and the configuration, and is the same that cthelperd installs by itself. To keep
the rules yourself, put them into your rule set and write "rules: none" into the configuration. As root the kernel's
features are tried; otherwise a kernel that offers everything is assumed, and a comment says so.

Example:

  cthelperd rules --config /etc/cthelperd.yaml > /etc/nftables.d/cthelperd.nft`
}

func (c rulesCommand) Run(p *program) error {
	cfg, err := c.load(p)
	if err != nil {
		return err
	}
	features := rules.Features{NFTQueue: true, ExpectObject: true, Conntrack: true}
	kernel := ideal()
	if permitted() != nil {
		fmt.Fprintln(p.stdout, "# Not run as root: these are the rules for a kernel that offers everything.")
	} else if features, kernel, err = p.probe(cfg.Helpers()); err != nil {
		return err
	}
	text, err := rules.Text(rulesConfig(cfg, features, kernel.label, kernel.reading))
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(p.stdout, text)
	return err
}

// rulesConfig is what the rules are made from. label and reading give what connections carry that a helper announced, and
// that were announced for it.
func rulesConfig(cfg *config.Config, features rules.Features, label, reading func(helper string) string) rules.Config {
	r := rules.Config{
		Queue:      cfg.Queue.Number,
		Queues:     cfg.Queue.Count,
		FailClosed: cfg.FailClosed,
		Features:   features,
		Manual:     cfg.Rules == config.RulesNone,
	}
	for _, h := range cfg.Helpers() {
		out := rules.Helper{Name: h.Name, Transport: h.Transport, Ports: h.Ports, Label: label(h.Name)}
		if h.ReadsAnnounced() {
			out.Announced = reading(h.Name)
		}
		r.Helpers = append(r.Helpers, out)
	}
	return r
}
