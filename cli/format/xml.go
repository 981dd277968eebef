package format

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"golang.org/x/sys/unix"
)

const (
	xmlHead = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<conntrack>\n"
	xmlTail = "</conntrack>\n"
)

// appendXML appends a <flow> of conntrack -o xml.
func (p *Printer) appendXML(b []byte, e *flows.Event, now time.Time) []byte {
	f := &e.Flow
	if e.Kind == flows.Overrun || e.Kind == flows.Synced {
		return b
	}
	b = xmlFlow(b, e.Kind)
	b = xmlTuple(b, f, "original", helpers.Original)
	b = xmlTuple(b, f, "reply", helpers.Reply)
	b = append(b, `<meta direction="independent">`...)
	if f.Has&flows.HasState != 0 {
		b = xmlText(b, "state", xmlState(f))
	}
	if f.Has&flows.HasTimeout != 0 {
		b = xmlNumber(b, "timeout", uint64(f.Timeout))
	}
	if f.Has&flows.HasMark != 0 {
		b = xmlNumber(b, "mark", uint64(f.Mark))
	}
	if p.o.Labels && f.Has&flows.HasLabels != 0 {
		b = p.xmlLabels(b, f)
	}
	if f.Has&flows.HasSecctx != 0 {
		b = xmlText(b, "secctx", f.Secctx)
	}
	if f.Zone != 0 && f.ZoneDir == flows.ZoneBoth {
		b = xmlNumber(b, "zone", uint64(f.Zone))
	}
	if f.Has&flows.HasUse != 0 {
		b = xmlNumber(b, "use", uint64(f.Use))
	}
	if f.Has&flows.HasID != 0 {
		b = xmlNumber(b, "id", uint64(f.ID))
	}
	if f.Has&flows.HasStatus != 0 {
		if f.Status&flows.StatusAssured != 0 {
			b = append(b, "<assured/>"...)
		}
		if f.Status&flows.StatusSeenReply == 0 {
			b = append(b, "<unreplied/>"...)
		}
	}
	b = p.xmlTimes(b, f, now)
	b = append(b, "</meta>"...)
	if p.o.Timestamp && p.o.Events {
		b = xmlWhen(b, now)
	}
	if f.Helper != "" {
		b = xmlText(b, "helper", f.Helper)
	}
	return append(b, "</flow>"...)
}

// xmlFlow begins an entry, or what became of it.
func xmlFlow(b []byte, kind flows.Kind) []byte {
	switch kind {
	case flows.New, flows.Present:
		return append(b, `<flow type="new">`...)
	case flows.Update:
		return append(b, `<flow type="update">`...)
	case flows.Destroy:
		return append(b, `<flow type="destroy">`...)
	}
	return append(b, "<flow>"...)
}

func xmlTuple(b []byte, f *flows.Flow, name string, d helpers.Dir) []byte {
	t := &f.Orig
	if d == helpers.Reply {
		t = &f.Reply
	}
	b = append(b, `<meta direction="`...)
	b = append(b, name...)
	b = append(b, `">`...)
	b = xmlLayer3(b, f.Family())
	b = xmlAddress(b, "src", t.Src.Addr())
	b = xmlAddress(b, "dst", t.Dst.Addr())
	b = append(b, "</layer3>"...)
	b = xmlLayer4(b, uint8(f.Transport))
	b = xmlPorts(b, uint8(f.Transport), t)
	b = append(b, "</layer4>"...)
	if f.Zone != 0 && f.ZoneDir == [...]flows.ZoneDir{flows.ZoneOrig, flows.ZoneReply}[d] {
		b = xmlNumber(b, "zone", uint64(f.Zone))
	}
	if f.Has&flows.HasCounters != 0 {
		b = append(b, "<counters>"...)
		b = xmlNumber(b, "packets", f.Counters[d].Packets)
		b = xmlNumber(b, "bytes", f.Counters[d].Bytes)
		b = append(b, "</counters>"...)
	}
	return append(b, "</meta>"...)
}

func xmlLayer3(b []byte, family uint8) []byte {
	if family == unix.AF_INET6 {
		return append(b, `<layer3 protonum="10" protoname="ipv6">`...)
	}
	return append(b, `<layer3 protonum="2" protoname="ipv4">`...)
}

