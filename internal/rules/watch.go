package rules

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watcher tells that somebody has changed the table: this process too.
type Watcher struct {
	conn    *netlink.Conn
	changed chan struct{}
	ending  chan struct{}
	err     error
}

// settle is how long changes are collected: those of one nft command come in several messages.
const settle = 50 * time.Millisecond

// Watch begins to watch the calling thread's network namespace.
func Watch() (*Watcher, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("watch the rules: %w", err)
	}
	if err := c.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return nil, errors.Join(fmt.Errorf("watch the rules: %w", err), c.Close())
	}
	w := &Watcher{conn: c, changed: make(chan struct{}), ending: make(chan struct{})}
	go w.run()
	return w, nil
}

// Changed says that the table may not be what it was. It is closed when the watcher ends; Err says why.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Err is why Changed was closed.
func (w *Watcher) Err() error { return w.err }

// Close ends the watcher.
func (w *Watcher) Close() error {
	close(w.ending)
	err := w.conn.Close()
	for range w.changed {
	}
	return err
}

func (w *Watcher) run() {
	defer close(w.changed)
	for {
		messages, err := w.conn.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // more changes than the socket holds: perhaps ours
		case err != nil:
			w.err = fmt.Errorf("watch the rules: %w", err)
			return
		case !ours(messages):
			continue
		}
		if w.err = w.collect(); w.err != nil {
			return
		}
		select {
		case w.changed <- struct{}{}:
		case <-w.ending:
			return
		}
	}
}

// collect takes what comes until it is time to tell, so that one transaction is told once: a message tells of one rule,
// and a datagram holds few.
func (w *Watcher) collect() error {
	err := w.conn.SetReadDeadline(time.Now().Add(settle))
	for err == nil || errors.Is(err, unix.ENOBUFS) {
		_, err = w.conn.Receive()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = w.conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return fmt.Errorf("watch the rules: %w", err)
	}
	return nil
}

// ours says whether a change is one of our table. All messages that name a table do so by their first attribute
// (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE …).
func ours(messages []netlink.Message) bool {
	const nameOfTable = unix.NFTA_TABLE_NAME
	for _, m := range messages {
		if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < 1 || m.Data[0] != unix.NFPROTO_INET {
			continue
		}
		found := false
		err := each(m, func(ad *netlink.AttributeDecoder) {
			found = found || ad.Type() == nameOfTable && ad.String() == TableName
		})
		if found || err != nil {
			return true
		}
	}
	return false
}

func decoder(b []byte) (*netlink.AttributeDecoder, error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err == nil {
		ad.ByteOrder = binary.BigEndian
	}
	return ad, err
}
