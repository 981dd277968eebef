// Package tftp is a helper for TFTP (RFC 1350, RFC 2347) outside of cthelperd's own source tree. The client asks at
// port 69; the server answers from a port of its own choice, which no firewall can know: one transfer, one expectation.
package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
)

// Opcodes of RFC 1350 section 5.
const (
	readRequest  = 1
	writeRequest = 2
)

var errRequest = errors.New("neither a read nor a write request")

// Protocol is TFTP for a program's slice of protocols.
func Protocol() helpers.Protocol {
	return helpers.Protocol{
		Name: "tftp",
		Helpers: func(any) ([]helpers.Helper, error) {
			return []helpers.Helper{{
				Name:      "tftp",
				Transport: helpers.UDP,
				Ports:     []uint16{69},
				Classes:   []helpers.Class{{Name: "transfer", Max: 8, Timeout: 30 * time.Second}},
				New:       func() helpers.Session { return session{} },
			}}, nil
		},
	}
}

// session needs no memory: every request stands for itself.
type session struct{}

func (session) Inspect(seg *helpers.Segment, out *helpers.Result) error {
	out.Consumed = len(seg.Data)
	if seg.Dir != helpers.Original || len(seg.Data) == 0 {
		return nil // a server that answers from port 69 needs no expectation
	}
	verb, file, ok := request(seg.Data)
	if !ok {
		return &helpers.ParseError{Err: errRequest}
	}
	server := seg.Flow.Peer(helpers.Original).Addr()
	out.Expect = append(out.Expect, helpers.Expectation{
		Transport: helpers.UDP,
		Owner:     helpers.Original,
		From:      netip.AddrPortFrom(server, 0), // RFC 1350 section 4: the server chooses its port
		To:        seg.Flow.Own(helpers.Original),
		Note:      verb + " " + string(file),
	})
	return nil
}

func (session) Close(helpers.FlowID, *helpers.Result) {}

// request reads opcode, file name, NUL, mode, NUL; options (RFC 2347) may follow.
func request(b []byte) (verb string, file []byte, ok bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	switch binary.BigEndian.Uint16(b) {
	case readRequest:
		verb = "RRQ"
	case writeRequest:
		verb = "WRQ"
	default:
		return "", nil, false
	}
	file, rest, ok := bytes.Cut(b[2:], []byte{0})
	return verb, file, ok && len(file) > 0 && bytes.IndexByte(rest, 0) > 0
}
