package expect

import (
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// natFollowMaster is the function that translates the expected connection as its master is (nf_nat_follow_master). It
// reads the master's addresses and the port saved in the expectation.
const natFollowMaster = "nat-follow-master"

var (
	any4, all4 = netip.AddrFrom4([4]byte{}), netip.AddrFrom4([4]byte{255, 255, 255, 255})
	any6, all6 = netip.IPv6Unspecified(), netip.AddrFrom16([16]byte{
		255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
	})
)

// Compile is what the kernel is told for q, hanging on the master with the original tuple master. It is pure. What it
// makes is nf_ct_expect_init's and nf_nat_ftp's: the source may be left open, the destination is always exact.
func Compile(q *Request, master nfnl.Tuple, class uint8) (e nfnl.Expectation) {
	compile(&e, q, &master, class)
	return e
}

func compile(e *nfnl.Expectation, q *Request, master *nfnl.Tuple, class uint8) {
	none, all := any6, all6
	if q.At.Addr().Is4() {
		none, all = any4, all4
	}
	*e = nfnl.Expectation{} // what it has is set in place: it is large
	e.Master, e.Timeout, e.Zone, e.Class = *master, seconds(q.Timeout), q.Master.Zone, uint32(class)
	t, m := &e.Tuple, &e.Mask
	t.Src, t.SrcPort, t.Dst, t.DstPort, t.Proto = q.From.Addr(), q.From.Port(), q.At.Addr(), q.At.Port(), uint8(q.Transport)
	m.Src, m.SrcPort, m.Dst, m.DstPort, m.Proto = all, math.MaxUint16, all, math.MaxUint16, uint8(q.Transport)
	if !q.From.Addr().IsValid() || q.From.Addr().IsUnspecified() {
		e.Tuple.Src, e.Mask.Src = none, none
	}
	if q.From.Port() == 0 {
		e.Mask.SrcPort = 0
	}
	if q.Permanent {
		e.Flags = nfnl.ExpectPermanent
	}
	if q.NAT {
		e.NAT, e.Function = true, natFollowMaster
		e.NATDir = uint32(q.Toward)
		e.NATTuple = nfnl.Tuple{
			Src: q.To.Addr(), SrcPort: q.To.Port(), Dst: q.At.Addr(), DstPort: q.At.Port(), Proto: uint8(q.Transport),
		}
	}
}

// shadowOf is the entry that q's expectations hang on: the addresses of its master, and port 0 where the server's is,
// so that no packet meets it. carrier is the protocol of the helper on it. Connections that are read have one of their own
// (reading): at its first port, so that it is the same one after a restart, whichever of the two is made first.
func shadowOf(m *Master, carrier uint8, reading bool) (orig, reply nfnl.Tuple) {
	orig = nfnl.Tuple{Src: m.Orig.Src.Addr(), SrcPort: m.Orig.Src.Port(), Dst: m.Orig.Dst.Addr(), Proto: carrier}
	reply = nfnl.Tuple{Src: m.Reply.Src.Addr(), Dst: m.Reply.Dst.Addr(), DstPort: m.Reply.Dst.Port(), Proto: carrier}
	if reading {
		orig.SrcPort ^= far
		reply.DstPort ^= far
	}
	return orig, reply
}

// far sets the ports of shadows for connections that are read apart from the others'.
const far = 1 << 15

// Stands tells whether a shadow with the source port shadow may be one of a connection with the source port port, and how
// many of that connection's come before it: the ports of its shadows go up from its own.
func Stands(shadow, port uint16) (before uint16, ok bool) {
	before = min(shadow-port, (shadow^far)-port)
	return before, before < maxShadows
}

// seconds rounds up: an expectation must not end before its time.
func seconds(d time.Duration) uint32 { return uint32((d + time.Second - 1) / time.Second) }

// Label is what rules match on connections that a helper led to, where the kernel has objects of our own.
func Label(helper string) string { return "cth-" + helper }

// Reading is what rules match on connections that were announced for a helper to read.
func Reading(helper string) string { return "ctc-" + helper }

// HelperOf is the helper that a kernel helper's name is a label of; empty: it is none of ours.
func HelperOf(label string) string {
	for _, prefix := range []string{Label(""), Reading("")} {
		if helper, ok := strings.CutPrefix(label, prefix); ok {
			return helper
		}
	}
	return ""
}

// isLabel tells whether a kernel helper's name is a label of ours.
func isLabel(name string) bool { return HelperOf(name) != "" }
