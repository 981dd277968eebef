package daemon_test

import (
	"net"
	"testing"
	"time"
)

// The kernel does not tell of the end of connections that began while nobody listened (nf_conntrack_events=2, the
// default): they are asked for. One that an end has closed is forgotten. Since Linux 6.3 a listener in any network
// namespace counts, so events are off here while the connections begin.
func TestEndsUntold(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	b.firewall.Sysctl("net.netfilter.nf_conntrack_events", "0")
	old, stays := b.connect(), b.connect()
	b.firewall.Sysctl("net.netfilter.nf_conntrack_events", "2")
	d := b.run()
	b.works("a command on one", old.alive)
	b.works("a command on another", stays.alive)
	d.counts("flows", 2)
	old.say("LATE") // the server does not notice the end meanwhile
	old.acknowledged()
	if err := old.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	old.acknowledged()
	_, port, _ := net.SplitHostPort(old.conn.LocalAddr().String())
	b.firewall.Run("conntrack", "-D", "-p", "tcp", "--sport", port)
	var got map[string]int
	for deadline := time.Now().Add(2 * patience); ; time.Sleep(100 * time.Millisecond) {
		if got = d.counters(); got["flows"] == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d flows, want one", got["flows"])
		}
	}
	if got["ends-untold"] != 1 || got["sessions"] != 1 {
		t.Errorf("%d ends were not told, want one; %d sessions, want one", got["ends-untold"], got["sessions"])
	}
	b.works("passive on the one that stays", stays.passive)
	d.stop()
}
