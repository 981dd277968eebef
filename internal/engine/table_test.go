package engine

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cthelperd/cthelperd/helpers"
)

// The table finds what a map finds, while flows with and without NAT come and go and slots collide.
func TestTable(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	number := func() (k key) {
		k.transport = helpers.TCP
		binary.BigEndian.PutUint16(k.src[14:], uint16(rnd.IntN(60)))
		binary.BigEndian.PutUint16(k.dst[14:], uint16(rnd.IntN(60)))
		k.srcPort, k.dstPort = uint16(rnd.IntN(3)), uint16(rnd.IntN(3))
		return k
	}
	table := newTable()
	model := map[key]*flow{}
	for range 60000 {
		k := number()
		f, dir := table.find(&k)
		if want := model[k]; f != want || f != nil && f.seen(dir) != k {
			t.Fatalf("%v: found %p in direction %v, want %p", k, f, dir, want)
		}
		switch rnd.IntN(3) {
		case 0:
			if f != nil {
				delete(model, f.seen(0))
				delete(model, f.seen(1))
				table.remove(f)
			}
		default:
			reply := k.turned()
			if rnd.IntN(2) == 0 {
				reply = number()
			}
			if model[k] != nil || model[k.turned()] != nil || model[reply] != nil || model[reply.turned()] != nil || k == reply {
				continue // the engine takes out what has one of the keys
			}
			f := table.take()
			if f.key = k; reply != k.turned() {
				f.nat = &rewriting{reply: reply}
			}
			table.enter(f)
			model[k], model[reply] = f, f
		}
		if table.count != len(model)/2 {
			t.Fatalf("%d flows, want %d", table.count, len(model)/2)
		}
	}
	if table.count < 1000 || len(table.slots) <= minSlots {
		t.Errorf("only %d flows in %d slots", table.count, len(table.slots))
	}
	seen := map[*flow]bool{}
	for f := range table.all() {
		seen[f] = true
		if model[f.key] != f {
			t.Error("all gives a flow that is not there")
		}
		table.remove(f)
	}
	if len(seen) != len(model)/2 || table.count != 0 || table.full != 0 {
		t.Errorf("all gave %d of %d; %d flows and %d slots are left", len(seen), len(model)/2, table.count, table.full)
	}
}

// Whoever speaks stays, whoever was silent long goes.
func TestIdlest(t *testing.T) {
	const flows, active = 5000, 500
	table := newTable()
	enter := func(n int) *flow {
		f := table.take()
		f.key = key{transport: helpers.UDP, srcPort: uint16(n), dstPort: uint16(n >> 16)}
		table.enter(f)
		table.touch(f)
		return f
	}
	var speak []*flow
	for n := range flows {
		if f := enter(n); n%(flows/active) == 0 {
			speak = append(speak, f)
		}
	}
	for _, f := range speak {
		table.touch(f)
	}
	for n := range 20 * flows {
		f := table.idlest(enter(flows + n))
		if n%100 == 0 {
			older := 0
			for o := range table.all() {
				if o.last < f.last {
					older++
				}
			}
			if older > flows/5 {
				t.Fatalf("for the %dth new flow one had to go that %d of %d have been silent longer than", n, older, flows)
			}
		}
		if slices.Contains(speak, f) {
			t.Fatalf("a flow that speaks had to go for the %dth new one", n)
		}
		table.remove(f)
		for range 2 {
			table.touch(speak[n%len(speak)])
		}
	}
}
