package cli

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/criteria"
	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

type expectCreateCommand struct {
	expectTuple
	expectMaster
	MaskSrc     netip.Addr      `placeholder:"MASK" group:"Expectation" help:"What counts of --tuple-src; without it all."`
	MaskDst     netip.Addr      `placeholder:"MASK" group:"Expectation" help:"What counts of --tuple-dst; the kernel takes all of it."`
	MaskPortSrc criteria.Ports  `placeholder:"MASK" group:"Expectation" help:"What counts of --tuple-port-src: 0 or 65535."`
	MaskPortDst criteria.Ports  `placeholder:"MASK" group:"Expectation" help:"What counts of --tuple-port-dst; the kernel takes all of it."`
	Timeout     criteria.Number `short:"t" placeholder:"SECONDS" group:"Expectation" help:"Seconds until it ends; without it what the helper's class has."`
	Class       criteria.Number `placeholder:"N" group:"Expectation" help:"Class of the master's helper, from 0."`
	Permanent   bool            `group:"Expectation" help:"It can be used again and again."`
	Inactive    bool            `group:"Expectation" help:"It is not used until a program makes it active."`
}

func (expectCreateCommand) Help() string {
	return `The master connection must be there and have a helper.

Example:
  cthelper expect create -p tcp -s 192.0.2.1 -d 198.51.100.9 --sport 4000 --dport 21 \
      --tuple-src 198.51.100.9 --tuple-dst 192.0.2.1 --tuple-port-dst 50001 -t 60`
}

func (k *expectCreateCommand) Run(c *context) error {
	x, err := k.expectation()
	if err != nil {
		return err
	}
	t, err := expect.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	if err := t.Create(x); err != nil {
		return err
	}
	c.say("created %s", amount(1, expectation))
	return nil
}

func (k *expectCreateCommand) expectation() (*expect.Expectation, error) {
	tr, tuple, err := k.tuple()
	if err != nil {
		return nil, err
	}
	if !k.Src.IsSet() || !k.Dst.IsSet() || !k.Sport.IsSet() || !k.Dport.IsSet() {
		return nil, &caret.Error{Message: "needs the master: --src, --dst, --sport and --dport"}
	}
	x := &expect.Expectation{
		Transport: tr, Tuple: tuple, MasterTransport: tr, Timeout: k.Timeout.Value, Class: k.Class.Value, Zone: k.Zone.ID,
		Flags: expect.FlagUserspace,
	}
	if k.MasterProto.IsSet() {
		x.MasterTransport = helpers.Transport(k.MasterProto.Number)
	}
	if k.Permanent {
		x.Flags |= expect.FlagPermanent
	}
	if k.Inactive {
		x.Flags |= expect.FlagInactive
	}
	if x.Master.Src, err = end(&k.Src, &k.Sport); err != nil {
		return nil, err
	}
	if x.Master.Dst, err = end(&k.Dst, &k.Dport); err != nil {
		return nil, err
	}
	x.Mask.Src = maskOf(tuple.Src, k.MaskSrc, &k.MaskPortSrc)
	x.Mask.Dst = maskOf(tuple.Dst, k.MaskDst, &k.MaskPortDst)
	if x.Mask.Src.Addr().BitLen() != tuple.Src.Addr().BitLen() || x.Mask.Dst.Addr().BitLen() != tuple.Dst.Addr().BitLen() ||
		tuple.Src.Addr().BitLen() != tuple.Dst.Addr().BitLen() {
		return nil, &caret.Error{Message: "needs addresses and masks of one family"}
	}
	return x, nil
}

// maskOf is a mask: what is not given counts whole, but for a port that is 0.
func maskOf(of netip.AddrPort, mask netip.Addr, port *criteria.Ports) netip.AddrPort {
	if !mask.IsValid() {
		all := []byte(strings.Repeat("\xff", of.Addr().BitLen()/8))
		mask, _ = netip.AddrFromSlice(all)
	}
	bits := uint16(0)
	if port.IsSet() {
		bits = port.First
	} else if of.Port() != 0 {
		bits = 0xffff
	}
	return netip.AddrPortFrom(mask, bits)
}

type expectUpdateCommand struct {
	expectMatch
	careful
	Timeout criteria.Number `short:"t" placeholder:"SECONDS" required:"" group:"Changes" help:"Seconds until they end."`
}

func (u *expectUpdateCommand) Run(c *context) error {
	return c.eachExpectation(&u.expectMatch, &u.careful, "update", "updated", func(t *expect.Table, x *expect.Expectation) error {
		x.Timeout = u.Timeout.Value
		return t.Change(x)
	})
}

type expectDeleteCommand struct {
	expectMatch
	careful
}

func (d *expectDeleteCommand) Run(c *context) error {
	if d.any() {
		return &caret.Error{Message: "needs a condition; 'cthelper expect flush' empties the table"}
	}
	return c.eachExpectation(&d.expectMatch, &d.careful, "delete", "deleted", (*expect.Table).Delete)
}

// eachExpectation does something to those that match.
func (c *context) eachExpectation(
	m *expectMatch, k *careful, verb, done string, do func(*expect.Table, *expect.Expectation) error,
) error {
	t, err := expect.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	if ok, err := k.may(c, verb, expectation, func() (uint64, error) { return count(m.list(t)) }); err != nil || !ok {
		return err
	}
	n := uint64(0)
	for x, err := range m.list(t) {
		if err != nil {
			return err
		}
		switch err := do(t, x); {
		case err == nil:
			n++
		case !errors.Is(err, expect.ErrNotFound):
			return err
		}
	}
	c.say("%s %s", done, amount(n, expectation))
	if n == 0 {
		c.code = exitFailed
	}
	return nil
}

type expectFlushCommand struct{ careful }

func (f *expectFlushCommand) Run(c *context) error {
	t, err := expect.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	return f.flush(c, expectation, func() (uint64, error) { return entries(t.Count()) }, t.Flush)
}
