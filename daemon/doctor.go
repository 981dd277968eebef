package daemon

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/internal/rules"
)

type doctorCommand struct{ configFile }

// Help is the text behind the flags.
func (doctorCommand) Help() string {
	return `Each feature is tried in a network namespace that exists for this only; nothing is changed. Exit status 1 if
cthelperd cannot work here.`
}

// finding is one line of the doctor's.
type finding struct {
	what  string
	ok    bool
	needs string // where it is missing: which kernel option brings it
	then  string // what follows from its being there, or missing
}

func (c doctorCommand) Run(p *program) error {
	cfg, err := c.load(p)
	if err != nil {
		return err
	}
	if err := permitted(); err != nil {
		return err
	}
	features, err := rules.Probe()
	if err != nil {
		return err
	}
	kernel, err := probeExpectations(cfg.Helpers())
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "Linux %s\n\n", release())
	findings := append(queueFindings(features), kernel.findings()...)
	for _, f := range findings {
		state, tail := "yes", f.then
		if !f.ok {
			state = "no"
			if f.needs != "" {
				tail = strings.Join([]string{"needs " + f.needs, f.then}, "; ")
			}
		}
		fmt.Fprintf(p.stdout, "%-4s %s\n     %s\n", state, f.what, tail)
	}
	fmt.Fprintln(p.stdout)
	fmt.Fprintln(p.stdout, expectUse())
	if !features.NFTQueue && !features.XTQueue {
		return rules.ErrNoQueue
	}
	return kernel.err
}

// queueFindings are about rules and queue.
func queueFindings(f rules.Features) []finding {
	return []finding{
		{
			what: "packets are queued by nft's queue expression", ok: f.NFTQueue,
			needs: "CONFIG_NFT_QUEUE", then: choose(f.NFTQueue, "it is used",
				choose(f.XTQueue, "the xtables target is used instead", "nothing can be queued")),
		},
		{
			what: "packets are queued by the xtables target NFQUEUE in an nft table", ok: f.XTQueue,
			needs: "CONFIG_NETFILTER_XT_TARGET_NFQUEUE and CONFIG_NFT_COMPAT", then: choose(f.NFTQueue, "it is not needed",
				choose(f.XTQueue, "it is used", "nothing can be queued")),
		},
		{
			what: "queued packets bring their connection (NFQA_CT)", ok: f.Conntrack,
			needs: "CONFIG_NETFILTER_NETLINK_GLUE_CT", then: choose(f.Conntrack, "it is used",
				"each connection is looked up once; the first datagram of a UDP flow under NAT is not read"),
		},
		{
			what: "rewritten messages may change their length (ct expectation object of size 0)", ok: f.ExpectObject,
			needs: "CONFIG_NFT_CT, Linux 5.3", then: choose(f.ExpectObject, "it is used under NAT",
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

// expectUse says how full the kernel's table of expectations is.
func expectUse() string {
	used, most, err := expect.Counts()
	if err != nil {
		return fmt.Sprintf("nf_conntrack_expect_max: unknown (%v)", err)
	}
	return fmt.Sprintf("nf_conntrack_expect_max: %d for all network namespaces together; %d used in this one.\n"+
		"When it is full, nothing more is opened, for anybody: sysctl -w net.netfilter.nf_conntrack_expect_max=N raises it.", most, used)
}
