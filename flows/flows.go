package flows

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Flow is an entry of the connection table. In the place of ports GRE has its keys; ICMP has its id as the source's port
// and type<<8|code as the destination's (as union nf_conntrack_man_proto); protocols without any have 0.
type Flow struct {
	Transport       helpers.Transport // any IP protocol
	Orig, Reply     helpers.Tuple     // without NAT Reply is Orig turned round
	MasterTransport helpers.Transport
	Master          helpers.Tuple // original tuple of the connection that this one was expected by; zero: none
	Zone            uint16        // of both directions, or of the one that ZoneDir says
	ZoneDir         ZoneDir
	Mark            uint32
	Status          Status
	Timeout         uint32 // seconds from now
	ID, Use         uint32 // Use is the number of references
	Helper          string // of the connection itself
	Secctx          string // security context
	Labels          Labels
	Counters        [2]Counter // by helpers.Dir; with nf_conntrack_acct
	Start, Stop     time.Time  // with nf_conntrack_timestamp; Stop when it is gone
	State           uint8      // TCPEstablished and others; enum sctp_conntrack, ct_dccp_states: StateName
	TCPFlags        [2]uint8   // by helpers.Dir: IP_CT_TCP_FLAG_*
	TCPScale        [2]uint8   // by helpers.Dir: window scale
	SCTPTags        [2]uint32  // by helpers.Dir: verification tags
	DCCPRole        uint8      // enum ct_dccp_roles
	Handshake       uint64     // DCCP's handshake sequence number
	Adjusted        bool       // Adjust is shown
	Adjust          [2]SeqAdj  // sequence adjustment by helpers.Dir
	Has             Fields     // which of the fields that need not be there the kernel has shown
}

// Fields is a set of fields of a Flow that need not be there.
type Fields uint16

// Fields of a Flow.
const (
	HasStatus    = Fields(nfnl.ShownStatus)
	HasTimeout   = Fields(nfnl.ShownTimeout) // not if a flow table forwards its packets, and not when it is gone
	HasMark      = Fields(nfnl.ShownMark)
	HasUse       = Fields(nfnl.ShownUse)
	HasID        = Fields(nfnl.ShownID)
	HasCounters  = Fields(nfnl.ShownCounters)  // nf_conntrack_acct=1 when it began
	HasTimestamp = Fields(nfnl.ShownTimestamp) // nf_conntrack_timestamp=1 when it began
	HasSecctx    = Fields(nfnl.ShownSecctx)
	HasLabels    = Fields(nfnl.ShownLabels)
	HasHelper    = Fields(nfnl.ShownHelper)
	HasState     = Fields(nfnl.ShownProtoInfo) // State and what else the transport adds
)

// Status is a set of bits (enum ip_conntrack_status).
type Status uint32

// Bits of a Status.
const (
	StatusExpected     Status = nfnl.StatusExpected     // it was expected
	StatusSeenReply    Status = nfnl.StatusSeenReply    // both directions have been seen
	StatusAssured      Status = nfnl.StatusAssured      // a full table does not drop it
	StatusConfirmed    Status = nfnl.StatusConfirmed    // it is in the table
	StatusSrcNAT       Status = nfnl.StatusSrcNAT       // its source is changed
	StatusDstNAT       Status = nfnl.StatusDstNAT       // its destination is changed
	StatusSeqAdjust    Status = nfnl.StatusSeqAdjust    // its sequence numbers are adjusted
	StatusSrcNATDone   Status = nfnl.StatusSrcNATDone   // translation of the source was decided
	StatusDstNATDone   Status = nfnl.StatusDstNATDone   // and of the destination
	StatusDying        Status = nfnl.StatusDying        // it is being removed
	StatusFixedTimeout Status = nfnl.StatusFixedTimeout // packets do not prolong it
	StatusTemplate     Status = nfnl.StatusTemplate
	StatusNATClash     Status = nfnl.StatusNATClash
	StatusHelper       Status = nfnl.StatusHelper    // its helper was given by a rule
	StatusOffload      Status = nfnl.StatusOffload   // a flow table forwards its packets
	StatusHWOffload    Status = nfnl.StatusHWOffload // in hardware
)

// ZoneDir says which tuple of an entry is in its zone; the other one is in zone 0 (nf_conntrack_zone.dir).
type ZoneDir uint8

// Directions of a zone.
const (
	ZoneBoth  = ZoneDir(nfnl.ZoneBoth)
	ZoneOrig  = ZoneDir(nfnl.ZoneOrig)  // nft: ct original zone set
	ZoneReply = ZoneDir(nfnl.ZoneReply) // nft: ct reply zone set
)

// Counter is what has passed in one direction.
type Counter struct{ Packets, Bytes uint64 }

// Labels are the 128 connlabels of an entry.
type Labels [16]byte

// Has says whether label bit is set.
func (l *Labels) Has(bit int) bool { return l[bit/8]>>(bit%8)&1 != 0 }

