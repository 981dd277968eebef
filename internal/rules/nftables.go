package rules

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
)

// The messages of nf_tables that this package needs (linux/netfilter/nf_tables.h). Numbers go in network byte order.

type attributes = *netlink.AttributeEncoder

// batch collects the messages of one transaction on the table.
type batch struct {
	messages []netlink.Message
	sets     uint32
	xtQueue  bool // queue with the xtables target
	err      error
}

func (b *batch) add(kind int, flags netlink.HeaderFlags, fill func(attributes)) {
	data, err := encode(fill)
	if err != nil && b.err == nil {
		b.err = err
	}
	b.messages = append(b.messages, message(kind, flags, data))
}

func encode(fill func(attributes)) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	fill(ae)
	return ae.Encode()
}

func message(kind int, flags netlink.HeaderFlags, data []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, data...), // struct nfgenmsg
	}
}

// bound is the begin or the end of a transaction.
func bound(kind netlink.HeaderType) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request},
		Data:   binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, unix.NFNL_SUBSYS_NFTABLES),
	}
}

// commit carries the batch out as a whole or not at all. It returns the first error.
func (b *batch) commit() error {
	if b.err != nil {
		return b.err
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	const patience = 30 * time.Second // commits wait for each other and for RCU grace periods
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	// Errors are answered without being asked for, and before the answer to the last message.
	b.messages[len(b.messages)-1].Header.Flags |= netlink.Acknowledge
	all := append(append([]netlink.Message{bound(unix.NFNL_MSG_BATCH_BEGIN)}, b.messages...), bound(unix.NFNL_MSG_BATCH_END))
	sent, err := c.SendMessages(all)
	if err != nil {
		return err
	}
	begin, last := sent[0].Header.Sequence, sent[len(sent)-2].Header.Sequence
	var first error
	for {
		answers, err := c.Receive()
		if err == nil {
			for _, a := range answers {
				if a.Header.Sequence == last {
					return first
				}
			}
			continue
		}
		if first == nil {
			first = err
		}
		var op *netlink.OpError
		if !errors.As(err, &op) || op.Sequence == 0 || op.Sequence == begin || op.Sequence == last {
			return first // nothing more will come
		}
	}
}

func nested(ae attributes, kind uint16, fill func(attributes)) {
	ae.Nested(kind, func(n *netlink.AttributeEncoder) error { fill(n); return nil })
}

// data is NFTA_DATA_VALUE: bytes as they stand in the register.
func data(ae attributes, kind uint16, value []byte) {
	nested(ae, kind, func(ae attributes) { ae.Bytes(unix.NFTA_DATA_VALUE, value) })
}

// addTable makes the table if there is none, and wakes it if somebody has made it dormant.
func (b *batch) addTable() {
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create, func(ae attributes) {
		ae.String(unix.NFTA_TABLE_NAME, TableName)
		ae.Uint32(unix.NFTA_TABLE_FLAGS, 0)
	})
}

func (b *batch) deleteTable() {
	b.add(unix.NFT_MSG_DELTABLE, 0, func(ae attributes) { ae.String(unix.NFTA_TABLE_NAME, TableName) })
}

func (b *batch) deleteRules() {
	b.add(unix.NFT_MSG_DELRULE, 0, func(ae attributes) { ae.String(unix.NFTA_RULE_TABLE, TableName) })
}

func (b *batch) addChain(c chain) {
	b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, func(ae attributes) {
		ae.String(unix.NFTA_CHAIN_TABLE, TableName)
		ae.String(unix.NFTA_CHAIN_NAME, c.name)
		if c.hook == "" {
			return
		}
		nested(ae, unix.NFTA_CHAIN_HOOK, func(ae attributes) {
			ae.Uint32(unix.NFTA_HOOK_HOOKNUM, c.hook.number())
			ae.Int32(unix.NFTA_HOOK_PRIORITY, int32(c.priority))
		})
		ae.String(unix.NFTA_CHAIN_TYPE, "filter")
	})
}

func (h hook) number() uint32 {
	switch h {
	case prerouting:
		return unix.NF_INET_PRE_ROUTING
	case input:
		return unix.NF_INET_LOCAL_IN
	case output:
		return unix.NF_INET_LOCAL_OUT
	}
	return unix.NF_INET_POST_ROUTING
}

func (b *batch) addRule(c chain, r rule) {
	var exprs []expression
	for _, t := range r.terms {
		exprs = append(exprs, t.exprs(b)...) // a set comes before the rule that uses it
	}
	b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, func(ae attributes) {
		ae.String(unix.NFTA_RULE_TABLE, TableName)
		ae.String(unix.NFTA_RULE_CHAIN, c.name)
		nested(ae, unix.NFTA_RULE_EXPRESSIONS, func(ae attributes) {
			for _, e := range exprs {
				nested(ae, unix.NFTA_LIST_ELEM, func(ae attributes) {
					ae.String(unix.NFTA_EXPR_NAME, e.name)
					nested(ae, unix.NFTA_EXPR_DATA, e.fill)
				})
			}
		})
		if r.comment != "" {
			const commentType = 0 // NFTNL_UDATA_RULE_COMMENT (libnftnl/udata.h): type, length, text with NUL
			ae.Bytes(unix.NFTA_RULE_USERDATA, append([]byte{commentType, byte(len(r.comment) + 1)}, r.comment+"\x00"...))
		}
	})
}

