package nfnl

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Attributes of a translation (enum ctattr_nat, ctattr_protonat).
const (
	ctaNATv4Min = 1
	ctaNATv4Max = 2
	ctaNATProto = 3
	ctaNATv6Min = 4
	ctaNATv6Max = 5

	ctaNATPortMin = 1
	ctaNATPortMax = 2
)

// Flags of a direction (IP_CT_TCP_FLAG_WINDOW_SCALE, _SACK_PERM, _BE_LIBERAL).
const (
	scaledTCP  = 0x01
	sackTCP    = 0x02
	liberalTCP = 0x08

	keptTCPFlags = scaledTCP | sackTCP // those that hold as long as the connection does
	setTCPFlags  = keptTCPFlags | liberalTCP
)

// ErrNotReplaceable says that an entry holds what a new one could not be given.
var ErrNotReplaceable = errors.New("the connection's entry cannot be replaced")

// ReplaceConnection puts a new entry in the place of the one with the original tuple orig, which must be a TCP connection
// that is established, or will be by its next packet. The new one has the same tuples, translation, zone, mark, labels,
// master, timeout and window scales; it has every extension, sequence adjustment among them (ctnetlink_create_conntrack). Its counters begin anew. A packet
// between the two makes an entry of its own, if the rules let it: have them drop the connection's packets meanwhile.
//
// The new entry takes the window from the next packets, and from then on lets pass what does not fit (_BE_LIBERAL, as the
// kernel does where it meets a connection in the middle, tcp_new): a keep-alive or a repeated segment ends below what was
// sent, and the answer to it would acknowledge "data not seen yet". An INVALID answer is not translated: under source NAT
// it reaches the firewall itself, whose RST ends the connection.
//
// ENOENT: there is no such entry. ErrNotReplaceable: nothing was changed. Another error: the entry is gone.
func (c *Conn) ReplaceConnection(orig Tuple, zone uint16) error {
	e, err := c.Get(orig, zone)
	if zone != 0 && errors.Is(err, unix.ENOENT) {
		e, err = c.Get(orig, 0)
		if err == nil && (e.Zone != zone || e.ZoneDir != ZoneReply) {
			return &Error{Op: "replace a connection", Errno: unix.ENOENT}
		}
	}
	if err != nil {
		return err
	}
	if err := c.replaceable(&e, orig); err != nil {
		return fmt.Errorf("%w: %w", ErrNotReplaceable, err)
	}
	if e.ZoneDir == ZoneReply {
		zone = 0 // the original tuple's
	}
	b := c.Begin()
	b.DeleteConnection(&orig, zone)
	b.copyConnection(&e)
	err = b.Do()
	switch made := b.Err(1); {
	case err == nil:
		return nil
	case b.Errno(0) == unix.ENOENT: // it has ended meanwhile
		if made == nil {
			err = errors.Join(err, c.DeleteConnection(orig, zone))
		}
		return err
	case b.Errno(1) == unix.EEXIST && e.ZoneDir == ZoneBoth:
		return c.displace(&e)
	default:
		return made
	}
}

// displace enters e in the place of what packets have made of its connection between the old entry and e: one for a
// client's packet, with a translation of its own, or for a server's, which nobody has translated.
func (c *Conn) displace(e *Connection) error {
	const tries = 3
	for try := 1; ; try++ {
		b := c.Begin()
		b.DeleteConnection(&e.Orig, e.Zone)
		b.DeleteConnection(&e.Reply, e.Zone)
		b.copyConnection(e)
		_ = b.Do() // one of the two may not be there
		if made := b.Err(2); b.Errno(2) != unix.EEXIST || try == tries {
			return made
		}
	}
}

func (c *Conn) replaceable(e *Connection, orig Tuple) error {
	switch {
	case e.Orig != orig:
		return errors.New("the tuple is not its original one")
	case e.Orig.Proto != unix.IPPROTO_TCP || e.State != TCPEstablished && e.State != TCPSynReceived:
		return errors.New("it is no established TCP connection")
	case e.Status&StatusOffload != 0:
		return errors.New("a flow table has it")
	case e.Helper != "":
		return errors.New("it carries a helper")
	case e.Expected:
		if _, err := c.Get(e.Master, e.Zone); err != nil {
			return fmt.Errorf("its master is gone: %w", err)
		}
	}
	return nil
}

// copyConnection enters e as it was read. The reply tuple is given without NAT, and the NAT as a range of one
// (ctnetlink_setup_nat makes the reply tuple from it).
func (b *Batch) copyConnection(e *Connection) {
	b.open("create a connection", CTNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, Family(e.Orig.Src))
	plain := Tuple{Src: e.Orig.Dst, SrcPort: e.Orig.DstPort, Dst: e.Orig.Src, DstPort: e.Orig.SrcPort, Proto: e.Orig.Proto}
	out, zone := b.putZones(e)
	out = plain.putIn(e.Orig.putIn(out, ctaTupleOrig, zone[0]), ctaTupleReply, zone[1])
	if e.Reply.Dst != plain.Dst || e.Reply.DstPort != plain.DstPort {
		out = e.Reply.putNAT(out, ctaNATSrc, false, false)
	}
	if e.Reply.Src != plain.Src || e.Reply.SrcPort != plain.SrcPort {
		out = e.Reply.putNAT(out, ctaNATDst, true, false)
	}
	if e.Expected {
		out = e.Master.put(out, ctaTupleMaster)
	}
	out = putUint32(out, ctaStatus, StatusConfirmed|e.Status&(StatusSeenReply|StatusAssured))
	out = putUint32(out, ctaTimeout, e.Timeout)
	if e.Mark != 0 {
		out = putUint32(out, ctaMark, e.Mark)
	}
	if e.Labels != [16]byte{} {
		out = append(appendAttr(out, ctaLabels, len(e.Labels)), e.Labels[:]...)
	}
	out, info := begin(out, ctaProtoInfo)
	out, tcp := begin(out, ctaProtoInfoTCP)
	out = putUint8(out, ctaProtoInfoTCPState, e.State)
	for dir := range uint16(2) {
		out = putUint8(out, ctaProtoInfoTCPScaleOrig+dir, e.TCPScale[dir])
		out = append(appendAttr(out, ctaProtoInfoTCPFlagsOrig+dir, 2), e.TCPFlags[dir]&keptTCPFlags|liberalTCP, setTCPFlags, 0, 0)
	}
	b.out = end(end(out, tcp), info)
}

// putIn appends the tuple of a direction that is in a zone of its own; 0: in none.
func (t *Tuple) putIn(b []byte, typ, zone uint16) []byte {
	start := len(b)
	return end(putZone(t.put(b, typ), ctaTupleZone, zone), start)
}

// putNAT appends a translation to the tuple's source, or its destination; loose: to its address, with any port.
func (t *Tuple) putNAT(b []byte, typ uint16, source, loose bool) []byte {
	addr, port := t.Dst, t.DstPort
	if source {
		addr, port = t.Src, t.SrcPort
	}
	least, most := uint16(ctaNATv4Min), uint16(ctaNATv4Max)
	if !addr.Is4() {
		least, most = ctaNATv6Min, ctaNATv6Max
	}
	b, nat := begin(b, typ)
	b = putAddr(putAddr(b, least, addr), most, addr)
	if loose {
		return end(b, nat)
	}
	b, proto := begin(b, ctaNATProto)
	return end(end(putUint16(putUint16(b, ctaNATPortMin, port), ctaNATPortMax, port), proto), nat)
}
