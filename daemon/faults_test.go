package daemon_test

import (
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// counters asks the daemon for its counters: dotted names, as in its log.
func (p *process) counters() map[string]int {
	p.t.Helper()
	const line = "msg=counters"
	n := strings.Count(p.log.String(), line)
	p.signal(unix.SIGUSR1)
	p.says(line, n+1)
	all := p.log.String()
	text, _, whole := strings.Cut(all[strings.LastIndex(all, line):], "\n")
	for deadline := time.Now().Add(patience); !whole; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatal("half a line of counters")
		}
		all = p.log.String()
		text, _, whole = strings.Cut(all[strings.LastIndex(all, line):], "\n")
	}
	out := map[string]int{}
	for _, m := range regexp.MustCompile(`([a-z0-9.-]+)=(\d+)`).FindAllStringSubmatch(text, -1) {
		out[m[1]], _ = strconv.Atoi(m[2])
	}
	return out
}

// counts checks a counter, and waits for it.
func (p *process) counts(name string, want int) {
	p.t.Helper()
	var got map[string]int
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if got = p.counters(); got[name] >= want {
			break
		}
		if time.Now().After(deadline) {
			break
		}
	}
	if n, ok := got[name]; !ok || n != want {
		p.t.Errorf("counter %s is %d (there: %v), want %d", name, n, ok, want)
	}
}

// alive checks that commands pass.
func (c *ftpClient) alive() error {
	c.t.Helper()
	c.say("NOOP")
	c.expect("200")
	return nil
}

// Rules that somebody takes away come back by themselves, and old and new connections work.
func TestRulesTakenAway(t *testing.T) {
	both(t, func(t *testing.T, b *bed) {
		admin := b.firewall.Run("nft", "list", "ruleset")
		d := b.run()
		c := b.connect()
		b.works("active before", c.active)
		for i, script := range []string{
			"delete table inet cthelperd",
			"flush chain inet cthelperd control",
			"add table inet cthelperd { flags dormant; }",
			"flush ruleset\n" + admin, // an administrator loads his own anew
		} {
			path := t.TempDir() + "/script"
			writeFile(t, path, script)
			b.firewall.Run("nft", "-f", path)
			d.says("rules were taken away and are back", i+1)
			b.works("passive on the old connection", c.passive)
			b.works("active on the old connection", c.active)
			b.works("passive on a new connection", b.connect().passive)
			b.works("active on a new connection", b.connect().active)
		}
		d.counts("rules-restored", 4)
		// What is not the daemon's is nobody's business, and what is added to its table is kept.
		b.firewall.Run("nft", "add table inet other; insert rule inet cthelperd control counter comment \"mine\"; delete table inet other")
		d.counts("rules-restored", 4)
		if !strings.Contains(b.firewall.Run("nft", "list table inet cthelperd"), "mine") {
			t.Error("a rule that somebody added is gone")
		}
		b.works("active beside a rule that somebody added", c.active)
		d.counts("missed", 0) // what his rule counts is no packet of ours
		d.stop()
		b.wants("after the end", left{})
	})
}

// A connection that began while the rules were away was missed with an excuse.
func TestRulesTakenAwayMissed(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	d := b.run()
	d.pause()
	b.firewall.Run("nft", "delete table inet cthelperd")
	c := b.connect()
	d.signal(unix.SIGCONT)
	d.says("rules were taken away and are back", 1)
	b.works("passive on a connection that was missed", c.passive)
	d.stop()
}

// The daemon does not fight: after some times it gives way, and says so, until it is told to begin again.
func TestRulesFoughtFor(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	d := b.run()
	for i := range 5 {
		b.firewall.Run("nft", "delete table inet cthelperd")
		d.says("rules were taken away and are back", i+1)
	}
	b.firewall.Run("nft", "delete table inet cthelperd")
	d.says("something fights for them", 1)
	c := b.connect()
	b.fails("a transfer without rules", c.passive)
	b.works("the control connection without rules", c.alive)
	d.counts("rules-restored", 5)
	d.signal(unix.SIGHUP)
	d.says("msg=reloaded", 1)
	b.works("passive on a connection that was missed", c.passive)
	b.works("passive on a new connection", b.connect().passive)
	b.firewall.Run("nft", "flush table inet cthelperd")
	d.says("rules were taken away and are back", 6)
	d.stop()
	b.wants("after the end", left{})
}

