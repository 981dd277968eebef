package cli

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/criteria"
	"github.com/cthelperd/cthelperd/cli/format"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/cli/where"
	"github.com/cthelperd/cthelperd/cli/why"
	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
)

type whyCommand struct {
	criteria.Match
	criteria.More
	Log  string   `placeholder:"FILE" help:"The daemon's log, in either form, to find the announcement in; - is standard input: journalctl -o cat -u cthelperd | cthelper why --log - FLOW."`
	Flow []string `arg:"" optional:"" help:"The connection: [PROTO] SOURCE:PORT>DESTINATION:PORT as the table and the log show it, or an entry's id. Options choose as for list."`
}

func (whyCommand) Help() string {
	return `Examples:
  cthelper why 'tcp 198.51.100.9:20>192.0.2.2:50001'
  cthelper why --where related
  journalctl -o cat -u cthelperd | cthelper why --log - -p tcp --dport 50001`
}

func (w *whyCommand) Run(c *context) error {
	if len(w.Flow) > 0 {
		text, err := flowCondition(strings.Join(w.Flow, " "))
		if err != nil {
			return err
		}
		if w.Where != "" {
			text = text + " && (" + w.Where + ")"
		}
		w.Where = text
	}
	s, err := c.choose(&w.Match, &w.More)
	if err != nil {
		return err
	}
	if s.any {
		return &caret.Error{Message: "needs a connection: SOURCE:PORT>DESTINATION:PORT, an id, or options"}
	}
	t, err := flows.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	var found []flows.Flow
	for f, err := range t.List(s.filter) {
		if err != nil {
			return err
		}
		if len(found) == mostWhy {
			c.say("only the first %d connections are explained", mostWhy)
			break
		}
		found = append(found, *f)
	}
	if len(found) == 0 {
		return errors.Join(flows.ErrNotFound, s.judged())
	}
	said, err := w.search(c, found)
	if err != nil {
		return err
	}
	for i := range found {
		text, err := w.explain(t, &found[i], said)
		if err == nil {
			_, err = io.WriteString(c.stdout, text)
		}
		if err != nil {
			return err
		}
	}
	return s.judged()
}

// mostWhy is how many connections are explained: each is a search through the table.
const mostWhy = 20

// flowCondition is the condition that a connection is the named one.
func flowCondition(text string) (string, error) {
	bad := func(part, message string) (string, error) {
		return "", &caret.Error{Text: text, At: max(0, strings.LastIndex(text, part)), Message: message}
	}
	if id, err := strconv.ParseUint(text, 10, 32); err == nil {
		return fmt.Sprintf("id == %d", id), nil
	}
	condition, rest := "", text
	if proto, tail, ok := strings.Cut(text, " "); ok {
		n, known := names.ParseProtocol(proto)
		if !known {
			return bad(text, "unknown protocol")
		}
		condition, rest = fmt.Sprintf("proto == %q && ", names.Protocol(n)), strings.TrimSpace(tail)
	}
	source, destination, ok := strings.Cut(rest, ">")
	if !ok {
		return bad(rest, "want SOURCE:PORT>DESTINATION:PORT, with a protocol before it or not, or an id")
	}
	src, err := netip.ParseAddrPort(source)
	if err != nil {
		return bad(rest, "want an address and a port")
	}
	dst, err := netip.ParseAddrPort(destination)
	if err != nil {
		return bad(destination, "want an address and a port")
	}
	return condition + fmt.Sprintf("orig.src == %q && orig.sport == %d && orig.dst == %q && orig.dport == %d",
		src.Addr(), src.Port(), dst.Addr(), dst.Port()), nil
}

func (w *whyCommand) explain(t *flows.Table, f *flows.Flow, said map[string]why.Announced) (string, error) {
	r, err := why.Find(f, t.List)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "  %-10s %s\n", what, caret.Plain(fmt.Sprintf(format, args...)))
	}
	fmt.Fprintln(&b, named(f))
	if !r.Related {
		line("related", "no: no connection announced it")
		return b.String(), nil
	}
	line("related", "yes: it was expected when it began (status EXPECTED)")
	w.master(line, f, &r)
	if err := above(line, t, &r); err != nil {
		return "", err
	}
	if err := pending(line, f); err != nil {
		return "", err
	}
	if w.Log != "" {
		announced(line, said[format.Name(f)])
	} else if expect.HelperOf(r.Helper) != "" || r.Shadow {
		line("announced", "the daemon's log says by which line: --log FILE")
	}
	return b.String(), nil
}

