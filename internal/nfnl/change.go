package nfnl

import "golang.org/x/sys/unix"

// Change is what becomes of an entry. What is nil, and what a mask does not cover, stays.
type Change struct {
	Timeout            *uint32 // seconds from now
	Mark, MarkMask     uint32  // mark = mark &^ MarkMask ^ Mark
	Labels, LabelsMask [16]byte
	Status             *uint32 // the whole; bits can be added only (ctnetlink_change_status)
	Helper             *string // "": none
}

// ChangeConnection changes the entry with the original tuple orig. EBUSY: bits of its status would be taken away.
func (b *Batch) ChangeConnection(orig *Tuple, zone uint16, c *Change) {
	b.open("change a connection", CTNew, unix.NLM_F_ACK, Family(orig.Src))
	b.name(orig, zone)
	out := b.out
	if c.Timeout != nil {
		out = putUint32(out, ctaTimeout, *c.Timeout)
	}
	if c.MarkMask != 0 {
		out = putUint32(putUint32(out, ctaMark, c.Mark), ctaMarkMask, c.MarkMask)
	}
	if c.Status != nil {
		out = putUint32(out, ctaStatus, *c.Status)
	}
	if c.LabelsMask != [16]byte{} {
		out = append(appendAttr(out, ctaLabels, len(c.Labels)), c.Labels[:]...)
		out = append(appendAttr(out, ctaLabelsMask, len(c.LabelsMask)), c.LabelsMask[:]...)
	}
	if c.Helper != nil {
		out = putHelper(out, *c.Helper)
	}
	b.out = out
}

func putHelper(b []byte, name string) []byte {
	b, help := begin(b, ctaHelp)
	return end(putString(b, ctaHelpName, name), help)
}

// EnterConnection puts c into the table as it is. Its Reply is that with NAT: plain is the reply tuple without. A port
// that NAT leaves as it is may become another one, if it is taken. EEXIST: one of the tuples is there; EINVAL: no timeout,
// or an unknown helper; ENOMEM: the table is full.
func (b *Batch) EnterConnection(c *Connection, plain *Tuple) {
	b.open("create a connection", CTNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, Family(c.Orig.Src))
	out, zone := b.putZones(c)
	reply := plain
	if c.Status&(StatusSrcNAT|StatusDstNAT) == 0 {
		reply = &c.Reply
	}
	out = reply.putIn(c.Orig.putIn(out, ctaTupleOrig, zone[0]), ctaTupleReply, zone[1])
	if c.Status&StatusSrcNAT != 0 {
		out = c.Reply.putNAT(out, ctaNATSrc, false, c.Reply.DstPort == plain.DstPort)
	}
	if c.Status&StatusDstNAT != 0 {
		out = c.Reply.putNAT(out, ctaNATDst, true, c.Reply.SrcPort == plain.SrcPort)
	}
	if c.Expected {
		out = c.Master.put(out, ctaTupleMaster)
	}
	out = putUint32(out, ctaStatus, StatusConfirmed|c.Status&(StatusSeenReply|StatusAssured|StatusFixedTimeout))
	out = putUint32(out, ctaTimeout, c.Timeout)
	if c.Mark != 0 {
		out = putUint32(out, ctaMark, c.Mark)
	}
	if c.Labels != [16]byte{} {
		out = append(appendAttr(out, ctaLabels, len(c.Labels)), c.Labels[:]...)
	}
	if c.Helper != "" {
		out = putHelper(out, c.Helper)
	}
	b.out = c.putProtoInfo(out)
	for dir, s := range c.Adjust {
		if s != (SeqAdj{}) {
			b.putAdjust(uint8(dir), s)
		}
	}
}

// putZones begins an entry's message: a zone of both directions here, else it is for the tuple that is in it.
func (b *Batch) putZones(c *Connection) (out []byte, tuple [2]uint16) {
	switch c.ZoneDir {
	case ZoneOrig:
		tuple[0] = c.Zone
	case ZoneReply:
		tuple[1] = c.Zone
	default:
		return putZone(b.out, ctaZone, c.Zone), tuple
	}
	return b.out, tuple
}

// putProtoInfo appends what the transport adds, if there is a state.
func (c *Connection) putProtoInfo(b []byte) []byte {
	if c.State == 0 {
		return b
	}
	b, info := begin(b, ctaProtoInfo)
	var nest int
	switch c.Orig.Proto {
	case unix.IPPROTO_TCP:
		b, nest = begin(b, ctaProtoInfoTCP)
		b = putUint8(b, ctaProtoInfoTCPState, c.State)
		for dir := range uint16(2) {
			b = putUint8(b, ctaProtoInfoTCPScaleOrig+dir, c.TCPScale[dir])
			if f := c.TCPFlags[dir]; f != 0 { // struct nf_ct_tcp_flags: flags, mask
				b = append(appendAttr(b, ctaProtoInfoTCPFlagsOrig+dir, 2), f, f, 0, 0)
			}
		}
	case unix.IPPROTO_SCTP:
		b, nest = begin(b, ctaProtoInfoSCTP)
		b = putUint8(b, ctaProtoInfoSCTPState, c.State)
		for dir := range uint16(2) {
			b = putUint32(b, ctaProtoInfoSCTPTagOrig+dir, c.SCTPTags[dir])
		}
	case unix.IPPROTO_DCCP:
		b, nest = begin(b, ctaProtoInfoDCCP)
		b = putUint8(putUint8(b, ctaProtoInfoDCCPState, c.State), ctaProtoInfoDCCPRole, c.DCCPRole)
		b = putUint64(b, ctaProtoInfoDCCPHandshake, c.Handshake)
	default:
		return b[:info]
	}
	return end(end(b, nest), info)
}

// DeleteThis deletes the entry with the original tuple orig if it has this id. ENOENT: it is another one, or gone.
func (b *Batch) DeleteThis(orig *Tuple, zone uint16, id uint32) {
	b.DeleteConnection(orig, zone)
	b.out = putUint32(b.out, ctaID, id)
}

// DeleteMatching deletes all entries that f lets pass, in one request. What a kernel does not know of f it passes over:
// it must be known that it knows it all.
func (b *Batch) DeleteMatching(f *Filter) {
	b.open("delete connections", CTDelete, unix.NLM_F_ACK, f.Family)
	b.out[len(b.out)-3] = 1 // nfgenmsg.version: the family is looked at (ctnetlink_del_conntrack)
	b.out = f.put(b.out)
}

// DeleteMisread appends a delete for each kind of condition that f has, with that condition written so that a kernel which
// reads it refuses (EINVAL, EOPNOTSUPP). One that does not deletes too much: it is for an empty table. Zones, and the family
// alone, cannot be written so.
func (b *Batch) DeleteMisread(f *Filter) {
	if f.OrigBits|f.ReplyBits != 0 { // a field that there is not (ctnetlink_parse_filter)
		odd := *f
		odd.OrigBits, odd.ReplyBits = f.OrigBits|noField, f.ReplyBits|noField
		b.DeleteMatching(&odd)
	}
	// A mask of nothing (ctnetlink_filter_parse_mark, ctnetlink_filter_parse_status). The family makes it a filter.
	if f.MarkMask != 0 {
		b.DeleteMatching(&Filter{Family: unix.AF_INET})
		b.out = putUint32(b.out, ctaMarkMask, f.MarkMask)
	}
	if f.StatusMask != 0 {
		b.DeleteMatching(&Filter{Family: unix.AF_INET})
		b.out = putUint32(b.out, ctaStatusMask, f.StatusMask)
	}
}
