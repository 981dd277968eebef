package nfnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Get finds the connection that has t as its original or its reply tuple (ctnetlink_get_conntrack), and reads it into
// c. ENOENT: there is none.
func (b *Batch) Get(t *Tuple, zone uint16, c *Connection) {
	b.open("get a connection", CTGet, 0, Family(t.Src)) // its answer is the entry
	b.name(t, zone)
	b.ops[len(b.ops)-1].into = c
}

// name says which connection is meant.
func (b *Batch) name(t *Tuple, zone uint16) {
	b.out = putZone(t.put(b.out, ctaTupleOrig), ctaZone, zone)
}

// CreateConnection puts an entry into the table that no packet has made: confirmed, assured, established. EEXIST: one
// of its tuples is there; ENOMEM: the table is full.
func (b *Batch) CreateConnection(c *Connection) {
	b.open("create a connection", CTNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, Family(c.Orig.Src))
	out := c.Reply.put(c.Orig.put(b.out, ctaTupleOrig), ctaTupleReply)
	out = putZone(out, ctaZone, c.Zone)
	out = putUint32(out, ctaStatus, StatusConfirmed|StatusSeenReply|StatusAssured)
	out = putUint32(out, ctaTimeout, c.Timeout)
	if c.Mark != 0 {
		out = putUint32(out, ctaMark, c.Mark)
	}
	out = putHelper(out, c.Helper)
	if c.Orig.Proto == unix.IPPROTO_TCP {
		var info, tcp int
		out, info = begin(out, ctaProtoInfo)
		out, tcp = begin(out, ctaProtoInfoTCP)
		out = end(end(putUint8(out, ctaProtoInfoTCPState, TCPEstablished), tcp), info)
	}
	b.out = out
}

// Prolong makes a connection live for so many seconds from now and sets its mark. ENOENT: there is none.
func (b *Batch) Prolong(orig *Tuple, zone uint16, seconds, mark uint32) {
	b.open("prolong a connection", CTNew, unix.NLM_F_ACK, Family(orig.Src))
	b.name(orig, zone)
	b.out = putUint32(putUint32(b.out, ctaTimeout, seconds), ctaMark, mark)
}

// SetAdjust sets the sequence adjustment of direction dir (0 original, 1 reply). A connection without the extension
// takes it silently for nothing (ctnetlink_change_seq_adj): read it back.
//
// The other direction's packets pass even if they do not fit its window (_BE_LIBERAL). The kernel moves their
// acknowledgements back by two offsets, and their SACK by that of the acknowledgement (tcp_in_window): with a hole before
// the position, what was received behind it seems to be "data not seen yet". An INVALID answer is not translated.
func (b *Batch) SetAdjust(orig *Tuple, zone uint16, dir uint8, s SeqAdj) {
	b.open("set a sequence adjustment", CTNew, unix.NLM_F_ACK, Family(orig.Src))
	b.name(orig, zone)
	b.putAdjust(dir, s)
}

func (b *Batch) putAdjust(dir uint8, s SeqAdj) {
	out, nest := begin(b.out, ctaSeqAdjOrig+uint16(dir))
	out = putUint32(out, ctaSeqAdjPos, s.Pos)
	out = putUint32(out, ctaSeqAdjBefore, uint32(s.Before))
	b.out = end(putUint32(out, ctaSeqAdjAfter, uint32(s.After)), nest)
	if s == (SeqAdj{}) {
		return
	}
	out, info := begin(b.out, ctaProtoInfo)
	out, tcp := begin(out, ctaProtoInfoTCP)
	out = append(appendAttr(out, ctaProtoInfoTCPFlagsOrig+uint16(dir^1), 2), liberalTCP, liberalTCP, 0, 0)
	b.out = end(end(out, tcp), info)
}

// AppendSetAdjust appends to dst the message of SetAdjust as it is, without asking for an answer.
func AppendSetAdjust(dst []byte, orig *Tuple, zone uint16, dir uint8, s SeqAdj) []byte {
	start := len(dst)
	var b Batch
	b.out = appendHeader(dst, CTNew, unix.NLM_F_REQUEST, Family(orig.Src))
	b.name(orig, zone)
	b.putAdjust(dir, s)
	binary.NativeEndian.PutUint32(b.out[start:], uint32(len(b.out)-start))
	return b.out
}

// DeleteConnection deletes an entry, and with it the expectations that hang on it. ENOENT: there is none.
func (b *Batch) DeleteConnection(orig *Tuple, zone uint16) {
	b.open("delete a connection", CTDelete, unix.NLM_F_ACK, Family(orig.Src))
	b.name(orig, zone)
}

func putZone(b []byte, typ uint16, zone uint16) []byte {
	if zone == 0 {
		return b
	}
	return putUint16(b, typ, zone)
}

// Get is Batch.Get alone.
func (c *Conn) Get(t Tuple, zone uint16) (entry Connection, err error) {
	b := c.Begin()
	b.Get(&t, zone, &entry)
	return entry, b.Do()
}

// Connections gives every entry of a family (AF_UNSPEC: of all) to each, which must not use c nor keep it; entries that
// cannot be read are left out.
func (c *Conn) Connections(family uint8, each func(*Connection)) error {
	return c.List(CTGet, &Filter{Family: family}, func(e *Connection) bool {
		each(e)
		return true
	})
}

// List is Ask and Take.
func (c *Conn) List(message uint16, f *Filter, each func(*Connection) bool) error {
	c.Ask(message, f, false)
	return c.Take(each)
}

// Ask begins to list the entries that f lets pass. message is CTGet, CTGetZero, CTDying or CTUnconfirm. A kernel that knows
// less than f passes over what it does not know, or refuses: Filter says which does what. Take or Close must follow. beside:
// it does not wait until the kernel has found the first entries.
func (c *Conn) Ask(message uint16, f *Filter, beside bool) {
	c.ask("list connections", message, f.Family, f.put, beside)
}

// Take gives the entries that Ask has asked for to each, which must not use c nor keep them, until it says no; after that
// c must be closed. Entries that cannot be read are left out.
func (c *Conn) Take(each func(*Connection) bool) error {
	var entry Connection
	return c.take(func(b []byte) bool { return entry.Parse(b[headerLen:]) != nil || each(&entry) })
}

// CreateConnection is Batch.CreateConnection alone.
func (c *Conn) CreateConnection(e *Connection) error {
	b := c.Begin()
	b.CreateConnection(e)
	return b.Do()
}

// DeleteConnection is Batch.DeleteConnection alone.
func (c *Conn) DeleteConnection(orig Tuple, zone uint16) error {
	b := c.Begin()
	b.DeleteConnection(&orig, zone)
	return b.Do()
}
