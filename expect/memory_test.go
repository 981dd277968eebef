package expect_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
)

func TestMemory(t *testing.T) {
	addr := netip.MustParseAddrPort
	anyPort := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), 0)
	at := addr("198.51.100.9:40001")
	request := func(id expect.ID, change func(*expect.Request)) expect.Request {
		q := expect.Request{ID: id, Master: expect.Master{Session: 7}, Transport: helpers.TCP, From: anyPort, At: at, To: at}
		if change != nil {
			change(&q)
		}
		return q
	}
	from := func(s string) helpers.Tuple { return helpers.Tuple{Src: addr(s), Dst: at} }
	const one, other = "192.0.2.2:50001", "192.0.2.3:50001"

	t.Run("clash", func(t *testing.T) {
		tests := []struct {
			name string
			q    expect.Request
			want error
		}{
			{"the same", request(2, nil), expect.ErrTaken},
			{"the same ID", request(1, func(q *expect.Request) { q.At = addr("198.51.100.9:1") }), expect.ErrTaken},
			{"narrower", request(2, func(q *expect.Request) { q.From = addr(one) }), expect.ErrTaken},
			{"anybody", request(2, func(q *expect.Request) { q.From = netip.AddrPort{} }), expect.ErrTaken},
			{"another initiator", request(2, func(q *expect.Request) { q.From = addr(other) }), nil},
			{"another transport", request(2, func(q *expect.Request) { q.Transport = helpers.UDP }), nil},
			{"another place", request(2, func(q *expect.Request) { q.At = addr("198.51.100.9:40002") }), nil},
			{"another zone", request(2, func(q *expect.Request) { q.Master.Zone = 1 }), nil},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				m := expect.NewMemory()
				if err := m.Place(request(1, nil)); err != nil {
					t.Fatal(err)
				}
				if err := m.Place(tt.q); !errors.Is(err, tt.want) {
					t.Errorf("error %v, want %v", err, tt.want)
				}
			})
		}
	})
	t.Run("match", func(t *testing.T) {
		tests := []struct {
			name      string
			transport helpers.Transport
			tuple     helpers.Tuple
			want      bool
		}{
			{"met", helpers.TCP, from(one), true},
			{"another initiator", helpers.TCP, from(other), false},
			{"another transport", helpers.UDP, from(one), false},
			{"another place", helpers.TCP, helpers.Tuple{Src: addr(one), Dst: addr("198.51.100.9:40002")}, false},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				m := expect.NewMemory()
				if err := m.Place(request(1, nil)); err != nil {
					t.Fatal(err)
				}
				if _, ok := m.Match(tt.transport, tt.tuple); ok != tt.want {
					t.Fatalf("met: %v", ok)
				}
				if _, ok := m.Match(helpers.TCP, from(one)); ok == tt.want {
					t.Errorf("met again: %v", ok)
				}
			})
		}
	})
	t.Run("permanent", func(t *testing.T) {
		m := expect.NewMemory()
		if err := m.Place(request(1, func(q *expect.Request) { q.Permanent = true })); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if q, ok := m.Match(helpers.TCP, from(one)); !ok || q.ID != 1 {
				t.Fatalf("met: %v %v", q, ok)
			}
		}
	})
	t.Run("removed and forgotten", func(t *testing.T) {
		m := expect.NewMemory()
		for id, host := range map[expect.ID]string{1: one, 2: other, 3: "192.0.2.4:50001"} {
			q := request(id, func(q *expect.Request) { q.From = addr(host); q.Master.Session = 6 + uint64(id)/2 })
			if err := m.Place(q); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(m.Remove(1), m.Remove(1), m.Forget(99)); err != nil {
			t.Error(err)
		}
		if _, ok := m.Match(helpers.TCP, from(one)); ok {
			t.Error("removed, but met")
		}
		if err := m.Forget(7); err != nil {
			t.Error(err)
		}
		for _, host := range []string{other, "192.0.2.4:50001"} {
			if _, ok := m.Match(helpers.TCP, from(host)); ok {
				t.Errorf("forgotten, but met by %s", host)
			}
		}
		if err := m.Place(request(4, func(q *expect.Request) { q.From = netip.AddrPort{} })); err != nil {
			t.Errorf("nothing is left, but: %v", err)
		}
	})
}
