package wire_test

import (
	"flag"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
	"github.com/cthelperd/cthelperd/helpers/h323/wire"
)

var (
	messages = flag.Int("messages", 4000, "random messages to write and read")
	first    = flag.Uint64("first", 1, "seed of the first one")
)

type V = h323test.V

// TestRandomMessages writes random messages and reads them: what is read is what was written.
func TestRandomMessages(t *testing.T) {
	var got wire.Message
	for seed := *first; seed < *first+uint64(*messages); seed++ {
		x := draw(seed)
		if err := x.read(&got); err != nil {
			t.Fatalf("seed %d: %v\n%s\n%x", seed, err, x.typ, x.b)
		}
		want := x.want()
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("seed %d: written and read differ:\n%s\n%x", seed, diff, x.b)
		}
	}
}

// drawn is a random message.
type drawn struct {
	typ    string
	value  V
	b      []byte
	places []h323test.Place
}

// tops are the types of whole messages.
var tops = []string{"RasMessage", "H323-UserInformation", "MultimediaSystemControlMessage"}

// draw makes the message of a seed.
func draw(seed uint64) drawn {
	rnd := &h323test.Random{Rand: rand.New(rand.NewPCG(seed, 0))}
	return write(rnd, tops[rnd.IntN(len(tops))], nil)
}

// maxElement is the longest encoding that a User-user element or a frame takes.
const maxElement = 65000

// write draws a message that is not too long, and writes it.
func write(rnd *h323test.Random, typ string, path []*wire.Row) drawn {
	x := drawn{typ: typ, b: make([]byte, maxElement+1)}
	for len(x.b) > maxElement {
		x.value = rnd.Value(typ, path).(V)
		x.b, x.places = h323test.Encode(typ, x.value)
	}
	return x.framed()
}

// framed puts a message of Q.931 around call signalling.
func (x drawn) framed() drawn {
	if x.typ == "H323-UserInformation" {
		head := []byte{8, 2, 0x81, 2, 5, 0x7e, byte((len(x.b) + 1) >> 8), byte(len(x.b) + 1), 5}
		for i := range x.places {
			if x.places[i].Off >= 0 {
				x.places[i].Off += len(head)
			}
		}
		x.b = append(head, x.b...)
	}
	return x
}

// read gives it to the reader.
func (x drawn) read(m *wire.Message) error {
	switch x.typ {
	case "RasMessage":
		return wire.ReadRAS(x.b, m)
	case "H323-UserInformation":
		return wire.ReadSignalling(x.b, m)
	}
	return wire.ReadControl(x.b, m)
}

// want is what the reader is to say, found out from the value by the names of the ASN.1.
func (x drawn) want() wire.Message {
	w := wanted{places: x.places, control: -1}
	if x.typ == "H323-UserInformation" {
		w.m.Type, w.m.Flag, w.m.Reference, w.m.Has = 5, true, 0x102, wire.HasReference
	}
	if t := wire.Lookup(x.typ); x.typ == "MultimediaSystemControlMessage" {
		w.carry(t, x.value)
	} else {
		w.value(t, x.value)
	}
	return w.m
}

// wanted goes through a value in the order of its encoding.
type wanted struct {
	m       wire.Message
	places  []h323test.Place // not yet met
	path    []string
	begin   int // of the path in the H.245 message
	control int
	session uint8
}

// in says whether one of the names is around.
func (w *wanted) in(names ...string) bool {
	return slices.ContainsFunc(w.path[w.begin:], func(s string) bool { return slices.Contains(names, s) })
}

// name is the path's last component but i.
func (w *wanted) name(i int) string {
	if i >= len(w.path) {
		return ""
	}
	return w.path[len(w.path)-1-i]
}

