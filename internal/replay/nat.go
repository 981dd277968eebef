package replay

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

// Translation is a NAT to imagine: hosts in From are seen as To by everybody else, whether they open a connection
// (source NAT) or accept one (destination NAT). The capture was taken on their own side.
type Translation struct {
	From netip.Prefix
	To   netip.Addr
}

// ParseTranslation reads FROM=TO: an address or a prefix, and an address of the same family.
func ParseTranslation(s string) (Translation, error) {
	from, to, ok := strings.Cut(s, "=")
	if !ok {
		return Translation{}, fmt.Errorf("%q is not FROM=TO", s)
	}
	var t Translation
	var err error
	if t.To, err = netip.ParseAddr(to); err != nil {
		return Translation{}, err
	}
	if strings.Contains(from, "/") {
		if t.From, err = netip.ParsePrefix(from); err != nil {
			return Translation{}, err
		}
		t.From = t.From.Masked()
	} else {
		a, err := netip.ParseAddr(from)
		if err != nil {
			return Translation{}, err
		}
		if a.Zone() != "" {
			return Translation{}, errors.New("an address with a zone cannot be translated")
		}
		t.From = netip.PrefixFrom(a, a.BitLen())
	}
	if t.To.Zone() != "" {
		return Translation{}, errors.New("an address with a zone cannot be translated")
	}
	if t.From.Addr().Is4() != t.To.Is4() {
		return Translation{}, fmt.Errorf("%q mixes IPv4 and IPv6", s)
	}
	return t, nil
}

// end is one end point of a transport.
type end struct {
	transport helpers.Transport
	addr      netip.AddrPort
}

// translator gives connections the tuples that they would have under the translations.
type translator struct {
	rules     []Translation
	published map[end]end // a server's own end point → where all others see it
	owner     map[end]end // the other way round
	announced map[end]announcement
}

// announcement is an expectation whose end point is seen elsewhere.
type announcement struct {
	id      expect.ID
	session uint64
	at      netip.AddrPort
}

func newTranslator(rules []Translation) *translator {
	return &translator{rules: rules, published: map[end]end{}, owner: map[end]end{}, announced: map[end]announcement{}}
}

// rule is the translation of a; nil: none.
func (n *translator) rule(a netip.Addr) *Translation {
	for i := range n.rules {
		if n.rules[i].From.Contains(a) {
			return &n.rules[i]
		}
	}
	return nil
}

// tuples are those of a connection that was captured with the given original tuple. inUse says whether a reply tuple
// is another connection's.
func (n *translator) tuples(t helpers.Transport, captured helpers.Tuple, inUse func(reply helpers.Tuple) bool) (orig, reply helpers.Tuple) {
	orig, reply = captured, captured.Turned()
	src, dst := n.rule(captured.Src.Addr()), n.rule(captured.Dst.Addr())
	if src == dst { // neither, or both on the same side
		return orig, reply
	}
	if dst != nil {
		orig.Dst = n.publish(end{t, captured.Dst}, dst.To)
	}
	if src != nil {
		reply.Dst = netip.AddrPortFrom(src.To, captured.Src.Port())
		for range maxTries { // a port is kept unless taken
			if !inUse(reply) {
				break
			}
			reply.Dst = netip.AddrPortFrom(src.To, nextPort(reply.Dst.Port()))
		}
	}
	return orig, reply
}

// publish is where a server behind a translation is seen: where an announcement said, or at its own port unless
// another one has that.
func (n *translator) publish(own end, to netip.Addr) netip.AddrPort {
	if a, ok := n.announced[own]; ok {
		return a.at
	}
	if at, ok := n.published[own]; ok {
		return at.addr
	}
	at := end{own.transport, netip.AddrPortFrom(to, own.addr.Port())}
	for range maxTries {
		if _, taken := n.owner[at]; !taken {
			break
		}
		at.addr = netip.AddrPortFrom(to, nextPort(at.addr.Port()))
	}
	n.published[own], n.owner[at] = at, own
	return at.addr
}

// announce remembers where an expectation's end point is seen.
func (n *translator) announce(q *expect.Request) {
	if q.At != q.To {
		n.announced[end{q.Transport, q.To}] = announcement{q.ID, q.Master.Session, q.At}
	}
}

// withdraw forgets announcements; there are no more than the engine's limits allow.
func (n *translator) withdraw(which func(id expect.ID, session uint64) bool) {
	maps.DeleteFunc(n.announced, func(_ end, a announcement) bool { return which(a.id, a.session) })
}

// maxTries is how many ports are tried; beyond that two end points share one, and only the replay is confused.
const maxTries = 1024

// nextPort goes round the ports that anybody may use.
func nextPort(p uint16) uint16 {
	if p < 1023 || p == 65535 {
		return 1024
	}
	return p + 1
}
