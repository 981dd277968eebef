package format

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/cli/where"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

// csvColumns has the columns behind those of events, with the names of expressions. Empty is what is not known.
const csvColumns = "family,proto,state,timeout,orig.src,orig.dst,orig.sport,orig.dport,orig.packets,orig.bytes," +
	"reply.src,reply.dst,reply.sport,reply.dport,reply.packets,reply.bytes,icmp.type,icmp.code,icmp.id,status,mark," +
	"zone,zonedir,labels,helper,master.src,master.dst,master.sport,master.dport,start,stop,age,id"

// csvHead is the first line.
func csvHead(columns string, events bool) string {
	if events {
		return "event,time,lost," + columns + "\n"
	}
	return columns + "\n"
}

// appendCSV appends a line of RFC 4180.
func appendCSV(b []byte, e *flows.Event, labels *names.Labels, now time.Time, events bool) []byte {
	f := &e.Flow
	c := csvLine(b)
	if events {
		var whole bool
		if c, whole = c.event(e.Kind, e.Lost, now, csvColumns); whole {
			return c
		}
	}
	c = c.text(flows.FamilyName(f.Orig.Src.Addr())).text(names.Protocol(uint8(f.Transport))).text(where.State(f))
	c = c.number(uint64(f.Timeout), f.Has&flows.HasTimeout != 0)
	ports, counters := HasPorts(f), f.Has&flows.HasCounters != 0
	for d, t := range []*helpers.Tuple{&f.Orig, &f.Reply} {
		c = c.tuple(t, ports).number(f.Counters[d].Packets, counters).number(f.Counters[d].Bytes, counters)
	}
	typ, code, id := flows.ICMP(f.Orig)
	icmp := where.IsICMP(f)
	c = c.number(uint64(typ), icmp).number(uint64(code), icmp).number(uint64(id), icmp)
	c = c.text(strings.Join(names.Status(uint32(f.Status)), " "))
	c = c.number(uint64(f.Mark), f.Has&flows.HasMark != 0)
	c = c.number(uint64(f.Zone), true).text(where.ZoneDir(f))
	c = c.text(strings.Join(labels.Names(&f.Labels), " ")).text(f.Helper).tuple(&f.Master, f.Master.Src.IsValid())
	c = c.time(f.Start).time(f.Stop).number(uint64(where.Age(f, now)/time.Second), !f.Start.IsZero())
	c = c.number(uint64(f.ID), f.Has&flows.HasID != 0)
	return c[:len(c)-1]
}

// csvLine is a line in the making; each field ends in a comma.
type csvLine []byte

// event begins the line of an event; whole: one that is of no entry has nothing in the other columns.
func (c csvLine) event(kind flows.Kind, lost uint64, now time.Time, columns string) (line csvLine, whole bool) {
	c = c.text(kind.String()).text(now.UTC().Format(jsonTime)).number(lost, kind == flows.Overrun)
	if kind != flows.Overrun && kind != flows.Synced {
		return c, false
	}
	return append(c[:len(c)-1], strings.Repeat(",", strings.Count(columns, ",")+1)...), true
}

func (c csvLine) text(s string) csvLine {
	if !strings.ContainsAny(s, ",\"\r\n") {
		return append(append(c, s...), ',')
	}
	c = append(c, '"')
	c = append(c, strings.ReplaceAll(s, `"`, `""`)...)
	return append(c, `",`...)
}

func (c csvLine) number(n uint64, known bool) csvLine {
	if known {
		c = strconv.AppendUint(c, n, 10)
	}
	return append(c, ',')
}

func (c csvLine) time(t time.Time) csvLine {
	if !t.IsZero() {
		c = t.UTC().AppendFormat(c, jsonTime)
	}
	return append(c, ',')
}

func (c csvLine) tuple(t *helpers.Tuple, ports bool) csvLine {
	for _, a := range []netip.AddrPort{t.Src, t.Dst} {
		if a.IsValid() {
			c = a.Addr().AppendTo(c)
		}
		c = append(c, ',')
	}
	return c.number(uint64(t.Src.Port()), ports).number(uint64(t.Dst.Port()), ports)
}