func (w *wanted) value(t *wire.Type, v any) {
	switch t.Form {
	case wire.Sequence:
		w.components(t, v.(V))
	case wire.Choice:
		name, in := only(v.(V))
		w.number(t, index(t, name))
		w.components(t, V{name: in})
	case wire.List:
		for _, in := range v.([]any) {
			w.value(t.Of, in)
		}
	case wire.String:
		if t.Of != nil {
			w.carry(t.Of, v)
		} else if w.control < 0 && !w.in("perCallInfo") {
			w.text(v)
		}
	case wire.Boolean:
		n := 0
		if v.(bool) {
			n = 1
		}
		w.number(t, n)
	case wire.Number, wire.Nulls:
		w.number(t, v.(int))
	}
}

// components goes through those that are there, in the order of the type.
func (w *wanted) components(t *wire.Type, v V) {
	for _, r := range t.Rows {
		if in, ok := v[r.Name]; ok && r.Type != nil {
			w.path = append(w.path, r.Name)
			w.value(r.Type, in)
			w.path = w.path[:len(w.path)-1]
		}
	}
	_, ip := v["ip"]
	_, network := v["network"]
	if ip || network {
		p := w.places[0]
		w.places = w.places[1:]
		if p.Off < 0 {
			w.m.Skipped++
			return
		}
		w.m.Addresses = append(w.m.Addresses, wire.Address{
			Off: p.Off, Addr: p.Addr, Field: place(p.Path), Session: w.session, Control: w.control,
			Reverse: w.control >= 0 && w.in("reverseLogicalChannelParameters"),
			Quoted:  slices.Contains(w.path, "perCallInfo"),
		})
	}
}

// carry goes through an H.245 message.
func (w *wanted) carry(t *wire.Type, v any) {
	if w.control >= 0 { // it is returned
		w.value(t, v)
		return
	}
	c := wire.Control{}
	switch w.name(0) {
	case "fastStart":
		c.In = wire.FastStart
	case "h245Control":
		c.In = wire.H245Control
	case "parallelH245Control":
		c.In = wire.ParallelH245Control
	}
	if t.Name == "OpenLogicalChannel" {
		c.Kind = wire.OpenLogicalChannel
	}
	outer := *w
	w.begin, w.control, w.session = len(w.path), len(w.m.Controls), 0
	w.m.Controls = append(w.m.Controls, c)
	w.value(t, v)
	w.begin, w.control = outer.begin, outer.control
}

// text takes a string that counts.
func (w *wanted) text(v any) {
	switch {
	case w.name(0) == "guid" && w.name(1) == "callIdentifier":
		copy(w.m.CallID[:], v.([]byte))
		w.m.Has |= wire.HasCallID
	case w.name(0) == "conferenceID" && !w.in("conferences"):
		copy(w.m.Conference[:], v.([]byte))
		w.m.Has |= wire.HasConference
	case w.name(0) == "endpointIdentifier":
		w.m.EndpointID = nil
		for _, c := range v.(string) {
			w.m.EndpointID = append(w.m.EndpointID, 0, byte(c))
		}
	}
}

// number takes a number, an index or a BOOLEAN that counts.
func (w *wanted) number(t *wire.Type, n int) {
	switch {
	case w.control >= 0:
		w.controlNumber(t, n)
		return
	case w.in("perCallInfo"):
		return
	}
	m := &w.m
	body := len(w.path) == 2 || w.name(3) == "h323-uu-pdu" && len(w.path) == 4
	switch name := w.name(0); {
	case t.Name == "RasMessage":
		m.Kind = wire.GatekeeperRequest + wire.Kind(min(n, 33))
	case name == "h323-message-body":
		m.Kind = wire.Setup + wire.Kind(min(n, 13))
	case name == "requestSeqNum":
		m.Sequence = uint16(n)
	case name == "callReferenceValue":
		m.Reference, m.Has = uint16(n), m.Has|wire.HasReference
	case name == "timeToLive":
		m.TimeToLive, m.Has = uint32(n), m.Has|wire.HasTimeToLive
	case body && slices.Contains([]string{"reason", "rejectReason", "disengageReason", "nakReason"}, name):
		m.Reason, m.Has = uint8(n), m.Has|wire.HasReason
	case name == "callModel":
		m.CallModel, m.Has = uint8(n), m.Has|wire.HasCallModel
	case name == "delay":
		m.Delay = uint16(n)
	case name == "keepAlive":
		m.KeepAlive, m.Has = n == 1, m.Has|wire.HasKeepAlive
	case name == "h245Tunnelling":
		m.Tunnelling, m.Has = n == 1, m.Has|wire.HasTunnelling
	case name == "answerCall" && body:
		m.AnswerCall = n == 1
	case name == "unsolicited":
		m.Unsolicited = n == 1
	}
}

