package criteria

import (
	"math"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

// Draft are the options that say how a new connection is to be.
type Draft struct {
	Tuples
	Timeout  Number     `short:"t" placeholder:"SECONDS" group:"New connection" help:"Seconds until it ends."`
	Status   Status     `short:"u" placeholder:"STATUS" group:"New connection" help:"Status: ASSURED, SEEN_REPLY, FIXED_TIMEOUT; NAME[,NAME]."`
	Mark     Mark       `short:"m" placeholder:"MARK" group:"New connection" help:"Mark."`
	SrcNAT   Translated `name:"src-nat" short:"n" placeholder:"ADDR[:PORT]" group:"New connection" help:"Translate the source to this."`
	DstNAT   Translated `name:"dst-nat" short:"g" placeholder:"ADDR[:PORT]" group:"New connection" help:"Translate the destination to this."`
	LabelAdd Labels     `placeholder:"LABEL" sep:"none" group:"New connection" help:"Labels: NAME[,NAME]. Repeatable."`
	Helper   string     `placeholder:"NAME" group:"New connection" help:"Helper."`
}

func missing(what string) error { return &caret.Error{Message: "needs " + what} }

// Flow is the connection that the options describe.
func (d *Draft) Flow(labels *names.Labels) (flows.Flow, error) {
	f, err := d.Name()
	if err != nil {
		return f, err
	}
	if !d.Timeout.IsSet() {
		return f, missing("--timeout")
	}
	if err := d.state(&f); err != nil {
		return f, err
	}
	f.Timeout, f.Mark, f.Helper = d.Timeout.Value, d.Mark.Value, d.Helper
	f.Has |= flows.HasTimeout | flows.HasStatus | flows.HasMark
	numbers, err := d.LabelAdd.Numbers(labels)
	for _, n := range numbers {
		f.Labels.Set(n)
		f.Has |= flows.HasLabels
	}
	return f, err
}

// Name is a connection of which only what names it is filled in, and NAT.
func (d *Draft) Name() (flows.Flow, error) {
	f := flows.Flow{Transport: helpers.Transport(d.Proto.Number), Status: flows.Status(d.Status.Bits)}
	if !d.Proto.IsSet() {
		return f, missing("--proto")
	}
	return f, d.tuples(&f)
}

// Change is what the options say of a connection that is there.
func (d *Draft) Change() *Change {
	c := &Change{Timeout: d.Timeout, Mark: d.Mark, Status: d.Status, LabelAdd: d.LabelAdd}
	if d.Helper != "" {
		c.Helper = &d.Helper
	}
	return c
}

// tuples fills in the addresses, ports and zone. The reply direction is the original one turned, but for what is given.
func (d *Draft) tuples(f *flows.Flow) error {
	src, err := d.Src.One()
	if err != nil {
		return err
	}
	dst, err := d.Dst.One()
	if err != nil {
		return err
	}
	back, err := d.replySource(dst)
	if err != nil {
		return err
	}
	forth, err := d.replyDestination(src)
	if err != nil {
		return err
	}
	if !src.IsValid() && !dst.IsValid() && back.IsValid() && forth.IsValid() { // only the reply direction is given
		src, dst = forth, back
	}
	if !src.IsValid() || !dst.IsValid() {
		return missing("--src and --dst, or --reply-src and --reply-dst")
	}
	if back.BitLen() != dst.BitLen() || forth.BitLen() != src.BitLen() || src.BitLen() != dst.BitLen() {
		return missing("addresses of one family")
	}
	numbers, err := d.numbers()
	if err != nil {
		return err
	}
	f.Orig = helpers.Tuple{Src: netip.AddrPortFrom(src, numbers[0]), Dst: netip.AddrPortFrom(dst, numbers[1])}
	f.Reply = helpers.Tuple{Src: netip.AddrPortFrom(back, numbers[2]), Dst: netip.AddrPortFrom(forth, numbers[3])}
	if d.SrcNAT.IsSet() {
		f.Status |= flows.StatusSrcNAT
	}
	if d.DstNAT.IsSet() {
		f.Status |= flows.StatusDstNAT
	}
	switch {
	case d.Zone.IsSet() && d.OrigZone.IsSet(), d.Zone.IsSet() && d.ReplyZone.IsSet(), d.OrigZone.IsSet() && d.ReplyZone.IsSet():
		return missing("no more than one of --zone, --orig-zone and --reply-zone")
	case d.Zone.IsSet():
		f.Zone = d.Zone.ID
	case d.OrigZone.IsSet():
		f.Zone, f.ZoneDir = d.OrigZone.ID, flows.ZoneOrig
	case d.ReplyZone.IsSet():
		f.Zone, f.ZoneDir = d.ReplyZone.ID, flows.ZoneReply
	}
	return nil
}

func (d *Draft) replySource(dst netip.Addr) (netip.Addr, error) {
	switch {
	case d.DstNAT.Addr.IsValid():
		return d.DstNAT.Addr, nil
	case d.ReplySrc.IsSet():
		return d.ReplySrc.One()
	}
	return dst, nil
}

func (d *Draft) replyDestination(src netip.Addr) (netip.Addr, error) {
	switch {
	case d.SrcNAT.Addr.IsValid():
		return d.SrcNAT.Addr, nil
	case d.ReplyDst.IsSet():
		return d.ReplyDst.One()
	}
	return src, nil
}

// numbers are what the tuples have for ports: source and destination of the original, then of the reply direction.
func (d *Draft) numbers() (n [4]uint16, err error) {
	options := [4]*Ports{&d.Sport, &d.Dport, &d.ReplyPortSrc, &d.ReplyPortDst}
	switch d.Proto.Number {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return d.icmp()
	case unix.IPPROTO_GRE:
		options = [4]*Ports{&d.Srckey, &d.Dstkey, &d.ReplyKeySrc, &d.ReplyKeyDst}
	case unix.IPPROTO_DCCP: // a kernel without it knows no ports of it
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP:
		if !(d.Sport.IsSet() && d.Dport.IsSet()) && !(d.ReplyPortSrc.IsSet() && d.ReplyPortDst.IsSet()) {
			return n, missing("--sport and --dport")
		}
	default:
		return n, nil
	}
	for i, o := range options {
		if n[i], err = o.One(); err != nil {
			return n, err
		}
	}
	for i, o := range options { // what is not given is the other direction's
		if !o.IsSet() {
			n[i] = n[3-i]
		}
	}
	if d.DstNAT.Port != 0 {
		n[2] = d.DstNAT.Port
	}
	if d.SrcNAT.Port != 0 {
		n[3] = d.SrcNAT.Port
	}
	return n, nil
}

// icmp is how the kernel's tuple has ICMP: the identifier as source port, type and code as destination port.
func (d *Draft) icmp() (n [4]uint16, err error) {
	if !d.IcmpType.IsSet() || !d.IcmpCode.IsSet() {
		return n, missing("--icmp-type and --icmp-code")
	}
	var parts [3]uint16
	for i, o := range []*Ports{&d.IcmpType, &d.IcmpCode, &d.IcmpID} {
		if parts[i], err = o.One(); err != nil {
			return n, err
		}
		if i < 2 && parts[i] > math.MaxUint8 {
			return n, bad(o.text, o.text, "want a number from 0 to 255")
		}
	}
	answer, ok := answers(d.Proto.Number, uint8(parts[0]))
	if !ok {
		const queries = "conntrack follows queries only: echo, timestamp, information, address mask"
		return n, bad(d.IcmpType.text, d.IcmpType.text, queries)
	}
	code := parts[1]
	return [4]uint16{parts[2], parts[0]<<8 | code, parts[2], uint16(answer)<<8 | code}, nil
}

// answers is the type that answers one of ICMP's (kernel: icmp_invert_tuple, icmpv6_invert_tuple).
func answers(protocol, typ uint8) (uint8, bool) {
	pairs := [][2]uint8{{8, 0}, {13, 14}, {15, 16}, {17, 18}}
	if protocol == unix.IPPROTO_ICMPV6 {
		pairs = [][2]uint8{{128, 129}, {139, 140}}
	}
	for _, p := range pairs {
		switch typ {
		case p[0]:
			return p[1], true
		case p[1]:
			return p[0], true
		}
	}
	return 0, false
}

func (d *Draft) state(f *flows.Flow) error {
	if !d.State.IsSet() {
		if d.Proto.Number == unix.IPPROTO_TCP {
			return missing("--state")
		}
		return nil
	}
	n, err := d.State.Of(d.Proto.Number)
	if err != nil {
		return err
	}
	f.Has |= flows.HasState
	f.State = n
	f.SCTPTags = [2]uint32{d.OrigVtag.Host(), d.ReplyVtag.Host()}
	if d.Role.Server {
		f.DCCPRole = 1
	}
	return nil
}

// Change are the options that say what an update makes of connections.
type Change struct {
	Timeout  Number  `short:"t" placeholder:"SECONDS" group:"Changes" help:"Seconds until they end."`
	Mark     Mark    `short:"m" placeholder:"MARK[/MASK]" group:"Changes" help:"Mark; with a mask: its bits are cleared, then those of MARK turned over."`
	Status   Status  `short:"u" placeholder:"STATUS" group:"Changes" help:"Status bits to set: ASSURED, SEEN_REPLY, FIXED_TIMEOUT; NAME[,NAME]."`
	LabelAdd Labels  `placeholder:"LABEL" sep:"none" group:"Changes" help:"Labels to add: NAME[,NAME]. Repeatable."`
	LabelDel Some    `placeholder:"LABEL" group:"Changes" help:"Labels to take away; without a name all. Repeatable."`
	Helper   *string `placeholder:"NAME" group:"Changes" help:"Helper; the empty text takes it away."`
}

// Some are labels, or all of them if none is named.
type Some struct {
	Labels
	set bool
}

// Change is what to tell the table.
func (c *Change) Change(labels *names.Labels) (*flows.Change, error) {
	change := &flows.Change{Status: flows.Status(c.Status.Bits), Helper: c.Helper}
	if c.Timeout.IsSet() {
		change.Timeout = &c.Timeout.Value
	}
	if c.Mark.IsSet() {
		change.Mark, change.MarkMask = c.Mark.Value, c.Mark.Mask
	}
	gone, err := c.LabelDel.Numbers(labels)
	if err != nil {
		return nil, err
	}
	for _, n := range gone {
		change.LabelsMask.Set(n)
	}
	if c.LabelDel.set && len(gone) == 0 {
		for i := range change.LabelsMask {
			change.LabelsMask[i] = math.MaxUint8
		}
	}
	added, err := c.LabelAdd.Numbers(labels)
	if err != nil {
		return nil, err
	}
	for _, n := range added {
		change.LabelsMask.Set(n)
		change.Labels.Set(n)
	}
	if *change == (flows.Change{}) {
		return nil, missing("something to change: --timeout, --mark, --status, --label-add, --label-del or --helper")
	}
	return change, nil
}
