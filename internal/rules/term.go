package rules

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
)

// term is one piece of a rule, in both languages.
type term interface {
	text() string
	exprs(b *batch) []expression
}

const (
	helperNameLen = 16 // NF_CT_HELPER_NAME_LEN, with the NUL
	objectName    = "seqadj"
	nfDrop        = 0 // linux/netfilter.h
	nfAccept      = 1
)

// state is a bit of `ct state` (nft_ct.c: NF_CT_STATE_BIT of the packet's ctinfo).
type state uint32

const (
	stateEstablished state = 1 << 1
	stateRelated     state = 1 << 2
	stateNew         state = 1 << 3
)

type ctState state

func (t ctState) text() string {
	return "ct state " + flags(uint32(t),
		flag{uint32(stateEstablished), "established"}, flag{uint32(stateRelated), "related"}, flag{uint32(stateNew), "new"})
}

func (t ctState) exprs(*batch) []expression {
	return bits(unix.NFT_CT_STATE, uint32(t), unix.NFT_CMP_NEQ)
}

// ctStatus: one of these bits of the connection's status is set (enum ip_conntrack_status).
type ctStatus uint32

const (
	statusSrcNAT ctStatus = 1 << 4
	statusDstNAT ctStatus = 1 << 5
)

func (t ctStatus) text() string {
	return "ct status " + flags(uint32(t), flag{uint32(statusSrcNAT), "snat"}, flag{uint32(statusDstNAT), "dnat"})
}

func (t ctStatus) exprs(*batch) []expression {
	return bits(unix.NFT_CT_STATUS, uint32(t), unix.NFT_CMP_NEQ)
}

// ctZone: the connection is in this zone.
type ctZone uint16

func (t ctZone) text() string { return fmt.Sprintf("ct zone %d", uint16(t)) }

func (t ctZone) exprs(*batch) []expression {
	return []expression{loadCt(unix.NFT_CT_ZONE), equal(binary.NativeEndian.AppendUint16(nil, uint16(t)))}
}

type flag struct {
	bit  uint32
	name string
}

func flags(v uint32, names ...flag) string {
	var set []string
	for _, f := range names {
		if v&f.bit != 0 {
			set = append(set, f.name)
		}
	}
	return strings.Join(set, ",")
}

// bits compares what is set of mask with zero.
func bits(key, mask, op uint32) []expression {
	return []expression{loadCt(key), masked(binary.NativeEndian.AppendUint32(nil, mask)), compare(op, make([]byte, 4))}
}

// ctHelper: the connection was expected by a master with this helper (nft_ct reads the master's helper, not its own).
type ctHelper string

func (t ctHelper) text() string { return fmt.Sprintf("ct helper %q", string(t)) }

func (t ctHelper) exprs(*batch) []expression {
	name := make([]byte, helperNameLen)
	copy(name, t)
	return []expression{
		loadCt(unix.NFT_CT_HELPER),
		equal(name),
	}
}

// ctHelperPrefix: the same of a helper whose name begins so.
type ctHelperPrefix string

func (t ctHelperPrefix) text() string { return fmt.Sprintf("ct helper %q", string(t)+"*") }

func (t ctHelperPrefix) exprs(*batch) []expression {
	return []expression{loadCt(unix.NFT_CT_HELPER), equal([]byte(t))}
}

type l4proto helpers.Transport

func (t l4proto) text() string { return "meta l4proto " + helpers.Transport(t).String() }

func (t l4proto) exprs(*batch) []expression {
	return []expression{
		loadMeta(unix.NFT_META_L4PROTO),
		equal([]byte{byte(t)}),
	}
}

type l4protos []helpers.Transport

func (t l4protos) text() string {
	var names []string
	for _, p := range t {
		names = append(names, p.String())
	}
	return "meta l4proto { " + strings.Join(names, ", ") + " }"
}

func (t l4protos) exprs(b *batch) []expression {
	var keys [][]byte
	for _, p := range t {
		keys = append(keys, []byte{byte(p)})
	}
	return []expression{loadMeta(unix.NFT_META_L4PROTO), b.in(typeInetProto, keys)}
}

// portKey is one of the places where a port can be read.
type portKey struct {
	name string
	load expression
}

var (
	thSport         = portKey{"th sport", loadTransport(0, 2)}
	thDport         = portKey{"th dport", loadTransport(2, 2)}
	ctOriginalDport = portKey{"ct original proto-dst", loadCtDir(unix.NFT_CT_PROTO_DST, helpers.Original)}
	ctReplySport    = portKey{"ct reply proto-src", loadCtDir(unix.NFT_CT_PROTO_SRC, helpers.Reply)}
)

type ports struct {
	key portKey
	set []uint16
}

// sorted is the set as it is sent and printed: the kernel refuses an element that is there twice.
func (t ports) sorted() []uint16 {
	set := slices.Clone(t.set)
	slices.Sort(set)
	return slices.Compact(set)
}

func (t ports) text() string {
	set := t.sorted()
	if len(set) == 1 {
		return fmt.Sprintf("%s %d", t.key.name, set[0])
	}
	var s []string
	for _, p := range set {
		s = append(s, fmt.Sprint(p))
	}
	return t.key.name + " { " + strings.Join(s, ", ") + " }"
}

