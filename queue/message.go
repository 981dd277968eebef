package queue

import (
	"encoding/binary"
)

// Messages of the queue's subsystem (linux/netfilter/nfnetlink_queue.h, enum nfqnl_msg_types).
const (
	subsysQueue = 3 // NFNL_SUBSYS_QUEUE

	msgPacket  = subsysQueue << 8
	msgVerdict = subsysQueue<<8 | 1
	msgConfig  = subsysQueue<<8 | 2
	msgBatch   = subsysQueue<<8 | 3

	msgError = 2 // NLMSG_ERROR, an acknowledgement too
)

// Attributes of a packet and of a verdict (enum nfqnl_attr_type). What is not here is passed over: interfaces, hardware
// address, NFQA_SKB_INFO, NFQA_VLAN, NFQA_L2HDR and whatever is to come.
const (
	attrPacketHeader  = 1
	attrVerdictHeader = 2
	attrMark          = 3
	attrPayload       = 10
	attrCT            = 11
	attrCTInfo        = 12
	attrCapLen        = 13
)

// Attributes of a configuration (enum nfqnl_attr_config), and their values.
const (
	attrCommand   = 1
	attrParams    = 2
	attrMaxLength = 3
	attrMask      = 4
	attrFlags     = 5

	commandBind   = 1
	commandUnbind = 2
	copyPacket    = 2

	flagFailOpen  = 1
	flagConntrack = 2
)

const (
	flagRequest = 1 // NLM_F_REQUEST
	flagAck     = 4 // NLM_F_ACK

	headerLen  = 16 // struct nlmsghdr
	familyLen  = 4  // struct nfgenmsg
	attrLen    = 4  // struct nlattr
	attrMasked = 0x3fff

	drop      = 0                // NF_DROP
	accept    = 1                // NF_ACCEPT
	maxChange = 0xffff - attrLen // NFQNL_MAX_COPY_RANGE: what fits into an attribute
)

func align(n int) int { return (n + 3) &^ 3 }

// cut takes the first message from b: its type, its sequence number, what is behind its header, and the rest of b.
func cut(b []byte) (kind uint16, seq uint32, body, rest []byte, ok bool) {
	if len(b) < headerLen {
		return 0, 0, nil, nil, false
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < headerLen || n > len(b) {
		// A message that was cut off still has its beginning, where the packet's id is.
		n = len(b)
	}
	kind, seq = binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:])
	return kind, seq, b[headerLen:n], b[min(align(n), len(b)):], true
}

// readPacket reads the body of a packet's message (nfqnl_build_packet_message) in place. named: it has an id; whole: all
// of it could be read. p is empty before.
func readPacket(b []byte, p *Packet) (named, whole bool) {
	if len(b) < familyLen {
		return false, false
	}
	b = b[familyLen:]
	total := uint32(0) // the whole length
	for len(b) >= attrLen {
		n := int(binary.NativeEndian.Uint16(b))
		if n < attrLen || n > len(b) {
			return named, false
		}
		v := b[attrLen:n:n]
		kind := binary.NativeEndian.Uint16(b[2:]) & attrMasked
		ok := true
		switch kind {
		case attrPacketHeader: // struct nfqnl_msg_packet_hdr: id, protocol, hook
			if ok = len(v) >= 7; ok {
				p.ID, p.Hook, named = binary.BigEndian.Uint32(v), v[6], true
			}
		case attrPayload:
			p.Data = v
		case attrCT:
			p.Conntrack = v
		case attrMark:
			p.Mark, ok = number(v)
		case attrCTInfo:
			p.CtInfo, ok = number(v)
		case attrCapLen: // comes with truncated packets only
			total, ok = number(v)
		}
		if !ok {
			return named, false
		}
		b = b[min(align(n), len(b)):]
	}
	p.Truncated = int(total) > len(p.Data)
	return named, named
}

func number(v []byte) (uint32, bool) {
	if len(v) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(v), true
}

// appendHeader begins a message for queue number with so many bytes of attributes. The sequence number is the
// caller's: the kernel's answer repeats it.
func appendHeader(b []byte, kind, flags uint16, seq uint32, number uint16, attributes int) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(headerLen+familyLen+attributes))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0) // port: the kernel knows
	b = append(b, 0, 0)       // AF_UNSPEC, NFNETLINK_V0
	return binary.BigEndian.AppendUint16(b, number)
}

func appendAttr(b []byte, kind uint16, length int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrLen+length))
	return binary.NativeEndian.AppendUint16(b, kind)
}

// verdictLen is the length of a verdict header's attribute: struct nfqnl_msg_verdict_hdr.
const verdictLen = attrLen + 8

// appendVerdict appends the message that accepts packet id, or with msgBatch all up to it: so many packets.
func appendVerdict(b []byte, kind, number uint16, id, packets uint32) []byte {
	b = appendHeader(b, kind, flagRequest, packets, number, verdictLen)
	return appendVerdictHeader(b, accept, id)
}

// appendDrop appends the message that drops packet id.
func appendDrop(b []byte, number uint16, id uint32) []byte {
	b = appendHeader(b, msgVerdict, flagRequest, 1, number, verdictLen)
	return appendVerdictHeader(b, drop, id)
}

func appendVerdictHeader(b []byte, verdict, id uint32) []byte {
	b = appendAttr(b, attrVerdictHeader, verdictLen-attrLen)
	b = binary.BigEndian.AppendUint32(b, verdict)
	return binary.BigEndian.AppendUint32(b, id)
}

// appendChanged appends the message that accepts packet id with other content.
func appendChanged(b []byte, number uint16, id uint32, data []byte) []byte {
	b = appendHeader(b, msgVerdict, flagRequest, 1, number, verdictLen+attrLen+len(data))
	b = appendVerdictHeader(b, accept, id)
	b = appendAttr(b, attrPayload, len(data))
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// appendBind appends the message that makes queue cfg.Number, with all that cfg says of it.
func appendBind(b []byte, cfg Config, seq uint32) []byte {
	var flags uint32
	if cfg.FailOpen {
		flags |= flagFailOpen
	}
	if cfg.Conntrack {
		flags |= flagConntrack
	}
	const command, params, word = attrLen + 4, attrLen + 8, attrLen + 4 // params: 5 bytes and padding
	b = appendHeader(b, msgConfig, flagRequest|flagAck, seq, cfg.Number, command+params+3*word)
	b = append(appendAttr(b, attrCommand, 4), commandBind, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(appendAttr(b, attrParams, 5), cfg.MaxPacket)
	b = append(b, copyPacket, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(appendAttr(b, attrMaxLength, 4), cfg.Length)
	b = binary.BigEndian.AppendUint32(appendAttr(b, attrMask, 4), flagFailOpen|flagConntrack)
	return binary.BigEndian.AppendUint32(appendAttr(b, attrFlags, 4), flags)
}

// appendUnbind appends the message that ends a queue.
func appendUnbind(b []byte, number uint16, seq uint32) []byte {
	b = appendHeader(b, msgConfig, flagRequest|flagAck, seq, number, attrLen+4)
	return append(appendAttr(b, attrCommand, 4), commandUnbind, 0, 0, 0)
}
