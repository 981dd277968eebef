package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
	"github.com/cthelperd/cthelperd/internal/rules"
)

// The variants.
const (
	none       = "none"       // no helper at all
	own        = "cthelperd"  // its own queue driver
	reference  = "go-nfqueue" // cthelperd with go-nfqueue as its driver
	conntrackd = "conntrackd" // its user-space ftp helper
	inKernel   = "kernel"     // nf_conntrack_ftp
	cSingle    = "c"          // bench/c/nfq.c, a verdict for each packet
	cBatch     = "c-batch"    // the same, a verdict for up to 64
	cExpect    = "c-expect"   // bench/c/expect.c
)

// Whoever decides about packets has the first processor, who makes the packets the last one.
func workerCPU() int    { return 0 }
func generatorCPU() int { return runtime.NumCPU() - 1 }

// worker is a running variant; cmd is nil if it is no process.
type worker struct {
	cmd    *exec.Cmd
	folder string
	exited chan struct{}
	stderr strings.Builder
}

const queueNumber = 2021

// startWorker starts a variant in the network namespace of this process. pinned gives it one processor.
func startWorker(o *options, variant string, pinned bool) (*worker, error) {
	folder, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	w := &worker{folder: folder, exited: make(chan struct{})}
	if err := w.start(o, variant, pinned); err != nil {
		err = errors.Join(err, w.stop())
		if s := strings.TrimSpace(w.stderr.String()); s != "" {
			err = fmt.Errorf("%w; it wrote: %s", err, s)
		}
		return nil, err
	}
	return w, nil
}

func (w *worker) start(o *options, variant string, pinned bool) error {
	if err := nft(`table inet bench {
	chain forward {
		type filter hook forward priority 0; policy drop
		ct state established,related accept
		tcp dport 21 accept
	}
}`); err != nil {
		return err
	}
	switch variant {
	case none:
		return nil
	case own, reference:
		driver := map[string]string{own: "own", reference: "go-nfqueue"}[variant]
		program := filepath.Join(o.bin, "cthelperd")
		config, err := w.file("cthelperd.yaml", fmt.Sprintf(cthelperdConfig, driver))
		if err != nil {
			return err
		}
		return w.run(pinned, exec.Command(program, "run", "--config", config), func() bool {
			found, err := rules.Installed()
			return err == nil && found && w.queueServed()
		})
	case cSingle, cBatch:
		cmd := exec.Command(filepath.Join(o.bin, "nfq"), fmt.Sprint(queueNumber))
		if variant == cBatch {
			cmd.Args = append(cmd.Args, "batch")
		}
		if err := w.run(pinned, cmd, w.queueServed); err != nil {
			return err
		}
		features, err := rules.Probe()
		if err != nil {
			return err
		}
		// The same rules as cthelperd's.
		return rules.Install(rules.Config{
			Queue: queueNumber, Features: features,
			Helpers: []rules.Helper{{Name: "ftp", Transport: helpers.TCP, Ports: []uint16{21}}},
		})
	case inKernel:
		unloadPeer()
		if err := attach(); err != nil {
			return fmt.Errorf("%sno nf_conntrack_ftp: %w", unavailable, err)
		}
		return nil
	case conntrackd:
		return w.startConntrackd(pinned)
	}
	return fmt.Errorf("no variant %q", variant)
}

// cthelperdConfig lifts the limits that a flood of announcements meets by intention, and logs no announcement, as
// conntrackd does not.
const cthelperdConfig = `
policy: {limits: {per-peer: 1000000, total: 1000000, rate: 1000000000}}
queue: {number: 2021, driver: %s}
log: {level: error}
`

// conntrackdConfig is its ftp helper alone, with room for as many packets as cthelperd's queue has by default.
const conntrackdConfig = `
Helper {
  Setup yes
  Type ftp inet tcp {
    QueueNum 2022
    QueueLen 4096
    Policy ftp {
      ExpectMax 8
      ExpectTimeout 300
    }
  }
}
General {
  HashSize 8192
  HashLimit 65535
  LogFile off
  Syslog off
  LockFile %[1]s/lock
  UNIX {
    Path %[1]s/control
  }
  NetlinkBufferSize 2097152
  NetlinkBufferSizeMaxGrowth 8388608
}
`

