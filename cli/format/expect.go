package format

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

const (
	expectXMLHead = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<expect>\n"
	expectXMLTail = "</expect>\n"
	expectColumns = "proto,src,dst,sport,dport,mask.src,mask.dst,mask.sport,mask.dport," +
		"master.proto,master.src,master.dst,master.sport,master.dport,timeout,class,flags,zone,helper,function"
)

// ExpectHead is what an output of expectations begins with.
func ExpectHead(kind string, events bool) string {
	switch kind {
	case XML:
		return expectXMLHead
	case CSV:
		return csvHead(expectColumns, events)
	case Table, "":
		return fmt.Sprintf("%-6s %-24s %-24s %-48s %7s %-12s %s\n", "PROTO", "SOURCE", "DESTINATION", "MASTER", "TIMEOUT", "HELPER", "FLAGS")
	}
	return ""
}

// ExpectTail is what it ends with.
func ExpectTail(kind string) string {
	if kind == XML {
		return expectXMLTail
	}
	return ""
}

// AppendExpect appends a line: an entry of the table, or an event if it has a kind. Of what conntrack(8)'s lines can show
// beside, expectations have the time only.
func AppendExpect(b []byte, o *Output, e *expect.Event, now time.Time, events bool) []byte {
	x := &e.Expectation
	switch o.Kind {
	case Conntrack:
		if e.Kind == flows.Overrun || e.Kind == flows.Synced {
			return b
		}
		if o.Timestamp {
			b = stamp(b, now)
		}
		b = x.AppendFormat(b, e.Kind)
	case XML:
		if e.Kind == flows.Overrun || e.Kind == flows.Synced {
			return b
		}
		b = expectXML(b, e, o.Timestamp, now)
	case JSON:
		b = expectJSON(b, e, now)
	case CSV:
		b = expectCSV(b, e, now, events)
	default:
		b = expectRow(b, e)
	}
	return append(b, '\n')
}

func expectRow(b []byte, e *expect.Event) []byte {
	x := &e.Expectation
	if e.Kind != 0 {
		b = fmt.Appendf(b, "%-8s ", e.Kind)
	}
	if e.Kind == flows.Overrun {
		return fmt.Appendf(b, "%d events lost", e.Lost)
	}
	if e.Kind == flows.Synced {
		return b
	}
	line := fmt.Sprintf("%-6s %-24s %-24s %-48s %7d %-12s %s", names.Protocol(uint8(x.Transport)),
		masked(x.Tuple.Src, x.Mask.Src), masked(x.Tuple.Dst, x.Mask.Dst),
		names.Protocol(uint8(x.MasterTransport))+" "+x.Master.Src.String()+">"+x.Master.Dst.String(),
		x.Timeout, caret.Plain(x.Helper), ExpectFlags(x))
	return append(b, strings.TrimRight(line, " ")...)
}

// ExpectEnds are the ends of the expected connection, with * for what may be anything.
func ExpectEnds(x *expect.Expectation) string {
	return masked(x.Tuple.Src, x.Mask.Src) + ">" + masked(x.Tuple.Dst, x.Mask.Dst)
}

func masked(end, mask netip.AddrPort) string {
	host, port := end.Addr().String(), "*"
	if mask.Addr().IsUnspecified() {
		host = "*"
	} else if end.Addr().Is6() {
		host = "[" + host + "]"
	}
	if mask.Port() != 0 {
		port = strconv.Itoa(int(end.Port()))
	}
	return host + ":" + port
}

// ExpectFlags are the names of the flags that are set, as conntrack(8) has them.
func ExpectFlags(x *expect.Expectation) string {
	var all []string
	for _, f := range []struct {
		bit  uint32
		name string
	}{{expect.FlagPermanent, "PERMANENT"}, {expect.FlagInactive, "INACTIVE"}, {expect.FlagUserspace, "USERSPACE"}} {
		if x.Flags&f.bit != 0 {
			all = append(all, f.name)
		}
	}
	return strings.Join(all, ",")
}

