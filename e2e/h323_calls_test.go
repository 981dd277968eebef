package e2e

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
	h323wire "github.com/cthelperd/cthelperd/helpers/h323/wire"
)

// Message types of Q.931, table 4-2.
const (
	setup           = 0x05
	connect         = 0x07
	releaseComplete = 0x5a
	facility        = 0x62
)

// call is one that two phones make over a line.
type call struct {
	t testing.TB
	line
	phones    [2]*phone // who calls, who is called
	reference uint16
}

// signal sends a message of call signalling and reads it on the other side.
func (c *call) signal(from int, kind byte, body string, v, pdu h323test.V) *h323wire.Message {
	c.t.Helper()
	if pdu == nil {
		pdu = h323test.V{}
	}
	pdu["h323-message-body"] = h323test.V{body: v}
	if body == "empty" {
		pdu["h323-message-body"] = h323test.V{body: nil}
	}
	m := &h323wire.Message{}
	payload := h323test.Signalling(kind, c.reference, from == 1, h323test.V{"h323-uu-pdu": pdu})
	if err := h323wire.ReadSignalling(c.say(from, payload), m); err != nil {
		c.t.Fatalf("%s: %v", body, err)
	}
	return m
}

// says sends a message of H.245 from a side (0: who called) to the other.
type says func(from int, v h323test.V) *h323wire.Message

// tunnel is says in call signalling.
func (c *call) tunnel(from int, v h323test.V) *h323wire.Message {
	c.t.Helper()
	return c.signal(from, facility, "empty", nil, h323test.V{"h245Tunnelling": true, "h245Control": []any{h323test.Control(v)}})
}

// listen has a side wait for the H.245 connection.
func (c *call) listen(side int) (*net.TCPListener, netip.AddrPort) {
	c.t.Helper()
	l := c.phones[side].listen(0)
	return l, l.Addr().(*net.TCPAddr).AddrPort()
}

// control has the other side connect to where owner listens: at is what it was told.
func (c *call) control(owner int, l *net.TCPListener, at netip.AddrPort) (says, error) {
	c.t.Helper()
	h, err := c.phones[1-owner].connect(at, l)
	if err != nil {
		return nil, err
	}
	return func(from int, v h323test.V) *h323wire.Message {
		c.t.Helper()
		end := 0 // who connected
		if from == owner {
			end = 1
		}
		m := &h323wire.Message{}
		if err := h323wire.ReadControl(h.say(end, h323test.Control(v)), m); err != nil {
			c.t.Fatal(err)
		}
		return m
	}, nil
}

// channels opens two channels each way with H.245.
func (c *call) channels(say says) (all []media) {
	c.t.Helper()
	for from, p := range c.phones {
		q := c.phones[1-from]
		for i := range 2 {
			m := say(from, h323test.V{"request": h323test.V{"openLogicalChannel": h323test.V{
				"forwardLogicalChannelNumber":     i + 1,
				"forwardLogicalChannelParameters": parameters(i+1, nil, p.out[i][1]),
			}}})
			x := media{from: p.out[i], to: q.in[i], back: address(c.t, m, h323wire.MediaControlChannel, 0)}
			m = say(1-from, h323test.V{"response": h323test.V{"openLogicalChannelAck": h323test.V{
				"forwardLogicalChannelNumber": i + 1,
				"forwardMultiplexAckParameters": h323test.V{"h2250LogicalChannelAckParameters": h323test.V{
					"sessionID": i + 1, "mediaChannel": unicast(q.in[i][0]), "mediaControlChannel": unicast(q.in[i][1]),
				}},
			}}})
			x.rtp, x.rtcp = address(c.t, m, h323wire.MediaChannel, 0), address(c.t, m, h323wire.MediaControlChannel, 0)
			all = append(all, x)
		}
	}
	return all
}

func (c *call) closeChannels(say says) {
	for from := range 2 {
		for i := range 2 {
			say(from, h323test.V{"request": h323test.V{"closeLogicalChannel": h323test.V{"forwardLogicalChannelNumber": i + 1}}})
			say(1-from, h323test.V{"response": h323test.V{"closeLogicalChannelAck": h323test.V{"forwardLogicalChannelNumber": i + 1}}})
		}
	}
}

func (c *call) endSession(say says) {
	c.closeChannels(say)
	for from := range 2 {
		say(from, h323test.V{"command": h323test.V{"endSessionCommand": h323test.V{"disconnect": nil}}})
	}
}

func (c *call) release() { c.signal(0, releaseComplete, "releaseComplete", h323test.V{}, nil) }

// offer is fastStart with two channels each way, by who calls.
func (c *call) offer() (all []any) {
	p := c.phones[0]
	for i := range 2 {
		all = append(all,
			h323test.OLC(h323test.V{"forwardLogicalChannelNumber": 10 + i,
				"forwardLogicalChannelParameters": parameters(i+1, nil, p.out[i][1])}),
			h323test.OLC(h323test.V{"forwardLogicalChannelNumber": 20 + i,
				"forwardLogicalChannelParameters": h323test.V{"dataType": h323test.V{"nullData": nil}},
				"reverseLogicalChannelParameters": parameters(i+1, p.in[i][0], p.in[i][1])}))
	}
	return all
}

// accept is what who is called makes of it.
func (c *call) accept() (all []any) {
	p := c.phones[1]
	for i := range 2 {
		all = append(all,
			h323test.OLC(h323test.V{"forwardLogicalChannelNumber": 10 + i,
				"forwardLogicalChannelParameters": parameters(i+1, p.in[i][0], p.in[i][1])}),
			h323test.OLC(h323test.V{"forwardLogicalChannelNumber": 20 + i,
				"forwardLogicalChannelParameters": h323test.V{"dataType": h323test.V{"nullData": nil}},
				"reverseLogicalChannelParameters": parameters(i+1, nil, p.out[i][1])}))
	}
	return all
}

