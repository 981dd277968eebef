package expect_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// table is what kernel and memory have in common.
type table interface {
	Place(expect.Request) error
	Remove(expect.ID) error
	Forget(session uint64) error
}

// TestConformance asks memory and kernel the same: what a replay finds free or taken, the kernel does too.
func TestConformance(t *testing.T) {
	client, server := "192.0.2.2", "198.51.100.9"
	first := func() expect.Request { return request(1, 1, client, server, server, 40001) }
	addr := netip.MustParseAddrPort
	type change = func(*expect.Request)
	at := func(s string) change { return func(q *expect.Request) { q.At, q.To = addr(s), addr(s) } }
	from := func(a netip.AddrPort) change { return func(q *expect.Request) { q.From = a } }
	removed := func(tb table) error { return errors.Join(tb.Remove(1), tb.Remove(1)) }
	forgotten := func(session uint64) func(table) error {
		return func(tb table) error { return tb.Forget(session) }
	}
	taken := expect.ErrTaken
	tests := []struct {
		name   string
		change change            // of the second request; else it is the first with another ID
		before func(table) error // between the two
		want   error
	}{
		{name: "the same", want: taken},
		{name: "the same ID", change: func(q *expect.Request) { at("198.51.100.9:9")(q); q.ID = 1 }, want: taken},
		{name: "another session", change: func(q *expect.Request) {
			*q = request(2, 2, client, server, server, 40001)
		}, want: taken},
		{name: "narrower", change: from(addr("192.0.2.2:50001")), want: taken},
		{name: "wider", change: from(netip.AddrPort{}), want: taken},
		{name: "another initiator", change: from(addr("192.0.2.3:0"))},
		{name: "another transport", change: func(q *expect.Request) { q.Transport = helpers.UDP }},
		{name: "another port", change: at("198.51.100.9:40002")},
		{name: "another address", change: at("198.51.100.8:40001")},
		{name: "another zone", change: func(q *expect.Request) { q.Master.Session, q.Master.Zone = 2, 1 }},
		{name: "after it was removed", before: removed},
		{name: "after its session was forgotten", before: forgotten(1)},
		{name: "after another session was forgotten", before: forgotten(2), want: taken},
	}
	for _, tt := range tests {
		check := func(t *testing.T, tb table) {
			t.Helper()
			if err := tb.Place(first()); err != nil {
				t.Errorf("the first: %v", err)
			}
			if tt.before != nil {
				if err := tt.before(tb); err != nil {
					t.Error(err)
				}
			}
			q := first()
			q.ID = 2
			if tt.change != nil {
				tt.change(&q)
			}
			if err := tb.Place(q); !errors.Is(err, tt.want) {
				t.Errorf("the second: %v, want %v", err, tt.want)
			}
		}
		t.Run("memory/"+tt.name, func(t *testing.T) { check(t, expect.NewMemory()) })
		t.Run("kernel/"+tt.name, func(t *testing.T) {
			netnstest.New(t).Do(func() {
				k, err := expect.OpenKernel([]helpers.Helper{ftp})
				if err != nil {
					t.Error(err)
					return
				}
				defer k.Close()
				check(t, k)
			})
		})
	}
}

// TestTimeout asks that the kernel keeps an expectation as long as was asked for, not as long as its carrier's class.
func TestTimeout(t *testing.T) {
	netnstest.New(t).Do(func() {
		k, err := expect.OpenKernel([]helpers.Helper{ftp})
		if err != nil {
			t.Error(err)
			return
		}
		defer k.Close()
		q := request(1, 1, "192.0.2.2", "198.51.100.9", "198.51.100.9", 40001)
		q.Timeout = time.Second
		if err := k.Place(q); err != nil {
			t.Error(err)
			return
		}
		deadline := time.Now().Add(20 * time.Second)
		for ; time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			if lost, err := k.Lost(); err != nil {
				t.Error(err)
				return
			} else if len(lost) == 1 && lost[0] == 1 {
				return
			}
		}
		t.Error("an expectation for one second is there after 20 s")
	})
}

// BenchmarkKernelPlace includes the kernel's answers.
func BenchmarkKernelPlace(b *testing.B) {
	netnstest.New(b).Do(func() {
		k, err := expect.OpenKernel([]helpers.Helper{ftp})
		if err != nil {
			b.Error(err)
			return
		}
		defer k.Close()
		q := request(1, 1, "192.0.2.2", "203.0.113.7", "10.0.0.9", 40001)
		b.ReportAllocs()
		for b.Loop() {
			if err := errors.Join(k.Place(q), k.Remove(q.ID)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
