// Package ftp reads FTP control connections (RFC 959 and its extensions) and announces the data connections that the
// two sides agree upon. It is a helper of cthelperd; README.md beside it says what is read, announced and refused.
package ftp

import (
	"time"

	"github.com/cthelperd/cthelperd/helpers"
)

const (
	controlPort = 21 // RFC 959, section 8
	maxPending  = 8  // announced and not used, per control connection
	maxWait     = 300 * time.Second
	// maxLine bounds a line, its line end included: RFC 959 names no limit, servers refuse between 512 bytes and 4 KiB.
	// A longer one is skipped, so that no more than this is ever kept.
	maxLine = 4096
	// maxAnnouncement bounds a line that announces an end point: the longest that is sensible (LPRT for IPv6, RFC 1639)
	// has about 90 bytes; servers put some text around theirs.
	maxAnnouncement = 512
)

// Protocol is FTP for the programs' slice of protocols. It has one helper and no options.
func Protocol() helpers.Protocol {
	return helpers.Protocol{
		Name: "ftp",
		Helpers: func(any) ([]helpers.Helper, error) {
			shared := newDesks()
			return []helpers.Helper{{
				Name:      "ftp",
				Transport: helpers.TCP,
				Ports:     []uint16{controlPort},
				Classes:   []helpers.Class{{Name: "data", Max: maxPending, Timeout: maxWait}},
				Backlog:   maxLine,
				New:       func() helpers.Session { return newSession(shared) },
				Restore:   func(state []byte) (helpers.Session, error) { return restore(state, shared) },
			}}, nil
		},
	}
}