func (w *whyCommand) master(line func(what, format string, args ...any), f *flows.Flow, r *why.Reason) {
	if !f.Master.Src.IsValid() {
		line("master", "it is not there any more, so the kernel does not name it")
		return
	}
	name := names.Protocol(uint8(f.MasterTransport)) + " " + f.Master.Src.String() + ">" + f.Master.Dst.String()
	switch {
	case r.Shadow && r.Master == nil:
		line("master", "%s, a shadow of cthelperd's that is gone", name)
	case r.Shadow:
		line("master", "%s, a shadow of cthelperd's: no packet belongs to it", name)
	case r.Master == nil:
		line("master", "%s, which is gone", name)
	default:
		line("master", "%s", name)
	}
	if r.Helper != "" {
		of := "the kernel's"
		if p := expect.HelperOf(r.Helper); p != "" {
			of = "cthelperd's for " + p
		} else if r.Shadow {
			of = "of the kernel's, a mere carrier: cthelperd read the connection"
		}
		line("helper", "%s, %s", r.Helper, of)
	}
	for i := range r.Control {
		line("control", "%s", named(&r.Control[i]))
	}
	if r.Shadow && len(r.Control) == 0 {
		line("control", "the connection that the shadow stands for is gone")
	}
}

// named is a connection's name, and its state if its protocol has any.
func named(f *flows.Flow) string { return strings.TrimSpace(format.Name(f) + " " + where.State(f)) }

// mostAbove is how far announcements of announcements are followed: the daemon goes no deeper.
const mostAbove = 4

// above are the connections that announced the control connection, if it was announced itself.
func above(line func(what, format string, args ...any), t *flows.Table, r *why.Reason) error {
	for range mostAbove {
		if len(r.Control) != 1 || !r.Control[0].Expected() {
			return nil
		}
		next, err := why.Find(&r.Control[0], t.List)
		if err != nil {
			return err
		}
		for i := range next.Control {
			line("above", "%s", named(&next.Control[i]))
		}
		r = &next
	}
	return nil
}

// mostPending is how many expectations are named: a trunk has thousands.
const mostPending = 10

// pending are the expectations that the master has besides: the one that was used is gone, unless it is permanent.
func pending(line func(what, format string, args ...any), f *flows.Flow) error {
	t, err := expect.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	n := 0
	for x, err := range t.List() {
		if err != nil {
			return err
		}
		if !f.Master.Src.IsValid() || x.Master != f.Master || x.MasterTransport != f.MasterTransport {
			continue
		}
		if n++; n <= mostPending {
			line("pending", "%s %s, for %d s more", names.Protocol(uint8(x.Transport)), format.ExpectEnds(x), x.Timeout)
		}
	}
	if n > mostPending {
		line("pending", "and %d more", n-mostPending)
	}
	return nil
}

// search looks the connections up in the log; without one there is nothing to find.
func (w *whyCommand) search(c *context, found []flows.Flow) (map[string]why.Announced, error) {
	if w.Log == "" {
		return nil, nil
	}
	in := c.stdin
	if w.Log != "-" {
		file, err := os.Open(w.Log)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	var all []string
	for i := range found {
		all = append(all, format.Name(&found[i]))
	}
	return why.Search(in, all...)
}

func announced(line func(what, format string, args ...any), said why.Announced) {
	switch {
	case said.Used == nil:
		line("announced", "the log does not mention it")
	case said.Said == nil:
		line("announced", "the log mentions it at %s, but not its announcement", said.Used["time"])
	default:
		line("announced", "at %s by %s on %s (%s): %s %s", said.Said["time"], said.Said["helper"], said.Said["flow"],
			said.Said["dir"], said.Said["class"], strconv.QuoteToGraphic(said.Said["note"]))
		expected := fmt.Sprintf("%s %s>%s", said.Said["transport"], said.Said["from"], said.Said["to"])
		if at := said.Said["at"]; at != "" {
			expected += ", under NAT at " + at
		}
		line("expected", "%s", expected)
		line("used", "at %s for %s", said.Used["time"], strconv.QuoteToGraphic(said.Used["note"]))
	}
}
