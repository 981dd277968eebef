package sim

import (
	"encoding/binary"
	"net/netip"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/packet"
)

// kernel is the firewall's: addresses, and sequence numbers as nf_ct_seq_adjust moves them.
type kernel struct {
	conn   engine.Conn
	adjust [2]engine.SeqAdjust
}

func (k *kernel) seen(dir int) helpers.Tuple {
	if dir == 0 {
		return k.conn.Reply.Turned()
	}
	return k.conn.Orig.Turned()
}

// moved is s as it leaves the firewall.
func (k *kernel) moved(dir int, s segment) segment {
	own, other := k.adjust[dir], k.adjust[1-dir]
	shift := own.Before
	if before(own.Pos, s.seq) {
		shift = own.After
	}
	s.seq += uint32(shift)
	back := func(ack uint32) uint32 {
		if before(other.Pos, ack-uint32(other.Before)) {
			return ack - uint32(other.After)
		}
		return ack - uint32(other.Before)
	}
	if s.acks {
		s.ack = back(s.ack)
	}
	if s.sack[0] != s.sack[1] {
		s.sack = [2]uint32{back(s.sack[0]), back(s.sack[1])}
	}
	return s
}

const (
	flagFIN, flagSYN, flagRST, flagACK = 1, 2, 4, 16
	noop, sackKind, sackLen            = 1, 5, 10
)

// encode makes the IP packet of s.
func (k *kernel) encode(dir int, s segment) []byte {
	t := k.seen(dir)
	var b []byte
	options := 0
	if s.sack[0] != s.sack[1] {
		options = 12
	}
	if src := t.Src.Addr(); src.Is4() {
		b = make([]byte, 20)
		b[0], b[8], b[9] = 0x45, 64, 6
		copy(b[12:], src.AsSlice())
		copy(b[16:], t.Dst.Addr().AsSlice())
		binary.BigEndian.PutUint16(b[2:], uint16(40+options))
	} else {
		b = make([]byte, 40)
		b[0], b[6], b[7] = 0x60, 6, 64
		copy(b[8:], src.AsSlice())
		copy(b[24:], t.Dst.Addr().AsSlice())
		binary.BigEndian.PutUint16(b[4:], uint16(20+options))
	}
	l4 := make([]byte, 20+options)
	binary.BigEndian.PutUint16(l4, t.Src.Port())
	binary.BigEndian.PutUint16(l4[2:], t.Dst.Port())
	l4[12] = byte((20 + options) / 4 << 4)
	for _, f := range []struct {
		on  bool
		bit byte
	}{{s.fin, flagFIN}, {s.syn, flagSYN}, {s.rst, flagRST}, {s.acks, flagACK}} {
		if f.on {
			l4[13] |= f.bit
		}
	}
	if options > 0 {
		copy(l4[20:], []byte{noop, noop, sackKind, sackLen})
		binary.BigEndian.PutUint32(l4[24:], s.sack[0])
		binary.BigEndian.PutUint32(l4[28:], s.sack[1])
	}
	var v packet.View
	if err := v.Decode(append(b, l4...)); err != nil {
		panic(err)
	}
	out, _ := v.Append(nil, packet.Change{Payload: s.data, Seq: s.seq, Ack: s.ack})
	return out
}

// decode reads what the engine gave back; ok is false if its checksums are wrong.
func decode(b []byte) (s segment, ok bool) {
	var v packet.View
	if v.Decode(b) != nil || !v.Valid() {
		return s, false
	}
	f := v.Flags()
	s = segment{
		seq: v.Seq(), ack: v.Ack(), fin: f&flagFIN != 0, syn: f&flagSYN != 0, rst: f&flagRST != 0, acks: f&flagACK != 0,
		data: append([]byte(nil), v.Payload()...),
	}
	i := 0
	for at := range v.SACK() {
		s.sack[i] = binary.BigEndian.Uint32(b[at:])
		i++
	}
	return s, true
}

// outside is an end point as the other side sees it.
func (k *kernel) outside(dir int) netip.AddrPort {
	if dir == 0 {
		return k.conn.Reply.Dst
	}
	return k.conn.Orig.Dst
}