// setType is a type of set elements; the kernel keeps the number for the nft command (nftables' datatype.h).
type setType uint32

const (
	typeIPv4Addr    setType = 7
	typeIPv6Addr    setType = 8
	typeInetProto   setType = 12
	typeInetService setType = 13
	typeMark        setType = 19
)

// nextSet names a set within the transaction.
func (b *batch) nextSet() uint32 {
	b.sets++
	return b.sets
}

// in looks the register up in an anonymous set of keys.
func (b *batch) in(t setType, keys [][]byte) expression {
	const anonymous, constant = 1, 2 // NFT_SET_ANONYMOUS, NFT_SET_CONSTANT
	const name = "__set%d"           // the kernel puts the number in
	id := b.nextSet()
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, func(ae attributes) {
		ae.String(unix.NFTA_SET_TABLE, TableName)
		ae.String(unix.NFTA_SET_NAME, name)
		ae.Uint32(unix.NFTA_SET_FLAGS, anonymous|constant)
		ae.Uint32(unix.NFTA_SET_KEY_TYPE, uint32(t))
		ae.Uint32(unix.NFTA_SET_KEY_LEN, uint32(len(keys[0])))
		ae.Uint32(unix.NFTA_SET_ID, id)
		nested(ae, unix.NFTA_SET_DESC, func(ae attributes) { ae.Uint32(unix.NFTA_SET_DESC_SIZE, uint32(len(keys))) })
	})
	b.add(unix.NFT_MSG_NEWSETELEM, netlink.Create, func(ae attributes) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, name)
		ae.Uint32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
		nested(ae, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(ae attributes) {
			for _, k := range keys {
				nested(ae, unix.NFTA_LIST_ELEM, func(ae attributes) { data(ae, unix.NFTA_SET_ELEM_KEY, k) })
			}
		})
	})
	return expression{"lookup", func(ae attributes) {
		ae.Uint32(unix.NFTA_LOOKUP_SREG, register)
		ae.String(unix.NFTA_LOOKUP_SET, name)
		ae.Uint32(unix.NFTA_LOOKUP_SET_ID, id)
	}}
}

// addObject adds the ct expectation of size 0. Attached to a connection's first packet before NAT it adds the help
// extension, and with it NAT adds the extension for sequence adjustment (nf_nat_setup_info); at size 0 it never
// expects. Should a kernel take 0 for "no limit", it would expect a UDP packet to the discard port (RFC 863) for the
// timeout, in milliseconds. The l3proto is not used at that size.
func (b *batch) addObject(timeout uint32) {
	// enum nft_ct_expectation_attributes
	const l3proto, l4proto, dport, timeoutMS, size = 1, 2, 3, 4, 5
	const discard = 9
	b.add(unix.NFT_MSG_NEWOBJ, netlink.Create, func(ae attributes) {
		ae.String(unix.NFTA_OBJ_TABLE, TableName)
		ae.String(unix.NFTA_OBJ_NAME, objectName)
		ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_CT_EXPECT)
		nested(ae, unix.NFTA_OBJ_DATA, func(ae attributes) {
			ae.Uint16(l3proto, unix.NFPROTO_IPV4)
			ae.Uint8(l4proto, unix.IPPROTO_UDP)
			ae.Uint16(dport, discard)
			ae.Bytes(timeoutMS, binary.NativeEndian.AppendUint32(nil, timeout)) // in the machine's byte order
			ae.Uint8(size, 0)
		})
	})
}

// expression is one step of a rule in the kernel's language.
type expression struct {
	name string
	fill func(attributes)
}

const register = unix.NFT_REG_1 // all expressions load into and read from this one

func loadCt(key uint32) expression {
	return expression{"ct", func(ae attributes) {
		ae.Uint32(unix.NFTA_CT_DREG, register)
		ae.Uint32(unix.NFTA_CT_KEY, key)
	}}
}

func loadCtDir(key uint32, dir helpers.Dir) expression {
	return expression{"ct", func(ae attributes) {
		loadCt(key).fill(ae)
		ae.Uint8(unix.NFTA_CT_DIRECTION, uint8(dir))
	}}
}

func loadMeta(key uint32) expression {
	return expression{"meta", func(ae attributes) {
		ae.Uint32(unix.NFTA_META_DREG, register)
		ae.Uint32(unix.NFTA_META_KEY, key)
	}}
}

func loadTransport(offset, length uint32) expression {
	return expression{"payload", func(ae attributes) {
		ae.Uint32(unix.NFTA_PAYLOAD_DREG, register)
		ae.Uint32(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_TRANSPORT_HEADER)
		ae.Uint32(unix.NFTA_PAYLOAD_OFFSET, offset)
		ae.Uint32(unix.NFTA_PAYLOAD_LEN, length)
	}}
}

