package criteria

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/cthelperd/cthelperd/cli/caret"
)

// Tuples are the options that name both directions of a connection.
type Tuples struct {
	Proto        Proto   `short:"p" aliases:"protonum" placeholder:"PROTO" group:"Tuples" help:"Protocol: tcp, udp, udplite, sctp, dccp, icmp, icmpv6, gre, or a number."`
	Src          Address `short:"s" aliases:"orig-src" placeholder:"ADDR" group:"Tuples" help:"Source address of the original direction; also ADDR/BITS, ADDR/MASK, ADDR-ADDR."`
	Dst          Address `short:"d" aliases:"orig-dst" placeholder:"ADDR" group:"Tuples" help:"Destination address of the original direction."`
	ReplySrc     Address `short:"r" placeholder:"ADDR" group:"Tuples" help:"Source address of the reply direction."`
	ReplyDst     Address `short:"q" placeholder:"ADDR" group:"Tuples" help:"Destination address of the reply direction."`
	Sport        Ports   `aliases:"orig-port-src" placeholder:"PORT" group:"Tuples" help:"Source port of the original direction; also FIRST-LAST."`
	Dport        Ports   `aliases:"orig-port-dst" placeholder:"PORT" group:"Tuples" help:"Destination port of the original direction."`
	ReplyPortSrc Ports   `placeholder:"PORT" group:"Tuples" help:"Source port of the reply direction."`
	ReplyPortDst Ports   `placeholder:"PORT" group:"Tuples" help:"Destination port of the reply direction."`
	IcmpType     Ports   `name:"icmp-type" aliases:"icmpv6-type" placeholder:"N" group:"Tuples" help:"ICMP type."`
	IcmpCode     Ports   `name:"icmp-code" aliases:"icmpv6-code" placeholder:"N" group:"Tuples" help:"ICMP code."`
	IcmpID       Ports   `name:"icmp-id" aliases:"icmpv6-id" placeholder:"N" group:"Tuples" help:"ICMP identifier."`
	Srckey       Ports   `aliases:"orig-key-src" placeholder:"KEY" group:"Tuples" help:"GRE key of the source, original direction."`
	Dstkey       Ports   `aliases:"orig-key-dst" placeholder:"KEY" group:"Tuples" help:"GRE key of the destination, original direction."`
	ReplyKeySrc  Ports   `placeholder:"KEY" group:"Tuples" help:"GRE key of the source, reply direction."`
	ReplyKeyDst  Ports   `placeholder:"KEY" group:"Tuples" help:"GRE key of the destination, reply direction."`
	State        State   `placeholder:"STATE" group:"Tuples" help:"State of TCP, SCTP or DCCP, e.g. ESTABLISHED."`
	OrigVtag     Tag     `placeholder:"TAG" group:"Tuples" help:"Verification tag of SCTP, original direction, as conntrack(8) has it: its bytes read as a number of this machine."`
	ReplyVtag    Tag     `placeholder:"TAG" group:"Tuples" help:"Verification tag of SCTP, reply direction."`
	Role         Role    `placeholder:"ROLE" group:"Tuples" help:"Which end of DCCP sends the original direction: client or server."`
	Zone         Zone    `short:"w" placeholder:"ZONE" group:"Tuples" help:"Zone of both directions."`
	OrigZone     Zone    `placeholder:"ZONE" group:"Tuples" help:"Zone of the original direction only."`
	ReplyZone    Zone    `placeholder:"ZONE" group:"Tuples" help:"Zone of the reply direction only."`
}

// Match are the options that choose connections.
type Match struct {
	Family Family `short:"f" placeholder:"FAMILY" group:"Tuples" help:"ipv4 or ipv6; without it both."`
	Tuples
	MaskSrc netip.Addr `placeholder:"MASK" group:"Tuples" help:"Compare --src under this mask."`
	MaskDst netip.Addr `placeholder:"MASK" group:"Tuples" help:"Compare --dst under this mask."`
	SrcNAT  Translated `name:"src-nat" short:"n" placeholder:"ADDR" group:"Conditions" help:"Only with source NAT; with ADDR, to that address."`
	DstNAT  Translated `name:"dst-nat" short:"g" placeholder:"ADDR" group:"Conditions" help:"Only with destination NAT; with ADDR, to that address."`
	AnyNAT  Translated `name:"any-nat" short:"j" placeholder:"ADDR" group:"Conditions" help:"Only with NAT of either kind."`
	Label   Labels     `short:"l" placeholder:"LABEL" sep:"none" group:"Conditions" help:"Only with these labels: NAME[,NAME]. Repeatable."`
	Where   string     `placeholder:"EXPR" group:"Conditions" help:"Only what this expression is true for, e.g. 'bytes > 10e6 && orig.dst.in(\"10.0.0.0/8\")'; see 'cthelper fields'."`
}