// Set sets label bit, 0 to 127.
func (l *Labels) Set(bit int) { l[bit/8] |= 1 << (bit % 8) }

// SeqAdj is the sequence adjustment of one direction (struct nf_ct_seqadj): segments behind Pos are moved by After,
// others by Before.
type SeqAdj struct {
	Pos           uint32
	Before, After int32
}

// Family is unix.AF_INET or unix.AF_INET6.
func (f *Flow) Family() uint8 { return nfnl.Family(f.Orig.Src.Addr()) }

// Expected says whether the connection was expected (IPS_EXPECTED).
func (f *Flow) Expected() bool { return f.Status&StatusExpected != 0 }

// Confirmed says whether it is in the table (IPS_CONFIRMED); a first packet's is not until that leaves.
func (f *Flow) Confirmed() bool { return f.Status&StatusConfirmed != 0 }

// Established says whether both ends of a TCP connection have spoken, and none has ended.
func (f *Flow) Established() bool {
	return f.Transport == helpers.TCP && f.State == TCPEstablished
}

// Translated says whether a NAT changes its addresses or ports.
func (f *Flow) Translated() bool { return f.Orig != f.turned(f.Reply) }

// turned is the tuple of t's answers without NAT.
func (f *Flow) turned(t helpers.Tuple) helpers.Tuple {
	if !isICMP(f.Transport) {
		return t.Turned()
	}
	return helpers.Tuple{
		Src: netip.AddrPortFrom(t.Dst.Addr(), t.Src.Port()),
		Dst: netip.AddrPortFrom(t.Src.Addr(), icmpAnswer(f.Transport, t.Dst.Port())),
	}
}

// ICMP is the type, code and id of an ICMP tuple, of Orig or Reply.
func ICMP(t helpers.Tuple) (typ, code uint8, id uint16) {
	return uint8(t.Dst.Port() >> 8), uint8(t.Dst.Port()), t.Src.Port()
}

func isICMP(tr helpers.Transport) bool { return tr == unix.IPPROTO_ICMP || tr == unix.IPPROTO_ICMPV6 }

// icmpAnswer turns a type and code into the one that answers it, both ways (icmp_invert_tuple, icmpv6_invert_tuple).
func icmpAnswer(tr helpers.Transport, typeCode uint16) uint16 {
	pairs := [][2]uint8{{8, 0}, {13, 14}, {15, 16}, {17, 18}} // echo, timestamp, information, address mask
	if tr == unix.IPPROTO_ICMPV6 {
		pairs = [][2]uint8{{128, 129}, {139, 140}} // echo, node information
	}
	for _, p := range pairs {
		switch uint8(typeCode >> 8) {
		case p[0]:
			return uint16(p[1])<<8 | typeCode&0xff
		case p[1]:
			return uint16(p[0])<<8 | typeCode&0xff
		}
	}
	return typeCode
}

// flow is an entry as nfnl reads it.
func flow(c *nfnl.Connection) Flow {
	f := Flow{
		Transport: helpers.Transport(c.Orig.Proto), Orig: cooked(&c.Orig), Reply: cooked(&c.Reply),
		Zone: c.Zone, ZoneDir: ZoneDir(c.ZoneDir), Mark: c.Mark, Status: Status(c.Status), Timeout: c.Timeout,
		ID: c.ID, Use: c.Use, Helper: c.Helper, Secctx: c.Secctx, Labels: c.Labels,
		Counters: [2]Counter{Counter(c.Counters[0]), Counter(c.Counters[1])},
		State:    c.State, TCPFlags: c.TCPFlags, TCPScale: c.TCPScale, SCTPTags: c.SCTPTags,
		DCCPRole: c.DCCPRole, Handshake: c.Handshake,
		Adjusted: c.Adjusted, Adjust: [2]SeqAdj{SeqAdj(c.Adjust[0]), SeqAdj(c.Adjust[1])},
		Has: Fields(c.Shown),
	}
	if c.Start != 0 {
		f.Start = time.Unix(0, int64(c.Start))
	}
	if c.Stop != 0 {
		f.Stop = time.Unix(0, int64(c.Stop))
	}
	if c.Expected {
		f.MasterTransport, f.Master = helpers.Transport(c.Master.Proto), cooked(&c.Master)
	}
	return f
}

func cooked(t *nfnl.Tuple) helpers.Tuple {
	return helpers.Tuple{Src: netip.AddrPortFrom(t.Src, t.SrcPort), Dst: netip.AddrPortFrom(t.Dst, t.DstPort)}
}

func raw(tr helpers.Transport, t helpers.Tuple) nfnl.Tuple {
	return nfnl.Tuple{
		Src: t.Src.Addr(), SrcPort: t.Src.Port(), Dst: t.Dst.Addr(), DstPort: t.Dst.Port(), Proto: uint8(tr),
	}
}
