package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/rules"
)

// Where cthelperd cannot work the doctor ends with 1, and says what is missing.
func TestDoctorWhereNothingWorks(t *testing.T) {
	queues := rules.Features{XTQueue: true}
	carrier := expectations{way: "in-kernel helper x as carrier", label: expect.Label}
	none := expectations{err: expect.ErrNoCarrier, label: expect.Label}
	for _, tt := range []struct {
		name     string
		features rules.Features
		kernel   expectations
		err      error
		code     int
		says     string
	}{
		{"all that is needed", queues, carrier, nil, 0, ""},
		{"no queue", rules.Features{ExpectObject: true}, carrier, nil, 1, "CONFIG_NFT_QUEUE"},
		{"nothing for expectations", queues, none, nil, 1, expect.ErrNoCarrier.Error()},
		{"nothing", rules.Features{}, none, nil, 1, "CONFIG_NFT_QUEUE"},
		{"cannot be tried", queues, carrier, errors.New("no netfilter at all"), 1, "no netfilter at all"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			netnstest.New(t).Do(func() {
				var out, wrong bytes.Buffer
				p := &program{stdout: &out, stderr: &wrong, protocols: []helpers.Protocol{ftp.Protocol()}}
				p.probe = func([]helpers.Helper) (rules.Features, expectations, error) { return tt.features, tt.kernel, tt.err }
				if code := p.main([]string{"doctor"}); code != tt.code || strings.Contains(out.String(), "It works") != (code == 0) {
					t.Errorf("exit code %d, want %d, after\n%s", code, tt.code, &out)
				}
				if !strings.Contains(wrong.String(), tt.says) || tt.code == 0 && wrong.Len() > 0 {
					t.Errorf("it says %q, want %q", &wrong, tt.says)
				}
				out.Reset()
				p.code = 0
				if code := p.main([]string{"doctor", "--json"}); code != tt.code {
					t.Errorf("--json: exit code %d, want %d", code, tt.code)
				}
				if tt.err != nil {
					return
				}
				var d diagnosis
				if err := json.Unmarshal(out.Bytes(), &d); err != nil || d.Works != (tt.code == 0) || !strings.Contains(d.Error, tt.says) {
					t.Errorf("--json says %v, %+v", err, d)
				}
			})
		})
	}
}
