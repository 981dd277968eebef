// Package names has the words for what conntrack numbers, as conntrack(8) spells them.
package names

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

// protocols are the known ones. Of the first eight conntrack knows more than addresses.
var protocols = [...]struct {
	number uint8
	name   string
}{
	{6, "tcp"},
	{17, "udp"},
	{1, "icmp"},
	{58, "icmpv6"},
	{132, "sctp"},
	{33, "dccp"},
	{47, "gre"},
	{136, "udplite"},
	{50, "esp"},
	{51, "ah"},
	{2, "igmp"},
	{4, "ipip"},
	{41, "ipv6"},
	{89, "ospf"},
	{103, "pim"},
	{112, "vrrp"},
	{115, "l2tp"},
}

// Protocol is the name of a protocol, or its number.
func Protocol(number uint8) string {
	for i := range protocols {
		if protocols[i].number == number {
			return protocols[i].name
		}
	}
	return strconv.Itoa(int(number))
}

// ParseProtocol reads a name, in any case, or a number.
func ParseProtocol(text string) (number uint8, ok bool) {
	lower := strings.ToLower(text)
	for i := range protocols {
		if protocols[i].name == lower {
			return protocols[i].number, true
		}
	}
	switch lower {
	case "ipv6-icmp":
		return 58, true
	case "ipencap":
		return 4, true
	}
	n, err := strconv.ParseUint(text, 0, 8)
	return uint8(n), err == nil
}

// Protocols are the known names.
func Protocols() []string {
	list := make([]string, 0, len(protocols))
	for i := range protocols {
		list = append(list, protocols[i].name)
	}
	return list
}

// states are a protocol's, by the kernel's number.
func states(protocol uint8) []string { return flows.StateNames(helpers.Transport(protocol)) }

// State is the name of a protocol's state; "NONE" if it has none of that number.
func State(protocol, number uint8) string {
	if all := states(protocol); int(number) < len(all) {
		return all[number]
	}
	return "NONE"
}

// ParseState reads the name of a protocol's state, in any case. LISTEN is the old name of SYN_SENT2.
func ParseState(protocol uint8, text string) (number uint8, ok bool) {
	upper := strings.ToUpper(text)
	if protocol == 6 && upper == "LISTEN" {
		upper = "SYN_SENT2"
	}
	i := slices.Index(states(protocol), upper)
	return uint8(i), i >= 0
}

// States are the names of a protocol's states; of all protocols if protocol is 0.
func States(protocol uint8) []string {
	if protocol != 0 {
		return states(protocol)
	}
	all := slices.Concat(states(unix.IPPROTO_TCP), states(unix.IPPROTO_SCTP), states(unix.IPPROTO_DCCP))
	slices.Sort(all)
	return slices.Compact(all)
}

// status are the bits of a connection's status (enum ip_conntrack_status) by number.
var status = [...]string{
	"EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT", "DST_NAT", "SEQ_ADJUST", "SRC_NAT_DONE", "DST_NAT_DONE",
	"DYING", "FIXED_TIMEOUT", "TEMPLATE", "UNTRACKED", "HELPER", "OFFLOAD", "HW_OFFLOAD",
}

// Status are the names of the bits that are set, lowest first.
func Status(bits uint32) []string {
	var list []string
	for i, name := range status {
		if bits&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return list
}

// ParseStatus reads the name of a bit, in any case. UNSET is no bit.
func ParseStatus(text string) (bit uint32, ok bool) {
	upper := strings.ToUpper(text)
	if upper == "UNSET" {
		return 0, true
	}
	i := slices.Index(status[:], upper)
	if i < 0 {
		return 0, false
	}
	return 1 << i, true
}

// StatusNames are the names of all bits.
func StatusNames() []string { return status[:] }
