package where

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

// Field is a name that expressions may use.
type Field struct {
	Name, Help string
	Needs      Need
	kind       kind
	get        func(*entry) ref.Val
}

// Need is the setting of the kernel without which a field is always zero.
type Need uint8

// What fields need.
const (
	NeedsNothing    Need = iota
	NeedsAccounting      // net.netfilter.nf_conntrack_acct
	NeedsTimestamps      // net.netfilter.nf_conntrack_timestamp
)

// kind is what values a field takes, where that is less than its type allows.
type kind uint8

const (
	number kind = iota
	truth
	word
	address
	protocol
	family
	zoneDir
	state
	status // a list
	labels // a list
)

func (k kind) cel() *cel.Type {
	switch k {
	case number:
		return cel.IntType
	case truth:
		return cel.BoolType
	case status, labels:
		return cel.ListType(cel.StringType)
	}
	return cel.StringType
}

// entry is a flow and what its fields are made with.
type entry struct {
	*flows.Flow
	labels *names.Labels
	now    time.Time
}

// fields are all there are, in the order in which they are explained.
func fields() []Field {
	list := []Field{
		{"proto", "protocol: tcp, udp, icmp …, or its number in quotes", 0, protocol, func(e *entry) ref.Val {
			return types.String(names.Protocol(uint8(e.Transport)))
		}},
		{"family", "ipv4 or ipv6", 0, family, func(e *entry) ref.Val { return types.String(flows.FamilyName(e.Orig.Src.Addr())) }},
		{"state", "state of TCP, SCTP or DCCP: ESTABLISHED …; empty for others", 0, state, func(e *entry) ref.Val {
			return types.String(State(e.Flow))
		}},
		{"status", `list: "ASSURED" in status`, 0, status, func(e *entry) ref.Val { return words(names.Status(uint32(e.Status))) }},
		{"labels", `list of names, or numbers in quotes: "web" in labels`, 0, labels, func(e *entry) ref.Val {
			return words(e.labels.Names(&e.Labels))
		}},
		{"helper", "name of the helper", 0, word, func(e *entry) ref.Val { return types.String(e.Helper) }},
		{"mark", "mark; mark.masked(0xff) is a part of it", 0, number, func(e *entry) ref.Val { return types.Int(e.Mark) }},
		{"zone", "zone of both directions or of one", 0, number, func(e *entry) ref.Val { return types.Int(e.Zone) }},
		{"zonedir", "which directions are in the zone: both, original or reply", 0, zoneDir, func(e *entry) ref.Val {
			return types.String(ZoneDir(e.Flow))
		}},
		{"timeout", "seconds until it ends", 0, number, func(e *entry) ref.Val { return types.Int(e.Timeout) }},
		{"age", "seconds since it began", NeedsTimestamps, number, func(e *entry) ref.Val {
			return types.Int(Age(e.Flow, e.now) / time.Second)
		}},
		{"bytes", "bytes of both directions", NeedsAccounting, number, func(e *entry) ref.Val {
			return types.Int(e.Counters[0].Bytes + e.Counters[1].Bytes)
		}},
		{"packets", "packets of both directions", NeedsAccounting, number, func(e *entry) ref.Val {
			return types.Int(e.Counters[0].Packets + e.Counters[1].Packets)
		}},
		{"id", "number of the entry", 0, number, func(e *entry) ref.Val { return types.Int(e.ID) }},
		{"secctx", "security context", 0, word, func(e *entry) ref.Val { return types.String(e.Secctx) }},
		{"related", "another connection announced it", 0, truth, bit(flows.StatusExpected)},
		{"replied", "an answer was seen", 0, truth, bit(flows.StatusSeenReply)},
		{"assured", "it does not make room when the table is full", 0, truth, bit(flows.StatusAssured)},
		{"fixed", "its timeout is fixed", 0, truth, bit(flows.StatusFixedTimeout)},
		{"offloaded", "a flow table has it", 0, truth, bit(flows.StatusOffload)},
		{"snat", "its source is translated", 0, truth, bit(flows.StatusSrcNAT)},
		{"dnat", "its destination is translated", 0, truth, bit(flows.StatusDstNAT)},
	}
	add := func(name, help string, needs Need, k kind, get func(*entry) ref.Val) {
		list = append(list, Field{name, help, needs, k, get})
	}
	for _, d := range []helpers.Dir{helpers.Original, helpers.Reply} {
		name, of := "orig.", " of the original direction"
		if d == helpers.Reply {
			name, of = "reply.", " of the reply direction"
		}
		add(name+"src", "source address"+of, 0, address, func(e *entry) ref.Val { return host(tuple(e, d).Src) })
		add(name+"dst", "destination address"+of, 0, address, func(e *entry) ref.Val { return host(tuple(e, d).Dst) })
		add(name+"sport", "source port"+of+" (GRE: key)", 0, number, func(e *entry) ref.Val { return port(e, tuple(e, d).Src) })
		add(name+"dport", "destination port"+of+" (GRE: key)", 0, number, func(e *entry) ref.Val {
			return port(e, tuple(e, d).Dst)
		})
		add(name+"bytes", "bytes"+of, NeedsAccounting, number, func(e *entry) ref.Val { return types.Int(e.Counters[d].Bytes) })
		add(name+"packets", "packets"+of, NeedsAccounting, number, func(e *entry) ref.Val {
			return types.Int(e.Counters[d].Packets)
		})
		add(name+"vtag", "SCTP's verification tag"+of, 0, number, func(e *entry) ref.Val { return types.Int(e.SCTPTags[d]) })
	}
	const query, announcer = " of an ICMP query; -1 for others", " of the connection that announced it"
	add("icmp.type", "type"+query, 0, number, icmp(func(t, _ uint8, _ uint16) int64 { return int64(t) }))
	add("icmp.code", "code"+query, 0, number, icmp(func(_, c uint8, _ uint16) int64 { return int64(c) }))
	add("icmp.id", "number"+query, 0, number, icmp(func(_, _ uint8, id uint16) int64 { return int64(id) }))
	add("dccp.role", "client or server: which end sends the original direction of DCCP", 0, word, func(e *entry) ref.Val {
		return types.String(Role(e.Flow))
	})
	add("master.src", "source address"+announcer, 0, address, func(e *entry) ref.Val { return host(e.Master.Src) })
	add("master.dst", "destination address"+announcer, 0, address, func(e *entry) ref.Val { return host(e.Master.Dst) })
	add("master.sport", "source port"+announcer, 0, number, func(e *entry) ref.Val { return types.Int(e.Master.Src.Port()) })
	add("master.dport", "destination port"+announcer, 0, number, func(e *entry) ref.Val {
		return types.Int(e.Master.Dst.Port())
	})
	return list
}

