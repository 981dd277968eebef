package rules_test

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/rules"
)

var update = flag.Bool("update", false, "write the golden files")

// family of helpers with everything that rules can say of them.
func several(f rules.Features) rules.Config {
	return rules.Config{
		Queue: number,
		Helpers: []rules.Helper{
			{Name: "ftp", Transport: helpers.TCP, Ports: []uint16{2121, 21, 2121}, Label: "cth-ftp"},
			{Name: "q931", Transport: helpers.TCP, Ports: []uint16{1720}, Announced: "ctc-q931", Label: "cth-q931"},
			{Name: "h245", Transport: helpers.TCP, Announced: "ctc-h245", Label: "cth-h245"},
			{Name: "sip", Transport: helpers.UDP, Ports: []uint16{5060}, Announced: "ctc-sip", Label: "cth-sip"},
			{Name: "sip", Transport: helpers.TCP, Ports: []uint16{5060}, Announced: "ctc-sip", Label: "cth-sip"},
		},
		Features: f,
	}
}

func TestText(t *testing.T) {
	everything := rules.Features{NFTQueue: true, XTQueue: true, ExpectObject: true, Conntrack: true}
	tests := []struct {
		name string
		cfg  func() rules.Config
	}{
		{"nft", func() rules.Config { return several(everything) }},
		{"nft-closed-balanced", func() rules.Config {
			cfg := several(rules.Features{NFTQueue: true})
			cfg.Queues, cfg.FailClosed = 4, true
			return cfg
		}},
		{"xt", func() rules.Config { return several(rules.Features{XTQueue: true, ExpectObject: true}) }},
		{"xt-closed-balanced", func() rules.Config {
			cfg := several(rules.Features{XTQueue: true, Conntrack: true})
			cfg.Queues, cfg.FailClosed = 4, true
			return cfg
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := rules.Text(tt.cfg())
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", tt.name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("text differs (-update writes it):\n%s", diff)
			}
		})
	}
}

// TestTextSharedLabel: helpers that share the label of what is announced have one line for it, for each transport.
func TestTextSharedLabel(t *testing.T) {
	cfg := several(rules.Features{XTQueue: true})
	for i := range cfg.Helpers {
		if cfg.Helpers[i].Announced != "" {
			cfg.Helpers[i].Announced = "Q.931"
		}
	}
	text, err := rules.Text(cfg)
	if n := strings.Count(text, `-m helper --helper "Q.931"`); err != nil || n != 2 {
		t.Errorf("%d lines, %v, want one for TCP and one for UDP:\n%s", n, err, text)
	}
}

func TestWrongConfig(t *testing.T) {
	queueing := rules.Features{NFTQueue: true}
	helper := func(change func(*rules.Helper)) rules.Config {
		h := rules.Helper{Name: "ftp", Transport: helpers.TCP, Ports: []uint16{21}}
		change(&h)
		return rules.Config{Features: queueing, Helpers: []rules.Helper{h}}
	}
	tests := []struct {
		name string
		cfg  rules.Config
		want string
	}{
		{"no way to queue", rules.Config{}, "CONFIG_NFT_QUEUE"},
		{"queue numbers end", rules.Config{Features: queueing, Queue: 65535, Queues: 2}, "65535"},
		{"port 0", helper(func(h *rules.Helper) { h.Ports = []uint16{21, 0} }), "helper ftp: port 0"},
		{"transport", helper(func(h *rules.Helper) { h.Transport = 132 }), "helper ftp: no rules for ip-protocol-132"},
		{"label too long", helper(func(h *rules.Helper) { h.Announced = "cth-sixteenbytes" }), "cth-sixteenbytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, do := range map[string]func() error{
				"text":    func() error { _, err := rules.Text(tt.cfg); return err },
				"install": func() error { return rules.Install(tt.cfg) },
			} {
				if err := do(); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s: %v, want %q", name, err, tt.want)
				}
			}
		})
	}
	if _, err := rules.Text(rules.Config{}); !errors.Is(err, rules.ErrNoQueue) {
		t.Errorf("no way to queue: %v, want ErrNoQueue", err)
	}
}

