package rules

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
)

// The first datagram of a UDP connection is queued before conntrack enters the connection: where packets do not bring it
// (NFQA_CT), nobody can look it up. So rules write down, in maps, what it was before NAT for what it is behind NAT. There
// are two maps a family, for the ends of the connection: with IPv6 one alone would need more registers than there are.

const (
	originLife  = 10 * time.Second // more than a datagram waits in the queue
	originsMost = 1 << 16          // in each map; what is more is not read
)

// origin writes down one end of the connection, as it was before NAT. With the source goes the connection's mark.
type origin struct {
	ipv6 bool
	end  helpers.Dir // Original: the source
}

var origins = [4]origin{{false, helpers.Original}, {false, helpers.Reply}, {true, helpers.Original}, {true, helpers.Reply}}

// name is the map's.
func (t origin) name() string {
	return choose(t.ipv6, "origin6", "origin4") + choose(t.end == helpers.Original, "_src", "_dst")
}

func (t origin) text() string {
	ip := choose(t.ipv6, "ip6", "ip")
	addr, port := "daddr", "proto-dst"
	if t.end == helpers.Original {
		addr, port = "saddr", "proto-src"
	}
	element := fmt.Sprintf("{ %[1]s saddr . th sport . %[1]s daddr . th dport : ct original %[1]s %[2]s . ct original %[3]s",
		ip, addr, port)
	if t.end == helpers.Original {
		element += " . ct mark"
	}
	return fmt.Sprintf("delete @%[1]s %[2]s } add @%[1]s %[2]s }", t.name(), element)
}

// declaration is the map in nft's language.
func (t origin) declaration() []string {
	end := choose(t.ipv6, "ipv6_addr", "ipv4_addr") + " . inet_service"
	return []string{
		fmt.Sprintf("type %[1]s . %[1]s : %[1]s%[2]s", end, choose(t.end == helpers.Original, " . mark", "")),
		fmt.Sprintf("size %d", originsMost), "flags dynamic,timeout", fmt.Sprintf("timeout %ds", originLife/time.Second),
	}
}

func (t origin) exprs(*batch) []expression {
	family, source, destination, size := byte(unix.NFPROTO_IPV4), uint32(12), uint32(16), uint32(4) // RFC 791, section 3.1
	addr, port := uint32(unix.NFT_CT_DST_IP), uint32(unix.NFT_CT_PROTO_DST)
	if t.end == helpers.Original {
		addr, port = unix.NFT_CT_SRC_IP, unix.NFT_CT_PROTO_SRC
	}
	if t.ipv6 {
		family, source, destination, size = unix.NFPROTO_IPV6, 8, 24, 16 // RFC 8200, section 3
		addr += unix.NFT_CT_SRC_IP6 - unix.NFT_CT_SRC_IP
	}
	var at uint32 // the next register of 4 bytes
	next := func(n uint32) uint32 {
		at += n
		return unix.NFT_REG32_00 + (at-n)/4
	}
	payload := func(base, offset, length uint32) expression {
		to := next(max(length, 4))
		return expression{"payload", func(ae attributes) {
			ae.Uint32(unix.NFTA_PAYLOAD_DREG, to)
			ae.Uint32(unix.NFTA_PAYLOAD_BASE, base)
			ae.Uint32(unix.NFTA_PAYLOAD_OFFSET, offset)
			ae.Uint32(unix.NFTA_PAYLOAD_LEN, length)
		}}
	}
	ct := func(key, length uint32, before ...helpers.Dir) expression {
		to := next(length)
		return expression{"ct", func(ae attributes) {
			ae.Uint32(unix.NFTA_CT_DREG, to)
			ae.Uint32(unix.NFTA_CT_KEY, key)
			for _, dir := range before {
				ae.Uint8(unix.NFTA_CT_DIRECTION, uint8(dir))
			}
		}}
	}
	const network, transport = unix.NFT_PAYLOAD_NETWORK_HEADER, unix.NFT_PAYLOAD_TRANSPORT_HEADER
	es := []expression{
		loadMeta(unix.NFT_META_NFPROTO), equal([]byte{family}),
		payload(network, source, size), payload(transport, 0, 2), payload(network, destination, size), payload(transport, 2, 2),
	}
	data := unix.NFT_REG32_00 + at/4
	es = append(es, ct(addr, size, helpers.Original), ct(port, 4, helpers.Original))
	if t.end == helpers.Original {
		es = append(es, ct(unix.NFT_CT_MARK, 4))
	}
	const add, remove = unix.NFT_DYNSET_OP_ADD, 2 // NFT_DYNSET_OP_DELETE: what is there is not changed by an addition
	for _, op := range []uint32{remove, add} {
		es = append(es, expression{"dynset", func(ae attributes) {
			ae.String(unix.NFTA_DYNSET_SET_NAME, t.name())
			ae.Uint32(unix.NFTA_DYNSET_OP, op)
			ae.Uint32(unix.NFTA_DYNSET_SREG_KEY, unix.NFT_REG32_00)
			ae.Uint32(unix.NFTA_DYNSET_SREG_DATA, data)
		}})
	}
	return es
}

