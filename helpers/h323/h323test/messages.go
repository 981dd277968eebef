package h323test

import "encoding/binary"

// RAS writes a datagram: RAS(V{"registrationRequest": V{"requestSeqNum": 5}}).
func RAS(v V) []byte {
	b, _ := Encode("RasMessage", v)
	return b
}

// Signalling writes a Q.931 message around an H323-UserInformation; a nil v leaves the User-user element out. The call
// reference flag is set in what the called side sends.
func Signalling(kind byte, reference uint16, flag bool, v V) []byte {
	b, _ := signalling(kind, reference, flag, v)
	return b
}

func signalling(kind byte, reference uint16, flag bool, v V) ([]byte, []Place) {
	if flag {
		reference |= 0x8000
	}
	b := binary.BigEndian.AppendUint16([]byte{8, 2}, reference)
	b = append(b, kind)
	if kind == 0x05 {
		b = append(b, 0x04, 3, 0x88, 0xc0, 0xa5) // bearer capability, as end points send it
	}
	if v == nil {
		return b, nil
	}
	in, places := Encode("H323-UserInformation", v)
	b = append(b, 0x7e)
	b = binary.BigEndian.AppendUint16(b, uint16(len(in)+1))
	b = append(b, 5)
	for i := range places {
		if places[i].Off >= 0 {
			places[i].Off += len(b)
		}
	}
	return append(b, in...), places
}

// Control writes H.245 messages, one behind the other: Control(V{"request": V{"openLogicalChannel": V{…}}}).
func Control(vs ...V) []byte {
	var out []byte
	for _, v := range vs {
		b, _ := Encode("MultimediaSystemControlMessage", v)
		out = append(out, b...)
	}
	return out
}

// OLC writes an OpenLogicalChannel as fastStart has it.
func OLC(v V) []byte {
	b, _ := Encode("OpenLogicalChannel", v)
	return b
}

// TPKT puts a frame's header before its contents (RFC 1006, section 6).
func TPKT(contents []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{3, 0}, uint16(len(contents)+4))
	return append(b, contents...)
}
