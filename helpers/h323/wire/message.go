// Package wire reads what H.323 end points and gatekeepers say to each other: RAS and call signalling (H.225.0), and
// H.245. It gives the transport addresses of a message with their places, and the few values that a helper of
// cthelperd needs to know what they are for. It reads no more of a message than that takes, allocates nothing once its
// caller's slices have grown (but for what comes in fragments, which begin at 16 KiB), and does work that the length of
// the message bounds.
package wire

import (
	"errors"
	"fmt"
	"net/netip"
)

// What is wrong with a message. An *Error wraps one of them.
var (
	ErrProtocol = errors.New("not H.323") // the first bytes cannot be
	errShort    = errors.New("ends early")
	errBounds   = errors.New("out of bounds")
	errDepth    = errors.New("too deep")
	errWork     = errors.New("too much work")
)

// Error refuses a message. Off is a byte of it.
type Error struct {
	Off int
	Err error
}

func (e *Error) Error() string { return fmt.Sprintf("at byte %d: %v", e.Off, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// Message is what a RAS datagram, a message of call signalling, or a frame of H.245 says. The functions that read set
// all of it and use the memory of its slices again.
type Message struct {
	Kind       Kind   // 0 for H.245, and for Q.931 without user-to-user information
	Type       uint8  // Q.931: message type (Q.931, table 4-2); else 0
	Flag       bool   // Q.931: call reference flag: set in what the called side sends
	Reference  uint16 // Q.931: call reference value; RAS: callReferenceValue
	Sequence   uint16 // RAS: requestSeqNum
	Has        Has
	CallID     [16]byte
	Conference [16]byte // conferenceID
	TimeToLive uint32   // seconds
	EndpointID []byte   // endpointIdentifier, UTF-16BE: a view of the message
	Reason     uint8    // which alternative: the first is 0, extensions count on
	CallModel  uint8    // 0: direct, 1: gatekeeper routed
	Delay      uint16   // RequestInProgress, milliseconds

	KeepAlive, AnswerCall, Tunnelling, Unsolicited bool

	Addresses []Address // all, in the order of their bytes
	Controls  []Control // H.245 messages: those of the frame, or carried in this one; in order
	Skipped   int       // extensions and tunnelled messages that cannot be read, and addresses that a fragment's end cuts
}

// Address is a transport address in a message.
type Address struct {
	Off     int            // byte of the IP address: 4 or 16 bytes, the port straight behind in 2, big endian
	Addr    netip.AddrPort // of 4 or 16 bytes, as it stands there
	Field   Field          // what it is
	Session uint8          // sessionID that was read last before it in its H.245 message
	Reverse bool           // in reverseLogicalChannelParameters
	Quoted  bool           // in what an IRR tells of calls
	Control int            // index in Controls of the H.245 message that it is in; -1: none
}

// Control is an H.245 message.
type Control struct {
	Kind    Kind
	In      Carrier
	Channel uint16 // forwardLogicalChannelNumber; 0: none
	Reverse uint16 // reverseLogicalChannelNumber of an acknowledgement; 0: none
	// Session is sessionID of the forward parameters, or of those that an acknowledgement accepts; ReverseSession that of
	// the reverse ones. 0: none, or the master of the call is to choose.
	Session, ReverseSession uint8
	Data, ReverseData       Data
	Application             uint8 // DataApplicationCapability.application if the forward Data is one
	Reliable                bool  // mediaGuaranteedDelivery of the forward parameters
	HasReason               bool
	Reason                  uint8 // as Message.Reason
}

// Carrier is how an H.245 message travels.
type Carrier uint8

const (
	Direct              Carrier = iota // on a connection of its own
	FastStart                          // an element of fastStart
	H245Control                        // tunnelled
	ParallelH245Control                // tunnelled beside fastStart
)

// Data is what a logical channel carries: one more than the index in DataType (H.245), and so for what H.235 protects.
type Data uint8

const (
	NoData Data = iota
	NonStandardData
	NullData
	VideoData
	AudioData
	ApplicationData // T.120, T.38, …
	EncryptionData
)

// Has says which values of a Message are there.
type Has uint16

const (
	HasCallID Has = 1 << iota
	HasConference
	HasTimeToLive
	HasReason
	HasCallModel
	HasKeepAlive
	HasTunnelling
	HasReference
)

// ReadRAS reads a datagram of RAS (H.225.0, 7.7 to 7.20).
func ReadRAS(b []byte, m *Message) error {
	m.reset()
	w := newWalker(m, b, 0)
	w.walk(w.types.ras, asRAS)
	return w.fault()
}

// ReadControl reads a frame's contents on an H.245 connection: one message or several.
func ReadControl(b []byte, m *Message) error {
	m.reset()
	w := newWalker(m, b, 0)
	w.messages(w.types.control)
	return w.fault()
}

// reset empties m and keeps its memory.
func (m *Message) reset() {
	*m = Message{Addresses: m.Addresses[:0], Controls: m.Controls[:0]}
}

// number puts a number that a row asks for where it belongs.
func (w *walker) number(as Field, v uint32) {
	if w.err != nil {
		return
	}
	switch as {
	case asPort:
		w.address(uint16(v))
		return
	case asStandard:
		w.identify(v)
		return
	}
	if w.returns {
		return
	}
	if w.control >= 0 {
		w.controlNumber(&w.m.Controls[w.control], as, v)
		return
	}
	if w.quoted {
		return
	}
	m := w.m
	switch as {
	case asRAS:
		m.Kind = firstRAS + Kind(min(v, rasKinds))
	case asBody:
		m.Kind = firstBody + Kind(min(v, bodyKinds))
	case asSequence:
		m.Sequence = uint16(v)
	case asReference:
		m.Reference, m.Has = uint16(v), m.Has|HasReference
	case asTimeToLive:
		m.TimeToLive, m.Has = v, m.Has|HasTimeToLive
	case asReason:
		m.Reason, m.Has = uint8(min(v, 255)), m.Has|HasReason
	case asCallModel:
		m.CallModel, m.Has = uint8(min(v, 255)), m.Has|HasCallModel
	case asDelay:
		m.Delay = uint16(v)
	case asKeepAlive:
		m.KeepAlive, m.Has = v != 0, m.Has|HasKeepAlive
	case asTunnelling:
		m.Tunnelling, m.Has = v != 0, m.Has|HasTunnelling
	case asAnswerCall:
		m.AnswerCall = v != 0
	case asUnsolicited:
		m.Unsolicited = v != 0
	}
}

// controlNumber is number for what is in an H.245 message.
func (w *walker) controlNumber(c *Control, as Field, v uint32) {
	switch as {
	case asRequest:
		c.Kind = firstRequest + Kind(min(v, requestKinds))
	case asResponse:
		c.Kind = firstResponse + Kind(min(v, responseKinds))
	case asCommand:
		c.Kind = firstCommand + Kind(min(v, commandKinds))
	case asIndication:
		c.Kind = firstIndication + Kind(min(v, indicationKinds))
	case asChannel:
		c.Channel = uint16(v)
	case asReverseChannel:
		c.Reverse = uint16(v)
	case asReason:
		c.Reason, c.HasReason = uint8(min(v, 255)), true
	case asSession:
		w.session = uint8(v)
		if w.reverse {
			c.ReverseSession = w.session
		} else {
			c.Session = w.session
		}
	case asDataType:
		w.data(c, Data(min(v, 254))+1)
	case asMediaType:
		w.data(c, [...]Data{NonStandardData, VideoData, AudioData, ApplicationData, NoData}[min(v, 4)])
	case asApplication:
		if !w.reverse {
			c.Application = uint8(min(v, 255))
		}
	case asReliable:
		if !w.reverse {
			c.Reliable = v != 0
		}
	}
}

// data notes what the channel carries.
func (w *walker) data(c *Control, d Data) {
	if w.reverse {
		c.ReverseData = d
	} else {
		c.Data = d
	}
}

// bytes puts a string that a row asks for where it belongs.
func (w *walker) bytes(as Field, at, n int) {
	switch {
	case as == asIP:
		w.ip, w.ipSize = at, n
	case as == asFeatureName:
		w.name(w.b[at : at+n])
	case w.quoted:
	case as == asCallID:
		copy(w.m.CallID[:], w.b[at:at+n])
		w.m.Has |= HasCallID
	case as == asConference:
		copy(w.m.Conference[:], w.b[at:at+n])
		w.m.Has |= HasConference
	case as == asEndpointID:
		w.m.EndpointID = w.b[at : at+n : at+n]
	}
}

// address takes a port and the IP address straight before it. Where the two are in more than one fragment there is no
// place to give: it is skipped.
func (w *walker) address(port uint16) {
	if w.place == 0 {
		return
	}
	off, whole := w.source(w.ip, w.ipSize+2)
	if !whole {
		w.m.Skipped++
		return
	}
	addr, ok := netip.AddrFromSlice(w.b[w.ip : w.ip+w.ipSize])
	if !ok {
		return
	}
	w.m.Addresses = append(w.m.Addresses, Address{
		Off:     off,
		Addr:    netip.AddrPortFrom(addr, port),
		Field:   w.place,
		Session: w.session,
		Reverse: w.reverse,
		Quoted:  w.quoted,
		Control: w.control,
	})
}
