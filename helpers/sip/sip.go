// Package sip reads SIP (RFC 3261) with its session descriptions (RFC 8866), and announces the media that two sides
// agree upon, and the end points that phones register. It is a helper of cthelperd; README.md beside it says what is
// read, announced and refused.
package sip

import (
	"fmt"
	"hash/maphash"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/freelist"
)

const (
	name        = "sip"
	signalPort  = 5060 // RFC 3261, section 19.1.2
	securePort  = 5061
	maxHead     = 16 << 10 // start line and headers of a message
	mediaWait   = 300 * time.Second
	maxGranted  = 7 * 24 * time.Hour // of a registration, whatever the registrar says
	defaultBody = 32 << 10
)

// The classes of both helpers.
const (
	classMedia  = iota // UDP
	classStream        // TCP
	classSignalling
)

// Options are what helpers.sip of the configuration may set.
type Options struct {
	// Incoming says who may call a phone through its registration: registrar, the host that granted it; or any.
	Incoming string `yaml:"incoming"`
	// ICE announces the candidates of a session description too, the sender's own and server-reflexive ones.
	ICE bool `yaml:"ice"`
	// Registration is how long a registration holds if neither request nor answer says so.
	Registration time.Duration `yaml:"registration"`
	// Calls is how many calls and registrations between two hosts are followed at once.
	Calls uint32 `yaml:"max-calls"`
	// Media is how many end points one message may announce.
	Media uint32 `yaml:"max-media"`
	// Body is how many bytes a body may have that is read. Headers are read all the same.
	Body uint32 `yaml:"max-body"`
	// FromTo has From and To rewritten under NAT too. They are names: nothing is sent to where they point.
	FromTo bool `yaml:"from-to"`
}

// defaults are the options of a configuration that sets none.
func defaults() Options {
	return Options{Incoming: "registrar", Registration: time.Hour, Calls: 16384, Media: 32, Body: defaultBody}
}

func (o *Options) check() error {
	const maxBody, maxCalls, maxMedia = 48 << 10, 1 << 20, 128
	switch {
	case o.Incoming != "registrar" && o.Incoming != "any":
		return fmt.Errorf("incoming: %q is neither registrar nor any", o.Incoming)
	case o.Registration < time.Second:
		return fmt.Errorf("registration: %v is under a second", o.Registration)
	case o.Calls == 0 || o.Calls > maxCalls:
		return fmt.Errorf("max-calls: %d is not 1 to %d", o.Calls, maxCalls)
	case o.Media == 0 || o.Media > maxMedia:
		return fmt.Errorf("max-media: %d is not 1 to %d", o.Media, maxMedia)
	case o.Body > maxBody:
		return fmt.Errorf("max-body: %d is over %d bytes", o.Body, maxBody)
	}
	return nil
}

// Protocol is SIP for the programs' slice of protocols. It has a helper for UDP and one for TCP, which share the
// session of two hosts: a call may begin over one and end over the other.
func Protocol() helpers.Protocol {
	options := defaults()
	return helpers.Protocol{
		Name:    name,
		Options: &options,
		Helpers: func(options any) ([]helpers.Helper, error) {
			o := defaults()
			switch v := options.(type) {
			case nil:
			case *Options:
				o = *v
			case Options:
				o = v
			default:
				return nil, fmt.Errorf("options are a %T, want sip.Options", options)
			}
			if err := o.check(); err != nil {
				return nil, err
			}
			all := &shared{Options: o, seed: maphash.MakeSeed(), desks: freelist.List[desk]{Most: maxFree}}
			h := helpers.Helper{
				Name:  name,
				Ports: []uint16{signalPort},
				Classes: []helpers.Class{
					classMedia:      {Name: "media", Timeout: mediaWait},
					classStream:     {Name: "media-tcp", Timeout: mediaWait},
					classSignalling: {Name: "signalling", Timeout: time.Hour},
				},
				Backlog:   maxHead + int(o.Body),
				PerPair:   true,
				Announced: true,
				New:       func() helpers.Session { return newSession(all) },
				Restore:   func(state []byte) (helpers.Session, error) { return restore(state, all) },
			}
			udp, tcp := h, h
			udp.Transport, tcp.Transport = helpers.UDP, helpers.TCP
			return []helpers.Helper{udp, tcp}, nil
		},
	}
}

// shared is what the sessions of both helpers have in common.
type shared struct {
	Options
	seed  maphash.Seed // of tables: nobody outside can choose Call-IDs that collide
	desks freelist.List[desk]
}

// desk is what a session needs during a call, and under NAT until Rewrite: an idle session has none.
type desk struct {
	messages []*message // that were understood, in order: what Rewrite looks at
	spare    []*message
	first    error // what Inspect returns
}

const (
	maxFree  = 64 // desks that wait for a session
	maxSpare = 4  // messages that a waiting desk keeps
)

func (all *shared) giveBack(d *desk) {
	d.tidy()
	if len(d.spare) > maxSpare {
		clear(d.spare[maxSpare:])
		d.spare = d.spare[:maxSpare]
	}
	all.desks.Give(d)
}

// tidy clears the desk for the next call.
func (d *desk) tidy() {
	d.spare = append(d.spare, d.messages...)
	d.messages, d.first = d.messages[:0], nil
}

// blank is a message to be filled.
func (d *desk) blank() *message {
	n := len(d.spare)
	if n == 0 {
		return &message{}
	}
	m := d.spare[n-1]
	d.spare = d.spare[:n-1]
	return m
}

// keep leaves a message on the desk for Rewrite.
func (d *desk) keep(m *message) { d.messages = append(d.messages, m) }

// drop takes back a message that was not understood.
func (d *desk) drop(m *message) { d.spare = append(d.spare, m) }
