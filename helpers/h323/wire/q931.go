package wire

import "errors"

// Q.931 (clause 4) and its use by H.225.0 (7.2).
const (
	protocolQ931 = 0x08 // protocol discriminator
	protocolASN1 = 0x05 // of the User-user element (H.225.0, table 18): X.208 and X.209 coded
	elementUser  = 0x7e // User-user; the only one with a length of two bytes (H.225.0, 7.2.2.31)
	shift        = 0x90 // another codeset of elements: for the next one only, or until the next shift
)

// TPKT (RFC 1006, section 6).
const (
	frameHeader  = 4
	frameVersion = 3
)

// ErrFrame says that the bytes are not TPKT.
var ErrFrame = errors.New("not TPKT")

// FrameHeader is how many bytes stand before the contents of a frame.
const FrameHeader = frameHeader

// Frame is the size of the first frame of b, its header included; 0: b is too short to tell. One without contents is
// what some end points send to keep a connection alive.
func Frame(b []byte) (size int, err error) {
	if len(b) > 0 && b[0] != frameVersion || len(b) > 1 && b[1] != 0 {
		return 0, ErrFrame
	}
	if len(b) < frameHeader {
		return 0, nil
	}
	if size = int(b[2])<<8 | int(b[3]); size < frameHeader {
		return 0, ErrFrame
	}
	return size, nil
}

// ReadSignalling reads a frame's contents on a call signalling connection: a Q.931 message.
func ReadSignalling(b []byte, m *Message) error {
	m.reset()
	at, size, err := m.header(b)
	if err != nil || size == 0 {
		return err
	}
	w := newWalker(m, b[:at+size], at)
	w.walk(w.types.information, 0)
	return w.fault()
}

// header reads a Q.931 message up to the contents of its User-user element; size 0: there is none.
func (m *Message) header(b []byte) (at, size int, err error) {
	if len(b) < 2 || b[0] != protocolQ931 || b[1] > 2 { // H.225.0, 7.2.2.2: two bytes; Q.931 has the dummy of none
		return 0, 0, &Error{Err: ErrProtocol}
	}
	at = 2 + int(b[1])
	if len(b) <= at || b[at] >= 0x80 {
		return 0, 0, &Error{Off: at, Err: ErrProtocol}
	}
	for i, c := range b[2:at] {
		if i == 0 {
			m.Flag, c = c >= 0x80, c&0x7f
		}
		m.Reference = m.Reference<<8 | uint16(c)
		m.Has |= HasReference
	}
	m.Type = b[at]
	at++
	locked, once := uint8(0), uint8(0)
	for at < len(b) {
		id := b[at]
		codeset := once
		once = locked
		switch {
		case id&0xf0 == shift:
			once = id & 7
			if id&8 == 0 {
				locked = once
			}
			at++
			continue
		case id >= 0x80: // of one byte
			at++
			continue
		case id == elementUser && codeset == 0:
			if at+4 > len(b) {
				return 0, 0, &Error{Off: at, Err: errShort}
			}
			size = int(b[at+1])<<8 | int(b[at+2])
			at += 3
			if size < 1 || at+size > len(b) {
				return 0, 0, &Error{Off: at, Err: errShort}
			}
			if b[at] != protocolASN1 {
				return 0, 0, nil // text of a user, say
			}
			return at + 1, size - 1, nil
		}
		if at+2 > len(b) || at+2+int(b[at+1]) > len(b) {
			return 0, 0, &Error{Off: at, Err: errShort}
		}
		at += 2 + int(b[at+1])
	}
	return 0, 0, nil
}
