package queue

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFindQueue(t *testing.T) {
	const lines = "    5  24242     3 2 65531     7     9      123  1\n65535 4294963157     0 2 65531     0     0        0  1\n"
	tests := []struct {
		name, lines string
		number      uint16
		want        Kernel
		found, err  bool
	}{
		{"first", lines, 5, Kernel{PortID: 24242, Waiting: 3, Dropped: 7, UserDropped: 9, Sequence: 123}, true, false},
		{"last, port chosen by the kernel", lines, 65535, Kernel{PortID: 4294963157}, true, false},
		{"not served", lines, 6, Kernel{}, false, false},
		{"no queue at all", "", 5, Kernel{}, false, false},
		{"not a line of that file", "queue 5", 5, Kernel{}, false, true},
		{"short line", "5 24242 3", 5, Kernel{}, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, found, err := findQueue(strings.NewReader(tt.lines), tt.number)
			if diff := cmp.Diff(tt.want, got); diff != "" || found != tt.found || (err != nil) != tt.err {
				t.Errorf("found %v, error %v, want %v, %v; difference:\n%s", found, err, tt.found, tt.err, diff)
			}
		})
	}
}
