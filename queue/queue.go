// Package queue takes packets from a netfilter queue (NFQUEUE) and gives them back: for a daemon that looks at the
// packets of some connections, and may change them, between the kernel's NAT and the wire.
package queue

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Config says which queue to serve and how.
type Config struct {
	Number uint16 // of the rule: queue num N
	// Length is how many packets wait in the kernel for their verdict, at most; 0: 4096. Beyond it packets are
	// dropped, or pass with FailOpen.
	Length uint32
	// FailOpen lets packets pass unseen that find the queue or the read buffer full (NFQA_CFG_F_FAIL_OPEN). That
	// nobody listens at all is the rule's business: queue … bypass.
	FailOpen bool
	// MaxPacket is how many bytes of a packet are copied, at most; 0: all of it. The kernel's own limit is 65531
	// (NFQNL_MAX_COPY_RANGE).
	MaxPacket uint32
	// Conntrack asks for NFQA_CT with each packet. Where the kernel lacks it, Open fails with ErrNoConntrack.
	Conntrack bool
	// ReadBuffer is the size of the socket's receive buffer in bytes; 0: 16 MiB. A packet takes about twice its
	// length there, at least 1 KiB.
	ReadBuffer int
}

func (cfg *Config) withDefaults() {
	if cfg.Length == 0 {
		cfg.Length = 4096
	}
	if cfg.MaxPacket == 0 {
		cfg.MaxPacket = 0xffff
	}
	if cfg.ReadBuffer == 0 {
		cfg.ReadBuffer = 16 << 20
	}
}

// Packet is a packet that waits in the kernel for its verdict. Every packet needs one, exactly one.
type Packet struct {
	ID        uint32 // of this queue; counts from 1 and wraps
	Hook      uint8  // where it was queued (enum nf_inet_hooks): HookInput, HookPostrouting …
	Mark      uint32 // skb->mark
	Data      []byte // from the IP header on; valid until the next Receive. The reader may change it in place
	Truncated bool   // Data is not the whole packet: it must go back unchanged
	Conntrack []byte // the content of NFQA_CT (nested CTA_* attributes); nil: not delivered. Valid as Data is
	CtInfo    uint32 // NFQA_CT_INFO (enum ip_conntrack_info); only with Conntrack
}

// The hooks at which cthelperd's rules queue (linux/netfilter.h, enum nf_inet_hooks).
const (
	HookInput       = 1 // NF_INET_LOCAL_IN
	HookPostrouting = 4 // NF_INET_POST_ROUTING
)

// Stats counts since Open.
type Stats struct {
	Received uint64 // packets read
	Verdicts uint64 // packets whose verdict was sent
	Failed   uint64 // verdicts that could not be sent; their packets wait for a later batch of verdicts, or Close
	// Unknown are verdicts for packets that the kernel no longer had (ENOENT): dropped with a device, or given twice. Of
	// a batch they show only if all of it was gone.
	Unknown  uint64
	Overruns uint64 // packets that did not fit into the read buffer (SK_MEMINFO_DROPS); with FailOpen they passed unseen
	Refused  uint64 // verdicts that the kernel answered with another error
	// Unreadable are messages that could not be parsed. If they had an id their packet passed; those without are
	// Unnamed, too.
	Unreadable, Unnamed uint64
	Kernel              Kernel
}

// Kernel is the queue's line in /proc/net/netfilter/nfnetlink_queue.
type Kernel struct {
	PortID      uint32 // netlink port of the socket that serves the queue; usually its process id
	Waiting     uint32 // packets without a verdict
	Dropped     uint64 // dropped because the queue was full (queue_dropped)
	UserDropped uint64 // dropped because they could not be sent to the socket (queue_user_dropped)
	Sequence    uint32 // the newest packet's id; packets that passed because the queue was full got none
}

// ErrClosed is the end of Receive after Close.
var ErrClosed = errors.New("the queue is closed")

// Errors of Open. The text says what to do.
var (
	ErrPermission = errors.New("not permitted: run as root or with CAP_NET_ADMIN in the user namespace that owns " +
		"the network namespace")
	ErrNoQueue = errors.New("the kernel has no NFQUEUE: load the module nfnetlink_queue or use a kernel with " +
		"CONFIG_NETFILTER_NETLINK_QUEUE")
	// ErrNoConntrack: Open again without Config.Conntrack, and look connections up by ctnetlink.
	ErrNoConntrack = errors.New("the kernel does not deliver conntrack with queued packets (NFQA_CT): " +
		"CONFIG_NETFILTER_NETLINK_GLUE_CT or the module nf_conntrack_netlink is missing")
)

// TakenError says that another process serves the queue.
type TakenError struct {
	Number uint16
	PortID uint32 // of the other's socket
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("queue %d is served by another socket (netlink port %d, usually the process id): "+
		"stop that process or choose another queue number", e.Number, e.PortID)
}

// explain turns what the kernel says into what to do.
func explain(err error, cfg Config) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("%w (%w)", ErrNoQueue, err) // no NETLINK_NETFILTER at all
	case errors.Is(err, unix.EINVAL):
		if t, terr := openTable(); terr != nil { // nfnetlink_rcv_msg answers EINVAL for a subsystem that it does not have
			return fmt.Errorf("%w (%w)", ErrNoQueue, err)
		} else {
			t.close()
		}
	case errors.Is(err, unix.EOPNOTSUPP) && cfg.Conntrack:
		return fmt.Errorf("%w (%w)", ErrNoConntrack, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EBUSY):
		// A queue of somebody else's is EPERM too (nfqnl_recv_config).
		if t, terr := openTable(); terr == nil {
			defer t.close()
			if k, found, terr := t.find(cfg.Number); terr == nil && found {
				return &TakenError{Number: cfg.Number, PortID: k.PortID}
			}
		}
		return fmt.Errorf("%w (%w)", ErrPermission, err)
	}
	return err
}
