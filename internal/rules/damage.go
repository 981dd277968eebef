package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Damage says what of cfg's table in the calling thread's network namespace is missing, changed or switched off; empty:
// nothing. What somebody has added is no damage.
func Damage(cfg Config) (string, error) {
	var what string
	err := error(errTorn)
	for try := 0; errors.Is(err, errTorn) && try < tornTries; try++ {
		what, err = damage(&cfg)
	}
	return what, wrap("look at", err)
}

const tornTries = 20

// errTorn says that the rules changed while they were listed (NLM_F_DUMP_INTR).
var errTorn = errors.New("the rules change all the time")

func damage(cfg *Config) (string, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return "", err
	}
	defer c.Close()
	dormant, err := tableDormant(c)
	switch {
	case errors.Is(err, unix.ENOENT):
		return "the table is gone", nil
	case err != nil:
		return "", err
	case dormant:
		return "the table is dormant", nil
	}
	there, err := listRules(c)
	if err != nil {
		return "", err
	}
	var what []string
	b := batch{xtQueue: !cfg.Features.NFTQueue}
	for _, chain := range layout(cfg) {
		lost, left := 0, there[chain.name]
		for _, r := range chain.rules {
			want := shape(&b, r)
			if at := slices.IndexFunc(left, func(l listed) bool { return l.shape == want }); at < 0 {
				lost++
			} else {
				left = left[at+1:]
			}
		}
		if lost > 0 {
			what = append(what, fmt.Sprintf("%d of %d rules of chain %s", lost, len(chain.rules), chain.name))
		}
	}
	return strings.Join(what, ", "), nil
}

// shape is what a rule is recognised by: its expressions' names. The kernel gives sets other names, and counts.
func shape(b *batch, r rule) string {
	var names []string
	for _, t := range r.terms {
		for _, e := range t.exprs(b) {
			names = append(names, e.name)
		}
	}
	return strings.Join(names, " ")
}

func tableDormant(c *netlink.Conn) (bool, error) {
	data, err := encode(func(ae attributes) { ae.String(unix.NFTA_TABLE_NAME, TableName) })
	if err != nil {
		return false, err
	}
	answers, err := c.Execute(message(unix.NFT_MSG_GETTABLE, 0, data))
	if err != nil {
		return false, err
	}
	dormant := false
	for _, m := range answers {
		err := each(m, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == unix.NFTA_TABLE_FLAGS {
				dormant = ad.Uint32()&unix.NFT_TABLE_F_DORMANT != 0
			}
		})
		if err != nil {
			return false, err
		}
	}
	return dormant, nil
}

// Queued counts the packets that the table's rules have given to the queue since Install; without queueing rules
// (Config.Manual) none. What the kernel let pass because the queue was full is counted here and nowhere else.
func Queued() (packets uint64, err error) {
	err = errTorn
	for try := 0; errors.Is(err, errTorn) && try < tornTries; try++ {
		packets, err = queued()
	}
	return packets, wrap("count packets of", err)
}

func queued() (packets uint64, err error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	there, err := listRules(c)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil // no table, no packets
	}
	for _, chain := range []string{controlChain, midstreamChain} {
		for _, r := range there[chain] {
			if r.queues() { // and is none that somebody has added to look at packets
				packets += r.packets
			}
		}
	}
	return packets, err
}

// listed is a rule that is there.
type listed struct {
	shape   string
	packets uint64 // its counter
}

// queues says whether the rule ends at a queue: by nft's expression, or by the xtables target.
func (l *listed) queues() bool {
	return strings.HasSuffix(l.shape, " queue") || strings.HasSuffix(l.shape, " target")
}

// listRules gives the table's rules by chain.
func listRules(c *netlink.Conn) (map[string][]listed, error) {
	data, err := encode(func(ae attributes) { ae.String(unix.NFTA_RULE_TABLE, TableName) })
	if err != nil {
		return nil, err
	}
	answers, err := c.Execute(message(unix.NFT_MSG_GETRULE, netlink.Dump, data))
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	there := map[string][]listed{}
	for _, m := range answers {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return nil, errTorn
		}
		var table, chain string
		var names []string
		var packets uint64
		err := each(m, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
				table = ad.String()
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			case unix.NFTA_RULE_EXPRESSIONS:
				ad.Nested(func(list *netlink.AttributeDecoder) error {
					for list.Next() {
						list.Nested(func(e *netlink.AttributeDecoder) error {
							return expr(e, &names, &packets)
						})
					}
					return nil
				})
			}
		})
		if err != nil {
			return nil, err
		}
		if table == TableName {
			there[chain] = append(there[chain], listed{strings.Join(names, " "), packets})
		}
	}
	return there, nil
}

// expr reads an expression: its name, and what a counter has counted.
func expr(ad *netlink.AttributeDecoder, names *[]string, packets *uint64) error {
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_EXPR_NAME:
			*names = append(*names, ad.String())
		case unix.NFTA_EXPR_DATA:
			if n := len(*names); n == 0 || (*names)[n-1] != "counter" { // the name comes first (nf_tables_fill_expr_info)
				continue
			}
			ad.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					if n.Type() == unix.NFTA_COUNTER_PACKETS {
						*packets += n.Uint64()
					}
				}
				return nil
			})
		}
	}
	return nil
}

// each goes through the attributes of a message of nf_tables.
func each(m netlink.Message, f func(*netlink.AttributeDecoder)) error {
	const header = 4 // struct nfgenmsg
	if len(m.Data) < header {
		return nil
	}
	ad, err := decoder(m.Data[header:])
	if err != nil {
		return err
	}
	for ad.Next() {
		f(ad)
	}
	return ad.Err()
}