// More are options that choose connections where they do not change them.
type More struct {
	Mark    Mark   `short:"m" placeholder:"MARK[/MASK]" group:"Conditions" help:"Mark; with a mask, of the bits under it."`
	Status  Status `short:"u" placeholder:"STATUS" group:"Conditions" help:"Status: ASSURED, SEEN_REPLY, FIXED_TIMEOUT, EXPECTED, OFFLOAD, UNSET; NAME[,NAME]."`
	Timeout Number `short:"t" placeholder:"SECONDS" group:"Conditions" help:"Seconds until the connection ends, exactly."`
	Secmark string `short:"c" placeholder:"MARK" group:"Conditions" help:"Not shown by Linux since 2.6.38: use --where 'secctx == \"...\"'."`
}

// Translated is a condition on NAT, with or without an address: -n, -n 192.0.2.1, -n 192.0.2.1:80.
type Translated struct {
	Addr netip.Addr
	Port uint16
	set  bool
}

// IsSet says whether the option was given.
func (t *Translated) IsSet() bool { return t.set }

// Decode takes the next argument if it is an address.
func (t *Translated) Decode(ctx *kong.DecodeContext) error {
	t.set = true
	next := ctx.Scan.Peek()
	if next.IsEOL() {
		return nil
	}
	text := fmt.Sprint(next.Value)
	if next.Type == kong.UntypedToken && (strings.HasPrefix(text, "-") || !strings.ContainsAny(text, ".:")) {
		return nil
	}
	ctx.Scan.Pop()
	return t.UnmarshalText([]byte(text))
}

// UnmarshalText reads an address, with a port or without.
func (t *Translated) UnmarshalText(b []byte) error {
	text := string(b)
	t.set = true
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		t.Addr = a
		return nil
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil || a.Addr().Zone() != "" {
		return bad(text, text, "want an address, ADDRESS:PORT or [ADDRESS]:PORT")
	}
	t.Addr, t.Port = a.Addr(), a.Port()
	return nil
}

// Condition is what the options say in the language of package where; the empty text if they say nothing. Where is not
// among it.
func (m *Match) Condition(more *More) (string, error) {
	c := conditions{}
	if m.Family.IsSet() {
		c.add("family == %q", m.Family.Name)
	}
	if err := m.addresses(&c); err != nil {
		return "", err
	}
	m.Tuples.conditions(&c)
	c.nat(&m.SrcNAT, "snat", "reply.dst", "reply.dport")
	c.nat(&m.DstNAT, "dnat", "reply.src", "reply.sport")
	if m.AnyNAT.IsSet() {
		s, d := conditions{}, conditions{}
		s.nat(&m.AnyNAT, "snat", "reply.dst", "reply.dport")
		d.nat(&m.AnyNAT, "dnat", "reply.src", "reply.sport")
		c.add("(%s || %s)", s, d)
	}
	if len(m.Label) > 0 {
		c.add("%s", m.Label.Where())
	}
	if more != nil {
		if more.Secmark != "" {
			const contexts = `Linux shows security contexts, not marks: use --where 'secctx == "..."'`
			return "", &caret.Error{Text: more.Secmark, Message: contexts}
		}
		c.field(&more.Mark, "mark")
		c.field(&more.Timeout, "timeout")
		if more.Status.IsSet() {
			c.add("%s", more.Status.Where())
		}
	}
	return c.String(), nil
}