func xmlLayer4(b []byte, protocol uint8) []byte {
	b = append(b, `<layer4 protonum="`...)
	b = strconv.AppendUint(b, uint64(protocol), 10)
	b = append(b, `" protoname="`...)
	b = append(b, flows.TransportName(helpers.Transport(protocol))...)
	return append(b, `">`...)
}

func xmlPorts(b []byte, protocol uint8, t *helpers.Tuple) []byte {
	switch protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP:
		b = xmlNumber(b, "sport", uint64(t.Src.Port()))
		b = xmlNumber(b, "dport", uint64(t.Dst.Port()))
	case unix.IPPROTO_GRE:
		b = xmlText(b, "srckey", "0x"+strconv.FormatUint(uint64(t.Src.Port()), 16))
		b = xmlText(b, "dstkey", "0x"+strconv.FormatUint(uint64(t.Dst.Port()), 16))
	}
	return b
}

// xmlState is the state that conntrack -o xml shows: it takes TCP's words for the numbers of SCTP and DCCP too.
func xmlState(f *flows.Flow) string { return names.State(uint8(helpers.TCP), f.State) }

func (p *Printer) xmlLabels(b []byte, f *flows.Flow) []byte {
	b = append(b, "<labels>"...)
	for n := range 8 * len(f.Labels) {
		if f.Labels.Has(n) && p.o.Names.Known(n) {
			b = xmlText(b, "label", p.o.Names.Name(n))
		}
	}
	return append(b, "</labels>"...)
}

func (p *Printer) xmlTimes(b []byte, f *flows.Flow, now time.Time) []byte {
	if f.Start.IsZero() {
		return b
	}
	if p.o.KTimestamp {
		b = append(b, "<timestamp>"...)
		b = xmlNumber(b, "start", uint64(f.Start.UnixNano()))
		if !f.Stop.IsZero() {
			b = xmlNumber(b, "stop", uint64(f.Stop.UnixNano()))
		}
		b = append(b, "</timestamp>"...)
	}
	if !f.Stop.IsZero() {
		return xmlNumber(b, "deltatime", uint64(f.Stop.Sub(f.Start)/time.Second))
	}
	return xmlNumber(b, "deltatime", uint64(now.Unix()-f.Start.Unix()))
}

func xmlWhen(b []byte, t time.Time) []byte {
	b = append(b, "<when>"...)
	b = xmlNumber(b, "hour", uint64(t.Hour()))
	b = xmlText(b, "min", t.Format("04"))
	b = xmlText(b, "sec", t.Format("05"))
	b = xmlNumber(b, "wday", uint64(t.Weekday())+1)
	b = xmlNumber(b, "day", uint64(t.Day()))
	b = xmlNumber(b, "month", uint64(t.Month()))
	b = xmlNumber(b, "year", uint64(t.Year()))
	return append(b, "</when>"...)
}

func xmlOpen(b []byte, tag string) []byte {
	b = append(b, '<')
	b = append(b, tag...)
	return append(b, '>')
}

func xmlClose(b []byte, tag string) []byte {
	b = append(b, "</"...)
	b = append(b, tag...)
	return append(b, '>')
}

func xmlNumber(b []byte, tag string, n uint64) []byte {
	b = xmlOpen(b, tag)
	b = strconv.AppendUint(b, n, 10)
	return xmlClose(b, tag)
}

func xmlAddress(b []byte, tag string, a netip.Addr) []byte {
	b = xmlOpen(b, tag)
	b = flows.AppendAddr(b, a)
	return xmlClose(b, tag)
}

func xmlText(b []byte, tag, text string) []byte {
	b = xmlOpen(b, tag)
	b = append(b, xmlEscaper.Replace(strings.Map(xmlChar, text))...)
	return xmlClose(b, tag)
}

// xmlChar is U+FFFD in the place of what XML 1.0 cannot have (section 2.2, Char).
func xmlChar(r rune) rune {
	if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff {
		return utf8.RuneError
	}
	return r
}

var xmlEscaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
