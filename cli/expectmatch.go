package cli

import (
	"iter"
	"net/netip"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/criteria"
	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

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