// addOrigins makes the maps.
func (b *batch) addOrigins() {
	for _, t := range origins {
		address, size := typeIPv4Addr, uint32(4)
		if t.ipv6 {
			address, size = typeIPv6Addr, 16
		}
		end := address<<6 | typeInetService // the parts of a concatenation have 6 bits each
		kinds, length := end, size+4
		if t.end == helpers.Original {
			kinds, length = kinds<<6|typeMark, length+4
		}
		b.add(unix.NFT_MSG_NEWSET, netlink.Create, func(ae attributes) {
			ae.String(unix.NFTA_SET_TABLE, TableName)
			ae.String(unix.NFTA_SET_NAME, t.name())
			ae.Uint32(unix.NFTA_SET_FLAGS, unix.NFT_SET_MAP|unix.NFT_SET_TIMEOUT|unix.NFT_SET_EVAL)
			ae.Uint32(unix.NFTA_SET_KEY_TYPE, uint32(end<<12|end))
			ae.Uint32(unix.NFTA_SET_KEY_LEN, 2*(size+4))
			ae.Uint32(unix.NFTA_SET_DATA_TYPE, uint32(kinds))
			ae.Uint32(unix.NFTA_SET_DATA_LEN, length)
			ae.Uint64(unix.NFTA_SET_TIMEOUT, uint64(originLife.Milliseconds()))
			ae.Uint32(unix.NFTA_SET_ID, b.nextSet())
			nested(ae, unix.NFTA_SET_DESC, func(ae attributes) { ae.Uint32(unix.NFTA_SET_DESC_SIZE, originsMost) })
		})
	}
}

// originChains write down where the first datagrams come from, just before they are queued; nil: packets bring their
// connection, nobody reads UDP, or the administrator queues with xtables, before NAT.
func originChains(cfg *Config) []chain {
	if cfg.Features.Conntrack || cfg.Manual && !cfg.Features.NFTQueue {
		return nil
	}
	remember := chain{
		name: "origin",
		comment: "What a first datagram was before NAT, by what it is: packets do not bring their connection to the queue, and\n" +
			"this one is not in the connection table yet.",
	}
	for _, t := range origins {
		remember.rules = append(remember.rules, rule{"", []term{t}})
	}
	datagram := chain{name: "datagram", rules: []rule{{"", []term{oifLo{}, accept{}}}}}
	for _, h := range cfg.Helpers {
		if h.Transport != helpers.UDP {
			continue
		}
		for _, m := range matches(h) {
			datagram.rules = append(datagram.rules, rule{h.Name, []term{
				l4proto(helpers.UDP), ctZone(0), m, counter{}, jump(remember.name)}})
		}
	}
	if len(datagram.rules) == 1 {
		return nil
	}
	jumps := []rule{{"", []term{ctState(stateNew | stateRelated), l4proto(helpers.UDP), jump(datagram.name)}}}
	return []chain{
		remember,
		datagram,
		{name: "origin_postrouting", hook: postrouting, priority: priorityLast - 1, rules: jumps},
		{name: "origin_input", hook: input, priority: priorityLast - 1, rules: jumps},
	}
}

// Origins are the connections of first datagrams, as the rules have written them down. They are for one goroutine.
type Origins struct{ conn *netlink.Conn }

// OpenOrigins opens those of the calling thread's network namespace.
func OpenOrigins() (*Origins, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open the maps of first datagrams: %w", err)
	}
	return &Origins{c}, nil
}

// Close closes the socket.
func (o *Origins) Close() error { return o.conn.Close() }

// ErrNoOrigin says that nothing was written down for a datagram.
var ErrNoOrigin = errors.New("no such first datagram")

// Find gives what a UDP datagram that is queued as seen was before NAT, and the mark of its connection; or ErrNoOrigin.
// Only connections in zone 0 are written down.
func (o *Origins) Find(seen helpers.Tuple) (orig helpers.Tuple, mark uint32, err error) {
	var key []byte
	for _, a := range []netip.AddrPort{seen.Src, seen.Dst} {
		key = append(append(key, a.Addr().AsSlice()...), byte(a.Port()>>8), byte(a.Port()), 0, 0)
	}
	size := len(key)/2 - 4
	for _, t := range origins {
		if t.ipv6 != seen.Src.Addr().Is6() {
			continue
		}
		value, err := o.get(t.name(), key)
		if err != nil {
			return orig, 0, err
		}
		if len(value) < size+4 {
			return orig, 0, fmt.Errorf("map %s: an element of %d bytes", t.name(), len(value))
		}
		addr, _ := netip.AddrFromSlice(value[:size])
		end := netip.AddrPortFrom(addr, binary.BigEndian.Uint16(value[size:]))
		if t.end == helpers.Reply {
			orig.Dst = end
			continue
		}
		orig.Src = end
		if len(value) >= size+8 {
			mark = binary.NativeEndian.Uint32(value[size+4:])
		}
	}
	return orig, mark, nil
}

// get gives what a map has for key.
func (o *Origins) get(name string, key []byte) (value []byte, err error) {
	request, err := encode(func(ae attributes) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, name)
		nested(ae, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(ae attributes) {
			nested(ae, unix.NFTA_LIST_ELEM, func(ae attributes) { data(ae, unix.NFTA_SET_ELEM_KEY, key) })
		})
	})
	if err != nil {
		return nil, err
	}
	answers, err := o.conn.Execute(message(unix.NFT_MSG_GETSETELEM, 0, request))
	if errors.Is(err, unix.ENOENT) {
		return nil, ErrNoOrigin
	}
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", name, err)
	}
	descend := func(kind uint16, f func(*netlink.AttributeDecoder)) func(*netlink.AttributeDecoder) {
		return func(ad *netlink.AttributeDecoder) {
			if ad.Type() == kind {
				ad.Nested(func(n *netlink.AttributeDecoder) error {
					for n.Next() {
						f(n)
					}
					return nil
				})
			}
		}
	}
	for _, m := range answers {
		err = errors.Join(err, each(m, descend(unix.NFTA_SET_ELEM_LIST_ELEMENTS, descend(unix.NFTA_LIST_ELEM,
			descend(unix.NFTA_SET_ELEM_DATA, func(ad *netlink.AttributeDecoder) {
				if ad.Type() == unix.NFTA_DATA_VALUE {
					value = ad.Bytes()
				}
			})))))
	}
	return value, err
}

func choose(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}
