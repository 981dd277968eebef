// Package rules is the nftables table `inet cthelperd`: the rules that queue the packets of control connections, as
// netlink messages for the daemon and as text for an administrator. Nothing outside that table is touched.
package rules

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
)

// TableName is the name of the table, of family inet.
const TableName = "cthelperd"

// Config is what the table is made from.
type Config struct {
	Queue      uint16 // the (first) queue number
	Queues     uint16 // how many queues from Queue on; the kernel keeps a pair of hosts on one of them. 0: one
	FailClosed bool   // packets are dropped while nobody serves the queue; else they pass unseen
	Helpers    []Helper
	Features   Features
	// Manual leaves queueing to rules of the administrator's own (those that Text prints). The table then holds
	// only what they cannot say or should not have to: the ct expectation object and the drop of port 0.
	Manual bool
	// Hold are ports whose TCP packets are dropped before conntrack, while entries of its table are replaced. Text
	// does not have them. The hold ends at HoldUntil by itself, should nobody be left to end it.
	Hold      []uint16
	HoldUntil time.Time
}

// Helper is one helper's part of the rules.
type Helper struct {
	Name      string
	Transport helpers.Transport
	Ports     []uint16 // server ports, as the client addresses them or as the server has them
	// Announced is a label (`ct helper` of the rule language): connections that were announced for this helper. Empty:
	// none are.
	Announced string
	// Label is what `ct helper` says of the connections that this helper announces: the name of the helper of its
	// shadow master. Only Text uses it.
	Label string
}

// Errors that the caller can act on.
var (
	ErrPermission = errors.New("not permitted: run as root or with CAP_NET_ADMIN")
	ErrNoQueue    = errors.New("the kernel's rules cannot queue packets: it has neither nft's queue expression " +
		"(CONFIG_NFT_QUEUE) nor the xtables target NFQUEUE (CONFIG_NETFILTER_XT_TARGET_NFQUEUE with CONFIG_NFT_COMPAT)")
)

// check says what in cfg cannot become rules.
func (cfg *Config) check() error {
	if !cfg.Manual && !cfg.Features.NFTQueue && !cfg.Features.XTQueue {
		return ErrNoQueue
	}
	if cfg.Queues > 1 && int(cfg.Queue)+int(cfg.Queues) > 1<<16 {
		return fmt.Errorf("queues %d to %d: queue numbers end at 65535", cfg.Queue, int(cfg.Queue)+int(cfg.Queues)-1)
	}
	for _, h := range cfg.Helpers {
		if h.Transport != helpers.TCP && h.Transport != helpers.UDP {
			return fmt.Errorf("helper %s: no rules for %v", h.Name, h.Transport)
		}
		if slices.Contains(h.Ports, 0) {
			return fmt.Errorf("helper %s: port 0 is not a port", h.Name)
		}
		if len(h.Announced) >= helperNameLen {
			return fmt.Errorf("helper %s: label %q has more than %d bytes", h.Name, h.Announced, helperNameLen-1)
		}
	}
	return nil
}