// Fields are the names that expressions may use, in order.
func Fields() []Field { return fields() }

// Type is the name of the field's type.
func (f *Field) Type() string {
	switch f.kind {
	case number:
		return "number"
	case truth:
		return "true or false"
	case status, labels:
		return "list"
	case address:
		return "address"
	}
	return "text"
}

func bit(b flows.Status) func(*entry) ref.Val {
	return func(e *entry) ref.Val { return types.Bool(e.Status&b != 0) }
}

func tuple(e *entry, d helpers.Dir) *helpers.Tuple {
	if d == helpers.Reply {
		return &e.Reply
	}
	return &e.Orig
}

func host(a netip.AddrPort) ref.Val {
	if !a.IsValid() {
		return types.String("")
	}
	return types.String(a.Addr().String())
}

// port is 0 where the tuple has something else in its place.
func port(e *entry, a netip.AddrPort) ref.Val {
	if IsICMP(e.Flow) {
		return types.IntZero
	}
	return types.Int(a.Port())
}

func icmp(part func(typ, code uint8, id uint16) int64) func(*entry) ref.Val {
	return func(e *entry) ref.Val {
		if !IsICMP(e.Flow) {
			return types.IntNegOne
		}
		return types.Int(part(flows.ICMP(e.Orig)))
	}
}

func words(list []string) ref.Val { return types.NewStringList(types.DefaultTypeAdapter, list) }

// State is the name of a flow's state; empty if its protocol has none.
func State(f *flows.Flow) string {
	if len(names.States(uint8(f.Transport))) == 0 || f.Transport == 0 {
		return ""
	}
	return names.State(uint8(f.Transport), f.State)
}

// Role is which end sends the original direction of DCCP; empty for other protocols.
func Role(f *flows.Flow) string {
	switch {
	case f.Transport != unix.IPPROTO_DCCP:
		return ""
	case f.DCCPRole == 0:
		return "client"
	}
	return "server"
}

// IsICMP says whether the flow has a type, a code and a number in the place of ports.
func IsICMP(f *flows.Flow) bool {
	return f.Transport == unix.IPPROTO_ICMP || f.Transport == unix.IPPROTO_ICMPV6
}

// Age is how long a flow lives, or lived; 0 if the kernel does not say.
func Age(f *flows.Flow, now time.Time) time.Duration {
	if f.Start.IsZero() {
		return 0
	}
	if !f.Stop.IsZero() {
		now = f.Stop
	}
	return max(0, now.Sub(f.Start))
}

// ZoneDir is which directions are in a flow's zone: both, original or reply.
func ZoneDir(f *flows.Flow) string {
	return zoneDirs()[f.ZoneDir]
}

func zoneDirs() []string {
	return []string{flows.ZoneBoth: "both", flows.ZoneOrig: "original", flows.ZoneReply: "reply"}
}

// Key is what flows are sorted by: a field's number, or its text; true is 1. An error is a *caret.Error.
func Key(name string, labels *names.Labels, now time.Time) (func(*flows.Flow) (int64, string), error) {
	var known []string
	for _, f := range fields() {
		if f.Name != name {
			known = append(known, f.Name)
			continue
		}
		e := entry{labels: labels, now: now}
		return func(flow *flows.Flow) (int64, string) {
			e.Flow = flow
			switch v := f.get(&e).(type) {
			case types.Int:
				return int64(v), ""
			case types.String:
				return 0, string(v)
			case types.Bool:
				if v {
					return 1, ""
				}
				return 0, ""
			case ref.Val:
				return 0, fmt.Sprint(v.Value())
			}
			return 0, ""
		}, nil
	}
	return nil, &caret.Error{Text: name, Message: "unknown field. Known are " + strings.Join(known, " ")}
}