func (w *wanted) controlNumber(t *wire.Type, n int) {
	if w.in("returnedFunction") {
		return
	}
	c := &w.m.Controls[w.control]
	top := len(w.path) == w.begin+1 // not within functionNotUnderstood
	reverse := w.in("reverseLogicalChannelParameters")
	data := &c.Data
	if reverse {
		data = &c.ReverseData
	}
	switch name := w.name(0); {
	case top && t.Name == "RequestMessage":
		c.Kind = wire.OpenLogicalChannel - 3 + wire.Kind(min(n, 16))
	case top && t.Name == "ResponseMessage":
		c.Kind = wire.OpenLogicalChannelAck - 5 + wire.Kind(min(n, 25))
	case top && t.Name == "CommandMessage":
		c.Kind = wire.EndSessionCommand - 5 + wire.Kind(min(n, 13))
	case top && t.Name == "IndicationMessage":
		c.Kind = wire.OpenLogicalChannelConfirm - 4 + wire.Kind(min(n, 24))
	case name == "forwardLogicalChannelNumber":
		c.Channel = uint16(n)
	case name == "reverseLogicalChannelNumber":
		c.Reverse = uint16(n)
	case name == "sessionID":
		if w.session = uint8(n); reverse {
			c.ReverseSession = w.session
		} else {
			c.Session = w.session
		}
	case name == "dataType" && strings.HasSuffix(w.name(1), "LogicalChannelParameters"):
		*data = wire.Data(n + 1)
	case name == "mediaType":
		*data = [...]wire.Data{wire.NonStandardData, wire.VideoData, wire.AudioData, wire.ApplicationData, 0}[min(n, 4)]
	case name == "application" && !reverse && !w.in("dataMode"):
		c.Application = uint8(n)
	case name == "mediaGuaranteedDelivery" && !reverse:
		c.Reliable = n == 1
	case (name == "cause" || name == "reason") && w.in("openLogicalChannelReject", "closeLogicalChannel",
		"requestChannelClose", "requestChannelCloseReject"):
		c.Reason, c.HasReason = uint8(n), true
	}
}

// place is the outermost name of a path that is that of a place.
func place(path string) wire.Field {
	endpoint := false
	for name := range strings.SplitSeq(path, ".") {
		switch name {
		case "alternateEndpoints", "srcAlternatives", "destAlternatives":
			endpoint = true
		case "callSignalAddress", "rasAddress":
			if endpoint {
				name = "alternate " + name
			}
		}
		for f := wire.H245Address; f <= wire.SignalAddress; f++ {
			if f.String() == name && (f != wire.DataAddress || strings.Contains(path, "perCallInfo.data")) {
				return f
			}
		}
	}
	return 0
}

// only is the alternative of a CHOICE.
func only(v V) (name string, in any) {
	for name, in = range v {
	}
	return name, in
}

// index is that of an alternative.
func index(t *wire.Type, name string) int {
	if n, ok := strings.CutPrefix(name, "+"); ok {
		i, _ := strconv.Atoi(n)
		return len(t.Rows) + i
	}
	return slices.IndexFunc(t.Rows, func(r wire.Row) bool { return r.Name == name })
}
