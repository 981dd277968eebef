package daemon_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// doctor runs it in the firewall and gives its findings by name.
func (b *bed) doctor() (way string, findings map[string]finding) {
	b.t.Helper()
	var d struct {
		Kernel   string
		Works    bool
		Way      string
		Findings []finding
	}
	out := b.command("doctor", "--json").ends(0)
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		b.t.Fatalf("%v in %q", err, out)
	}
	if !d.Works || d.Kernel == "" {
		b.t.Errorf("it says %+v", d)
	}
	findings = map[string]finding{}
	for _, f := range d.Findings {
		if f.What == "" || f.Then == "" || !f.OK && f.Needs == "" {
			b.t.Errorf("finding %+v does not say what is missing and what follows", f)
		}
		findings[f.What] = f
	}
	return d.Way, findings
}

type finding struct {
	What, Needs, Then string
	OK                bool
}

// The doctor says what the daemon then does, in words for people and for programs.
func TestDoctorIsRight(t *testing.T) {
	b := newBed(t, true)
	way, findings := b.doctor()
	before := b.firewall.Run("nft", "list", "ruleset")
	d := b.run()
	_, ready, _ := strings.Cut(d.log.String(), `expectations="`)
	ready, _, _ = strings.Cut(ready, `"`)
	if own := ready == "own helper objects"; own != findings["expectations hang on helper objects of our own (nfnetlink_cthelper)"].OK ||
		!own && !strings.Contains(way, ready) {
		t.Errorf("the doctor says %q, the daemon uses %q", way, ready)
	}
	if changes := strings.Contains(way, "lengths may change"); !changes {
		t.Errorf("way %q: no kernel of these tests is known where lengths must stay", way)
	}
	d.stop()
	if after := b.firewall.Run("nft", "list", "ruleset"); after != before {
		t.Errorf("the doctor and the daemon left rules:\n%s", after)
	}
	text := b.command("doctor").ends(0)
	if !strings.Contains(text, "It works: "+way) {
		t.Errorf("for people it says\n%s", text)
	}
}

// What is set is seen, and so is what fills the tables.
func TestDoctorSettings(t *testing.T) {
	b := newBed(t, false)
	check := func(name, what string, ok bool, then string) {
		t.Helper()
		_, findings := b.doctor()
		if f := findings[what]; f.OK != ok || !strings.Contains(f.Then+f.Needs, then) {
			t.Errorf("%s: %+v, want %v and %q", name, f, ok, then)
		}
	}
	const events = "conntrack tells of all connections"
	for value, want := range map[string]bool{"0": false, "1": true} {
		b.firewall.Sysctl("net.netfilter.nf_conntrack_events", value)
		check("events "+value, events, want, "")
	}
	const room = "the table of expectations has room"
	check("empty", room, true, "0 of ")
	n := b.fillExpectations()
	check("full", room, false, "nf_conntrack_expect_max")
	b.drain(n)
	check("empty again", room, true, "0 of ")

	const rival = "no in-kernel helper reads the traffic"
	check("no rival", rival, true, "")
	b.firewall.Run("nft", `add table ip admin; add ct helper ip admin kernels { type "ftp" protocol tcp; }`)
	check("a rival", rival, false, "ftp (table ip admin)")
}
