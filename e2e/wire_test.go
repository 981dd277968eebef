package e2e

import (
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// wire joins two namespaces by TUN devices and loses, doubles and delays packets between them: what tc's netem does, on
// kernels without it too. The chances are in percent.
type wire struct {
	lose, double, delay int
	lost, doubled, late int // what it did
	// change makes packets of one that the first or the second namespace sends; nil: it stays as it is.
	change [2]func(packet []byte) [][]byte
	mu     sync.Mutex
	random *rand.Rand
}

func (w *wire) join(t *testing.T, a *netnstest.NS, aDev string, aAddrs []string, b *netnstest.NS, bDev string, bAddrs []string) {
	t.Helper()
	const seed = 1
	w.random = rand.New(rand.NewPCG(seed, seed))
	one, two := tun(t, a, aDev, aAddrs), tun(t, b, bDev, bAddrs)
	var copies sync.WaitGroup
	copies.Go(func() { w.carry(one, two, w.change[0]) })
	copies.Go(func() { w.carry(two, one, w.change[1]) })
	t.Cleanup(func() {
		one.Close()
		two.Close()
		copies.Wait()
	})
}

// tun makes a device with addresses in a namespace.
func tun(t *testing.T, ns *netnstest.NS, dev string, addrs []string) *os.File {
	t.Helper()
	var fd int
	var err error
	ns.Do(func() { fd, err = openTUN(dev) })
	if err != nil {
		t.Fatalf("make a TUN device (CONFIG_TUN): %v", err)
	}
	ns.Run("ip", "link", "set", dev, "up", "txqueuelen", "10000")
	for _, a := range addrs {
		ns.Run("ip", "addr", "add", a, "dev", dev, "nodad")
	}
	return os.NewFile(uintptr(fd), dev)
}

// carry copies packets until from is closed.
func (w *wire) carry(from, to *os.File, change func(packet []byte) [][]byte) {
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if change != nil {
			for _, p := range change(buf[:n]) {
				to.Write(p)
			}
			continue
		}
		w.mu.Lock()
		lose, double, delay := w.draw(w.lose), w.draw(w.double), w.draw(w.delay)
		switch {
		case lose:
			w.lost++
		case delay:
			w.late++
		case double:
			w.doubled++
		}
		w.mu.Unlock()
		switch {
		case lose:
		case delay: // those behind it overtake it
			late := append([]byte(nil), buf[:n]...)
			time.AfterFunc(3*time.Millisecond, func() { to.Write(late) })
		default:
			to.Write(buf[:n])
			if double {
				to.Write(buf[:n])
			}
		}
	}
}

func (w *wire) draw(percent int) bool { return w.random.IntN(100) < percent }
