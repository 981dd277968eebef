package cli

import (
	stdcontext "context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/criteria"
	"github.com/cthelperd/cthelperd/cli/format"
	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

type expectCommand struct {
	List   expectListCommand   `cmd:"" help:"List expectations."`
	Count  expectCountCommand  `cmd:"" help:"Count expectations."`
	Get    expectGetCommand    `cmd:"" help:"Print one expectation by its addresses and ports."`
	Create expectCreateCommand `cmd:"" help:"Create an expectation."`
	Update expectUpdateCommand `cmd:"" help:"Change the timeout of expectations."`
	Delete expectDeleteCommand `cmd:"" help:"Delete expectations."`
	Flush  expectFlushCommand  `cmd:"" help:"Empty the expectation table."`
	Watch  expectWatchCommand  `cmd:"" help:"Print events of expectations."`
	Stats  expectStatsCommand  `cmd:"" help:"Print the kernel's statistics of expectations."`
}

// expectTuple are the options that name an expectation.
type expectTuple struct {
	Proto        criteria.Proto   `short:"p" aliases:"protonum" placeholder:"PROTO" group:"Expectation" help:"Protocol of the expected connection, and of the master unless --master-proto says another."`
	TupleSrc     criteria.Address `placeholder:"ADDR" group:"Expectation" help:"Source address of the expected connection."`
	TupleDst     criteria.Address `placeholder:"ADDR" group:"Expectation" help:"Destination address of the expected connection."`
	TuplePortSrc criteria.Ports   `placeholder:"PORT" group:"Expectation" help:"Source port of the expected connection."`
	TuplePortDst criteria.Ports   `placeholder:"PORT" group:"Expectation" help:"Destination port of the expected connection."`
	Zone         criteria.Zone    `short:"w" placeholder:"ZONE" group:"Expectation" help:"Zone."`
}

// expectMaster are the options that name the master connection.
type expectMaster struct {
	Src         criteria.Address `short:"s" aliases:"orig-src" placeholder:"ADDR" group:"Master connection" help:"Source address of the master, original direction."`
	Dst         criteria.Address `short:"d" aliases:"orig-dst" placeholder:"ADDR" group:"Master connection" help:"Destination address of the master, original direction."`
	Sport       criteria.Ports   `aliases:"orig-port-src" placeholder:"PORT" group:"Master connection" help:"Source port of the master, original direction."`
	Dport       criteria.Ports   `aliases:"orig-port-dst" placeholder:"PORT" group:"Master connection" help:"Destination port of the master, original direction."`
	MasterProto criteria.Proto   `placeholder:"PROTO" group:"Master connection" help:"Protocol of the master."`
}

// expectMatch are the options that choose expectations.
type expectMatch struct {
	Family criteria.Family `short:"f" placeholder:"FAMILY" group:"Expectation" help:"ipv4 or ipv6; without it both."`
	expectTuple
	expectMaster
	Helper string `placeholder:"NAME" group:"Expectation" help:"Helper of the master."`
}

// any says whether no option was given.
func (m *expectMatch) any() bool {
	return !m.Family.IsSet() && !m.Proto.IsSet() && !m.TupleSrc.IsSet() && !m.TupleDst.IsSet() && !m.TuplePortSrc.IsSet() &&
		!m.TuplePortDst.IsSet() && !m.Zone.IsSet() && m.Helper == "" && !m.Src.IsSet() && !m.Dst.IsSet() && !m.Sport.IsSet() &&
		!m.Dport.IsSet() && !m.MasterProto.IsSet()
}

func (m *expectMatch) match(x *expect.Expectation) bool {
	return (!m.Family.IsSet() || m.Family.Name == flows.FamilyName(x.Tuple.Dst.Addr())) &&
		(!m.Proto.IsSet() || helpers.Transport(m.Proto.Number) == x.Transport) &&
		(!m.MasterProto.IsSet() || helpers.Transport(m.MasterProto.Number) == x.MasterTransport) &&
		has(&m.TupleSrc, &m.TuplePortSrc, x.Tuple.Src) && has(&m.TupleDst, &m.TuplePortDst, x.Tuple.Dst) &&
		has(&m.Src, &m.Sport, x.Master.Src) && has(&m.Dst, &m.Dport, x.Master.Dst) &&
		(!m.Zone.IsSet() || m.Zone.ID == x.Zone) && (m.Helper == "" || m.Helper == x.Helper)
}

func has(a *criteria.Address, p *criteria.Ports, end netip.AddrPort) bool {
	return (!a.IsSet() || a.Has(end.Addr())) && (!p.IsSet() || p.First <= end.Port() && end.Port() <= p.Last)
}

// expectOutput is how expectations are written.
type expectOutput struct {
	Output string `short:"o" default:"table" enum:"table,conntrack,xml,json,csv" placeholder:"KIND" group:"Output" help:"table (the default), conntrack, xml, json or csv."`
}

func (o *expectOutput) write(w io.Writer, e *expect.Event, events bool) error {
	_, err := w.Write(format.AppendExpect(nil, o.Output, e, time.Now(), events))
	return err
}

// print writes entries of the table.
func (o *expectOutput) print(w io.Writer, seq iter.Seq2[*expect.Expectation, error]) error {
	if _, err := io.WriteString(w, format.ExpectHead(o.Output, false)); err != nil {
		return err
	}
	for x, err := range seq {
		if err != nil {
			return err
		}
		if err := o.write(w, &expect.Event{Expectation: *x}, false); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, format.ExpectTail(o.Output))
	return err
}

type expectListCommand struct {
	expectMatch
	expectOutput
}

func (l *expectListCommand) Run(c *context) error {
	t, err := expect.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	return l.print(c.stdout, l.list(t))
}

type expectCountCommand struct{ expectMatch }

func (k *expectCountCommand) Run(c *context) error {
	t, err := expect.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	n, err := count(k.list(t))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.stdout, n)
	return err
}

