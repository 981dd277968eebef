package packet

import (
	"encoding/binary"
	"iter"

	"github.com/cthelperd/cthelperd/helpers"
)

// Offsets that TCP and UDP share.
const (
	srcPort = 0
	dstPort = 2
)

// Offsets in a TCP header, RFC 9293 section 3.1.
const (
	tcpLen      = 20
	tcpSeq      = 4
	tcpAck      = 8
	tcpOffset   = 12
	tcpFlags    = 13
	tcpChecksum = 16
)

// Flags of a TCP header, RFC 9293 section 3.1.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// Options of a TCP header: RFC 9293 section 3.2, RFC 2018 section 3.
const (
	optionEnd  = 0
	optionNone = 1
	optionSACK = 5
	sackEdge   = 4 // bytes
)

// Offsets in a UDP header, RFC 768.
const (
	udpLen      = 8
	udpLength   = 4
	udpChecksum = 6
)

func (v *View) decodeTCP() error {
	l4 := v.data[v.head:]
	if len(l4) < tcpLen {
		return ErrTruncated
	}
	header := int(l4[tcpOffset]>>4) * 4
	if header < tcpLen || header > len(l4) {
		return ErrTruncated
	}
	v.body = v.head + header
	return nil
}

func (v *View) decodeUDP() error {
	l4 := v.data[v.head:]
	if len(l4) < udpLen {
		return ErrTruncated
	}
	length := int(binary.BigEndian.Uint16(l4[udpLength:]))
	if length < udpLen || length > len(l4) {
		return ErrTruncated
	}
	v.body, v.end = v.head+udpLen, v.head+length
	return nil
}

// Seq is the sequence number of a TCP segment.
func (v *View) Seq() uint32 { return binary.BigEndian.Uint32(v.data[v.head+tcpSeq:]) }

// Ack is the acknowledgement number of a TCP segment; it counts if Flags has ACK.
func (v *View) Ack() uint32 { return binary.BigEndian.Uint32(v.data[v.head+tcpAck:]) }

// Flags are those of a TCP segment.
func (v *View) Flags() byte { return v.data[v.head+tcpFlags] }

// SACK gives the offsets, in Data, of the edges of selectively acknowledged blocks. Malformed options end it.
func (v *View) SACK() iter.Seq[int] {
	return func(yield func(int) bool) {
		if v.transport != helpers.TCP {
			return
		}
		for at := v.head + tcpLen; at < v.body; {
			kind := v.data[at]
			if kind == optionEnd {
				return
			}
			if kind == optionNone {
				at++
				continue
			}
			if at+2 > v.body {
				return
			}
			length := int(v.data[at+1])
			if length < 2 || at+length > v.body {
				return
			}
			if kind == optionSACK {
				for edge := at + 2; edge+sackEdge <= at+length; edge += sackEdge {
					if !yield(edge) {
						return
					}
				}
			}
			at += length
		}
	}
}
