package flows_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

// FuzzFlow has any connection that can be read printed, behind what is there, and meant by a filter of what it shows.
func FuzzFlow(f *testing.F) {
	for _, tr := range []helpers.Transport{helpers.TCP, unix.IPPROTO_ICMPV6, unix.IPPROTO_GRE} {
		tuple := helpers.Tuple{Src: ap("[2001:db8::1]:9"), Dst: ap("[2001:db8::2]:32768")}
		// The attributes of a message are behind struct nlmsghdr and struct nfgenmsg; the first is the original tuple.
		b := flows.AppendAdjust(nil, tr, tuple, helpers.Original, flows.SeqAdj{After: -3})[unix.SizeofNlMsghdr+4:]
		reply := bytes.Clone(b[:binary.NativeEndian.Uint16(b)])
		reply[2] = 2 // CTA_TUPLE_REPLY
		b = append(b, reply...)
		if _, err := new(flows.Parser).Parse(b); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	now := time.Unix(1_700_000_000, 0)
	all := flows.TextOptions{
		Event: flows.Update, Layer3: true, ID: true, Timestamps: true, Now: now, Labels: func(bit int) string { return "l"[bit%2:] },
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p flows.Parser
		e, err := p.Parse(b)
		if err != nil {
			return
		}
		for _, o := range []flows.TextOptions{{Now: now}, all} {
			line := e.AppendFormat([]byte("before "), &o)
			rest, ok := bytes.CutPrefix(line, []byte("before "))
			if !ok || !bytes.Equal(rest, e.AppendFormat(nil, &o)) || bytes.Count(rest, []byte(" src=")) < 2 {
				t.Errorf("%q", line)
			}
		}
		state := e.State
		filter := flows.Filter{
			Family: e.Family(), Transport: e.Transport, Mark: e.Mark, MarkMask: ^uint32(0), Status: e.Status,
			StatusMask: ^flows.Status(0), Zone: &e.Zone, ZoneDir: &e.ZoneDir, Labels: e.Labels, State: &state, Helper: &e.Helper,
			Orig: ends(&e, e.Orig), Reply: ends(&e, e.Reply),
		}
		if !filter.Match(&e) {
			t.Errorf("%+v does not mean %+v", filter, e)
		}
		filter.Mark++
		if filter.Match(&e) {
			t.Errorf("%+v means %+v", filter, e)
		}
		_, _ = e.Translated(), e.Established()
	})
}

// ends are the conditions that only t's like meet.
func ends(f *flows.Flow, t helpers.Tuple) (n flows.Ends) {
	addr := func(a netip.Addr) netip.Prefix { return flows.Addr(a.WithZone("")) }
	n.Src, n.Dst = addr(t.Src.Addr()), addr(t.Dst.Addr())
	if f.Transport == unix.IPPROTO_ICMP || f.Transport == unix.IPPROTO_ICMPV6 {
		typ, code, id := flows.ICMP(t)
		n.ICMPType, n.ICMPCode, n.ICMPID = &typ, &code, &id
	} else {
		n.SrcPort, n.DstPort = flows.Port(t.Src.Port()), flows.Port(t.Dst.Port())
	}
	return n
}
