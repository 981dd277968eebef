package why

import (
	"iter"
	"net/netip"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
)

func flow(src, dst, helper string) flows.Flow {
	return flows.Flow{
		Transport: helpers.TCP, Helper: helper,
		Orig: helpers.Tuple{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)},
	}
}

func list(all ...flows.Flow) func(*flows.Filter) iter.Seq2[*flows.Flow, error] {
	return func(f *flows.Filter) iter.Seq2[*flows.Flow, error] {
		return func(yield func(*flows.Flow, error) bool) {
			for i := range all {
				if f.Match(&all[i]) && !yield(&all[i], nil) {
					return
				}
			}
		}
	}
}

func TestFind(t *testing.T) {
	control, other := flow("10.0.0.1:4000", "192.0.2.1:21", ""), flow("10.0.0.1:4100", "192.0.2.1:21", "")
	shadow, second := flow("10.0.0.1:4000", "192.0.2.1:0", "cth-ftp"), flow("10.0.0.1:4003", "192.0.2.1:0", "cth-ftp")
	reading := flow("10.0.0.1:36768", "192.0.2.1:0", "ctc-h245") // 4000 ^ 32768
	beside := flow("10.0.0.1:4003", "192.0.2.1:5000", "")        // announced by the same
	beside.Status, beside.Master = flows.StatusExpected, second.Orig
	plain := flow("10.0.0.1:4000", "192.0.2.1:21", "ftp")
	stranger := flow("10.0.0.9:4000", "192.0.2.1:21", "")
	for name, x := range map[string]struct {
		master  flows.Flow
		table   []flows.Flow
		helper  string
		shadow  bool
		control string // original tuples
	}{
		"a shadow":                   {shadow, []flows.Flow{stranger, other, control, shadow}, "cth-ftp", true, "10.0.0.1:4000>192.0.2.1:21"},
		"one more shadow":            {second, []flows.Flow{control, other, second}, "cth-ftp", true, "10.0.0.1:4000>192.0.2.1:21"},
		"one announced beside it":    {second, []flows.Flow{beside, control, second}, "cth-ftp", true, "10.0.0.1:4000>192.0.2.1:21"},
		"a shadow for reading":       {reading, []flows.Flow{control, reading}, "ctc-h245", true, "10.0.0.1:4000>192.0.2.1:21"},
		"a shadow that is gone":      {shadow, []flows.Flow{control}, "", true, "10.0.0.1:4000>192.0.2.1:21"},
		"no control connection":      {shadow, []flows.Flow{other, stranger, shadow}, "cth-ftp", true, ""},
		"the kernel's own helper":    {plain, []flows.Flow{other, plain}, "ftp", false, "10.0.0.1:4000>192.0.2.1:21"},
		"the kernel's, that is gone": {plain, []flows.Flow{other}, "", false, ""},
	} {
		related := flow("192.0.2.1:20", "10.0.0.1:5000", "")
		related.Status, related.Master, related.MasterTransport = flows.StatusExpected, x.master.Orig, helpers.TCP
		r, err := Find(&related, list(x.table...))
		if err != nil {
			t.Fatal(err)
		}
		var control []string
		for _, c := range r.Control {
			control = append(control, c.Orig.String())
		}
		if r.Helper != x.helper || r.Shadow != x.shadow || strings.Join(control, " ") != x.control || !r.Related {
			t.Errorf("%s: %+v %q", name, r, control)
		}
	}
	r, err := Find(&control, list(control))
	if err != nil || r.Related || r.Control != nil {
		t.Errorf("not related: %+v, %v", r, err)
	}
	if expect.HelperOf("cth-ftp") != "ftp" || expect.HelperOf("ctc-h245") != "h245" || expect.HelperOf("ftp") != "" {
		t.Error("protocols of labels")
	}
}

const log = `time=2026-01-02T03:04:05Z level=INFO msg=expect helper=ftp flow="tcp 10.0.0.1:4000>192.0.2.1:21" class=data transport=tcp from=192.0.2.1:* to=10.0.0.1:5000 dir=orig timeout=300 note=PORT
{"time":"2026-01-02T03:04:06Z","level":"INFO","msg":"expect","helper":"ftp","flow":"tcp 10.0.0.2:4000>192.0.2.1:21","class":"data","transport":"tcp","from":"192.0.2.1:*","to":"10.0.0.2:5000","dir":"orig","timeout":300,"note":"EPRT \"x\""}
nonsense "with quotes and {braces
time=2026-01-02T03:04:07Z level=INFO msg=related helper=ftp flow="tcp 192.0.2.1:20>10.0.0.1:5000" class=data transport=tcp from=192.0.2.1:* to=10.0.0.1:5000 note=PORT
Jan 02 03:04:08 host cthelperd[1]: {"time":"2026-01-02T03:04:08Z","msg":"related","helper":"ftp","flow":"tcp 192.0.2.1:20>10.0.0.2:5000","class":"data","transport":"tcp","from":"192.0.2.1:*","to":"10.0.0.2:5000","note":"EPRT"}
time=2026-01-02T03:04:09Z level=INFO msg=related helper=ftp flow="tcp 192.0.2.1:20>10.0.0.3:5000" class=data transport=tcp from=192.0.2.1:* to=10.0.0.3:5000
`

func TestSearch(t *testing.T) {
	names := []string{"tcp 192.0.2.1:20>10.0.0.1:5000", "tcp 192.0.2.1:20>10.0.0.2:5000", "tcp 192.0.2.1:20>10.0.0.3:5000", "tcp 1.1.1.1:1>2.2.2.2:2"}
	found, err := Search(strings.NewReader(log), names...)
	if err != nil {
		t.Fatal(err)
	}
	if said := found[names[0]].Said; said["note"] != "PORT" || said["flow"] != "tcp 10.0.0.1:4000>192.0.2.1:21" {
		t.Errorf("text: %v", said)
	}
	if said := found[names[1]].Said; said["note"] != `EPRT "x"` || said["time"] != "2026-01-02T03:04:06Z" {
		t.Errorf("JSON: %v", said)
	}
	if x := found[names[2]]; x.Used == nil || x.Said != nil {
		t.Errorf("no announcement: %v", x)
	}
	if x := found[names[3]]; x.Used != nil {
		t.Errorf("not in the log: %v", x)
	}
}

// FuzzSearch: logs are written by others too.
func FuzzSearch(f *testing.F) {
	f.Add(log)
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := Search(strings.NewReader(text), "tcp 192.0.2.1:20>10.0.0.1:5000"); err != nil && len(text) < longest {
			t.Fatal(err)
		}
	})
}