func (m *Match) addresses(c *conditions) error {
	var first netip.Addr
	for _, a := range []netip.Addr{
		m.Src.First, m.Dst.First, m.ReplySrc.First, m.ReplyDst.First, m.SrcNAT.Addr, m.DstNAT.Addr, m.AnyNAT.Addr,
	} {
		switch {
		case !a.IsValid():
		case m.Family.IsSet() && a.Is4() != (m.Family.Name == "ipv4"):
			return &caret.Error{Text: a.String(), Message: "is no address of " + m.Family.Name}
		case first.IsValid() && a.Is4() != first.Is4():
			return &caret.Error{Text: a.String(), Message: "is not of the family of " + first.String()}
		case !first.IsValid():
			first = a
		}
	}
	for _, x := range []struct {
		address *Address
		mask    netip.Addr
		field   string
	}{
		{&m.Src, m.MaskSrc, "orig.src"}, {&m.Dst, m.MaskDst, "orig.dst"},
		{&m.ReplySrc, netip.Addr{}, "reply.src"}, {&m.ReplyDst, netip.Addr{}, "reply.dst"},
	} {
		a := *x.address
		if x.mask.IsValid() {
			if !a.IsSet() || a.Mask.IsValid() || a.First != a.Last || a.First.BitLen() != x.mask.BitLen() {
				return &caret.Error{Text: x.mask.String(), Message: "a mask needs one address of its family: --src or --dst"}
			}
			a.Mask = x.mask
		}
		if a.IsSet() {
			c.add("%s", a.Where(x.field))
		}
	}
	return nil
}

// conditions must all hold.
type conditions []string

func (c conditions) String() string { return strings.Join(c, " && ") }

func (c *conditions) add(format string, args ...any) { *c = append(*c, fmt.Sprintf(format, args...)) }

// value is an option's value that is a condition on a field.
type value interface {
	IsSet() bool
	Where(field string) string
}

func (c *conditions) field(v value, field string) {
	if v.IsSet() {
		c.add("%s", v.Where(field))
	}
}

func (c *conditions) nat(t *Translated, is, address, port string) {
	if !t.IsSet() {
		return
	}
	c.add("%s", is)
	if t.Addr.IsValid() {
		c.add("%s == %q", address, t.Addr)
	}
	if t.Port != 0 {
		c.add("%s == %d", port, t.Port)
	}
}

func (t *Tuples) conditions(c *conditions) {
	if t.Proto.IsSet() {
		c.add("proto == \"%d\"", t.Proto.Number)
	}
	c.field(&t.Sport, "orig.sport")
	c.field(&t.Dport, "orig.dport")
	c.field(&t.ReplyPortSrc, "reply.sport")
	c.field(&t.ReplyPortDst, "reply.dport")
	c.field(&t.IcmpType, "icmp.type")
	c.field(&t.IcmpCode, "icmp.code")
	c.field(&t.IcmpID, "icmp.id")
	c.field(&t.Srckey, "orig.sport")
	c.field(&t.Dstkey, "orig.dport")
	c.field(&t.ReplyKeySrc, "reply.sport")
	c.field(&t.ReplyKeyDst, "reply.dport")
	if t.State.IsSet() {
		c.add("state == %q", t.State.Name)
	}
	c.field(&t.OrigVtag, "orig.vtag")
	c.field(&t.ReplyVtag, "reply.vtag")
	if t.Role.IsSet() {
		c.add("dccp.role == %q", t.Role.String())
	}
	for dir, zone := range map[string]*Zone{"both": &t.Zone, "original": &t.OrigZone, "reply": &t.ReplyZone} {
		switch {
		case zone.IsSet() && zone.ID == 0 && dir != "both": // that direction alone is in no zone
			c.add("zonedir != %q", dir)
		case zone.IsSet():
			c.add("%s && zonedir == %q", zone.Where("zone"), dir)
		}
	}
}

// Decode takes the next argument unless it is an option.
func (s *Some) Decode(ctx *kong.DecodeContext) error {
	s.set = true
	next := ctx.Scan.Peek()
	text := fmt.Sprint(next.Value)
	if next.IsEOL() || next.Type == kong.UntypedToken && strings.HasPrefix(text, "-") {
		return nil
	}
	ctx.Scan.Pop()
	return s.UnmarshalText([]byte(text))
}
