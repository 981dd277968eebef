package helpertest

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/cthelperd/cthelperd/helpers"
)

// A Script is a dialogue of one flow. As text it has one entry a line:
//
//	# a comment
//	flow 192.0.2.2:50000>198.51.100.9:21     client and server; the default is these, with the helper's first port
//	late                                     the flow's first bytes were not seen
//	nat 192.0.2.2=203.0.113.1                the other side sees FROM as TO; ports are kept; for "~" lines
//	C: PORT 192,0,2,2,200,1\r\n              the client's bytes, one segment or datagram
//	S: 200 fine\r\n                          the server's
//	C gap: QUIT\r\n                          bytes before these are lost
//	S end: 221 bye\r\n                       no byte will follow
//	= expect …                               what the entry above must have given, see Output
//	~ PORT 203,0,113,1,200,1\r\n             the bytes of the entry above behind the NAT, together with held ones
//
// The bytes are exact. \r \n \t \\ and \xHH stand for themselves as in Go. A script with at least one "=" line lists
// all outputs, one with a "~" line all changed bytes.
type Script struct {
	Client, Server netip.AddrPort // invalid: the default
	Late           bool
	NAT            map[netip.Addr]netip.Addr
	Says           []Say
}

// Say is one segment.
type Say struct {
	Dir     helpers.Dir
	Data    []byte
	Gap     bool
	End     bool
	Want    []string // the "=" lines
	Behind  []byte   // the "~" line
	Changed bool     // it has one
}

// Parse reads a script. An error names the line.
func Parse(text string) (*Script, error) {
	s := &Script{}
	for i, line := range strings.Split(text, "\n") {
		if err := s.parseLine(strings.TrimRight(line, "\r")); err != nil {
			return nil, fmt.Errorf("script line %d: %w", i+1, err)
		}
	}
	return s, nil
}

// parseLoose reads whatever of text is a script: a fuzzer's.
func parseLoose(text string) *Script {
	s := &Script{}
	for line := range strings.SplitSeq(text, "\n") {
		if s.parseLine(line) != nil {
			s.Says = append(s.Says, Say{Dir: helpers.Dir(len(line) & 1), Data: []byte(line)})
		}
	}
	for i := range s.Says {
		s.Says[i].Want, s.Says[i].Changed, s.Says[i].Behind = nil, false, nil
	}
	return s
}

func (s *Script) parseLine(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	switch {
	case line == "" || line[0] == '#':
		return nil
	case word == "late":
		s.Late = true
		return nil
	case word == "flow":
		return s.parseFlow(strings.TrimSpace(rest))
	case word == "nat":
		return s.parseNAT(strings.TrimSpace(rest))
	case word == "=" || word == "~":
		return s.parseWant(word, rest)
	}
	head, text, ok := strings.Cut(line, ":")
	if !ok || strings.TrimSpace(head) == "" {
		return fmt.Errorf("%q is no entry", line)
	}
	say := Say{}
	for i, w := range strings.Fields(head) {
		switch {
		case i == 0 && w == "C":
		case i == 0 && w == "S":
			say.Dir = helpers.Reply
		case i > 0 && w == "gap":
			say.Gap = true
		case i > 0 && w == "end":
			say.End = true
		default:
			return fmt.Errorf("%q is neither C nor S, gap or end", w)
		}
	}
	data, err := unescape(strings.TrimPrefix(text, " "))
	say.Data = data
	s.Says = append(s.Says, say)
	return err
}

func (s *Script) parseFlow(text string) (err error) {
	from, to, _ := strings.Cut(text, ">")
	c, err := netip.ParseAddrPort(from)
	if err != nil {
		return err
	}
	v, err := netip.ParseAddrPort(to)
	if err != nil {
		return err
	}
	for _, a := range []netip.Addr{c.Addr(), v.Addr()} {
		if a.Zone() != "" || a.Is4In6() || a.IsUnspecified() {
			return fmt.Errorf("%v is no address of a flow", a)
		}
	}
	if c.Addr().Is4() != v.Addr().Is4() || c.Addr() == v.Addr() || c.Port() == 0 || v.Port() == 0 {
		return fmt.Errorf("%v>%v is no flow", c, v)
	}
	s.Client, s.Server = c, v
	return nil
}

