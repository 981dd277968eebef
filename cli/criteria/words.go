package criteria

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cthelperd/cthelperd/cli/names"
)

// Proto is a protocol of layer 4 by name or number.
type Proto struct {
	Number uint8
	set    bool
}

// UnmarshalText reads an option's value.
func (p *Proto) UnmarshalText(b []byte) error {
	n, ok := names.ParseProtocol(string(b))
	if !ok {
		return bad(string(b), string(b), "want a protocol's number, or one of "+strings.Join(names.Protocols(), " "))
	}
	*p = Proto{n, true}
	return nil
}

// IsSet says whether the option was given.
func (p *Proto) IsSet() bool { return p.set }

// Family is ipv4 or ipv6; the zero value is both.
type Family struct{ Name string }

// UnmarshalText reads an option's value.
func (f *Family) UnmarshalText(b []byte) error {
	switch name := strings.ToLower(string(b)); name {
	case "ipv4", "ipv6":
		f.Name = name
	default:
		return bad(string(b), string(b), "want ipv4 or ipv6")
	}
	return nil
}

// IsSet says whether the option was given.
func (f *Family) IsSet() bool { return f.Name != "" }

// Status are bits of a connection's status: NAME[,NAME]. UNSET alone is none.
type Status struct {
	Bits  uint32
	Unset bool
	set   bool
}

// UnmarshalText reads an option's value.
func (s *Status) UnmarshalText(b []byte) error {
	text := string(b)
	for rest := text; ; {
		word, tail, more := strings.Cut(rest, ",")
		bit, ok := names.ParseStatus(word)
		if !ok {
			return bad(text, rest, "want a status: UNSET "+strings.Join(names.StatusNames(), " "))
		}
		s.Bits |= bit
		s.Unset = s.Unset || bit == 0
		s.set = true
		if !more {
			return nil
		}
		rest = tail
	}
}

// IsSet says whether the option was given.
func (s *Status) IsSet() bool { return s.set }

// Where is the condition for the field status. UNSET means that no answer was seen and the connection is not assured.
func (s *Status) Where() string {
	var all []string
	for _, name := range names.Status(s.Bits) {
		all = append(all, strconv.Quote(name)+" in status")
	}
	if s.Unset {
		all = append(all, `!("SEEN_REPLY" in status)`, `!("ASSURED" in status)`)
	}
	return strings.Join(all, " && ")
}

// Labels are labels by name or number: NAME[,NAME].
type Labels []string

// UnmarshalText reads an option's value. It may come several times.
func (l *Labels) UnmarshalText(b []byte) error {
	text := string(b)
	for rest := text; ; {
		word, tail, more := strings.Cut(rest, ",")
		if word == "" {
			return bad(text, rest, "want a label's name or number")
		}
		*l = append(*l, word)
		if !more {
			return nil
		}
		rest = tail
	}
}

// Numbers looks the labels up.
func (l Labels) Numbers(known *names.Labels) ([]int, error) {
	var numbers []int
	for _, name := range l {
		n, ok := known.Number(name)
		if !ok {
			return nil, bad(name, name, "unknown label: neither in "+names.LabelFile+" nor a number from 0 to 127")
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// Where is the condition that all labels are set.
func (l Labels) Where() string {
	var all []string
	for _, name := range l {
		all = append(all, strconv.Quote(name)+" in labels")
	}
	return strings.Join(all, " && ")
}

// State is the name of a state of TCP, SCTP or DCCP.
type State struct{ Name string }

// UnmarshalText reads an option's value.
func (s *State) UnmarshalText(b []byte) error {
	for _, p := range []uint8{6, 132, 33} {
		if n, ok := names.ParseState(p, string(b)); ok {
			s.Name = names.State(p, n)
			return nil
		}
	}
	return bad(string(b), string(b), "want a state: "+strings.Join(names.States(0), " "))
}

// IsSet says whether the option was given.
func (s *State) IsSet() bool { return s.Name != "" }

// Of is the state's number for a protocol.
func (s *State) Of(proto uint8) (uint8, error) {
	n, ok := names.ParseState(proto, s.Name)
	if !ok {
		if len(names.States(proto)) == 0 || proto == 0 {
			return 0, bad(s.Name, s.Name, "only tcp, sctp and dccp have states")
		}
		return 0, bad(s.Name, s.Name, fmt.Sprintf("want a state of %s: %s", names.Protocol(proto),
			strings.Join(names.States(proto), " ")))
	}
	return n, nil
}

// Role is which end the original direction's sender is, of DCCP.
type Role struct {
	Server, set bool
}

// UnmarshalText reads an option's value.
func (r *Role) UnmarshalText(b []byte) error {
	switch strings.ToLower(string(b)) {
	case "client":
	case "server":
		r.Server = true
	default:
		return bad(string(b), string(b), "want client or server")
	}
	r.set = true
	return nil
}

// IsSet says whether the option was given.
func (r *Role) IsSet() bool { return r.set }

func (r *Role) String() string {
	if r.Server {
		return "server"
	}
	return "client"
}