// fast is what the two have told each other by fastStart.
func (c *call) fast(offer, accept *h323wire.Message) (all []media) {
	t, caller, called := c.t, c.phones[0], c.phones[1]
	t.Helper()
	for i := range 2 {
		all = append(all,
			media{from: caller.out[i], to: called.in[i], back: address(t, offer, h323wire.MediaControlChannel, 2*i),
				rtp: address(t, accept, h323wire.MediaChannel, i), rtcp: address(t, accept, h323wire.MediaControlChannel, 2*i)},
			media{from: called.out[i], to: caller.in[i], back: address(t, accept, h323wire.MediaControlChannel, 2*i+1),
				rtp: address(t, offer, h323wire.MediaChannel, i), rtcp: address(t, offer, h323wire.MediaControlChannel, 2*i+1)})
	}
	return all
}

// style is how a call gets its channels. make calls open while they are open.
type style struct {
	name string
	make func(c *call, open func([]media)) error
}

var tunnelling = h323test.V{"h245Tunnelling": true}

var styles = []style{
	{"H.245, the caller connects", func(c *call, open func([]media)) error {
		c.signal(0, setup, "setup", h323test.V{}, nil)
		l, own := c.listen(1)
		m := c.signal(1, connect, "connect", h323test.V{"h245Address": own}, nil)
		say, err := c.control(1, l, address(c.t, m, h323wire.H245Address, 0))
		if err != nil {
			return err
		}
		open(c.channels(say))
		c.endSession(say)
		return nil
	}},
	{"fastStart", func(c *call, open func([]media)) error {
		m := c.signal(0, setup, "setup", h323test.V{"fastStart": c.offer()}, nil)
		open(c.fast(m, c.signal(1, connect, "connect", h323test.V{"fastStart": c.accept()}, nil)))
		return nil
	}},
	{"tunnelled", func(c *call, open func([]media)) error {
		c.signal(0, setup, "setup", h323test.V{}, tunnelling)
		c.signal(1, connect, "connect", h323test.V{}, tunnelling)
		open(c.channels(c.tunnel))
		c.endSession(c.tunnel)
		return nil
	}},
	{"H.245, the called side connects", func(c *call, open func([]media)) error {
		l, own := c.listen(0)
		m := c.signal(0, setup, "setup", h323test.V{"h245Address": own}, nil)
		say, err := c.control(0, l, address(c.t, m, h323wire.H245Address, 0))
		if err != nil {
			return err
		}
		c.signal(1, connect, "connect", h323test.V{}, nil)
		open(c.channels(say))
		c.endSession(say)
		return nil
	}},
	{"H.245, begun by a Facility", func(c *call, open func([]media)) error {
		c.signal(0, setup, "setup", h323test.V{}, nil)
		c.signal(1, connect, "connect", h323test.V{}, nil)
		l, own := c.listen(0)
		m := c.signal(0, facility, "facility", h323test.V{"h245Address": own, "reason": h323test.V{"startH245": nil}}, nil)
		say, err := c.control(0, l, address(c.t, m, h323wire.H245Address, 0))
		if err != nil {
			return err
		}
		open(c.channels(say))
		c.endSession(say)
		return nil
	}},
	{"parallelH245Control", func(c *call, open func([]media)) error {
		begun := false
		say := func(from int, v h323test.V) *h323wire.Message {
			if begun {
				return c.tunnel(from, v)
			}
			begun = true
			return c.signal(from, setup, "setup", h323test.V{
				"fastStart": c.offer(), "parallelH245Control": []any{h323test.Control(v)},
			}, tunnelling)
		}
		open(c.channels(say))
		c.endSession(say)
		return nil
	}},
	{"fastStart refused", func(c *call, open func([]media)) error {
		c.signal(0, setup, "setup", h323test.V{"fastStart": c.offer()}, nil)
		l, own := c.listen(1)
		m := c.signal(1, connect, "connect", h323test.V{"h245Address": own, "fastConnectRefused": nil}, nil)
		say, err := c.control(1, l, address(c.t, m, h323wire.H245Address, 0))
		if err != nil {
			return err
		}
		open(c.channels(say))
		c.endSession(say)
		return nil
	}},
	{"channels that are closed and opened again", func(c *call, open func([]media)) error {
		c.signal(0, setup, "setup", h323test.V{}, tunnelling)
		c.signal(1, connect, "connect", h323test.V{}, tunnelling)
		closed := c.channels(c.tunnel)
		c.closeChannels(c.tunnel)
		for _, m := range closed {
			if n := m.pass(c.t, brief); n > 0 {
				c.t.Errorf("%d datagrams on a channel that is closed", n)
			}
		}
		open(c.channels(c.tunnel))
		c.endSession(c.tunnel)
		return nil
	}},
}

// someStyles are the usual ones where time is short; each of the others is run once there.
func someStyles() []style {
	if *onlyPairs {
		return styles[:3]
	}
	return styles
}

// brief is how long something is waited for that should not come.
const brief = 20 * time.Millisecond

// mediaPerCall is how many datagrams a call sends: RTP, and RTCP both ways, on two channels each way.
const mediaPerCall = 4 * 3

// arrives makes a call and tells how many datagrams have arrived.
func (c *call) arrives(st style, within time.Duration) (arrived int, err error) {
	c.t.Helper()
	err = st.make(c, func(all []media) {
		for i := range all {
			arrived += all[i].pass(c.t, within)
		}
	})
	if err == nil {
		c.release()
	}
	return arrived, err
}