// A rule set that the administrator keeps is his: when he loads it anew, with everything else flushed before, the daemon
// puts back what it keeps in a table of its own all the same. Without that, lengths could not change under NAT.
func TestRulesOfTheAdministratorTakenAway(t *testing.T) {
	t.Parallel()
	b := newPublishedBed(t)
	file := b.config("rules: none\n")
	server, passive := published, (*ftpClient).pasv
	admin := b.t.TempDir() + "/admin.nft"
	writeFile(t, admin, "flush ruleset\n"+b.firewall.Run("nft", "list", "ruleset"))
	queueing := b.command("rules", "--config", file).ends(0)
	if strings.Contains(queueing, "iptables") { // those cannot queue behind NAT
		server, passive = control, (*ftpClient).passive
	}
	b.install(queueing)
	d := b.run("--config", file)
	for i := range 5 {
		if i > 0 {
			b.firewall.Run("nft", "-f", admin)
			d.says("rules were taken away and are back", i)
			b.install(queueing)
		}
		c := newFTPClient(t, b.client, server)
		b.works("passive", func() error { return passive(c) })
		if server == published {
			b.adjusted(true)
		}
		c.conn.Close()
	}
	d.counts("rules-restored", 4)
	b.firewall.Run("nft", "delete table inet cthelperd")
	d.says("rules were taken away and are back", 5)
	b.firewall.Run("nft", "delete table inet cthelperd")
	d.says("something fights for them", 1)
	if b.left().Table {
		t.Error("the table is back")
	}
	d.signal(unix.SIGHUP)
	d.says("msg=reloaded", 1)
	if !b.left().Table {
		t.Error("the table is not back after SIGHUP")
	}
	d.counts("rules-restored", 5)
	d.stop()
}

// queue is how many packets wait in the daemon's queue, and to how many the kernel has given an id, those among them for
// which the socket had no room (seq_show of nfnetlink_queue.c).
func (b *bed) queue() (waiting, sequence int) {
	b.t.Helper()
	fields := strings.Fields(b.firewall.Run("cat", "/proc/thread-self/net/netfilter/nfnetlink_queue"))
	if len(fields) < 8 {
		b.t.Fatal("no queue")
	}
	waiting, _ = strconv.Atoi(fields[2])
	sequence, _ = strconv.Atoi(fields[7])
	return waiting, sequence
}

func (b *bed) waiting() int {
	b.t.Helper()
	n, _ := b.queue()
	return n
}

// A daemon that is stopped for a while keeps what fits into its queue; nothing of it is lost, announcements included.
func TestPaused(t *testing.T) {
	both(t, func(t *testing.T, b *bed) {
		d := b.run()
		c, e := b.connect(), b.connect()
		b.works("active before", c.active)
		pending := e.epsv()
		d.pause()
		data, err := e.dial(pending)
		if err != nil {
			t.Fatalf("what was announced before, while the daemon is stopped: %v", err)
		}
		data.Close()
		c.say("EPSV")
		c.conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if line, err := c.in.ReadString('\n'); err == nil {
			t.Errorf("the server says %q, the daemon is not stopped", line)
		}
		time.Sleep(5 * time.Second)
		if n := b.waiting(); n == 0 {
			t.Error("nothing waits in the queue")
		}
		d.signal(unix.SIGCONT)
		_, rest, _ := strings.Cut(c.expect("229"), "|||")
		port, _, _ := strings.Cut(rest, "|")
		b.works("what was announced meanwhile", func() error { return c.read(net.JoinHostPort(serverAddr, port)) })
		b.works("active afterwards", c.active)
		b.works("passive on a new connection", b.connect().passive)
		d.counts("missed", 0)
		d.stop()
		b.wants("after the end", left{})
	})
}

// flood makes the queue full: the daemon is stopped, and commands come until packets pass unseen: as many wait as may
// (length), or if that is 0 the socket's buffer has no room for one more.
func (b *bed) flood(d *process, length int) (stuck []*ftpClient) {
	b.t.Helper()
	for range 8 {
		stuck = append(stuck, b.connect())
	}
	d.pause()
	waiting, sequence := b.queue()
	before := sequence - waiting // they were read
	full := func() bool {
		waiting, sequence := b.queue()
		if length > 0 {
			return waiting == length
		}
		return sequence-waiting > before
	}
	for i := 0; i < 200 && !full(); i++ {
		c := stuck[i%len(stuck)]
		c.say("NOOP %s", strings.Repeat("x", 400))
		c.unread++
		time.Sleep(5 * time.Millisecond)
	}
	if !full() {
		b.t.Fatal("the queue is not full")
	}
	return stuck
}

