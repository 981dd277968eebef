package daemon_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// load are FTP sessions that transfer one file after the other, each on one control connection.
type load struct {
	t       *testing.T
	b       *bed
	wait    sync.WaitGroup
	ending  atomic.Bool
	done    []atomic.Int64 // transfers of each session
	refused atomic.Int64   // data connections that the firewall refused
	mu      sync.Mutex
	stuck   []error // what must not happen
}

// loadPolicy lets a test announce as much as it can.
const loadPolicy = "policy: {limits: {rate: 100000, per-peer: 1000}}\n"

// load starts n sessions: every second one is active.
func (b *bed) load(n int) *load {
	b.t.Helper()
	l := &load{t: b.t, b: b, done: make([]atomic.Int64, n)}
	for i := range n {
		l.wait.Go(func() {
			if err := l.session(i); err != nil {
				l.mu.Lock()
				l.stuck = append(l.stuck, fmt.Errorf("session %d, after %d transfers: %w", i, l.done[i].Load(), err))
				l.mu.Unlock()
			}
		})
	}
	b.t.Cleanup(func() { l.ending.Store(true); l.wait.Wait() })
	return l
}

func (l *load) total() (n int64) {
	for i := range l.done {
		n += l.done[i].Load()
	}
	return n
}

// until waits for a condition.
func (l *load) until(what string, holds func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(3 * patience); !holds(); time.Sleep(10 * time.Millisecond) {
		l.mu.Lock()
		stuck := errors.Join(l.stuck...)
		l.mu.Unlock()
		if stuck != nil {
			l.t.Fatalf("before %s: %v", what, stuck)
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("not %s: %d transfers, %d refused", what, l.total(), l.refused.Load())
		}
	}
}

// all waits until each session has n more transfers.
func (l *load) all(n int64) {
	l.t.Helper()
	want := make([]int64, len(l.done))
	for i := range l.done {
		want[i] = l.done[i].Load() + n
	}
	l.until(fmt.Sprintf("%d transfers more of each", n), func() bool {
		for i := range l.done {
			if l.done[i].Load() < want[i] {
				return false
			}
		}
		return true
	})
}

// stop ends all sessions; none may have been stuck.
func (l *load) stop() {
	l.t.Helper()
	l.ending.Store(true)
	l.wait.Wait()
	if err := errors.Join(l.stuck...); err != nil {
		l.t.Fatal(err)
	}
}

func (l *load) session(i int) error {
	var c net.Conn
	var err error
	l.b.client.Do(func() { c, err = net.DialTimeout("tcp", control, patience) })
	if err != nil {
		return err
	}
	defer c.Close()
	in := bufio.NewReader(c)
	ask := func(command, code string) (string, error) {
		c.SetDeadline(time.Now().Add(patience))
		if command != "" {
			fmt.Fprintf(c, "%s\r\n", command)
		}
		line, err := in.ReadString('\n')
		if err == nil && !strings.HasPrefix(line, code) {
			err = fmt.Errorf("%s: the server says %q", command, line)
		}
		return line, err
	}
	if _, err := ask("", "220"); err != nil {
		return err
	}
	for !l.ending.Load() {
		transfer := l.passive
		if i%2 == 1 {
			transfer = l.active
		}
		ok, err := transfer(c, ask)
		switch {
		case err != nil:
			return err
		case ok:
			l.done[i].Add(1)
		default:
			l.refused.Add(1)
		}
	}
	return nil
}

// passive gets the file by EPSV; false: the firewall refused the data connection.
func (l *load) passive(_ net.Conn, ask func(command, code string) (string, error)) (bool, error) {
	line, err := ask("EPSV", "229")
	if err != nil {
		return false, err
	}
	_, rest, _ := strings.Cut(line, "|||")
	port, _, _ := strings.Cut(rest, "|")
	var data net.Conn
	l.b.client.Do(func() { data, err = net.DialTimeout("tcp", net.JoinHostPort(serverAddr, port), patience) })
	if errors.Is(err, unix.ECONNREFUSED) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer data.Close()
	if _, err := ask("RETR file", "150"); err != nil {
		return false, err
	}
	if err := same(data); err != nil {
		return false, err
	}
	_, err = ask("", "226")
	return err == nil, err
}

// active gets the file by PORT.
func (l *load) active(c net.Conn, ask func(command, code string) (string, error)) (bool, error) {
	var listener net.Listener
	var err error
	l.b.client.Do(func() { listener, err = net.Listen("tcp", net.JoinHostPort(clientAddr, "0")) })
	if err != nil {
		return false, err
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	if _, err := ask(fmt.Sprintf("PORT %s,%d,%d", strings.ReplaceAll(clientAddr, ".", ","), port>>8, port&255), "200"); err != nil {
		return false, err
	}
	received := make(chan error, 1)
	go func() {
		data, err := listener.Accept()
		if err == nil {
			err = same(data)
			data.Close()
		}
		received <- err
	}()
	if _, err := ask("RETR file", "150"); err != nil {
		return false, err
	}
	line, err := ask("", "")
	if err != nil {
		return false, err
	}
	if strings.HasPrefix(line, "425") { // the firewall refused
		listener.Close()
		<-received
		return false, nil
	}
	return true, <-received
}
