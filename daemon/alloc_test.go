package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/internal/config"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// A control connection's usual lines cost no allocation in the whole process: kernel, queue, engine and back.
func TestDaemonDoesNotAllocate(t *testing.T) {
	for _, masquerade := range []bool{false, true} {
		for _, queues := range []int{1, 3} {
			t.Run(fmt.Sprintf("masquerade %v, %d queues", masquerade, queues), func(t *testing.T) {
				client, firewall, server := netnstest.New(t), netnstest.New(t), netnstest.New(t)
				netnstest.Veth(client, "c", []string{"10.1.0.2/24"}, firewall, "inside", []string{"10.1.0.1/24"})
				netnstest.Veth(firewall, "outside", []string{"10.2.0.1/24"}, server, "s", []string{"10.2.0.2/24"})
				client.Route("10.1.0.1")
				server.Route("10.2.0.1")
				firewall.Sysctl("net.ipv4.ip_forward", "1")
				if masquerade {
					firewall.Run("nft", `table ip nat { chain p { type nat hook postrouting priority 100; oif "outside" masquerade; }; }`)
				}
				d := startIn(t, firewall, fmt.Sprintf("queue: {count: %d}", queues))
				c, s := connected(t, client, server)
				command, answer, buf := []byte("NOOP\r\n"), []byte("200 fine\r\n"), make([]byte, 100)
				pass := func(from, to int, line []byte) {
					if _, err := unix.Write(from, line); err != nil {
						t.Fatal(err)
					}
					n, err := unix.Read(to, buf)
					for err == unix.EINTR { // a socket with a time limit is not read again by itself
						n, err = unix.Read(to, buf)
					}
					if err != nil || string(buf[:n]) != string(line) {
						t.Fatalf("read %q, %v; want %q", buf[:max(n, 0)], err, line)
					}
				}
				pass(s, c, []byte("220 ready\r\n"))
				// What the daemon does beside it (it looks at its own rules after it has put them there, and asks the
				// kernel every few seconds) allocates in some rounds; what a packet costs would show in all.
				const rounds, runs, each = 20, 10, 50
				least := math.Inf(1)
				for round := 0; round < rounds && least > 0; round++ {
					least = min(least, testing.AllocsPerRun(runs, func() {
						for range each {
							pass(c, s, command)
							pass(s, c, answer)
						}
					}))
				}
				if least > 0 {
					t.Errorf("%v allocations for %d commands and their answers", least, each)
				}
				d.mu.Lock()
				defer d.mu.Unlock()
				if e := d.engine.Stats(); e.Packets < 2*runs*each || e.Flows != 1 || e.Unknown > 0 {
					t.Errorf("the engine counted %+v: it did not read the connection", e)
				}
			})
		}
	}
}

// startIn starts a daemon in a namespace, in this process.
func startIn(t *testing.T, n *netnstest.NS, configuration string) *daemon {
	t.Helper()
	cfg, err := config.Parse("test", []byte(configuration), []helpers.Protocol{ftp.Protocol()})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log.Level = slog.LevelWarn
	d := &daemon{cfg: cfg, out: newLogWriter(io.Discard, cfg.Log)}
	d.log = newLogger(d.out, cfg.Log)
	n.Do(func() { err = d.start() })
	signals, done := make(chan os.Signal, 1), make(chan error, 1)
	if err == nil {
		go n.Do(func() { done <- d.loop(signals) }) // there, because it looks at the rules and mends them
	}
	t.Cleanup(func() {
		if err == nil {
			signals <- unix.SIGTERM
			err = <-done
		}
		n.Do(func() {
			if e := d.close(false); err != nil || e != nil {
				t.Errorf("the daemon's end: %v, %v", err, e)
			}
		})
		d.out.close()
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// connected are the two ends of a control connection, which wait at most some seconds.
func connected(t *testing.T, client, server *netnstest.NS) (c, s int) {
	t.Helper()
	at := &unix.SockaddrInet4{Port: 21, Addr: [4]byte{10, 2, 0, 2}}
	socket := func() (fd int, err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fd, err
		}
		wait := unix.NsecToTimeval(int64(10 * time.Second))
		t.Cleanup(func() { unix.Close(fd) })
		return fd, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	}
	var l int
	var err error
	server.Do(func() {
		if l, err = socket(); err == nil {
			if err = unix.Bind(l, at); err == nil {
				err = unix.Listen(l, 1)
			}
		}
	})
	if err == nil {
		client.Do(func() {
			if c, err = socket(); err == nil {
				err = unix.Connect(c, at)
			}
		})
	}
	if err == nil {
		s, _, err = unix.Accept4(l, unix.SOCK_CLOEXEC)
	}
	if err != nil {
		t.Fatal(err)
	}
	wait := unix.NsecToTimeval(int64(10 * time.Second))
	t.Cleanup(func() { unix.Close(s) })
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		t.Fatal(err)
	}
	return c, s
}