func expectXML(b []byte, e *expect.Event, timestamp bool, now time.Time) []byte {
	x := &e.Expectation
	b = xmlFlow(b, e.Kind)
	tuples := []struct {
		name  string
		tuple *helpers.Tuple
		proto helpers.Transport
	}{{"expected", &x.Tuple, x.Transport}, {"mask", &x.Mask, x.Transport}, {"master", &x.Master, x.MasterTransport}}
	b = xmlLayer3(b, familyOf(&x.Tuple))
	for _, t := range tuples {
		b = xmlOpen(b, t.name)
		b = xmlAddress(b, "src", t.tuple.Src.Addr())
		b = xmlAddress(b, "dst", t.tuple.Dst.Addr())
		b = xmlClose(b, t.name)
	}
	b = append(b, "</layer3>"...)
	b = xmlLayer4(b, uint8(x.Transport))
	for _, t := range tuples {
		b = xmlOpen(b, t.name)
		b = xmlPorts(b, uint8(t.proto), t.tuple)
		b = xmlClose(b, t.name)
	}
	b = append(b, "</layer4><meta>"...)
	if x.Helper != "" {
		b = xmlText(b, "helper-name", x.Helper)
	}
	b = xmlNumber(b, "timeout", uint64(x.Timeout))
	b = xmlNumber(b, "class", uint64(x.Class))
	if x.Zone != 0 {
		b = xmlNumber(b, "zone", uint64(x.Zone))
	}
	for _, name := range strings.Split(ExpectFlags(x), ",") {
		if name != "" {
			b = append(append(append(b, '<'), strings.ToLower(name)...), "/>"...)
		}
	}
	if timestamp {
		b = xmlWhen(b, now)
	}
	return append(b, "</meta></flow>"...)
}

func expectJSON(b []byte, e *expect.Event, now time.Time) []byte {
	x := &e.Expectation
	b = append(b, '{')
	if e.Kind != 0 {
		b = jsonText(b, "event", e.Kind.String())
		b = jsonText(b, "time", now.UTC().Format(jsonTime))
	}
	switch e.Kind {
	case flows.Overrun:
		b = jsonBool(jsonNumber(b, "lost", e.Lost), "exact", e.Exact)
		return append(b, '}')
	case flows.Synced:
		return append(b, '}')
	}
	b = jsonText(b, "proto", names.Protocol(uint8(x.Transport)))
	b = jsonTuple(b, &x.Tuple, true)
	b = append(jsonTuple(append(jsonKey(b, "mask"), '{'), &x.Mask, true), '}')
	b = append(jsonKey(b, "master"), '{')
	b = jsonText(b, "proto", names.Protocol(uint8(x.MasterTransport)))
	b = append(jsonTuple(b, &x.Master, true), '}')
	b = jsonNumber(b, "timeout", uint64(x.Timeout))
	b = jsonNumber(b, "class", uint64(x.Class))
	if flags := ExpectFlags(x); flags != "" {
		b = jsonList(b, "flags", strings.Split(flags, ","))
	}
	if x.Zone != 0 {
		b = jsonNumber(b, "zone", uint64(x.Zone))
	}
	if x.Helper != "" {
		b = jsonText(b, "helper", x.Helper)
	}
	if x.Function != "" {
		b = jsonText(b, "function", x.Function)
	}
	return append(b, '}')
}

func expectCSV(b []byte, e *expect.Event, now time.Time, events bool) []byte {
	x := &e.Expectation
	c := csvLine(b)
	if events {
		var whole bool
		if c, whole = c.event(e.Kind, e.Lost, now, expectColumns); whole {
			return c
		}
	}
	c = c.text(names.Protocol(uint8(x.Transport))).tuple(&x.Tuple, true).tuple(&x.Mask, true)
	c = c.text(names.Protocol(uint8(x.MasterTransport))).tuple(&x.Master, true)
	c = c.number(uint64(x.Timeout), true).number(uint64(x.Class), true)
	c = c.text(strings.ReplaceAll(ExpectFlags(x), ",", " ")).number(uint64(x.Zone), true).text(x.Helper).text(x.Function)
	return c[:len(c)-1]
}

func familyOf(t *helpers.Tuple) uint8 {
	f := flows.Flow{Orig: *t}
	return f.Family()
}