// list gives those of t that match.
func (m *expectMatch) list(t *expect.Table) iter.Seq2[*expect.Expectation, error] {
	return func(yield func(*expect.Expectation, error) bool) {
		for x, err := range t.List() {
			if (err != nil || m.match(x)) && !yield(x, err) {
				return
			}
		}
	}
}

// tuple is the expected connection; who creates one needs all of it, but for the source's port.
func (t *expectTuple) tuple() (tr helpers.Transport, tuple helpers.Tuple, err error) {
	if !t.Proto.IsSet() || !t.TupleSrc.IsSet() || !t.TupleDst.IsSet() {
		return 0, tuple, &caret.Error{Message: "needs --proto, --tuple-src and --tuple-dst"}
	}
	tuple.Src, err = end(&t.TupleSrc, &t.TuplePortSrc)
	if err == nil {
		tuple.Dst, err = end(&t.TupleDst, &t.TuplePortDst)
	}
	return helpers.Transport(t.Proto.Number), tuple, err
}

func end(a *criteria.Address, p *criteria.Ports) (netip.AddrPort, error) {
	addr, err := a.One()
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := p.One()
	return netip.AddrPortFrom(addr, port), err
}

type expectGetCommand struct {
	expectTuple
	expectOutput
}

func (g *expectGetCommand) Run(c *context) error {
	tr, tuple, err := g.tuple()
	if err != nil {
		return err
	}
	t, err := expect.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	x, err := t.Get(tr, tuple, g.Zone.ID)
	if err != nil {
		return err
	}
	return g.print(c.stdout, only(&x))
}

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

type expectWatchCommand struct {
	expectMatch
	expectOutput
	BufferSize int    `short:"b" placeholder:"BYTES" group:"Events" help:"Receive buffer of the socket."`
	List       bool   `group:"Events" help:"Begin with what is in the table."`
	Count      uint64 `placeholder:"N" group:"Events" help:"End after N events."`
}

func (w *expectWatchCommand) Run(c *context) error {
	watcher, err := expect.Watch(expect.Watching{Buffer: w.BufferSize, List: w.List})
	if err != nil {
		return err
	}
	defer watcher.Close()
	if w.Output != format.Table {
		if _, err := io.WriteString(c.stdout, format.ExpectHead(w.Output, true)); err != nil {
			return err
		}
	}
	until, stop := signal.NotifyContext(stdcontext.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	n := uint64(0)
	for e, err := range watcher.All(until) {
		if err != nil {
			return err
		}
		aside := e.Kind == flows.Overrun || e.Kind == flows.Synced
		if !aside && !w.match(&e.Expectation) {
			continue
		}
		if err := w.write(c.stdout, e, true); err != nil {
			return err
		}
		if aside {
			continue
		}
		if n++; n == w.Count {
			break
		}
	}
	_, err = io.WriteString(c.stdout, format.ExpectTail(w.Output))
	return err
}

type expectStatsCommand struct{}

func (expectStatsCommand) Run(c *context) error {
	t, err := expect.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	all, err := t.Stats()
	if err != nil {
		return err
	}
	for _, s := range all {
		_, err := fmt.Fprintf(c.stdout, "cpu=%-4d\texpect_new=%d expect_create=%d expect_delete=%d \n", s.CPU, s.New, s.Create, s.Delete)
		if err != nil {
			return err
		}
	}
	return nil
}
