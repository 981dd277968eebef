package flows

import (
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
)

// TextOptions are what conntrack(8) can show beside, and what its lines of events begin with.
type TextOptions struct {
	Event      Kind                 // New, Update, Destroy (conntrack -E); 0: none
	Layer3     bool                 // -o extended
	ID         bool                 // -o id
	Timestamps bool                 // -o ktimestamp
	Labels     func(bit int) string // -o labels: names of labels, "" if a label has none; nil: not shown
	Now        time.Time            // until when delta-time goes; zero: now
}

// AppendText appends f as conntrack -L shows it, without a newline. The error is nil (encoding.TextAppender).
func (f *Flow) AppendText(dst []byte) ([]byte, error) {
	return f.AppendFormat(dst, &TextOptions{}), nil
}

// String is the line of conntrack -L.
func (f *Flow) String() string { return string(f.AppendFormat(nil, &TextOptions{})) }

// AppendFormat appends f as conntrack(8) shows it, byte for byte, without a newline (libnetfilter_conntrack 1.0.9).
func (f *Flow) AppendFormat(dst []byte, o *TextOptions) []byte {
	switch o.Event {
	case New:
		dst = append(dst, "    [NEW] "...)
	case Update:
		dst = append(dst, " [UPDATE] "...)
	case Destroy:
		dst = append(dst, "[DESTROY] "...)
	}
	if o.Layer3 {
		dst = appendNumbered(dst, FamilyName(f.Orig.Src.Addr()), uint64(f.Family()))
	}
	dst = appendNumbered(dst, TransportName(f.Transport), uint64(f.Transport))
	if f.Has&HasTimeout != 0 {
		dst = append(strconv.AppendUint(dst, uint64(f.Timeout), 10), ' ')
	}
	if f.Has&HasState != 0 {
		if name := f.StateName(); name != "" {
			dst = append(append(dst, name...), ' ')
		}
	}
	dst = f.appendDir(dst, helpers.Original, "zone-orig=", ZoneOrig)
	if f.Has&HasStatus != 0 && f.Status&StatusSeenReply == 0 {
		dst = append(dst, "[UNREPLIED] "...)
	}
	dst = f.appendDir(dst, helpers.Reply, "zone-reply=", ZoneReply)
	switch {
	case f.Status&StatusHWOffload != 0:
		dst = append(dst, "[HW_OFFLOAD] "...)
	case f.Status&StatusOffload != 0:
		dst = append(dst, "[OFFLOAD] "...)
	case f.Status&StatusAssured != 0:
		dst = append(dst, "[ASSURED] "...)
	}
	if f.Has&HasMark != 0 {
		dst = appendNumber(dst, "mark=", uint64(f.Mark))
	}
	if f.Has&HasSecctx != 0 {
		dst = append(append(append(dst, "secctx="...), f.Secctx...), ' ')
	}
	if f.Zone != 0 && f.ZoneDir == ZoneBoth {
		dst = appendNumber(dst, "zone=", uint64(f.Zone))
	}
	if f.Has&HasTimestamp != 0 {
		dst = f.appendTimes(dst, o)
	}
	if f.Helper != "" {
		dst = append(append(append(dst, "helper="...), f.Helper...), ' ')
	}
	if f.Has&HasUse != 0 {
		dst = appendNumber(dst, "use=", uint64(f.Use))
	}
	if o.ID && f.Has&HasID != 0 {
		dst = appendNumber(dst, "id=", uint64(f.ID))
	}
	if o.Labels != nil && f.Has&HasLabels != 0 {
		dst = f.appendLabels(dst, o.Labels)
	}
	return dst[:len(dst)-1]
}

// appendDir appends one direction: addresses, what stands in the place of ports, its zone, its counters.
func (f *Flow) appendDir(dst []byte, d helpers.Dir, zone string, in ZoneDir) []byte {
	t := &f.Orig
	if d == helpers.Reply {
		t = &f.Reply
	}
	dst = AppendTuple(dst, f.Transport, t)
	if f.ZoneDir == in {
		dst = appendNumber(dst, zone, uint64(f.Zone))
	}
	if f.Has&HasCounters != 0 {
		dst = appendNumber(dst, "packets=", f.Counters[d].Packets)
		dst = appendNumber(dst, "bytes=", f.Counters[d].Bytes)
	}
	return dst
}

// AppendTuple appends a tuple as conntrack(8) shows it, with a space behind.
func AppendTuple(dst []byte, tr helpers.Transport, t *helpers.Tuple) []byte {
	dst = append(AppendAddr(append(dst, "src="...), t.Src.Addr()), ' ')
	dst = append(AppendAddr(append(dst, "dst="...), t.Dst.Addr()), ' ')
	switch tr {
	case helpers.TCP, helpers.UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP:
		dst = appendNumber(dst, "sport=", uint64(t.Src.Port()))
		dst = appendNumber(dst, "dport=", uint64(t.Dst.Port()))
	case unix.IPPROTO_GRE:
		dst = append(strconv.AppendUint(append(dst, "srckey=0x"...), uint64(t.Src.Port()), 16), ' ')
		dst = append(strconv.AppendUint(append(dst, "dstkey=0x"...), uint64(t.Dst.Port()), 16), ' ')
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		typ, code, id := ICMP(*t)
		dst = appendNumber(dst, "type=", uint64(typ))
		dst = appendNumber(dst, "code=", uint64(code))
		dst = appendNumber(dst, "id=", uint64(id))
	}
	return dst
}

