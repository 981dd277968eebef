// Package h323 reads H.323: RAS (H.225.0 over UDP), call signalling (H.225.0 in Q.931 over TCP) and H.245, and announces
// what leads from one to the next and in the end to media. It is a helper of cthelperd; README.md beside it says what
// is read, announced and refused.
package h323

import (
	"fmt"
	"time"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/freelist"
)

// Ports of H.225.0, appendix IV.
const (
	rasPort        = 1719
	signallingPort = 1720
)

// Names of the helpers: what Expectation.Helper says of children.
const (
	nameRAS        = "ras"
	nameSignalling = "q931"
	nameControl    = "h245"
)

// Options are the keys of the section helpers.h323.
type Options struct {
	// Calls says who may call a registered endpoint: its gatekeeper, or any.
	Calls string `yaml:"calls"`
	// Media says who may send media to what an endpoint opens: the peer of its H.245 connection and whom that names, or
	// any.
	Media string `yaml:"media"`
	// Registration is how long a registration opens call signalling if neither side has said for how long it holds.
	Registration time.Duration `yaml:"registration"`
}

const (
	gatekeeper = "gatekeeper"
	peer       = "peer"
	anyone     = "any"
)

func (o *Options) check() error {
	switch {
	case o.Calls != gatekeeper && o.Calls != anyone:
		return fmt.Errorf("calls: %q is neither %s nor %s", o.Calls, gatekeeper, anyone)
	case o.Media != peer && o.Media != anyone:
		return fmt.Errorf("media: %q is neither %s nor %s", o.Media, peer, anyone)
	case o.Registration < time.Second || o.Registration > maxTTL:
		return fmt.Errorf("registration: %v is not between 1s and %v", o.Registration, maxTTL)
	}
	return nil
}

// Classes of the helpers' expectations.
const (
	classCalled = 0 // ras: call signalling of a call that was admitted or located
	classCalls  = 1 // ras: towards a registered endpoint
	classRAS    = 2 // ras: RAS on another port

	classMedia   = 0 // q931, h245
	classData    = 1 // q931, h245: T.120
	classControl = 2 // q931: H.245
	classForward = 3 // q931: where a call is forwarded to

	// Most that are pending at once, in one session. A session of RAS is that of two hosts.
	maxCalled  = 64
	maxCalls   = 64
	maxRAS     = 32
	maxMedia   = 32
	maxData    = 4
	maxControl = 8
	maxForward = 4

	waitCall    = 240 * time.Second
	waitControl = 60 * time.Second
	waitMedia   = 240 * time.Second
)

// Protocol is H.323 for the programs' slice of protocols. Its helpers are ras, q931 and h245.
func Protocol() helpers.Protocol {
	return helpers.Protocol{
		Name:    "h323",
		Options: &Options{Calls: gatekeeper, Media: peer, Registration: time.Hour},
		Helpers: func(options any) ([]helpers.Helper, error) {
			o := *options.(*Options)
			if err := o.check(); err != nil {
				return nil, err
			}
			shared := &shared{options: o, desks: freelist.List[desk]{Most: maxFree}}
			return []helpers.Helper{shared.ras(), shared.signalling(), shared.control()}, nil
		},
	}
}

func (all *shared) ras() helpers.Helper {
	return helpers.Helper{
		Name:      nameRAS,
		Announced: true,
		Transport: helpers.UDP,
		Ports:     []uint16{rasPort},
		Classes: []helpers.Class{
			classCalled: {Name: "call", Max: maxCalled, Timeout: waitCall},
			classCalls:  {Name: "registration", Max: maxCalls, Timeout: all.options.Registration},
			classRAS:    {Name: "ras", Max: maxRAS, Timeout: waitCall},
		},
		PerPair: true,
		New:     func() helpers.Session { return &ras{all: all} },
		Restore: all.restoreRAS,
	}
}

func (all *shared) signalling() helpers.Helper {
	return helpers.Helper{
		Name:      nameSignalling,
		Announced: true,
		Transport: helpers.TCP,
		Ports:     []uint16{signallingPort},
		Classes: []helpers.Class{
			classMedia:   {Name: "media", Max: maxMedia, Timeout: waitMedia},
			classData:    {Name: "data", Max: maxData, Timeout: waitMedia},
			classControl: {Name: "h245", Max: maxControl, Timeout: waitControl},
			classForward: {Name: "forward", Max: maxForward, Timeout: waitCall},
		},
		Backlog: maxFrame,
		New:     func() helpers.Session { return &signalling{frames: frames{all: all}} },
		Restore: all.restoreSignalling,
	}
}

func (all *shared) control() helpers.Helper {
	return helpers.Helper{
		Name:      nameControl,
		Transport: helpers.TCP,
		Classes: []helpers.Class{
			classMedia: {Name: "media", Max: maxMedia, Timeout: waitMedia},
			classData:  {Name: "data", Max: maxData, Timeout: waitMedia},
		},
		Backlog: maxFrame,
		New:     func() helpers.Session { return &control{frames: frames{all: all}} },
		Restore: all.restoreControl,
	}
}
