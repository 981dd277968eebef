package engine_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
)

// toy is a line protocol that can say all that the contract allows:
//
//	open tcp 192.0.2.1:4000 group 1/2 paired permanent reserve relayed lasting helper toy from 198.51.100.1:* other
//	cancel 1
//	note 1 text
//	skip 5
//	via 192.0.2.1:5060
//	foreign
//	bad
//
// Over TCP it holds back what follows "open ". other: the end point is the other side's.
type toy struct {
	sites []toySite
	state toyState
}

type toyState struct{ Lines, Gaps, Ends int }

type toySite struct{ expect, off, end int }

func toyHelper(name string, t helpers.Transport, ports ...uint16) helpers.Helper {
	return helpers.Helper{
		Name: name, Transport: t, Ports: ports, Backlog: 256,
		Classes: []helpers.Class{{Name: "data", Max: 8, Timeout: time.Minute}, {Name: "wide", Timeout: time.Second}},
		New:     func() helpers.Session { return &toy{} },
		Restore: func(b []byte) (helpers.Session, error) {
			s := &toy{}
			return s, json.Unmarshal(b, &s.state)
		},
	}
}

func (s *toy) AppendBinary(b []byte) ([]byte, error) {
	j, err := json.Marshal(s.state)
	return append(b, j...), err
}

func (s *toy) Close(helpers.FlowID, *helpers.Result) {}

func (s *toy) Inspect(seg *helpers.Segment, out *helpers.Result) (err error) {
	s.sites = s.sites[:0]
	if seg.Gap {
		s.state.Gaps++
	}
	if seg.End {
		s.state.Ends++
	}
	off := 0
	for {
		n := bytes.IndexByte(seg.Data[off:], '\n')
		if n < 0 {
			break
		}
		s.state.Lines++
		skip, lerr := s.line(seg, off, seg.Data[off:off+n], out)
		if lerr != nil && err == nil {
			err = lerr
		}
		off += n + 1
		if skip > 0 {
			out.Consumed = off + skip
			return err
		}
	}
	out.Consumed = off
	if rest := seg.Data[off:]; len(rest) > 5 && string(rest[:5]) == "open " {
		out.Hold = len(rest) - 5
	}
	return err
}

func (s *toy) line(seg *helpers.Segment, off int, line []byte, out *helpers.Result) (skip int, err error) {
	if !bytes.HasPrefix(line, []byte("open ")) && !bytes.HasPrefix(line, []byte("cancel ")) &&
		!bytes.HasPrefix(line, []byte("note ")) && !bytes.HasPrefix(line, []byte("skip ")) &&
		!bytes.HasPrefix(line, []byte("via ")) {
		switch string(line) {
		case "foreign":
			return 0, fmt.Errorf("not a toy: %w", helpers.ErrForeign)
		case "bad":
			return 0, &helpers.ParseError{Off: off, Err: errBad}
		}
		return 0, nil
	}
	w := strings.Fields(string(line))
	switch w[0] {
	case "skip":
		skip, _ = strconv.Atoi(w[1])
		return skip, nil
	case "via": // an address that is no announcement
		s.sites = append(s.sites, toySite{-1, off + 4, off + len(line)})
	case "cancel":
		out.Cancel = append(out.Cancel, toyGroup(w[1]))
	case "note":
		out.Notes = append(out.Notes, helpers.Note{Group: toyGroup(w[1]), Text: strings.Join(w[2:], " ")})
	case "open":
		if len(w) < 3 {
			return 0, &helpers.ParseError{Off: off, Err: errBad}
		}
		to, perr := netip.ParseAddrPort(w[2])
		if perr != nil {
			return 0, &helpers.ParseError{Off: off + 5, Err: perr}
		}
		x := helpers.Expectation{
			Transport: helpers.TCP, Owner: seg.Dir, To: to, Note: "open",
		}
		if w[1] == "udp" {
			x.Transport = helpers.UDP
		}
		for i := 3; i < len(w); i++ {
			arg := func() string { i++; return w[min(i, len(w)-1)] }
			switch w[i] {
			case "group":
				x.Group = toyGroup(arg())
			case "class":
				n, _ := strconv.Atoi(arg())
				x.Class = uint8(n)
			case "paired":
				x.Paired = true
			case "permanent":
				x.Permanent = true
			case "reserve":
				x.Reserve = true
			case "lasting":
				x.Lasting = true
			case "relayed":
				x.Relayed = true
			case "helper":
				x.Helper = arg()
			case "other":
				x.Owner = seg.Dir.Other()
			case "peer":
				x.From = netip.AddrPortFrom(seg.Flow.Peer(x.Owner).Addr(), 0)
			case "from":
				host, port, _ := strings.Cut(arg(), "+")
				a, _ := netip.ParseAddr(host)
				p, _ := strconv.Atoi(port)
				x.From = netip.AddrPortFrom(a, uint16(p))
			}
		}
		at := off + bytes.Index(line, []byte(w[2]))
		s.sites = append(s.sites, toySite{len(out.Expect), at, at + len(w[2])})
		out.Expect = append(out.Expect, x)
	}
	return 0, nil
}

func (s *toy) Rewrite(seg *helpers.Segment, nat helpers.NAT, edits []helpers.Edit) []helpers.Edit {
	for _, at := range s.sites {
		var a netip.AddrPort
		var ok bool
		if at.expect >= 0 {
			a, ok = nat.At(at.expect)
		} else if via, err := netip.ParseAddrPort(string(seg.Data[at.off:at.end])); err == nil {
			a, ok = nat.Translate(via)
		}
		if !ok {
			continue
		}
		if b := a.String(); b != string(seg.Data[at.off:at.end]) {
			edits = append(edits, helpers.Edit{Off: at.off, Len: at.end - at.off, New: []byte(b)})
		}
	}
	return edits
}

func toyGroup(s string) helpers.Group {
	id, part, _ := strings.Cut(s, "/")
	a, _ := strconv.ParseUint(id, 10, 64)
	b, _ := strconv.ParseUint(part, 10, 64)
	return helpers.Group{ID: a, Part: b}
}

var errBad = fmt.Errorf("a bad line")
