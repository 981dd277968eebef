package expect

import (
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// FuzzExpectation has any expectation that can be read printed as one line, as the kernel's bytes need not hold all of it.
func FuzzExpectation(f *testing.F) {
	f.Add([]byte("\x34\x00\x02\x80\x14\x00\x01\x80\x08\x00\x01\x00\xc0\x00\x02\x01\x08\x00\x02\x00\xc0\x00\x02\x02\x1c\x00\x02\x80" +
		"\x05\x00\x01\x00\x06\x00\x00\x00\x06\x00\x02\x00\x00\x00\x00\x00\x06\x00\x03\x00\x00\x15\x00\x00\x08\x00\x04\x00\x00\x00\x00\x3c"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e nfnl.Expectation
		if e.Parse(b) != nil {
			return
		}
		e.Helper = strings.Map(func(r rune) rune { // the kernel's own name
			if r < 'a' || r > 'z' {
				return -1
			}
			return r
		}, e.Helper)
		x := shown(&e)
		for _, kind := range []flows.Kind{0, flows.New, flows.Destroy} {
			line := string(x.AppendFormat([]byte("before "), kind))
			if !strings.HasPrefix(line, "before ") || strings.Count(line, "\n") > 0 || strings.HasSuffix(line, " ") {
				t.Errorf("%q", line)
			}
		}
		raw := x.raw()
		if again := shown(&raw); again.Tuple != x.Tuple || again.Mask != x.mask() || again.Master != x.Master || again.Zone != x.Zone {
			t.Errorf("%+v, written and read %+v", x, again)
		}
		_ = x.name()
	})
}
