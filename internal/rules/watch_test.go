package rules_test

import (
	"strings"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/internal/netnstest"
	"github.com/cthelperd/cthelperd/internal/rules"
)

// TestDamage: whatever somebody takes away is seen, told and mended by Install; what he adds is his.
func TestDamage(t *testing.T) {
	cfg := ftp(probed(t))
	manual := cfg
	manual.Manual = true
	for _, tt := range []struct {
		name, script string
		cfg          rules.Config
		want         string
	}{
		{"nothing", "", cfg, ""},
		{"nothing of the rules beside an administrator's", "", manual, ""},
		{"ruleset flushed", "flush ruleset", cfg, "the table is gone"},
		{"ruleset flushed, beside an administrator's", "flush ruleset", manual, "the table is gone"},
		{"table deleted", "delete table inet cthelperd", cfg, "the table is gone"},
		{"table flushed", "flush table inet cthelperd", manual, "2 of 2 rules of chain raw_prerouting, " +
			"2 of 2 rules of chain raw_output, 1 of 1 rules of chain first, 1 of 1 rules of chain first_prerouting, " +
			"1 of 1 rules of chain first_output"},
		{"chain flushed", "flush chain inet cthelperd control", cfg, "5 of 5 rules of chain control"},
		{"base chain deleted", "flush chain inet cthelperd input; delete chain inet cthelperd input", cfg, "6 of 6 rules of chain input"},
		{"dormant", "add table inet cthelperd { flags dormant; }", cfg, "the table is dormant"},
		{"rules added", "insert rule inet cthelperd control counter; add rule inet cthelperd input counter", cfg, ""},
		{"table of another family", "add table ip cthelperd; delete table ip cthelperd", cfg, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &bed{t: t, fw: netnstest.New(t)}
			b.install(tt.cfg)
			if tt.script != "" {
				b.nft(tt.script)
			}
			if got := b.damage(tt.cfg); got != tt.want {
				t.Errorf("damage: %q, want %q", got, tt.want)
			}
			b.install(tt.cfg)
			if got := b.damage(tt.cfg); got != "" {
				t.Errorf("after Install: %q", got)
			}
		})
	}
}

// One rule of two is missed, and so is one that was replaced.
func TestDamageOfOneRule(t *testing.T) {
	cfg := ftp(probed(t))
	for _, verb := range []string{"delete rule inet cthelperd control handle $h", "replace rule inet cthelperd control handle $h counter"} {
		b := &bed{t: t, fw: netnstest.New(t)}
		b.install(cfg)
		b.fw.Run("sh", "-ec", `h=$(nft -a list chain inet cthelperd control | sed -n 's/.*"ftp" # handle //p' | head -1); nft `+verb)
		if got, want := b.damage(cfg), "1 of 5 rules of chain control"; got != want {
			t.Errorf("%s: damage %q, want %q", verb, got, want)
		}
	}
}

func (b *bed) damage(cfg rules.Config) (what string) {
	b.t.Helper()
	b.do("look for damage", func() (err error) { what, err = rules.Damage(cfg); return err })
	return what
}

func TestWatch(t *testing.T) {
	b := &bed{t: t, fw: netnstest.New(t)}
	b.install(ftp(probed(t)))
	var w *rules.Watcher
	b.do("watch", func() (err error) { w, err = rules.Watch(); return err })
	for _, tt := range []struct {
		script string
		told   bool
	}{
		{"add table ip other; add chain ip other c", false},
		{"add table ip cthelperd", false},
		{"flush chain inet cthelperd control", true},
		{"delete table inet cthelperd", true},
		{"add table inet cthelperd", true},
		{"flush ruleset", true},
	} {
		b.nft(tt.script)
		// What is not told would come before what is.
		wait := 10 * time.Second
		if !tt.told {
			wait = 300 * time.Millisecond
		}
		select {
		case _, ok := <-w.Changed():
			if !ok || !tt.told {
				t.Errorf("%q is told (%v)", tt.script, w.Err())
			}
		case <-time.After(wait):
			if tt.told {
				t.Errorf("%q is not told", tt.script)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// TestWatchTransaction: what one transaction changes is told once, however many messages tell of it.
func TestWatchTransaction(t *testing.T) {
	b := &bed{t: t, fw: netnstest.New(t)}
	b.install(ftp(probed(t)))
	var w *rules.Watcher
	b.do("watch", func() (err error) { w, err = rules.Watch(); return err })
	b.nft(strings.Repeat("add rule inet cthelperd control counter\n", 500))
	told := 0
	for quiet := false; !quiet; {
		select {
		case <-w.Changed():
			told++
		case <-time.After(time.Second):
			quiet = true
		}
	}
	if told == 0 || told > 2 { // the second, if the kernel took longer over it than changes are collected
		t.Errorf("told %d times, want once", told)
	}
	b.nft("flush chain inet cthelperd control")
	select {
	case <-w.Changed():
	case <-time.After(10 * time.Second):
		t.Error("the next change is not told")
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