func (s *Script) parseNAT(text string) error {
	from, to, _ := strings.Cut(text, "=")
	a, err := netip.ParseAddr(from)
	if err != nil {
		return err
	}
	b, err := netip.ParseAddr(to)
	if err != nil {
		return err
	}
	if s.NAT == nil {
		s.NAT = map[netip.Addr]netip.Addr{}
	}
	s.NAT[a] = b
	return nil
}

func (s *Script) parseWant(word, rest string) error {
	if len(s.Says) == 0 {
		return fmt.Errorf("%q before any segment", word)
	}
	say := &s.Says[len(s.Says)-1]
	if word == "=" {
		say.Want = append(say.Want, strings.TrimSpace(rest))
		return nil
	}
	b, err := unescape(rest)
	say.Behind, say.Changed = b, true
	return err
}

func unescape(text string) ([]byte, error) {
	var b []byte
	for len(text) > 0 {
		if text[0] != '\\' {
			b, text = append(b, text[0]), text[1:]
			continue
		}
		if len(text) == 1 {
			return append(b, '\\'), fmt.Errorf("a lone backslash at the end")
		}
		c := text[1]
		switch c {
		case 'r', 'n', 't', '\\':
			b, text = append(b, map[byte]byte{'r': '\r', 'n': '\n', 't': '\t', '\\': '\\'}[c]), text[2:]
		case 'x':
			v, err := strconv.ParseUint(text[2:min(4, len(text))], 16, 8)
			if err != nil || len(text) < 4 {
				return append(b, text...), fmt.Errorf("bad escape %q", text[:min(4, len(text))])
			}
			b, text = append(b, byte(v)), text[4:]
		default:
			return append(b, text...), fmt.Errorf("bad escape %q", text[:2])
		}
	}
	return b, nil
}

func escape(b []byte) string {
	var w strings.Builder
	for _, c := range b {
		switch {
		case c == '\r':
			w.WriteString(`\r`)
		case c == '\n':
			w.WriteString(`\n`)
		case c == '\t':
			w.WriteString(`\t`)
		case c == '\\':
			w.WriteString(`\\`)
		case c < ' ' || c >= 0x7f:
			fmt.Fprintf(&w, `\x%02x`, c)
		default:
			w.WriteByte(c)
		}
	}
	return w.String()
}

// String is the script as text, without its "=" and "~" lines.
func (s *Script) String() string {
	var w strings.Builder
	if s.Client.IsValid() {
		fmt.Fprintf(&w, "flow %v>%v\n", s.Client, s.Server)
	}
	if s.Late {
		w.WriteString("late\n")
	}
	for from, to := range s.NAT {
		fmt.Fprintf(&w, "nat %v=%v\n", from, to)
	}
	for _, say := range s.Says {
		w.WriteString(string("CS"[say.Dir]))
		if say.Gap {
			w.WriteString(" gap")
		}
		if say.End {
			w.WriteString(" end")
		}
		fmt.Fprintf(&w, ": %s\n", escape(say.Data))
	}
	return w.String()
}

func (s *Script) size() (n int) {
	for _, say := range s.Says {
		n += len(say.Data)
	}
	return n
}

// flow is the script's flow for h, as a NAT shows it. The client knows the server by its outside address and the
// server the client by his.
func (s *Script) flow(h helpers.Helper, nat *nat) *helpers.Flow {
	c, v := s.Client, s.Server
	if !c.IsValid() {
		port := uint16(9)
		if len(h.Ports) > 0 {
			port = h.Ports[0]
		}
		c = netip.MustParseAddrPort("192.0.2.2:50000")
		v = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, 9}), port)
	}
	return &helpers.Flow{
		ID:        1,
		Transport: h.Transport,
		Orig:      helpers.Tuple{Src: c, Dst: nat.outside(v)},
		Reply:     helpers.Tuple{Src: v, Dst: nat.outside(c)},
		Late:      s.Late,
	}
}

// runs puts neighbouring segments of one direction together, for they can be cut anywhere.
func (s *Script) runs() []Say {
	var runs []Say
	for _, say := range s.Says {
		if n := len(runs); n > 0 && runs[n-1].Dir == say.Dir && !say.Gap && !runs[n-1].End {
			runs[n-1].Data = append(bytes.Clone(runs[n-1].Data), say.Data...)
			runs[n-1].End = say.End
			continue
		}
		runs = append(runs, say)
	}
	return runs
}

// with is the script with other segments.
func (s *Script) with(says []Say) *Script {
	c := *s
	c.Says = says
	return &c
}
