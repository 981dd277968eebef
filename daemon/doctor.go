package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/rules"
)

type doctorCommand struct {
	configFile
	JSON bool `help:"One JSON object, for programs."`
}

// Help is the text behind the flags.
func (doctorCommand) Help() string {
	return `What the kernel offers is tried in a network namespace that exists for this only; nothing is changed. What is set,
and how full the tables are, is that of the network namespace in which it runs. Exit status 1 if cthelperd cannot work here.

Examples:

  cthelperd doctor
  ip netns exec NAME cthelperd doctor --json`
}

// finding is one line of the doctor's. The keys of its JSON are promised.
type finding struct {
	What  string `json:"what"`
	OK    bool   `json:"ok"`
	Needs string `json:"needs,omitempty"` // where it is missing: which kernel option or setting brings it
	Then  string `json:"then"`            // what follows from its being there, or missing
}

// diagnosis is all that the doctor says.
type diagnosis struct {
	Kernel   string    `json:"kernel"`
	Works    bool      `json:"works"`
	Way      string    `json:"way"`             // what will be used
	Error    string    `json:"error,omitempty"` // why nothing works
	Findings []finding `json:"findings"`
}

func (c doctorCommand) Run(p *program) error {
	cfg, err := c.load(p)
	if err != nil {
		return err
	}
	if err := permitted(); err != nil {
		return err
	}
	features, kernel, err := p.probe(cfg.Helpers())
	if err != nil {
		return err
	}
	d := diagnosis{Kernel: release(), Findings: slices.Concat(queueFindings(features), kernel.findings(), settings(), rivals())}
	err = kernel.err
	if !features.NFTQueue && !features.XTQueue {
		err = rules.ErrNoQueue
	}
	if d.Works = err == nil; d.Works {
		d.Way = way(features, &kernel)
	} else {
		d.Error = err.Error()
	}
	if c.JSON {
		encoder := json.NewEncoder(p.stdout)
		encoder.SetEscapeHTML(false)
		return errors.Join(err, encoder.Encode(&d))
	}
	d.print(p.stdout)
	return err
}

// way says in words how packets come and what expectations hang on.
func way(f rules.Features, e *expectations) string {
	return fmt.Sprintf("packets by %s, their connections %s; expectations on %s; under NAT lengths %s",
		choose(f.NFTQueue, "nft's queue expression", "the xtables target NFQUEUE"),
		choose(f.Conntrack, "with them", "by one look-up each"),
		choose(e.objects, "helper objects of our own", e.way),
		choose(f.ExpectObject, "may change", "must stay"))
}

func (d *diagnosis) print(w io.Writer) {
	fmt.Fprintf(w, "Linux %s\n\n", d.Kernel)
	for _, f := range d.Findings {
		tail := f.Then
		if !f.OK && f.Needs != "" {
			tail = strings.Join([]string{"needs " + f.Needs, f.Then}, "; ")
		}
		fmt.Fprintf(w, "%-4s %s\n     %s\n", choose(f.OK, "yes", "no"), f.What, tail)
	}
	if d.Works {
		fmt.Fprintf(w, "\nIt works: %s.\n", d.Way)
	}
}

// queueFindings are about rules and queue.
func queueFindings(f rules.Features) []finding {
	return []finding{
		{
			What: "packets are queued by nft's queue expression", OK: f.NFTQueue,
			Needs: "CONFIG_NFT_QUEUE", Then: choose(f.NFTQueue, "it is used",
				choose(f.XTQueue, "the xtables target is used instead", "nothing can be queued")),
		},
		{
			What: "packets are queued by the xtables target NFQUEUE in an nft table", OK: f.XTQueue,
			Needs: "CONFIG_NETFILTER_XT_TARGET_NFQUEUE and CONFIG_NFT_COMPAT", Then: choose(f.NFTQueue, "it is not needed",
				choose(f.XTQueue, "it is used", "nothing can be queued")),
		},
		{
			What: "queued packets bring their connection (NFQA_CT)", OK: f.Conntrack,
			Needs: "CONFIG_NETFILTER_NETLINK_GLUE_CT", Then: choose(f.Conntrack, "it is used",
				"each connection is looked up once; the first datagram of a UDP flow under NAT is not read"),
		},
		{
			What: "rewritten messages may change their length (ct expectation object of size 0)", OK: f.ExpectObject,
			Needs: "CONFIG_NFT_CT, Linux 5.3", Then: choose(f.ExpectObject, "it is used under NAT",
				"under NAT an announcement that would change its length is refused"),
		},
	}
}

func choose(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "of unknown release"
	}
	return unix.ByteSliceToString(u.Release[:])
}