func (t ports) exprs(b *batch) []expression {
	var keys [][]byte
	for _, p := range t.sorted() {
		keys = append(keys, binary.BigEndian.AppendUint16(nil, p))
	}
	if len(keys) == 1 {
		return []expression{t.key.load, equal(keys[0])}
	}
	return []expression{t.key.load, b.in(typeInetService, keys)}
}

// above: the port is higher.
type above struct {
	key  portKey
	port uint16
}

func (t above) text() string { return fmt.Sprintf("%s > %d", t.key.name, t.port) }

func (t above) exprs(*batch) []expression {
	return []expression{t.key.load, compare(unix.NFT_CMP_GT, binary.BigEndian.AppendUint16(nil, t.port))}
}

// tcpDport is the destination port in the packet itself.
type tcpDport []uint16

func (t tcpDport) ports() ports { return ports{portKey{"tcp dport", thDport.load}, t} }
func (t tcpDport) text() string { return t.ports().text() }
func (t tcpDport) exprs(b *batch) []expression {
	return append(l4proto(helpers.TCP).exprs(b), t.ports().exprs(b)...)
}

// tcpNoSyn: a TCP segment without SYN (RFC 9293 section 3.1).
type tcpNoSyn struct{}

func (tcpNoSyn) text() string { return "tcp flags ! syn" }

func (tcpNoSyn) exprs(b *batch) []expression {
	return append(l4proto(helpers.TCP).exprs(b), tcpFlagSyn(unix.NFT_CMP_EQ)...)
}

// tcpSyn: a TCP segment with SYN, which says how long the other end's segments may be.
type tcpSyn struct{}

func (tcpSyn) text() string { return "tcp flags syn" }

func (tcpSyn) exprs(b *batch) []expression {
	return append(l4proto(helpers.TCP).exprs(b), tcpFlagSyn(unix.NFT_CMP_NEQ)...)
}

// tcpFlagSyn compares the flag SYN with zero.
func tcpFlagSyn(op uint32) []expression {
	const flags, syn = 13, 0x02
	return []expression{loadTransport(flags, 1), masked([]byte{syn}), compare(op, []byte{0})}
}

// maxSegment lowers the maximum segment size that a SYN says (RFC 9293 section 3.7.1), never raises it (nft_exthdr.c).
type maxSegment uint16

func (t maxSegment) text() string { return fmt.Sprintf("tcp option maxseg size set %d", uint16(t)) }

func (t maxSegment) exprs(*batch) []expression {
	return []expression{immediate(binary.BigEndian.AppendUint16(nil, uint16(t))), setTCPOption(2, 2, 2)}
}

// oifLo: the packet leaves by lo, whose index is 1 in every network namespace (LOOPBACK_IFINDEX).
type oifLo struct{}

func (oifLo) text() string { return `oif "lo"` }

func (oifLo) exprs(*batch) []expression {
	return []expression{
		loadMeta(unix.NFT_META_OIF),
		equal(binary.NativeEndian.AppendUint32(nil, 1)),
	}
}

// before holds until a time of the machine's clock.
type before time.Time

func (t before) text() string {
	return fmt.Sprintf("meta time < %q", time.Time(t).UTC().Format(time.DateTime))
}

func (t before) exprs(*batch) []expression {
	const timeNS = 30 // NFT_META_TIME_NS, a number of 64 bits in the machine's byte order
	return []expression{
		loadMeta(timeNS), bigEndian(8),
		compare(unix.NFT_CMP_LT, binary.BigEndian.AppendUint64(nil, uint64(time.Time(t).UnixNano()))),
	}
}

type counter struct{}

func (counter) text() string              { return "counter" }
func (counter) exprs(*batch) []expression { return []expression{count()} }

type accept struct{}

func (accept) text() string              { return "accept" }
func (accept) exprs(*batch) []expression { return []expression{verdict(nfAccept, "")} }

type drop struct{}

func (drop) text() string              { return "drop" }
func (drop) exprs(*batch) []expression { return []expression{verdict(nfDrop, "")} }

type jump string

func (t jump) text() string { return "jump " + string(t) }
func (t jump) exprs(*batch) []expression {
	return []expression{verdict(unix.NFT_JUMP, string(t))}
}

// goTo is a jump from which nothing comes back.
type goTo string

func (t goTo) text() string              { return "goto " + string(t) }
func (t goTo) exprs(*batch) []expression { return []expression{verdict(unix.NFT_GOTO, string(t))} }

// expectObject sets the table's ct expectation object.
type expectObject struct{}

func (expectObject) text() string { return fmt.Sprintf("ct expectation set %q", objectName) }

func (expectObject) exprs(*batch) []expression {
	return []expression{reference(unix.NFT_OBJECT_CT_EXPECT, objectName)}
}

// queue hands the packet to user space. It ends the way through this chain; the packet comes back behind it.
type queue struct {
	first, total uint16
	bypass       bool
}

func (t queue) text() string {
	s := fmt.Sprintf("queue num %d", t.first)
	if t.total > 1 {
		s += fmt.Sprintf("-%d", int(t.first)+int(t.total)-1)
	}
	if t.bypass {
		s += " bypass"
	}
	return s
}

func (t queue) exprs(b *batch) []expression {
	if b.xtQueue {
		return []expression{xtQueue(t.first, t.total, t.bypass)}
	}
	return []expression{nftQueue(t.first, t.total, t.bypass)}
}
