package rules_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// What is on hold is dropped before conntrack sees it, both ways; TCP repeats it when the hold is over. Other ports go on.
func TestOnHold(t *testing.T) {
	t.Parallel()
	f := probed(t)
	b := newBed(t)
	b.install(ftp(f))
	record(b.open(f))
	for _, port := range []uint16{21, 22} {
		b.echo(b.server, netip.AddrPortFrom(serverAddr.v4, port))
	}
	held := b.connect(b.client, netip.AddrPortFrom(serverAddr.v4, 21))
	other := b.connect(b.client, netip.AddrPortFrom(serverAddr.v4, 22))
	cfg := ftp(f)
	cfg.Hold, cfg.HoldUntil = []uint16{21, 2121}, time.Now().Add(time.Hour)
	b.install(cfg)
	if err := talk(other); err != nil {
		t.Errorf("another port: %v", err)
	}
	if _, err := held.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	held.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	got := make([]byte, 5)
	if n, err := held.Read(got); err == nil {
		t.Errorf("what is on hold came through: %q", got[:n])
	}
	dropped := false
	for line := range strings.Lines(b.fw.Run("nft", "list", "chain", "inet", "cthelperd", "raw_prerouting")) {
		dropped = dropped || strings.Contains(line, "on hold") && !strings.Contains(line, "packets 0 ")
	}
	if !dropped {
		t.Error("nothing was dropped by the rules of the hold")
	}
	b.install(ftp(f))
	held.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := held.Read(got); err != nil || string(got[:n]) != "hello" {
		t.Errorf("after the hold %q, %v", got[:n], err)
	}

	cfg.HoldUntil = time.Now().Add(time.Second) // and whoever put it in place dies
	b.install(cfg)
	if _, err := held.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	held.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := held.Read(got); err != nil || string(got[:n]) != "hello" {
		t.Errorf("after a hold that ended by itself %q, %v", got[:n], err)
	}
	if left := time.Until(cfg.HoldUntil); left > 0 {
		t.Errorf("it came through %v before its end", left)
	}
}
