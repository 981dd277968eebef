package rules

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
)

// term is one piece of a rule, in both languages.
type term interface {
	text() string
	exprs(b *builder) []expr.Any
}

const (
	reg           = 1  // the register that all terms use (NFT_REG_1)
	helperNameLen = 16 // NF_CT_HELPER_NAME_LEN, with the NUL
	objectName    = "seqadj"
	// NFTA_CT_DIRECTION is one byte. The library sends four, of which the kernel reads the first.
	dirOriginal = 0       // IP_CT_DIR_ORIGINAL
	dirReply    = 1 << 24 // IP_CT_DIR_REPLY
)

type state uint32

const (
	stateEstablished = state(expr.CtStateBitESTABLISHED)
	stateRelated     = state(expr.CtStateBitRELATED)
	stateNew         = state(expr.CtStateBitNEW)
)

type ctState state

func (t ctState) text() string {
	return "ct state " + flags(uint32(t), flag{uint32(stateEstablished), "established"}, flag{uint32(stateRelated), "related"}, flag{uint32(stateNew), "new"})
}

func (t ctState) exprs(*builder) []expr.Any { return bits(expr.CtKeySTATE, uint32(t), expr.CmpOpNeq) }

// Bits of the connection's status (linux/netfilter/nf_conntrack_common.h, IPS_SRC_NAT and IPS_DST_NAT).
const (
	statusSNAT = 1 << 4
	statusDNAT = 1 << 5
)

// ctStatusNone: none of the bits is set.
type ctStatusNone uint32

func (t ctStatusNone) text() string {
	return "ct status ! " + flags(uint32(t), flag{statusSNAT, "snat"}, flag{statusDNAT, "dnat"})
}

func (t ctStatusNone) exprs(*builder) []expr.Any {
	return bits(expr.CtKeySTATUS, uint32(t), expr.CmpOpEq)
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

func bits(key expr.CtKey, mask uint32, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: reg, Key: key},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: reg, Data: make([]byte, 4)},
	}
}

// ctHelper: the connection was expected by a master with this helper (nft_ct reads the master's helper, not its own).
type ctHelper string

func (t ctHelper) text() string { return fmt.Sprintf("ct helper %q", string(t)) }

func (t ctHelper) exprs(*builder) []expr.Any {
	name := make([]byte, helperNameLen)
	copy(name, t)
	return []expr.Any{
		&expr.Ct{Register: reg, Key: expr.CtKeyHELPER},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: name},
	}
}

type l4proto helpers.Transport

func (t l4proto) text() string { return "meta l4proto " + helpers.Transport(t).String() }

func (t l4proto) exprs(*builder) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{byte(t)}},
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

func (t l4protos) exprs(b *builder) []expr.Any {
	var keys [][]byte
	for _, p := range t {
		keys = append(keys, []byte{byte(p)})
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, b.in(nftables.TypeInetProto, keys)}
}

// portKey is one of the places where a port can be read.
type portKey struct {
	name string
	load expr.Any
}

var (
	thSport         = portKey{"th sport", &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2}}
	thDport         = portKey{"th dport", &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
	ctOriginalDport = portKey{"ct original proto-dst", &expr.Ct{Register: reg, Key: expr.CtKeyPROTODST, Direction: dirOriginal}}
	ctReplySport    = portKey{"ct reply proto-src", &expr.Ct{Register: reg, Key: expr.CtKeyPROTOSRC, Direction: dirReply}}
)

type ports struct {
	key portKey
	set []uint16
}

func anyPort0(k portKey) term { return ports{k, []uint16{0}} }

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

func (t ports) exprs(b *builder) []expr.Any {
	var keys [][]byte
	for _, p := range t.sorted() {
		keys = append(keys, binaryutil.BigEndian.PutUint16(p))
	}
	if len(keys) == 1 {
		return []expr.Any{t.key.load, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: keys[0]}}
	}
	return []expr.Any{t.key.load, b.in(nftables.TypeInetService, keys)}
}

// tcpDport is the destination port in the packet itself.
type tcpDport []uint16

func (t tcpDport) ports() ports { return ports{portKey{"tcp dport", thDport.load}, t} }
func (t tcpDport) text() string { return t.ports().text() }
func (t tcpDport) exprs(b *builder) []expr.Any {
	return append(l4proto(helpers.TCP).exprs(b), t.ports().exprs(b)...)
}

// oifLo: the packet leaves by lo, whose index is 1 in every network namespace (LOOPBACK_IFINDEX).
type oifLo struct{}

func (oifLo) text() string { return `oif "lo"` }

func (oifLo) exprs(*builder) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIF, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binaryutil.NativeEndian.PutUint32(1)},
	}
}

type counter struct{}

func (counter) text() string              { return "counter" }
func (counter) exprs(*builder) []expr.Any { return []expr.Any{&expr.Counter{}} }

type accept struct{}

func (accept) text() string              { return "accept" }
func (accept) exprs(*builder) []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

type drop struct{}

func (drop) text() string              { return "drop" }
func (drop) exprs(*builder) []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

type jump string

func (t jump) text() string { return "jump " + string(t) }
func (t jump) exprs(*builder) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: string(t)}}
}

// expectObject sets the table's ct expectation object.
type expectObject struct{}

func (expectObject) text() string { return fmt.Sprintf("ct expectation set %q", objectName) }

func (expectObject) exprs(*builder) []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_CT_EXPECT, Name: objectName}}
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

func (t queue) exprs(b *builder) []expr.Any {
	if b.xtQueue {
		// struct xt_NFQ_info_v3 (linux/netfilter/xt_NFQUEUE.h), padded to 8 bytes.
		const nfqFlagBypass = 1
		info := make(xt.Unknown, 8)
		binary.NativeEndian.PutUint16(info[0:], t.first)
		binary.NativeEndian.PutUint16(info[2:], t.total)
		if t.bypass {
			binary.NativeEndian.PutUint16(info[4:], nfqFlagBypass)
		}
		return []expr.Any{&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}}
	}
	q := &expr.Queue{Num: t.first, Total: t.total}
	if t.bypass {
		q.Flag = expr.QueueFlagBypass
	}
	return []expr.Any{q}
}
