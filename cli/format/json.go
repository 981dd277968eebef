package format

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/cli/where"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"golang.org/x/sys/unix"
)

// JSONEvent appends an object with the names that expressions have (package where); absent is what the kernel does not
// say. An entry of a list has no kind.
func JSONEvent(b []byte, e *flows.Event, labels *names.Labels, now time.Time) []byte {
	b = append(b, '{')
	if e.Kind != 0 {
		b = jsonText(b, "event", e.Kind.String())
		b = jsonText(b, "time", now.UTC().Format(jsonTime))
	}
	if e.Kind == flows.Overrun {
		b = jsonNumber(b, "lost", e.Lost)
		b = jsonBool(b, "exact", e.Exact)
		return append(b, '}')
	}
	if e.Kind != flows.Synced {
		b = jsonFields(b, &e.Flow, labels, now)
	}
	return append(b, '}')
}

const jsonTime = "2006-01-02T15:04:05.000000Z"

// jsonFields appends the members of a flow's object.
func jsonFields(b []byte, f *flows.Flow, labels *names.Labels, now time.Time) []byte {
	b = jsonText(b, "family", flows.FamilyName(f.Orig.Src.Addr()))
	b = jsonText(b, "proto", names.Protocol(uint8(f.Transport)))
	b = jsonNumber(b, "protonum", uint64(f.Transport))
	if f.Has&flows.HasState != 0 {
		b = jsonText(b, "state", where.State(f))
	}
	if f.Has&flows.HasTimeout != 0 {
		b = jsonNumber(b, "timeout", uint64(f.Timeout))
	}
	b = jsonDir(b, f, "orig", &f.Orig, helpers.Original)
	b = jsonDir(b, f, "reply", &f.Reply, helpers.Reply)
	if where.IsICMP(f) {
		typ, code, id := flows.ICMP(f.Orig)
		b = jsonKey(b, "icmp")
		b = append(b, '{')
		b = jsonNumber(b, "type", uint64(typ))
		b = jsonNumber(b, "code", uint64(code))
		b = jsonNumber(b, "id", uint64(id))
		b = append(b, '}')
	}
	if role := where.Role(f); role != "" {
		b = jsonKey(b, "dccp")
		b = append(jsonText(append(b, '{'), "role", role), '}')
	}
	if f.Has&flows.HasCounters != 0 {
		b = jsonNumber(b, "packets", f.Counters[0].Packets+f.Counters[1].Packets)
		b = jsonNumber(b, "bytes", f.Counters[0].Bytes+f.Counters[1].Bytes)
	}
	if f.Has&flows.HasStatus != 0 {
		b = jsonList(b, "status", names.Status(uint32(f.Status)))
	}
	if f.Has&flows.HasMark != 0 {
		b = jsonNumber(b, "mark", uint64(f.Mark))
	}
	if f.Zone != 0 {
		b = jsonNumber(b, "zone", uint64(f.Zone))
		b = jsonText(b, "zonedir", where.ZoneDir(f))
	}
	if f.Labels != (flows.Labels{}) {
		b = jsonList(b, "labels", labels.Names(&f.Labels))
	}
	if f.Helper != "" {
		b = jsonText(b, "helper", f.Helper)
	}
	if f.Secctx != "" {
		b = jsonText(b, "secctx", f.Secctx)
	}
	if f.Master.Src.IsValid() {
		b = jsonKey(b, "master")
		b = append(b, '{')
		b = jsonText(b, "proto", names.Protocol(uint8(f.MasterTransport)))
		b = jsonTuple(b, &f.Master, true)
		b = append(b, '}')
	}
	if !f.Start.IsZero() {
		b = jsonText(b, "start", f.Start.UTC().Format(jsonTime))
		if !f.Stop.IsZero() {
			b = jsonText(b, "stop", f.Stop.UTC().Format(jsonTime))
		}
		b = jsonNumber(b, "age", uint64(where.Age(f, now)/time.Second))
	}
	if f.Has&flows.HasUse != 0 {
		b = jsonNumber(b, "use", uint64(f.Use))
	}
	if f.Has&flows.HasID != 0 {
		b = jsonNumber(b, "id", uint64(f.ID))
	}
	return b
}

func jsonDir(b []byte, f *flows.Flow, name string, t *helpers.Tuple, d helpers.Dir) []byte {
	b = jsonKey(b, name)
	b = append(b, '{')
	b = jsonTuple(b, t, HasPorts(f))
	if f.Has&flows.HasCounters != 0 {
		b = jsonNumber(b, "packets", f.Counters[d].Packets)
		b = jsonNumber(b, "bytes", f.Counters[d].Bytes)
	}
	if f.Transport == unix.IPPROTO_SCTP {
		b = jsonNumber(b, "vtag", uint64(f.SCTPTags[d]))
	}
	return append(b, '}')
}

func jsonTuple(b []byte, t *helpers.Tuple, ports bool) []byte {
	b = jsonKey(b, "src")
	b = append(t.Src.Addr().AppendTo(append(b, '"')), '"')
	b = jsonKey(b, "dst")
	b = append(t.Dst.Addr().AppendTo(append(b, '"')), '"')
	if ports {
		b = jsonNumber(b, "sport", uint64(t.Src.Port()))
		b = jsonNumber(b, "dport", uint64(t.Dst.Port()))
	}
	return b
}

// HasPorts says whether a flow has ports, or GRE's keys.
func HasPorts(f *flows.Flow) bool {
	switch f.Transport {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_GRE:
		return true
	}
	return false
}

// jsonKey begins a member, behind a comma unless it is the first.
func jsonKey(b []byte, key string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, key...)
	return append(b, `":`...)
}

func jsonNumber(b []byte, key string, n uint64) []byte {
	return strconv.AppendUint(jsonKey(b, key), n, 10)
}

func jsonBool(b []byte, key string, v bool) []byte { return strconv.AppendBool(jsonKey(b, key), v) }

func jsonText(b []byte, key, text string) []byte { return jsonString(jsonKey(b, key), text) }

func jsonList(b []byte, key string, list []string) []byte {
	b = append(jsonKey(b, key), '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = jsonString(b, s)
	}
	return append(b, ']')
}

// jsonString is RFC 8259 section 7; bytes that are no UTF-8 become U+FFFD. What acts on a terminal is escaped.
func jsonString(b []byte, text string) []byte {
	b = append(b, '"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20 || r >= 0x7f && r < 0xa0:
			const digits = "0123456789abcdef"
			b = append(b, '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
