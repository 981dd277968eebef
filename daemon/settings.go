package daemon

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/internal/rules"
)

// setting reads a number of this network namespace, or of all where the kernel has one for all.
func setting(name string) (int, error) {
	text, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// settings are about what is set, and how full the tables are.
func settings() []finding {
	return append([]finding{expectationTable(), connectionTable()}, events()...)
}

// nearlyFull says that less than a tenth of a table is left.
func nearlyFull(used, most int) bool { return used >= most-most/10 }

func expectationTable() finding {
	f := finding{What: "the table of expectations has room", Needs: "net.netfilter.nf_conntrack_expect_max raised"}
	used, most, err := expect.Counts()
	if err != nil {
		f.Then = fmt.Sprintf("it cannot be asked: %v", err)
		return f
	}
	f.OK = !nearlyFull(used, most)
	f.Then = fmt.Sprintf("%d of %d (nf_conntrack_expect_max, one limit for all network namespaces, each counts for itself); "+
		"when it is full, nothing more is opened, for nobody in this namespace", used, most)
	return f
}

func connectionTable() finding {
	f := finding{What: "the table of connections has room", Needs: "net.netfilter.nf_conntrack_max raised"}
	used, err := setting("nf_conntrack_count")
	most := 0
	if err == nil {
		most, err = setting("nf_conntrack_max")
	}
	if err != nil {
		f.Then = fmt.Sprintf("it cannot be asked: %v", err)
		return f
	}
	f.OK = !nearlyFull(used, most)
	f.Then = fmt.Sprintf("%d of %d (nf_conntrack_max); each session that has announced something takes one entry more, and new "+
		"connections are dropped when it is full", used, most)
	return f
}

// events are about what conntrack tells of connections.
func events() []finding {
	f := finding{What: "conntrack tells of all connections", Needs: "net.netfilter.nf_conntrack_events=1"}
	switch v, err := setting("nf_conntrack_events"); {
	case err != nil:
		f.Needs, f.Then = "CONFIG_NF_CONNTRACK_EVENTS", "what was announced and used is noticed late, and the end of sessions too"
	case v == 0:
		f.Then = "what was announced and used is noticed late, and the end of sessions too"
	case v == 1:
		f.OK, f.Then = true, "the end of each is noticed, and what was announced and used"
	default: // 2, since Linux 5.19: only of those that began while somebody listened
		f.Then = "the end of connections that are older than the daemon is noticed by their FIN or RST only; of all others by conntrack"
	}
	return []finding{f}
}

// rivals are about other parsers on the same traffic.
func rivals() []finding {
	f := finding{
		What: "no in-kernel helper reads the traffic", OK: true,
		Then: "as far as nft's rules and nf_conntrack_helper say; rules of xtables with `CT --helper` cannot be seen",
	}
	const two = "two parsers on one connection do not get on"
	if v, err := setting("nf_conntrack_helper"); err == nil && v != 0 { // gone since Linux 6.0
		f.OK, f.Needs, f.Then = false, "net.netfilter.nf_conntrack_helper=0", "the kernel gives its helpers to their standard ports: "+two
		return []finding{f}
	}
	assigned, err := rules.Assigned()
	switch {
	case err != nil:
		f.OK, f.Then = false, fmt.Sprintf("rule sets cannot be asked: %v", err)
	case len(assigned) > 0:
		f.OK, f.Needs = false, "these taken off the ports that cthelperd reads: "+strings.Join(assigned, ", ")
		f.Then = two
	}
	return []finding{f}
}