// AppendAddr appends an address as inet_ntop(3) writes it, which has the last four bytes of ::a.b.c.d in decimal.
func AppendAddr(dst []byte, a netip.Addr) []byte {
	if a.Is6() {
		b := a.As16()
		if [12]byte(b[:12]) == [12]byte{} && (b[12]|b[13]) != 0 {
			return netip.AddrFrom4([4]byte(b[12:])).AppendTo(append(dst, "::"...))
		}
	}
	return a.AppendTo(dst)
}

// appendTimes appends how long f has been there and, if wanted, its times, as ctime(3) writes them.
func (f *Flow) appendTimes(dst []byte, o *TextOptions) []byte {
	if f.Start.IsZero() {
		return dst
	}
	end := f.Stop
	if end.IsZero() {
		if end = o.Now; end.IsZero() {
			end = time.Now()
		}
	}
	dst = appendNumber(dst, "delta-time=", uint64(end.Unix()-f.Start.Unix()))
	if !o.Timestamps {
		return dst
	}
	dst = append(f.Start.Local().AppendFormat(append(dst, "[start="...), time.ANSIC), "] "...)
	if !f.Stop.IsZero() {
		dst = append(f.Stop.Local().AppendFormat(append(dst, "[stop="...), time.ANSIC), "] "...)
	}
	return dst
}

// appendLabels appends the names of f's labels. Where none of them has a name, conntrack(8) cuts off the sign before.
func (f *Flow) appendLabels(dst []byte, names func(bit int) string) []byte {
	dst = append(dst, "labels="...)
	for bit := range 8 * len(f.Labels) {
		if !f.Labels.Has(bit) {
			continue
		}
		if name := names(bit); name != "" {
			dst = append(append(dst, name...), ',')
		}
	}
	dst[len(dst)-1] = ' '
	return dst
}

// appendNumbered appends a name in 8 columns and its number.
func appendNumbered(dst []byte, name string, n uint64) []byte {
	dst = append(dst, name...)
	for i := len(name); i < 8; i++ {
		dst = append(dst, ' ')
	}
	return append(strconv.AppendUint(append(dst, ' '), n, 10), ' ')
}

func appendNumber(dst []byte, key string, n uint64) []byte {
	return append(strconv.AppendUint(append(dst, key...), n, 10), ' ')
}

// FamilyName is conntrack(8)'s name of an address's family.
func FamilyName(a netip.Addr) string {
	if a.Is6() {
		return "ipv6"
	}
	return "ipv4"
}

// TransportName is conntrack(8)'s name of an IP protocol; of most it has none.
func TransportName(tr helpers.Transport) string {
	switch tr {
	case helpers.TCP:
		return "tcp"
	case helpers.UDP:
		return "udp"
	case unix.IPPROTO_UDPLITE:
		return "udplite"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "icmpv6"
	case unix.IPPROTO_SCTP:
		return "sctp"
	case unix.IPPROTO_GRE:
		return "gre"
	case unix.IPPROTO_DCCP:
		return "dccp"
	}
	return "unknown"
}

// States of a TCP connection (enum tcp_conntrack).
const (
	TCPNone uint8 = iota
	TCPSynSent
	TCPSynReceived
	TCPEstablished
	TCPFinWait
	TCPCloseWait
	TCPLastAck
	TCPTimeWait
	TCPClose
	TCPSynSent2 // both ends have sent a SYN
)

// StateNames are conntrack(8)'s names of a transport's states, by their numbers; nil: it has none.
func StateNames(tr helpers.Transport) []string {
	switch tr {
	case helpers.TCP:
		return tcpStates[:]
	case unix.IPPROTO_SCTP: // enum sctp_conntrack
		return sctpStates[:]
	case unix.IPPROTO_DCCP: // enum ct_dccp_states
		return dccpStates[:]
	}
	return nil
}

var (
	tcpStates = [...]string{
		"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
	}
	sctpStates = [...]string{
		"NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT",
		"HEARTBEAT_SENT", "HEARTBEAT_ACKED",
	}
	dccpStates = [...]string{
		"NONE", "REQUEST", "RESPOND", "PARTOPEN", "OPEN", "CLOSEREQ", "CLOSING", "TIMEWAIT", "IGNORE", "INVALID",
	}
)

// StateName is conntrack(8)'s name of State: NONE for one that it does not know, "" for a transport without.
func (f *Flow) StateName() string {
	names := StateNames(f.Transport)
	switch {
	case names == nil:
		return ""
	case int(f.State) < len(names):
		return names[f.State]
	}
	return names[0]
}
