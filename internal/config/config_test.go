package config_test

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/helpers/h323"
	"github.com/cthelperd/cthelperd/helpers/sip"
	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/engine"
)

// callOptions are options of a protocol that exists in this test only.
type callOptions struct {
	Wait   time.Duration `yaml:"wait"`
	Loose  bool
	Realms []string `yaml:"realms,omitempty"`
}

var defaults = callOptions{Wait: 3 * time.Second, Realms: []string{"a"}}

// protocols are FTP, one of a helper with options that refuses an option, and one of three helpers.
func protocols(seen *callOptions) []helpers.Protocol {
	three := []helpers.Helper{
		{Name: "ras", Transport: helpers.UDP, Ports: []uint16{1719}},
		{Name: "q931", Transport: helpers.TCP, Ports: []uint16{1720}},
		{Name: "h245", Transport: helpers.TCP},
	}
	return []helpers.Protocol{
		ftp.Protocol(),
		{
			Name:    "call",
			Options: &defaults,
			Helpers: func(options any) ([]helpers.Helper, error) {
				o := options.(*callOptions)
				if o.Wait < 0 {
					return nil, errors.New("wait: it must not be negative")
				}
				if seen != nil {
					*seen = *o
				}
				return []helpers.Helper{{Name: "call", Transport: helpers.UDP, Ports: []uint16{5060}}}, nil
			},
		},
		{Name: "h323", Helpers: func(any) ([]helpers.Helper, error) { return three, nil }},
	}
}

// ports are a configuration's helpers and their ports.
func ports(cfg *config.Config) map[string][]uint16 {
	m := map[string][]uint16{}
	for _, h := range cfg.Helpers() {
		m[h.Name] = h.Ports
	}
	return m
}

func standard() map[string][]uint16 {
	return map[string][]uint16{"ftp": {21}, "call": {5060}, "ras": {1719}, "q931": {1720}, "h245": nil}
}