// With a full queue packets pass unread, so control connections go on; what they announce is not opened. It is counted,
// and when there is room again all is well, for connections that began meanwhile too.
func TestQueueFull(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, config string
		length       int
	}{
		{"length", "queue: {length: 4}\n", 4},
		{"buffer", "queue: {buffer: 4096}\n", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *testing.T, b *bed) {
				d := b.run("--config", b.config("%s", tt.config))
				stuck := b.flood(d, tt.length)
				c := b.connect()
				b.works("a command while the queue is full", c.alive)
				b.fails("an announcement while the queue is full", c.passive)
				d.signal(unix.SIGCONT)
				for _, c := range stuck {
					for ; c.unread > 0; c.unread-- {
						c.expect("200")
					}
				}
				for deadline := time.Now().Add(patience); b.waiting() > 0; time.Sleep(10 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("%d packets wait in the queue", b.waiting())
					}
				}
				for i, c := range append(stuck, c, b.connect()) {
					if err := c.passive(); err != nil {
						t.Errorf("passive on connection %d: %v", i, err)
					}
				}
				b.works("passive on one that began meanwhile, again", c.passive)
				d.says("packets did not fit into the queue", 1)
				got := d.counters()
				underWay := func() bool { return got["queue.verdicts"] != got["queue.received"] }
				for deadline := time.Now().Add(patience); underWay() && time.Now().Before(deadline); { // the last acknowledgements
					got = d.counters()
				}
				if got["missed"] == 0 || got["verdicts-failed"] != 0 || underWay() {
					t.Errorf("counters %v", got)
				}
				if overrun := got["queue.overruns"] > 0; overrun != (tt.name == "buffer") {
					t.Errorf("%d overruns of the buffer", got["queue.overruns"])
				}
				d.stop()
				b.wants("after the end", left{})
			})
		})
	}
}

// A daemon that is killed in the middle of many sessions leaves none of them stuck: while it is dead, transfers are
// refused, and with the next one all of them go on, on the same control connections.
func TestKillUnderLoad(t *testing.T) {
	both(t, func(t *testing.T, b *bed) {
		file := b.config(loadPolicy)
		d := b.run("--config", file)
		l := b.load(16)
		l.all(3)
		if n := l.refused.Load(); n > 0 {
			t.Errorf("%d transfers were refused with a daemon", n)
		}
		for range 3 {
			d.kill()
			before := l.refused.Load()
			l.until("refused without a daemon", func() bool { return l.refused.Load() > before+16 })
			b.works("a control connection without a daemon", b.connect().alive)
			d = b.run("--config", file)
			l.all(3)
			before = l.refused.Load()
			l.all(3)
			if n := l.refused.Load() - before; n > 0 {
				t.Errorf("%d transfers were refused with the next daemon", n)
			}
		}
		l.stop()
		d.stop()
		b.wants("after the end", left{})
	})
}

// Reading the configuration again, with other rules, costs no transfer.
func TestReloadUnderLoad(t *testing.T) {
	both(t, func(t *testing.T, b *bed) {
		file := b.config(loadPolicy)
		d := b.run("--config", file)
		l := b.load(8)
		for i := range 10 {
			ports := []string{"[21]", "[21, 2121]"}[i%2]
			writeFile(t, file, loadPolicy+"helpers: {ftp: {ports: "+ports+"}}\n")
			d.signal(unix.SIGHUP)
			d.says("msg=reloaded", i+1)
			l.all(1)
		}
		l.stop()
		if n := l.refused.Load(); n > 0 {
			t.Errorf("%d of %d transfers were refused", n, l.total())
		}
		d.counts("missed", 0)
		d.counts("rules-restored", 0)
		d.stop()
		b.wants("after the end", left{})
	})
}

// deleteShadows deletes them by hand.
func (b *bed) deleteShadows() (n int) {
	b.t.Helper()
	for line := range strings.Lines(b.firewall.Run("conntrack", "-L")) {
		m := regexp.MustCompile(`^(tcp|udp) .*? src=(\S+) dst=(\S+) sport=(\d+) dport=0 `).FindStringSubmatch(line)
		if m == nil {
			continue
		}
		b.firewall.Run("conntrack", "-D", "-p", m[1], "-s", m[2], "-d", m[3], "--sport", m[4], "--dport", "0")
		n++
	}
	return n
}