// immediate puts a value into the register.
func immediate(value []byte) expression {
	return expression{"immediate", func(ae attributes) {
		ae.Uint32(unix.NFTA_IMMEDIATE_DREG, register)
		data(ae, unix.NFTA_IMMEDIATE_DATA, value)
	}}
}

// setTCPOption writes the register into an option of the packet's TCP header, if it has that option.
func setTCPOption(kind uint8, offset, length uint32) expression {
	return expression{"exthdr", func(ae attributes) {
		ae.Uint8(unix.NFTA_EXTHDR_TYPE, kind)
		ae.Uint32(unix.NFTA_EXTHDR_OFFSET, offset)
		ae.Uint32(unix.NFTA_EXTHDR_LEN, length)
		ae.Uint32(unix.NFTA_EXTHDR_OP, unix.NFT_EXTHDR_OP_TCPOPT)
		ae.Uint32(unix.NFTA_EXTHDR_SREG, register)
	}}
}

func masked(mask []byte) expression {
	return expression{"bitwise", func(ae attributes) {
		ae.Uint32(unix.NFTA_BITWISE_SREG, register)
		ae.Uint32(unix.NFTA_BITWISE_DREG, register)
		ae.Uint32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		data(ae, unix.NFTA_BITWISE_MASK, mask)
		data(ae, unix.NFTA_BITWISE_XOR, make([]byte, len(mask)))
	}}
}

// bigEndian turns a number of n bytes into the order in which numbers are compared.
func bigEndian(n uint32) expression {
	return expression{"byteorder", func(ae attributes) {
		ae.Uint32(unix.NFTA_BYTEORDER_SREG, register)
		ae.Uint32(unix.NFTA_BYTEORDER_DREG, register)
		ae.Uint32(unix.NFTA_BYTEORDER_OP, unix.NFT_BYTEORDER_HTON)
		ae.Uint32(unix.NFTA_BYTEORDER_LEN, n)
		ae.Uint32(unix.NFTA_BYTEORDER_SIZE, n)
	}}
}

func compare(op uint32, value []byte) expression {
	return expression{"cmp", func(ae attributes) {
		ae.Uint32(unix.NFTA_CMP_SREG, register)
		ae.Uint32(unix.NFTA_CMP_OP, op)
		data(ae, unix.NFTA_CMP_DATA, value)
	}}
}

func equal(value []byte) expression { return compare(unix.NFT_CMP_EQ, value) }

func count() expression { return expression{"counter", func(attributes) {}} }

// verdict ends the rule; chain is where to jump.
func verdict(code int32, chain string) expression {
	return expression{"immediate", func(ae attributes) {
		ae.Uint32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		nested(ae, unix.NFTA_IMMEDIATE_DATA, func(ae attributes) {
			nested(ae, unix.NFTA_DATA_VERDICT, func(ae attributes) {
				ae.Int32(unix.NFTA_VERDICT_CODE, code)
				if chain != "" {
					ae.String(unix.NFTA_VERDICT_CHAIN, chain)
				}
			})
		})
	}}
}

func reference(kind uint32, name string) expression {
	return expression{"objref", func(ae attributes) {
		ae.Uint32(unix.NFTA_OBJREF_IMM_TYPE, kind)
		ae.String(unix.NFTA_OBJREF_IMM_NAME, name)
	}}
}

func nftQueue(first, total uint16, bypass bool) expression {
	return expression{"queue", func(ae attributes) {
		ae.Uint16(unix.NFTA_QUEUE_NUM, first)
		ae.Uint16(unix.NFTA_QUEUE_TOTAL, total)
		if bypass {
			ae.Uint16(unix.NFTA_QUEUE_FLAGS, unix.NFT_QUEUE_FLAG_BYPASS)
		}
	}}
}

// xtQueue is the xtables target NFQUEUE (nft_compat.c).
func xtQueue(first, total uint16, bypass bool) expression {
	// struct xt_NFQ_info_v3 (linux/netfilter/xt_NFQUEUE.h): three numbers in the machine's byte order, padded to
	// XT_ALIGN.
	const revision, flagBypass = 3, 1
	info := make([]byte, 8)
	binary.NativeEndian.PutUint16(info[0:], first)
	binary.NativeEndian.PutUint16(info[2:], total)
	if bypass {
		binary.NativeEndian.PutUint16(info[4:], flagBypass)
	}
	return expression{"target", func(ae attributes) {
		ae.String(unix.NFTA_TARGET_NAME, "NFQUEUE")
		ae.Uint32(unix.NFTA_TARGET_REV, revision)
		ae.Bytes(unix.NFTA_TARGET_INFO, info)
	}}
}

// tableExists asks for the table by its name.
func tableExists() (bool, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return false, err
	}
	defer c.Close()
	data, err := encode(func(ae attributes) { ae.String(unix.NFTA_TABLE_NAME, TableName) })
	if err != nil {
		return false, err
	}
	_, err = c.Execute(message(unix.NFT_MSG_GETTABLE, netlink.Acknowledge, data))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get table: %w", err)
	}
	return true, nil
}