// The text says what is installed: nft lists the one as the other was printed.
func TestTextIsWhatIsInstalled(t *testing.T) {
	t.Parallel()
	f := probed(t)
	for _, queues := range []uint16{1, 4} {
		cfg := several(f)
		cfg.Queues = queues
		n := netnstest.New(t)
		var err error
		n.Do(func() { err = rules.Install(cfg) })
		if err != nil {
			t.Fatal(err)
		}
		listed := n.Run("sh", "-c", "nft list table inet cthelperd 2>/dev/null")
		cfg.Features.NFTQueue = true
		printed, err := rules.Text(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(chains(printed), chains(listed)); diff != "" {
			t.Errorf("printed and listed differ:\n%s", diff)
		}
		manual := netnstest.New(t)
		cfg.Features, cfg.Manual = f, true
		manual.Do(func() { err = rules.Install(cfg) })
		if err != nil {
			t.Fatal(err)
		}
		if !f.NFTQueue {
			continue
		}
		file := filepath.Join(t.TempDir(), "rules.nft")
		if err := os.WriteFile(file, []byte(printed), 0o666); err != nil {
			t.Fatal(err)
		}
		for range 2 { // it replaces itself
			manual.Run("nft", "-f", file)
		}
		if diff := cmp.Diff(chains(listed), chains(manual.Run("nft", "list", "ruleset"))); diff != "" {
			t.Errorf("loading the text beside the table of Config.Manual does not give the same:\n%s", diff)
		}
	}
	if !f.NFTQueue {
		t.Log("the text was not loaded: the kernel lacks nft's queue expression")
	}
}

// The iptables commands queue routed connections, and leave those under NAT alone.
func TestIPTablesCommands(t *testing.T) {
	t.Parallel()
	f := probed(t)
	missing := false
	netnstest.New(t).Do(func() {
		missing = exec.Command("iptables", "-t", "mangle", "-A", "INPUT", "-p", "tcp", "--dport", "1",
			"-m", "conntrack", "--ctstate", "NEW", "-m", "helper", "--helper", "x").Run() != nil
	})
	if missing {
		t.Skip("the kernel lacks the xtables matches tcp, conntrack or helper")
	}
	for _, tt := range []struct {
		name, script string
		queued       bool
	}{
		{"routed", "", true},
		{"dnat", redirectToServer, false},
		{"masquerade", masquerade, false},
	} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, IPv6 %v", tt.name, v6), func(t *testing.T) {
				t.Parallel()
				b := newBed(t)
				if tt.script != "" {
					b.nft(tt.script)
				}
				text, err := rules.Text(several(rules.Features{XTQueue: true}))
				if err != nil {
					t.Fatal(err)
				}
				b.fw.Run("sh", "-e", "-c", text)
				cfg := ftp(f)
				cfg.Manual = true
				b.install(cfg)
				packets := record(b.open(f))
				b.echo(b.server, netip.AddrPortFrom(serverAddr.of(v6), 21))
				to := serverAddr
				if tt.script == redirectToServer {
					to = insideAddr
				}
				b.connect(b.client, netip.AddrPortFrom(to.of(v6), 21))
				if n := len(drain(packets)); (n >= 4) != tt.queued || n > 0 != tt.queued {
					t.Errorf("%d packets were queued, want them queued: %v", n, tt.queued)
				}
			})
		}
	}
}

// chains are the chains in a listing, by name, each line without counters and spelled as the kernel has it.
func chains(text string) map[string][]string {
	all := make(map[string][]string)
	name := ""
	numbers := strings.NewReplacer("priority raw;", "priority -300;", "priority mangle;", "priority -150;")
	counters := regexp.MustCompile(`counter packets \d+ bytes \d+`)
	queues := regexp.MustCompile(`queue flags bypass to (\S+)`)
	hex := regexp.MustCompile(`0x([0-9a-f]+) \[invalid type\]`) // how nft 1.0.6 lists ports in a set that it made itself
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#"))
		switch {
		case strings.HasPrefix(line, "chain "):
			name = line
			all[name] = nil
		case line == "}":
			name = ""
		case name != "":
			line = numbers.Replace(counters.ReplaceAllString(line, "counter"))
			line = queues.ReplaceAllString(line, "queue num $1 bypass")
			line = hex.ReplaceAllStringFunc(line, func(s string) string {
				n, _ := strconv.ParseUint(hex.FindStringSubmatch(s)[1], 16, 16)
				return fmt.Sprint(n)
			})
			all[name] = append(all[name], line)
		}
	}
	return all
}
