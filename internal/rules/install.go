package rules

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Install puts the table of cfg in place of an older one, in one transaction, in the calling thread's network
// namespace. Counters begin at zero. An older table with the same chains keeps its hooks: packets that wait in a queue
// stay there (the kernel drops them when any hook of the namespace is taken off, nf_queue_nf_hook_drop).
func Install(cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	chains := layout(&cfg)
	err := install(&cfg, chains, false)
	if err != nil && !errors.Is(err, unix.EPERM) {
		err = install(&cfg, chains, true) // chains of an older version may differ in their hooks
	}
	return wrap("install", err)
}

// Remove takes the table away. It is no error if there is none. The kernel drops the packets that wait in a queue, so
// call Clear first and give the last verdicts in between.
func Remove() error {
	c, err := conn()
	if err != nil {
		return wrap("remove", err)
	}
	t := c.AddTable(table())
	c.DelTable(t)
	return wrap("remove", c.Flush())
}

// Clear empties the chains: nothing is queued any more, packets that wait in a queue go on waiting for their verdict.
func Clear() error {
	found, err := Installed()
	if err != nil || !found {
		return err
	}
	c, err := conn()
	if err != nil {
		return wrap("clear", err)
	}
	c.FlushTable(table())
	return wrap("clear", c.Flush())
}

// Installed says whether there is such a table.
func Installed() (bool, error) {
	c, err := conn()
	if err != nil {
		return false, wrap("look for", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, wrap("look for", err)
	}
	for _, t := range tables {
		if t.Name == TableName {
			return true, nil
		}
	}
	return false, nil
}

func wrap(verb string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s table inet %s: %w (%w)", verb, TableName, ErrPermission, err)
	}
	return fmt.Errorf("%s table inet %s: %w", verb, TableName, err)
}

func table() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
}

// conn has room for the answers to a long transaction: each rule is acknowledged and echoed.
func conn() (*nftables.Conn, error) {
	const readBuffer = 4 << 20
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error { return c.SetReadBuffer(readBuffer) }))
}

func install(cfg *Config, chains []chain, anew bool) error {
	c, err := conn()
	if err != nil {
		return err
	}
	t := c.AddTable(table())
	if anew {
		c.DelTable(t)
		t = c.AddTable(table())
	} else {
		c.FlushTable(t)
	}
	if cfg.Features.ExpectObject {
		addObject(c, t, 1)
	}
	b := &builder{conn: c, table: t, xtQueue: !cfg.Features.NFTQueue}
	// All chains before any rule: rules jump.
	made := make([]*nftables.Chain, len(chains))
	for i, ch := range chains {
		made[i] = &nftables.Chain{Table: t, Name: ch.name}
		if ch.hook != "" {
			made[i].Type = nftables.ChainTypeFilter
			made[i].Hooknum = ch.hook.number()
			made[i].Priority = nftables.ChainPriorityRef(nftables.ChainPriority(ch.priority))
		}
		c.AddChain(made[i])
	}
	for i, ch := range chains {
		for _, r := range ch.rules {
			c.AddRule(b.rule(made[i], r))
		}
	}
	if b.err != nil {
		return b.err
	}
	return c.Flush()
}

func (h hook) number() *nftables.ChainHook {
	switch h {
	case prerouting:
		return nftables.ChainHookPrerouting
	case input:
		return nftables.ChainHookInput
	case output:
		return nftables.ChainHookOutput
	}
	return nftables.ChainHookPostrouting
}

// addObject adds the ct expectation of size 0. Attached to a connection's first packet before NAT it adds the help
// extension, and with it NAT adds the extension for sequence adjustment (nf_nat_setup_info); at size 0 it never
// expects. Should a kernel take 0 for "no limit", it would expect a UDP packet to the discard port (RFC 863) for a
// millisecond. The l3proto is not used at that size.
func addObject(c *nftables.Conn, t *nftables.Table, timeoutMS uint32) {
	c.AddObject(&nftables.NamedObj{
		Table: t,
		Name:  objectName,
		Type:  nftables.ObjTypeCtExpect,
		Obj: &expr.CtExpect{
			L3Proto: unix.NFPROTO_IPV4, L4Proto: unix.IPPROTO_UDP, DPort: 9, Size: 0,
			// The kernel reads it in its own byte order, the library writes big endian.
			Timeout: binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, timeoutMS)),
		},
	})
}

// builder turns rules into messages.
type builder struct {
	conn    *nftables.Conn
	table   *nftables.Table
	xtQueue bool
	err     error
}

func (b *builder) rule(c *nftables.Chain, r rule) *nftables.Rule {
	n := &nftables.Rule{Table: b.table, Chain: c}
	for _, t := range r.terms {
		n.Exprs = append(n.Exprs, t.exprs(b)...)
	}
	if r.comment != "" {
		n.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
	}
	return n
}

// in looks the register up in an anonymous set.
func (b *builder) in(t nftables.SetDatatype, keys [][]byte) expr.Any {
	set := &nftables.Set{Table: b.table, Anonymous: true, Constant: true, KeyType: t}
	var elements []nftables.SetElement
	for _, k := range keys {
		elements = append(elements, nftables.SetElement{Key: k})
	}
	if err := b.conn.AddSet(set, elements); err != nil && b.err == nil {
		b.err = err
	}
	return &expr.Lookup{SourceRegister: reg, SetName: set.Name, SetID: set.ID}
}