func TestDefault(t *testing.T) {
	cfg, err := config.Default(protocols(nil))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(standard(), ports(cfg)); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	if cfg.Rules != config.RulesInstall || cfg.FailClosed || cfg.KeepOlder || cfg.State != "" || cfg.Log.JSON || cfg.Log.Level != slog.LevelInfo {
		t.Errorf("default %+v: want own rules, fail open, no state, text from info on", cfg)
	}
	if diff := cmp.Diff(config.Queue{Number: config.DefaultQueue, Count: 1, Length: config.DefaultLength, Buffer: config.DefaultBuffer, Driver: config.DriverOwn}, cfg.Queue); diff != "" {
		t.Errorf("queue (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(engine.Policy{}, cfg.Policy, cmp.Comparer(prefixEqual)); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
}

func prefixEqual(a, b netip.Prefix) bool { return a == b }

// The example explains every key and writes the default down: loading it changes nothing but makes it explicit.
func TestExample(t *testing.T) {
	cfg, err := config.Load("../../contrib/cthelperd.yaml", []helpers.Protocol{ftp.Protocol(), sip.Protocol(), h323.Protocol()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string][]uint16{"ftp": {21}, "sip": {5060}, "ras": {1719}, "q931": {1720}, "h245": nil}, ports(cfg)); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	want := engine.Limits{PerPeer: 512, Total: 1024, Rate: 256, Flows: 1 << 20}
	if diff := cmp.Diff(want, cfg.Limits); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	text, err := os.ReadFile("../../contrib/cthelperd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"helpers", "enabled", "ports", "calls", "media", "registration", "policy", "late", "foreign", "min-port", "limits", "per-peer", "total", "rate", "flows",
		"queue", "number", "count", "length", "buffer", "driver", "rules", "older", "fail", "state", "log", "format", "level",
	} {
		if !strings.Contains(string(text), key+":") {
			t.Errorf("the example does not show the key %s", key)
		}
	}
}

func TestParse(t *testing.T) {
	tests := []struct {
		name, text string
		check      func(t *testing.T, cfg *config.Config, options callOptions)
	}{
		{"empty", "", func(t *testing.T, cfg *config.Config, o callOptions) {
			if diff := cmp.Diff(standard(), ports(cfg)); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(defaults, o); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
		}},
		{"keys without values", "helpers:\npolicy:\nqueue:\nlog:\nrules:\nfail:\nstate:\n", func(t *testing.T, cfg *config.Config, _ callOptions) {
			if diff := cmp.Diff(standard(), ports(cfg)); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
		}},
		{"ports replace", "helpers:\n  ftp:\n    ports: [2121, 21]\n", func(t *testing.T, cfg *config.Config, _ callOptions) {
			if diff := cmp.Diff([]uint16{21, 2121}, ports(cfg)["ftp"]); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
		}},
		{"one port", "helpers: {ftp: {ports: 2121}}", func(t *testing.T, cfg *config.Config, _ callOptions) {
			if diff := cmp.Diff([]uint16{2121}, ports(cfg)["ftp"]); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
		}},
		{"disabled", "helpers:\n  call:\n    enabled: false\n  h323: {enabled: false}\n", func(t *testing.T, cfg *config.Config, _ callOptions) {
			if diff := cmp.Diff(map[string][]uint16{"ftp": {21}}, ports(cfg)); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
		}},
		{"ports by helper", "helpers:\n  h323:\n    ports:\n      ras: 1718\n      h245: [3000]\n", func(t *testing.T, cfg *config.Config, _ callOptions) {
			want := map[string][]uint16{"ftp": {21}, "call": {5060}, "ras": {1718}, "q931": {1720}, "h245": {3000}}
			if diff := cmp.Diff(want, ports(cfg)); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
		}},
		{"ports of all helpers", "helpers:\n  h323:\n    ports: [99]\n", func(t *testing.T, cfg *config.Config, _ callOptions) {
			want := map[string][]uint16{"ftp": {21}, "call": {5060}, "ras": {99}, "q931": {99}, "h245": nil}
			if diff := cmp.Diff(want, ports(cfg)); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
		}},
		{"a disabled helper's port is free", "helpers:\n  h323: {enabled: false}\n  ftp:\n    ports: [1720]\n", func(t *testing.T, cfg *config.Config, _ callOptions) {
			if diff := cmp.Diff([]uint16{1720}, ports(cfg)["ftp"]); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
		}},
		{"options", "helpers:\n  call:\n    wait: 5s\n    loose: true\n    realms:\n    - x\n    - y\n    ports: [5070]\n", func(t *testing.T, cfg *config.Config, o callOptions) {
			if diff := cmp.Diff(callOptions{5 * time.Second, true, []string{"x", "y"}}, o); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
			if defaults.Wait != 3*time.Second || defaults.Loose {
				t.Errorf("the defaults became %+v", defaults)
			}
		}},
		{"policy", "policy:\n  late: refuse\n  foreign: [192.0.2.0/24, '2001:db8::/32', 198.51.100.9]\n  min-port: 512\n  limits:\n    per-peer: 1\n    total: 2\n    rate: 3\n    flows: 4\n",
			func(t *testing.T, cfg *config.Config, _ callOptions) {
				want := engine.Policy{RefuseLate: true, MinPort: 512, Foreign: []netip.Prefix{
					netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("198.51.100.9/32"),
				}}
				if diff := cmp.Diff(want, cfg.Policy, cmp.Comparer(prefixEqual)); diff != "" {
					t.Errorf("policy (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(engine.Limits{PerPeer: 1, Total: 2, Rate: 3, Flows: 4}, cfg.Limits); diff != "" {
					t.Errorf("limits (-want +got):\n%s", diff)
				}
				got, limits := cfg.Engine(), cfg.Limits
				limits.HoldAll = config.DefaultLength / 4
				if diff := cmp.Diff(want, got.Policy, cmp.Comparer(prefixEqual)); diff != "" || got.Limits != limits || len(got.Helpers) != 5 {
					t.Errorf("the engine's part is %+v", got)
				}
			}},
		{"foreign any", "policy: {foreign: any}", func(t *testing.T, cfg *config.Config, _ callOptions) {
			if !cfg.Policy.ForeignAny || cfg.Policy.Foreign != nil {
				t.Errorf("policy %+v, want any", cfg.Policy)
			}
		}},
		{"daemon", "queue:\n  number: 0\n  count: 4\n  length: 10\n  buffer: 65536\n  driver: go-nfqueue\nrules: none\nolder: keep\nfail: closed\nstate: /run/x/../state\nlog:\n  format: json\n  level: debug\n",
			func(t *testing.T, cfg *config.Config, _ callOptions) {
				if cfg.Queue != (config.Queue{Number: 0, Count: 4, Length: 10, Buffer: 65536, Driver: config.DriverReference}) || cfg.Rules != config.RulesNone || !cfg.FailClosed || !cfg.KeepOlder ||
					cfg.State != "/run/state" || cfg.Log != (config.Log{JSON: true, Level: slog.LevelDebug}) {
					t.Errorf("got %+v", cfg)
				}
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var seen callOptions
			cfg, err := config.Parse("f.yaml", []byte(tt.text), protocols(&seen))
			if err != nil {
				t.Fatal(err)
			}
			tt.check(t, cfg, seen)
		})
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown key", "policy:\n  lat: allow\n", `f.yaml:2:3: unknown key "lat" in policy: did you mean late? Known are late, foreign, min-port, limits`},
		{"unknown key far from all", "\nxyzzy: 1\n", `f.yaml:2:1: unknown key "xyzzy" in the file: known are helpers, policy, queue, rules, older, fail, state, log`},
		{"unknown protocol", "helpers:\n  fpt: {}\n", `f.yaml:2:3: unknown key "fpt" in helpers: did you mean ftp? Known are ftp, call, h323`},
		{"unknown option", "helpers:\n  call:\n    wiat: 3s\n", `f.yaml:3:5: unknown key "wiat" in helpers.call: did you mean wait? Known are enabled, ports, wait, loose, realms`},
		{"key that is no word", "1: 2\n", `f.yaml:1:1: 1 is not a key of the file: known are helpers, policy, queue, rules, older, fail, state, log`},
		{"list for a section", "policy: [a]\n", `f.yaml:1:9: policy must be keys with values, one a line: known are late, foreign, min-port, limits`},
		{"option of a wrong type", "helpers:\n  call:\n    loose: perhaps\n", `f.yaml:3:12: cannot unmarshal string into Go struct field callOptions.Loose of type bool`},
		{"option refused by the helper", "helpers:\n  ftp: {}\n  call:\n    wait: -1s\n", `f.yaml:4:11: helpers.call: wait: it must not be negative`},
		{"alias in an option", "helpers:\n  call:\n    realms: &a [x, *a]\n", `f.yaml:3:13: anchors and aliases are not read here: write the value itself`},
		{"port zero", "helpers:\n  ftp:\n    ports: [21, 0]\n", `f.yaml:3:17: a port must be a number from 1 to 65535`},
		{"port too high", "helpers:\n  ftp:\n    ports:\n    - 65536\n", `f.yaml:4:7: a port must be a number from 1 to 65535`},
		{"port of all helpers wrong once", "helpers:\n  h323:\n    ports: [x]\n", `f.yaml:3:13: a port must be a number from 1 to 65535`},
		{"no port", "helpers:\n  ftp:\n    ports: []\n", `f.yaml:3:12: no port: give at least one, or write enabled: false`},
		{"ports of an unknown helper", "helpers:\n  h323:\n    ports: {raz: 1}\n", `f.yaml:3:13: unknown key "raz" in helpers.h323.ports: did you mean ras? Known are ras, q931, h245`},
		{"standard port of another", "helpers:\n  ftp:\n    ports: [21, 1720]\n", `f.yaml:3:17: tcp port 1720 is also read by helper q931: give each its own, by ports: {NAME: [N]} or enabled: false`},
		{"two helpers of one protocol", "helpers:\n  h323:\n    ports: {q931: 1720, h245: 1720}\n",
			"f.yaml:3:19: tcp port 1720 is also read by helper h245: give each its own, by ports: {NAME: [N]} or enabled: false\n" +
				"f.yaml:3:31: tcp port 1720 is also read by helper q931: give each its own, by ports: {NAME: [N]} or enabled: false"},
		{"enabled is a word", "helpers:\n  ftp:\n    enabled: sure\n", `f.yaml:3:14: enabled must be true or false`},
		{"word of a choice", "rules: instal\n", `f.yaml:1:8: rules cannot be "instal": did you mean install? Known are install, none`},
		{"choice of another type", "fail: true\n", `f.yaml:1:7: fail must be one of open, closed`},
		{"limit of zero", "policy:\n  limits:\n    total: 0\n", `f.yaml:3:12: total must be a number from 1 to 2147483647`},
		{"negative limit", "policy: {limits: {rate: -1}}\n", `f.yaml:1:25: rate must be a number from 1 to 2147483647`},
		{"queue number", "queue: {number: 65536}\n", `f.yaml:1:17: number must be a number from 0 to 65535`},
		{"queue length", "queue: {length: 1e3}\n", `f.yaml:1:17: length must be a number from 1 to 2147483647`},
		{"no queue", "queue: {count: 0}\n", `f.yaml:1:16: count must be a number from 1 to 64`},
		{"too many queues", "queue: {count: 65}\n", `f.yaml:1:16: count must be a number from 1 to 64`},
		{"queue numbers end", "queue:\n  number: 65535\n  count: 2\n", `f.yaml:2:3: queues 65535 to 65536: queue numbers end at 65535`},
		{"driver", "queue: {driver: libnetfilter_queue}\n",
			`f.yaml:1:17: driver cannot be "libnetfilter_queue": known are own, go-nfqueue`},
		{"queue buffer", "queue: {buffer: 100}\n", `f.yaml:1:17: buffer must be a number from 4096 to 1073741823`},
		{"prefix", "policy:\n  foreign: [10.0.0.0/33]\n", `f.yaml:2:13: "10.0.0.0/33" is not a prefix: write such as 192.0.2.0/24 or 2001:db8::/32, or any for every address`},
		{"prefix with bits behind", "policy:\n  foreign: [10.0.0.1/8]\n", `f.yaml:2:13: "10.0.0.1/8" has bits behind its length: write 10.0.0.0/8, or 10.0.0.1/32`},
		{"mapped prefix", "policy:\n  foreign: ['::ffff:10.0.0.1']\n", `f.yaml:2:13: "::ffff:10.0.0.1" is IPv4 written as IPv6: write it as IPv4`},
		{"foreign number", "policy:\n  foreign: 10\n", `f.yaml:2:12: foreign must be any, or a list of prefixes such as [192.0.2.0/24, 2001:db8::/32]`},
		{"relative state", "state: cthelperd.state\n", `f.yaml:1:8: state must be a path that begins with /, such as /var/lib/cthelperd/state`},
		{"state of another type", "state: 1\n", `f.yaml:1:8: state must be text, in quotes if YAML takes it for something else`},
		{"anchor", "rules: &x install\n", `f.yaml:1:8: rules must be one of install, none`},
		{"two documents", "rules: none\n---\nfail: open\n", `f.yaml:3:1: a second document: a configuration is one document, without ---`},
		{"duplicate key", "rules: none\nrules: install\n", `f.yaml:2:1: mapping key "rules" already defined at [1:1]`},
		{"syntax", "policy:\n  late: allow\n foreign: any\n", `f.yaml:3:2: value is not allowed in this context`},
		{"binary", "rules: none\n\x00", "f.yaml:2:1: a byte 0: the file is not text"},
		{"deep", "state: " + strings.Repeat("[", 65), "f.yaml:1:72: more than 64 brackets inside each other"},
		{"big", strings.Repeat("#", 1<<20+1), "f.yaml:1:1: the file has 1048577 bytes, more than 1048576: is it a configuration?"},
		{"several, by line", "log:\n  level: loud\nfail: closed\nlogg: 1\n",
			"f.yaml:2:10: level cannot be \"loud\": known are debug, info, warn, error\n" +
				`f.yaml:4:1: unknown key "logg" in the file: did you mean log? Known are helpers, policy, queue, rules, older, fail, state, log`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Parse("f.yaml", []byte(tt.text), protocols(nil))
			if err == nil {
				t.Fatalf("no error, want %s", tt.want)
			}
			var e config.Errors
			if !errors.As(err, &e) {
				t.Errorf("error %T is no Errors", err)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if _, err := config.Load(file, protocols(nil)); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(file, []byte("fail: maybe\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(file, protocols(nil)); err == nil || !strings.HasPrefix(err.Error(), file+":1:7: ") {
		t.Errorf("error %v does not begin with the file's name and place", err)
	}
}

func TestProtocolErrors(t *testing.T) {
	one := func(name string, options any, helper string, err error) helpers.Protocol {
		return helpers.Protocol{Name: name, Options: options, Helpers: func(any) ([]helpers.Helper, error) {
			return []helpers.Helper{{Name: helper, Transport: helpers.TCP, Ports: []uint16{1}}}, err
		}}
	}
	tests := []struct {
		name      string
		protocols []helpers.Protocol
		want      string
	}{
		{"options are no pointer", []helpers.Protocol{one("a", callOptions{}, "a", nil)}, "protocol a: Options is a config_test.callOptions, it must be a pointer to a struct"},
		{"option named as a common key", []helpers.Protocol{one("a", &struct{ Ports int }{}, "a", nil)}, "protocol a: the option ports is a key that all protocols have"},
		{"same helper twice", []helpers.Protocol{one("a", nil, "x", nil), one("b", nil, "x", nil)}, "protocols a and b both have a helper x"},
		{"defaults refused", []helpers.Protocol{one("a", nil, "x", errors.New("bad"))}, "protocol a: bad"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Default(tt.protocols)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestAddPorts(t *testing.T) {
	tests := []struct {
		name  string
		of    string
		ports []uint16
		want  map[string][]uint16 // changed helpers
		err   string
	}{
		{"protocol", "ftp", []uint16{2121, 21, 2121}, map[string][]uint16{"ftp": {21, 2121}}, ""},
		{"protocol of several helpers", "h323", []uint16{7000}, map[string][]uint16{"ras": {1719, 7000}, "q931": {1720, 7000}}, ""},
		{"helper", "q931", []uint16{7000}, map[string][]uint16{"q931": {1720, 7000}}, ""},
		{"helper without ports", "h245", []uint16{7000}, map[string][]uint16{"h245": {7000}}, ""},
		{"unknown", "sip", []uint16{1}, nil, `unknown protocol or helper "sip": known are ftp, call, h323, ras, q931, h245`},
		{"taken", "ftp", []uint16{1720}, nil, "ftp: tcp port 1720 is read by helper q931"},
		{"other transport", "ftp", []uint16{1719}, map[string][]uint16{"ftp": {21, 1719}}, ""},
		{"zero", "ftp", []uint16{0}, nil, "ftp: 0 is not a port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := config.Default(protocols(nil))
			if err != nil {
				t.Fatal(err)
			}
			err = cfg.AddPorts(tt.of, tt.ports...)
			if got := errorText(err); got != tt.err {
				t.Errorf("error %q, want %q", got, tt.err)
			}
			want := standard()
			for name, p := range tt.want {
				want[name] = p
			}
			if diff := cmp.Diff(want, ports(cfg)); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOnly(t *testing.T) {
	tests := []struct {
		name string
		only []string
		want []string
		err  string
	}{
		{"protocol", []string{"h323"}, []string{"ras", "q931", "h245"}, ""},
		{"helpers", []string{"q931", "ftp"}, []string{"ftp", "q931"}, ""},
		{"disabled in the file", []string{"call"}, []string{"call"}, ""},
		{"unknown", []string{"ftp", "smtp"}, []string{"ftp", "ras", "q931", "h245"}, `unknown protocol or helper "smtp": known are ftp, call, h323, ras, q931, h245`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := config.Parse("f.yaml", []byte("helpers: {call: {enabled: false}}"), protocols(nil))
			if err != nil {
				t.Fatal(err)
			}
			if got := errorText(cfg.Only(tt.only...)); got != tt.err {
				t.Errorf("error %q, want %q", got, tt.err)
			}
			var got []string
			for _, h := range cfg.Helpers() {
				got = append(got, h.Name)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("helpers (-want +got):\n%s", diff)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("../../contrib/cthelperd.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	for _, s := range []string{"helpers:\n  call: {wait: 3s, realms: [a, b]}\n", "helpers: {h323: {ports: {ras: [1]}}}", "<<: *a\n", "a: !!str [", "? [a]: b\n", "- \"\\x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := config.Parse("f.yaml", data, protocols(nil))
		if err == nil {
			if n := len(cfg.Helpers()); n > 5 {
				t.Errorf("%d helpers of 5", n)
			}
			return
		}
		var e config.Errors
		if !errors.As(err, &e) || len(e) == 0 {
			t.Fatalf("error %v has no place", err)
		}
		for _, e := range e {
			if e.Line < 1 || e.Column < 1 || e.Problem == "" || e.File != "f.yaml" {
				t.Errorf("error %+v lacks its place", e)
			}
		}
	})
}