// startConntrackd needs the name "ftp", which the kernel's own helper has while it is loaded.
func (w *worker) startConntrackd(pinned bool) error {
	conn, err := nfnl.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Helpers(); err != nil {
		return fmt.Errorf("%sconntrackd's helpers need nfnetlink_cthelper: %w", unavailable, err)
	}
	if _, err := exec.LookPath("conntrackd"); err != nil {
		return fmt.Errorf("%s%w", unavailable, err)
	}
	unloadPeer()
	retry(func() bool { return exec.Command("modprobe", "-r", "nf_nat_ftp", "nf_conntrack_ftp").Run() == nil })
	config, err := w.file("conntrackd.conf", fmt.Sprintf(conntrackdConfig, w.folder))
	if err != nil {
		return err
	}
	if err := w.run(pinned, exec.Command("conntrackd", "-C", config), func() bool { return served(2022) }); err != nil {
		return err
	}
	return attach()
}

// attach gives new control connections the helper that is called ftp in the kernel now.
func attach() error {
	return nft(`table ip bench_helper {
	ct helper ftp { type "ftp" protocol tcp; l3proto ip; }
	chain prerouting {
		type filter hook prerouting priority -150
		ct state new tcp dport 21 ct helper set "ftp"
	}
}`)
}

// unloadPeer deletes conntrackd's helper object, which is the machine's: nobody has packets in it any more.
func unloadPeer() {
	conn, err := nfnl.Dial()
	if err != nil {
		return
	}
	defer conn.Close()
	retry(func() bool {
		objects, _ := conn.Helpers()
		for _, o := range objects {
			if o.Name == "ftp" && conn.DeleteHelper(&o) != nil {
				return false
			}
		}
		return true
	})
}

// retry waits for what the namespace of the sample before has: it goes a little later than its last process.
func retry(f func() bool) {
	for range 50 {
		if f() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (w *worker) file(name, text string) (string, error) {
	path := filepath.Join(w.folder, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// run starts a process and waits until it is ready.
func (w *worker) run(pinned bool, cmd *exec.Cmd, ready func() bool) error {
	runtime.LockOSThread() // for ever: Pdeathsig is about the thread
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = &w.stderr
	cmd.WaitDelay = time.Second
	if pinned {
		if err := pin(workerCPU()); err != nil {
			return err
		}
		defer unpin()
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	w.cmd = cmd
	go func() {
		cmd.Wait()
		close(w.exited)
	}()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		select {
		case <-w.exited:
			return fmt.Errorf("%s ended: %v", filepath.Base(cmd.Path), cmd.ProcessState)
		default:
		}
		if ready() {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready", filepath.Base(cmd.Path))
		}
	}
}

func (w *worker) queueServed() bool { return served(queueNumber) }

// served says whether somebody serves the queue.
func served(number int) bool {
	_, found := queueLine(number)
	return found
}

// queueCount is what nfnetlink_queue has counted.
type queueCount struct{ waiting, dropped, userDropped, queued uint64 }

func queueLine(number int) (q queueCount, found bool) {
	f, err := os.Open("/proc/thread-self/net/netfilter/nfnetlink_queue")
	if err != nil {
		return q, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var n, mode, size int
		var port uint64
		_, err := fmt.Sscan(lines.Text(), &n, &port, &q.waiting, &mode, &size, &q.dropped, &q.userDropped, &q.queued)
		if err == nil && n == number {
			return q, true
		}
	}
	return queueCount{}, false
}

// count is that of the worker's queue.
func (w *worker) count() (queueCount, bool) {
	for _, n := range []int{queueNumber, 2022} {
		if q, found := queueLine(n); found {
			return q, true
		}
	}
	return queueCount{}, false
}

// cpu is the processor time that the process has used, all its threads, in the kernel too.
func (w *worker) cpu() time.Duration {
	if w.cmd == nil {
		return 0
	}
	const cpuClockSched = 2 // of a process's clock, as clock_getcpuclockid makes it
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^w.cmd.Process.Pid<<3|cpuClockSched), &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// ticks are the clock ticks that found the process outside of the kernel, and all that found it.
func (w *worker) ticks() (user, all float64) {
	if w.cmd == nil {
		return 0, 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.cmd.Process.Pid))
	_, rest, found := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from field 3 of proc(5) on
	if err != nil || !found || len(fields) < 13 {
		return 0, 0
	}
	user, _ = strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return user, user + system
}

func (w *worker) stop() error {
	if w.cmd != nil {
		w.cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-w.exited:
		case <-time.After(10 * time.Second):
			w.cmd.Process.Kill()
			<-w.exited
		}
	}
	return os.RemoveAll(w.folder)
}

func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(0, &set)
}

func unpin() {
	var set unix.CPUSet
	for i := range runtime.NumCPU() {
		set.Set(i)
	}
	unix.SchedSetaffinity(0, &set)
}

func nft(text string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

// ip runs commands of ip, one a line.
func ip(lines string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(lines)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, out)
	}
	return nil
}
