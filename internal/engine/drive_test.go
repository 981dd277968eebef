package engine_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// oneCall is a table that notes what it is asked for at once.
type oneCall struct {
	*bed
	calls []string
}

func (c *oneCall) Do(requests []engine.Request, answers []error) {
	before := len(c.done)
	c.bed.Do(requests, answers)
	c.calls = append(c.calls, strings.Join(c.done[before:], ", "))
}

// TestBatch has several connections announce in the packets of one batch: the table is asked once for all of them, and
// each packet leaves behind its own answer.
func TestBatch(t *testing.T) {
	tests := []struct {
		name  string
		conn  func(helpers.Transport) engine.Conn
		calls []string
		done  []string
	}{
		{
			"routed", plainConn,
			[]string{"place 10.0.0.1:4000, place 10.0.0.1:4001, place 10.0.0.1:4002"},
			[]string{
				"verdict 16", "place 10.0.0.1:4000", "place 10.0.0.1:4001", "place 10.0.0.1:4002",
				"verdict 13", "verdict 14", "verdict 15",
			},
		},
		{
			"behind SNAT each adjustment has its verdict next", snatConn,
			[]string{
				"place 203.0.113.1:4000, place 203.0.113.1:4001, place 203.0.113.1:4002",
				"adjust orig 0/3", "adjust orig 0/3", "adjust orig 0/3",
			},
			[]string{
				"verdict 16", "place 203.0.113.1:4000", "place 203.0.113.1:4001", "place 203.0.113.1:4002",
				"adjust orig 0/3", "verdict 13", "adjust orig 0/3", "verdict 14", "adjust orig 0/3", "verdict 15",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, nil)
			var flows []*peerflow
			for i := range uint16(4) {
				c := tt.conn(helpers.TCP)
				c.Orig.Src = netip.AddrPortFrom(c.Orig.Src.Addr(), c.Orig.Src.Port()+i)
				c.Reply.Dst = netip.AddrPortFrom(c.Reply.Dst.Addr(), c.Reply.Dst.Port()+i)
				flows = append(flows, b.tcp(c, 1000))
			}
			table := &oneCall{bed: b}
			batch := engine.Batch{Engine: b.e, Table: table, Verdict: b.verdict}
			b.take, b.done = batch.Add, nil
			for i, f := range flows[:3] {
				f.say(orig, fmt.Sprintf("open tcp 10.0.0.1:%d peer\n", 4000+i))
			}
			flows[3].say(orig, "hello\n")
			batch.Do()
			if diff := cmp.Diff(tt.calls, table.calls); diff != "" {
				t.Errorf("calls of the table (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.done, b.done); diff != "" {
				t.Errorf("requests and verdicts (-want +got):\n%s", diff)
			}
			if len(b.open) > 0 {
				t.Errorf("%d packets wait", len(b.open))
			}
		})
	}
}

// TestBatchOfOneFlow has the packets of one connection in a batch, of which several change its length: each leaves while
// the kernel adjusts as it did when its numbers were written, else it would be moved by the changes behind it too.
func TestBatchOfOneFlow(t *testing.T) {
	b := newBed(t, nil)
	f := b.tcp(snatConn(helpers.TCP), 1000)
	f.say(orig, "open tcp 10.0.0.1:4000 peer\n") // what is announced again needs no answer but that of its adjustment
	batch := engine.Batch{Engine: b.e, Table: b, Verdict: b.verdict}
	b.take, b.done = batch.Add, nil
	next := f.next[orig] + 3
	var ids []uint64
	for range 3 {
		ids = append(ids, f.say(orig, "open tcp 10.0.0.1:4000 peer\n"), f.say(orig, "hello\n"))
	}
	batch.Do()
	for _, id := range ids {
		if seq, _ := b.seqs(id); seq != next {
			t.Errorf("packet %d leaves with number %d, the one before it ends at %d", id, seq, next)
		}
		next += uint32(len(b.payload(id)))
	}
	if t.Failed() {
		t.Logf("requests and verdicts: %q", b.done)
	}
}