// Somebody deletes a shadow: what hung on it is gone, and the next announcement makes another.
func TestShadowDeleted(t *testing.T) {
	both(t, func(t *testing.T, b *bed) {
		d := b.run()
		c := b.connect()
		b.works("active before", c.active)
		pending := c.epsv()
		if n := b.deleteShadows(); n != 1 {
			t.Fatalf("%d shadows are deleted, want one", n)
		}
		b.fails("what was announced before", func() error { return c.read(pending) })
		b.works("passive", c.passive)
		b.works("active", c.active)
		if l := b.left(); l.Shadows != 1 {
			t.Errorf("left %+v, want a shadow", l)
		}
		d.stop()
		b.wants("after the end", left{})
	})
}

// Daemons of two network namespaces share a kernel, and where it has helper objects, those. The end of one, in good order
// or not, and its cleanup leave the other's announcements alone.
func TestTwoNamespaces(t *testing.T) {
	both(t, func(t *testing.T, b *bed) {
		other := newBed(t, false)
		d := b.run()
		c := b.connect()
		b.works("passive", c.passive)
		for _, end := range []string{"stop", "kill and cleanup", "kill and next run"} {
			e := other.run()
			other.works("passive in the other namespace", other.connect().passive)
			gone := other.connect()
			gone.epsv()
			passive := c.epsv()
			active := b.connect()
			l := active.port()
			if end == "stop" {
				e.stop()
			} else {
				e.kill()
			}
			switch end {
			case "kill and cleanup":
				other.command("cleanup").ends(0)
			case "kill and next run":
				other.run().stop()
			}
			other.wants(end, left{})
			b.works(end+": the other's pending passive connection", func() error { return c.read(passive) })
			b.works(end+": the other's pending active connection", func() error { return active.accept(l) })
			l.Close()
			b.works(end+": passive afterwards", c.passive)
			b.works(end+": active afterwards", c.active)
		}
		if log := d.stop(); strings.Contains(log, "msg=cancel") || strings.Contains(log, "level=ERROR") {
			t.Errorf("the other daemon's end is felt:\n%s", log)
		}
		b.wants("after the end", left{})
	})
}

// What a killed daemon left is counted at the next start, works on, and is gone at the next end.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	b := newBed(t, false)
	d := b.run()
	if strings.Contains(d.log.String(), "left something") {
		t.Error("the first run finds leftovers")
	}
	c, e := b.connect(), b.connect()
	pending := c.epsv()
	e.epsv()
	d.kill()
	d = b.run()
	d.says(`"an earlier run left something: it is taken over" table=true shadows=2 expectations=2`, 1)
	b.works("what was announced before", func() error { return c.read(pending) })
	d.stop()
	b.wants("after the end", left{})
	if log := b.run().stop(); strings.Contains(log, "left something") {
		t.Error("there are leftovers after an end in good order")
	}
}

// Somebody deletes the helper objects: they are registered again, which is said and counted.
func TestHelperObjectDeleted(t *testing.T) {
	b := newBed(t, false)
	d := b.run()
	if !strings.Contains(d.log.String(), `expectations="own helper objects"`) {
		t.Skip("the kernel has no helper objects (CONFIG_NF_CT_NETLINK_HELPER)")
	}
	c, e := b.connect(), b.connect()
	b.works("passive before", c.passive)
	pending := c.epsv()
	for _, family := range []uint16{unix.AF_INET, unix.AF_INET6} {
		b.nfnl(func(conn *nfnl.Conn) error {
			return conn.DeleteHelper(&nfnl.HelperObject{Name: "cth-ftp", L3: family, L4: unix.IPPROTO_TCP})
		})
	}
	b.fails("what was announced before", func() error { return c.read(pending) })
	b.works("passive with an old shadow", c.passive)
	b.works("passive without one", e.passive)
	b.works("active", e.active)
	b.works("passive on a new connection", b.connect().passive)
	d.says("a helper object was deleted: it is registered again", 1)
	if got := d.counters(); got["repaired"] == 0 {
		t.Errorf("counters %v, want something repaired", got)
	}
	d.stop()
	b.wants("after the end", left{})
}
