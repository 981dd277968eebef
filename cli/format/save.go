package format

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"golang.org/x/sys/unix"
)

// save is a line of options that makes the entry again. whole adds what conntrack -o save leaves out: the mark, labels
// and the helper. Of these conntrack(8) does not know --helper.
func save(b []byte, e *flows.Event, labels *names.Labels, whole bool) []byte {
	f := &e.Flow
	switch e.Kind {
	case flows.Update:
		b = append(b, "-U"...)
	case flows.Destroy:
		b = append(b, "-D"...)
	case flows.Overrun, flows.Synced:
		return b
	default:
		b = append(b, "-A"...)
	}
	if f.Has&flows.HasTimeout != 0 {
		b = saveNumber(b, "-t", uint64(f.Timeout))
	}
	if f.Has&flows.HasStatus != 0 {
		b = append(b, " -u "...)
		b = append(b, saveStatus(f.Status)...)
	}
	if f.Zone != 0 {
		options := [...]string{flows.ZoneBoth: "-w", flows.ZoneOrig: "--orig-zone", flows.ZoneReply: "--reply-zone"}
		b = saveNumber(b, options[f.ZoneDir], uint64(f.Zone))
	}
	b = saveAddress(b, "-s", f.Orig.Src.Addr())
	b = saveAddress(b, "-d", f.Orig.Dst.Addr())
	src, dst := "-r", "-q"
	if f.Status&flows.StatusDstNATDone != 0 && f.Reply.Src.Addr() != f.Orig.Dst.Addr() {
		src = "-g"
	}
	if f.Status&flows.StatusSrcNATDone != 0 && f.Reply.Dst.Addr() != f.Orig.Src.Addr() {
		dst = "-n"
	}
	b = saveAddress(b, src, f.Reply.Src.Addr())
	b = saveAddress(b, dst, f.Reply.Dst.Addr())
	b = saveProtocol(b, f)
	if whole {
		b = saveRest(b, f, labels)
	}
	return b
}

func saveRest(b []byte, f *flows.Flow, labels *names.Labels) []byte {
	if f.Mark != 0 {
		b = saveNumber(b, "-m", uint64(f.Mark))
	}
	if f.Labels != (flows.Labels{}) {
		sep := " --label-add "
		for n := range 8 * len(f.Labels) {
			if f.Labels.Has(n) {
				b = append(b, sep...)
				b = append(b, saveLabel(labels.Name(n), n)...)
				sep = ","
			}
		}
	}
	if f.Helper != "" && !strings.ContainsAny(f.Helper, " \t\n") { // lines have no quotes
		b = append(b, " --helper "...)
		b = append(b, f.Helper...)
	}
	return b
}

// saveLabel is a label's name if a line can have it, else its number.
func saveLabel(name string, n int) string {
	if strings.ContainsAny(name, " \t,\"'\\") {
		return strconv.Itoa(n)
	}
	return name
}

func saveStatus(s flows.Status) string {
	var all []string
	for _, x := range []struct {
		bit  flows.Status
		name string
	}{
		{flows.StatusSeenReply, "SEEN_REPLY"}, {flows.StatusAssured, "ASSURED"}, {flows.StatusExpected, "EXPECTED"},
		{flows.StatusFixedTimeout, "FIXED_TIMEOUT"}, {flows.StatusOffload, "OFFLOAD"}, {flows.StatusHWOffload, "HW_OFFLOAD"},
	} {
		if s&x.bit != 0 {
			all = append(all, x.name)
		}
	}
	if len(all) == 0 {
		return "UNSET"
	}
	return strings.Join(all, ",")
}

func saveProtocol(b []byte, f *flows.Flow) []byte {
	b = append(b, " -p "...)
	if name := flows.TransportName(f.Transport); name != "unknown" {
		b = append(b, name...)
	} else {
		return strconv.AppendUint(b, uint64(f.Transport), 10)
	}
	switch f.Transport {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		typ, code, id := flows.ICMP(f.Orig)
		option := "--icmp-"
		if f.Transport == unix.IPPROTO_ICMPV6 {
			option = "--icmpv6-"
		}
		b = saveNumber(b, option+"type", uint64(typ))
		b = saveNumber(b, option+"code", uint64(code))
		return saveNumber(b, option+"id", uint64(id))
	case unix.IPPROTO_GRE:
		return savePorts(b, f, "--srckey", "--dstkey", "--reply-key-src", "--reply-key-dst")
	}
	b = savePorts(b, f, "--sport", "--dport", "--reply-port-src", "--reply-port-dst")
	if f.Has&flows.HasState == 0 {
		return b
	}
	switch f.Transport {
	case unix.IPPROTO_TCP:
		b = saveWord(b, "--state", names.State(unix.IPPROTO_TCP, f.State))
	case unix.IPPROTO_SCTP:
		b = saveWord(b, "--state", names.State(unix.IPPROTO_SCTP, f.State))
		b = saveNumber(b, "--orig-vtag", saveTag(f.SCTPTags[helpers.Original]))
		b = saveNumber(b, "--reply-vtag", saveTag(f.SCTPTags[helpers.Reply]))
	case unix.IPPROTO_DCCP:
		b = saveWord(b, "--state", names.State(unix.IPPROTO_DCCP, f.State))
		b = saveWord(b, "--role", [...]string{"client", "server"}[min(f.DCCPRole, 1)])
	}
	return b
}

// saveTag is a tag as conntrack(8) has it: its bytes are a number of this machine.
func saveTag(tag uint32) uint64 {
	return uint64(binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, tag)))
}

// savePorts leaves out what a kernel that does not know the protocol leaves out: then all four are zero. Keys of GRE may be.
func savePorts(b []byte, f *flows.Flow, src, dst, replySrc, replyDst string) []byte {
	ports := [4]uint16{f.Orig.Src.Port(), f.Orig.Dst.Port(), f.Reply.Src.Port(), f.Reply.Dst.Port()}
	if ports == [4]uint16{} && f.Transport != unix.IPPROTO_GRE {
		return b
	}
	for i, option := range []string{src, dst, replySrc, replyDst} {
		b = saveNumber(b, option, uint64(ports[i]))
	}
	return b
}

func saveNumber(b []byte, option string, n uint64) []byte {
	b = append(b, ' ')
	b = append(b, option...)
	b = append(b, ' ')
	return strconv.AppendUint(b, n, 10)
}

func saveWord(b []byte, option, word string) []byte {
	b = append(b, ' ')
	b = append(b, option...)
	b = append(b, ' ')
	return append(b, word...)
}

func saveAddress(b []byte, option string, a netip.Addr) []byte {
	b = append(b, ' ')
	b = append(b, option...)
	b = append(b, ' ')
	return flows.AppendAddr(b, a)
}
