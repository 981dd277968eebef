//go:build !race

package engine_test

import (
	"runtime"
	"slices"
	"testing"
)

// What an idle flow costs, its place in the tables and its session included. Under the race detector all small objects
// are larger, so it is not measured there.
func TestIdleFlowMemory(t *testing.T) {
	const flows = 50000 // the table has just grown: at most slots a flow
	for _, tt := range []struct {
		name     string
		nat      bool
		dialogue []string
		most     uint64
	}{
		{"plain", false, login, 350}, {"NAT", true, login, 400},
		{"plain, after a transfer", false, slices.Concat(login, listing), 400},
		{"NAT, after a transfer", true, slices.Concat(login, listing), 400},
	} {
		c := newClients(t, tt.nat, tt.dialogue)
		c.run(0, 1) // what the engine needs once
		before := heap()
		c.run(1, 1+flows)
		each := (heap() - before) / flows
		t.Logf("%s: %d bytes a flow", tt.name, each)
		if n := c.e.Stats().Flows; n != flows+1 || each > tt.most {
			t.Errorf("%s: %d flows, %d bytes each, more than %d", tt.name, n, each, tt.most)
		}
		runtime.KeepAlive(c)
	}
}
