package h323

import (
	"net/netip"
	"slices"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// leg is where the channels of a call are entered.
type leg struct {
	call uint64 // Group.ID
	base uint64 // of Group.Part: sessions of a family must not use the same
	book *book
}

func (l *leg) group(part uint32) helpers.Group {
	return helpers.Group{ID: l.call, Part: l.base + uint64(part)}
}

// partBits is what a flow has of Group.Part, or of Group.ID, to count in.
const partBits = 20

// flowBase is the first of the numbers that are a flow's own in its family.
func flowBase(id helpers.FlowID) uint64 { return uint64(id) << partBits }

// controls reads the H.245 messages of a message, but for fastStart.
func (in *inspection) controls(base int, l *leg) {
	m := &in.desk.message
	dir := in.seg.Dir
	for i := range m.Controls {
		c := &m.Controls[i]
		if c.In == wire.FastStart {
			continue
		}
		own, other := channel{dir, logical, c.Channel}, channel{dir.Other(), logical, c.Channel}
		switch c.Kind {
		case wire.OpenLogicalChannel:
			if c.Reliable {
				l.book.open(own).reliable = true
			}
			in.channel(base, i, l, func(bool) channel { return own })
		case wire.OpenLogicalChannelAck:
			in.channel(base, i, l, func(bool) channel { return other })
		case wire.OpenLogicalChannelReject:
			in.close(l, func(by channel) bool { return by == other })
		case wire.CloseLogicalChannel:
			in.close(l, func(by channel) bool { return by == own })
		case wire.EndSessionCommand:
			in.close(l, func(channel) bool { return true })
		case wire.CommunicationModeCommand, wire.CommunicationModeResponse:
			in.channel(base, i, l, func(bool) channel { return channel{dir, common, 0} })
		default:
			in.seeControl(base, i)
		}
	}
}

// seeControl notes the addresses of a control message that announces none.
func (in *inspection) seeControl(base, control int) {
	m := &in.desk.message
	for i := range m.Addresses {
		if a := &m.Addresses[i]; a.Control == control {
			in.see(base, a)
		}
	}
}

// channel announces what a control message opens. by is the channel, in the forward or the reverse direction.
func (in *inspection) channel(base, control int, l *leg, by func(reverse bool) channel) {
	m := &in.desk.message
	for i := range m.Addresses {
		a := &m.Addresses[i]
		if a.Control != control {
			continue
		}
		if !usable(a.Addr) || in.saidBack(a.Addr.Addr()) {
			in.see(base, a)
			continue
		}
		c := by(a.Reverse)
		switch a.Field {
		case wire.MediaChannel:
			if o := l.book.opened(c); o != nil && o.reliable {
				in.data(base, a, l, c, false)
				continue
			}
			partner := in.find(control, wire.MediaControlChannel, a.Reverse)
			in.media(base, a, l, c, "RTP", !partner.IsValid() || pair(a.Addr, partner))
			if !partner.IsValid() && a.Addr.Port()&1 == 0 { // RFC 3550, section 11
				in.implied(a.Addr, l, c)
			}
		case wire.MediaControlChannel:
			partner := in.find(control, wire.MediaChannel, a.Reverse)
			in.media(base, a, l, c, "RTCP", !partner.IsValid() || pair(a.Addr, partner))
			if c.opener == in.seg.Dir && in.third(a.Addr.Addr()) {
				l.book.open(c).from = a.Addr.Addr()
			}
		case wire.LocalAreaAddress:
			in.data(base, a, l, c, true)
		default:
			in.see(base, a)
		}
	}
}

// find is the first usable address of a field; invalid: there is none.
func (in *inspection) find(control int, field wire.Field, reverse bool) netip.AddrPort {
	m := &in.desk.message
	i := slices.IndexFunc(m.Addresses, func(a wire.Address) bool {
		return a.Control == control && a.Field == field && a.Reverse == reverse && usable(a.Addr)
	})
	if i < 0 {
		return netip.AddrPort{}
	}
	return m.Addresses[i].Addr
}

// pair tells whether the two have the ports of one pair of RTP and RTCP.
func pair(a, b netip.AddrPort) bool { return a.Addr() == b.Addr() && a.Port() == b.Port()^1 }

// media announces one address of RTP or RTCP.
func (in *inspection) media(base int, a *wire.Address, l *leg, by channel, note string, paired bool) {
	in.announce(base, a, in.stream(a.Addr, l, by, note, paired))
}

// data announces where a channel of data is connected to. T.120 has a connection for each link of T.123.
func (in *inspection) data(base int, a *wire.Address, l *leg, by channel, t120 bool) {
	x := helpers.Expectation{
		Class: classData, Transport: helpers.TCP, Owner: in.seg.Dir, From: netip.AddrPortFrom(in.reader(), 0), Permanent: t120,
		Group: l.group(l.book.part(use{by: by, owner: in.seg.Dir, transport: helpers.TCP, end: a.Addr})), Note: "data",
		Relayed: !in.own(a.Addr.Addr()),
	}
	if t120 {
		x.Note = "T.120"
	}
	in.announce(base, a, x)
}

// implied announces the RTCP that belongs to an RTP address that stands alone.
func (in *inspection) implied(rtp netip.AddrPort, l *leg, by channel) {
	to := netip.AddrPortFrom(rtp.Addr(), rtp.Port()|1)
	x := in.stream(to, l, by, "RTCP", true)
	x.To = to
	in.out.Expect = append(in.out.Expect, x)
}

func (in *inspection) stream(to netip.AddrPort, l *leg, by channel, note string, paired bool) helpers.Expectation {
	dir := in.seg.Dir
	from := netip.AddrPortFrom(in.reader(), 0)
	switch o := l.book.opened(by); {
	case in.all.options.Media == anyone:
		from = netip.AddrPort{}
	case o != nil && o.from.IsValid() && by.opener != dir:
		from = netip.AddrPortFrom(o.from, 0)
	}
	return helpers.Expectation{
		Class: classMedia, Transport: helpers.UDP, Owner: dir, From: from, Paired: paired,
		Group: l.group(l.book.part(use{by: by, owner: dir, transport: helpers.UDP, end: to})), Note: note,
		Relayed: !in.own(to.Addr()),
	}
}

// close takes back what nothing but the channels gone used.
func (in *inspection) close(l *leg, gone func(channel) bool) {
	l.book.close(gone, func(part uint32) { in.out.Cancel = append(in.out.Cancel, l.group(part)) })
}

// fastStart announces the proposals of the calling side, or what the called side has accepted of them.
func (in *inspection) fastStart(base int, l *leg, caller helpers.Dir) (any bool) {
	m := &in.desk.message
	dir := in.seg.Dir
	accepted, unknown := [8]uint32{}, false // sets of sessionID
	for i := range m.Controls {
		c := &m.Controls[i]
		if c.In != wire.FastStart {
			continue
		}
		any = true
		by := func(reverse bool) channel {
			if reverse {
				return channel{caller, fast, uint16(c.ReverseSession)}
			}
			return channel{caller, fast, uint16(c.Session)}
		}
		in.channel(base, i, l, by)
		for _, id := range []uint8{c.Session, c.ReverseSession} {
			accepted[id>>5] |= 1 << (id & 31)
		}
		unknown = unknown || c.Session == 0 && c.ReverseSession == 0
		if dir != caller {
			in.redirect(i, l, by)
		}
	}
	if any && dir != caller && !unknown {
		in.close(l, func(by channel) bool {
			return by.kind == fast && accepted[by.number>>5&7]&(1<<(by.number&31)) == 0
		})
	}
	return any
}

// redirect opens what the calling side has proposed for the host that will send, where the called side names another than
// itself: a gatekeeper that routes the signalling alone.
func (in *inspection) redirect(control int, l *leg, by func(reverse bool) channel) {
	m := &in.desk.message
	for i := range m.Addresses {
		a := &m.Addresses[i]
		if a.Control != control || !usable(a.Addr) || !in.third(a.Addr.Addr()) || in.all.options.Media == anyone {
			continue
		}
		c := by(a.Reverse)
		for _, u := range l.book.uses {
			if u.by != c || u.owner != c.opener || u.owner == in.seg.Dir {
				continue
			}
			x := helpers.Expectation{
				Class: classMedia, Transport: helpers.UDP, Owner: u.owner, From: netip.AddrPortFrom(a.Addr.Addr(), 0), To: u.end,
				Paired: true, Group: l.group(u.part), Note: "RTP",
			}
			if u.end.Port()&1 == 1 {
				x.Note = "RTCP"
			}
			in.out.Expect = append(in.out.Expect, x)
		}
		return
	}
}
