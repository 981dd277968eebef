package e2e

import (
	"bufio"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The short soak is part of all tests; `make soak` is the long one.
var (
	soakTime     = flag.Duration("soak", 25*time.Second, "how long TestSoak loads the daemon")
	soakSessions = flag.Int("sessions", 300, "control connections of TestSoak")
	soakDeeds    = flag.String("deeds", "reload,pause,restart,kill,rules,reload,pause,restart,kill,reload,pause,flush",
		"what TestSoak does to the daemon, in random order and again and again")
	soakRate = flag.Float64("rate", 50, "transfers a second of TestSoak, of all sessions together")
)

const soakFiles = 64

// soak is sessions with a real server, a daemon that they go through, and what is done to it.
type soak struct {
	*site
	t       *testing.T
	conf    string
	daemon  *soakDaemon
	lives   int // daemons that ran
	files   [soakFiles][]byte
	sums    [soakFiles][sha256.Size]byte
	trouble trouble
	stop    chan struct{}

	done, bytes      atomic.Int64 // transfers with the right bytes
	failed, restored atomic.Int64 // transfers announced in trouble; those of them that worked when tried again
	lost             atomic.Int64 // control connections that an emptied connection table cost
	byMode           sync.Map     // family and mode: *atomic.Int64
	errors           atomic.Int64
	samples          []sample
	disturbed        map[string]int
}

// trouble is when announcements need not be read: between the end of one daemon and the beginning of the next, and while
// the rules are gone.
type trouble struct {
	mu      sync.Mutex
	open    bool
	since   time.Time
	ended   time.Time
	flushed time.Time // the connection table, the last time
}

func (d *trouble) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open, d.since = true, time.Now()
}

func (d *trouble) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open, d.ended = false, time.Now()
}

// during tells whether there was trouble at any time from start on.
func (d *trouble) during(start time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open || d.ended.After(start)
}

func (d *trouble) now() bool { return d.during(time.Now()) }

func (d *trouble) flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushed = time.Now()
}

// flushedSince tells whether the connection table was emptied after a session was born.
func (d *trouble) flushedSince(born time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flushed.After(born)
}

// soakDaemon is a daemon of whose log only what is rare is kept.
type soakDaemon struct {
	cmd      *exec.Cmd
	done     chan struct{}
	mu       sync.Mutex
	ready    bool
	counters string // the last ones
	asked    int    // answers to SIGUSR1
	rare     []string
	wrong    map[string]int // warnings and errors by their text
}

var logged = regexp.MustCompile(`level=(\w+) msg=("(?:[^"\\]|\\.)*"|\S+)`)

func (s *soak) startDaemon() {
	s.t.Helper()
	d := &soakDaemon{done: make(chan struct{}), wrong: map[string]int{}}
	d.cmd = exec.Command(shared.daemon, "run", "--config", s.conf)
	out, in := io.Pipe()
	d.cmd.Stdout, d.cmd.Stderr = in, in
	var err error
	s.firewall.Do(func() { err = d.cmd.Start() })
	if err != nil {
		s.t.Fatal(err)
	}
	go func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			d.line(lines.Text())
		}
	}()
	go func() {
		d.cmd.Wait()
		in.Close()
		close(d.done)
	}()
	s.daemon = d
	s.lives++
	for deadline := time.Now().Add(3 * patience); !d.isReady(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("the daemon does not begin; it says %q", d.rare)
		}
	}
}

func (d *soakDaemon) line(l string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := logged.FindStringSubmatch(l)
	switch {
	case m == nil:
		d.rare = append(d.rare, l)
	case m[2] == "ready":
		d.ready = true
	case m[2] == "counters":
		d.counters = l
		d.asked++
	case m[1] != "INFO":
		what := m[2]
		if r := regexp.MustCompile(`reason=\S+`).FindString(l); r != "" {
			what += " " + r
		}
		if d.wrong[what]++; d.wrong[what] == 1 {
			d.rare = append(d.rare, l)
		}
	}
}

func (d *soakDaemon) isReady() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ready
}

func (s *soak) signal(sig syscall.Signal) {
	if err := s.daemon.cmd.Process.Signal(sig); err != nil {
		s.t.Errorf("signal %v: %v", sig, err)
	}
}

// end waits for the daemon's end, and keeps what it said.
func (s *soak) end(sig syscall.Signal, code int) {
	s.signal(sig)
	select {
	case <-s.daemon.done:
	case <-time.After(3 * patience):
		s.t.Fatal("the daemon does not end")
	}
	if got := s.daemon.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("the daemon's exit code is %d, want %d; it said %q", got, code, s.daemon.rare)
	}
}

// sample is what daemon and kernel hold at a time.
type sample struct {
	at                    time.Duration
	life                  int
	resident              int // KiB
	files, goroutines     int
	heap                  int // bytes
	flows, sessions, wait int
	expectations, shadows int
}

func (p sample) String() string {
	return fmt.Sprintf("%4.0f s, daemon %d: resident %d KiB, heap %d KiB, %d goroutines, %d files, %d flows, %d sessions, %d pending; "+
		"kernel: %d expectations, %d shadows", p.at.Seconds(), p.life, p.resident, p.heap>>10, p.goroutines, p.files, p.flows, p.sessions,
		p.wait, p.expectations, p.shadows)
}

// take asks the daemon for its counters and the kernel for its tables.
func (s *soak) take(begin time.Time) sample {
	s.t.Helper()
	d := s.daemon
	d.mu.Lock()
	asked := d.asked
	d.mu.Unlock()
	s.signal(syscall.SIGUSR1)
	p := sample{at: time.Since(begin), life: s.lives}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		d.mu.Lock()
		line, now := d.counters, d.asked
		d.mu.Unlock()
		if now > asked {
			for name, to := range map[string]*int{
				"process.goroutines": &p.goroutines, "process.heap": &p.heap, "process.files": &p.files, "flows": &p.flows,
				"sessions": &p.sessions, "pending": &p.wait,
			} {
				*to = number(s.t, line, " "+name+"=")
			}
			break
		}
		if time.Now().After(deadline) {
			s.t.Fatal("the daemon does not tell its counters")
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	p.resident = number(s.t, string(status), "VmRSS:")
	p.expectations = strings.Count(s.firewall.Run("conntrack", "-L", "expect"), "mask-src=")
	for _, f := range []string{"ipv4", "ipv6"} {
		p.shadows += strings.Count(s.firewall.Run("sh", "-c", "conntrack -L -f "+f+" 2>/dev/null | grep ' dport=0 ' || true"), "\n")
	}
	return p
}

// number is the one behind name in text.
func number(t *testing.T, text, name string) int {
	t.Helper()
	_, rest, ok := strings.Cut(text, name)
	rest = strings.TrimLeft(rest, " \t")
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		rest = rest[:i]
	}
	n, err := strconv.Atoi(rest)
	if !ok || err != nil {
		t.Fatalf("no number behind %q in %q", name, text)
	}
	return n
}

// TestSoak: many sessions, of which some transfer at any time, in all modes and both families, while the daemon is told to
// read its configuration, is stopped, killed and started again, and tables are emptied. Each transfer that comes to its
// end has the right bytes; one may fail only if it was announced while no daemon read it, and works when it is tried
// again; no control connection dies but by an emptied connection table; and nothing grows.
func TestSoak(t *testing.T) {
	if *onlyPairs {
		t.Skip("left out of the short run: its time is real time")
	}
	s := newSoak(t)
	long := *soakTime >= 5*time.Minute
	begin := time.Now()
	s.startDaemon()
	base := s.take(begin)
	t.Log("before the load:", base)

	var sessions sync.WaitGroup
	gate := make(chan struct{}, 16) // log in at once
	for i := range *soakSessions {
		sessions.Go(func() { s.session(i, gate) })
	}
	s.disturb(begin, long)
	close(s.stop)
	sessions.Wait()

	// All control connections are closed: what is held for them goes. Those that an emptied table has torn between two
	// entries are never closed for the kernel, which forgets them in days; and what is sent again makes new ones.
	// The daemon remembers such ones for 10 minutes, as they may come back: the short run does not wait for that.
	var after sample
	flushed, left := s.disturbed["flush"] > 0, 0
	closed, patient := time.Now(), 90*time.Second
	if flushed && long {
		patient = 12 * time.Minute
	} else if flushed {
		patient, left = 5*time.Second, int(s.lost.Load())
	}
	for deadline := closed.Add(patient); ; time.Sleep(time.Second) {
		if flushed && time.Since(closed) < 60*time.Second {
			for _, f := range []string{"ipv4", "ipv6"} {
				s.firewall.Run("sh", "-c", "conntrack -D -f "+f+" -p tcp --orig-port-dst 21 >/dev/null 2>&1 || true")
				s.firewall.Run("sh", "-c", "conntrack -D -f "+f+" -p tcp --orig-port-src 21 >/dev/null 2>&1 || true")
			}
		}
		after = s.take(begin)
		if after.flows == 0 && after.sessions == 0 && after.wait == 0 || time.Now().After(deadline) {
			break
		}
	}
	t.Log("after the load: ", after)
	if after.flows > left || after.sessions > left || after.wait != 0 {
		t.Errorf("the daemon holds %d flows, %d sessions, %d pending expectations of connections that are gone", after.flows, after.sessions, after.wait)
	}
	// Goroutines and files that come and go with signals and timers are a few.
	if after.goroutines > base.goroutines+2 || after.files > base.files+2 {
		t.Errorf("%d goroutines and %d files, %d and %d before the load", after.goroutines, after.files, base.goroutines, base.files)
	}
	if long {
		s.steady()
	}
	// A daemon without a state file leaves nothing, of killed ones either.
	s.write(s.conf, s.config(false))
	s.signal(syscall.SIGHUP)
	time.Sleep(300 * time.Millisecond)
	s.end(syscall.SIGTERM, 0)
	if out := s.firewall.Run("conntrack", "-L", "expect"); strings.Contains(out, "mask-src=") {
		t.Errorf("expectations are left:\n%s", out)
	}
	if out := s.firewall.Run("sh", "-c", "conntrack -L 2>/dev/null; conntrack -L -f ipv6 2>/dev/null"); strings.Contains(out, " dport=0 ") {
		t.Error("shadows are left")
	}
	s.summary(begin)
}

// steady compares the second half of a long run with the first: nothing may have grown with time.
func (s *soak) steady() {
	n := len(s.samples)
	if n < 20 {
		s.t.Errorf("%d samples are too few", n)
		return
	}
	for name, of := range map[string]func(sample) int{
		"resident KiB": func(p sample) int { return p.resident },
		"heap bytes":   func(p sample) int { return p.heap },
		"goroutines":   func(p sample) int { return p.goroutines },
		"files":        func(p sample) int { return p.files },
		"expectations": func(p sample) int { return p.expectations },
	} {
		// The first tenth is the beginning.
		early, late := median(s.samples[n/10:n/2], of), median(s.samples[n/2:], of)
		spare := map[string]int{"resident KiB": 8 << 10, "heap bytes": 4 << 20, "goroutines": 2, "files": 2, "expectations": 64}[name]
		s.t.Logf("%s: median %d, then %d", name, early, late)
		if late > early+early/4+spare {
			s.t.Errorf("%s grew from %d to %d", name, early, late)
		}
	}
}

func median(p []sample, of func(sample) int) int {
	var v []int
	for _, x := range p {
		v = append(v, of(x))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// disturb does things to the daemon and its tables until the time is over.
func (s *soak) disturb(begin time.Time, long bool) {
	pause, every := 700*time.Millisecond, 2*time.Second
	if long {
		pause, every = 6*time.Second, 5*time.Second
	}
	random := rand.New(rand.NewPCG(1, uint64(begin.UnixNano())))
	finish := begin.Add(*soakTime)
	next, sampled, said := time.Now().Add(pause+3*time.Second), time.Now(), time.Now()
	deeds := s.deeds(random)
	var bag []string
	for time.Now().Before(finish) && s.errors.Load() < 20 {
		time.Sleep(50 * time.Millisecond)
		if time.Since(sampled) > every {
			sampled = time.Now()
			s.samples = append(s.samples, s.take(begin))
		}
		if time.Since(said) > 15*time.Second {
			said = time.Now()
			fmt.Printf("soak %v; %d transfers, %d failed in trouble, %d lost to flushes\n", s.samples[len(s.samples)-1], s.done.Load(),
				s.failed.Load(), s.lost.Load())
		}
		// The last part of the run is quiet, so that all that failed is tried again.
		if time.Now().Before(next) || time.Until(finish) < 6*time.Second {
			continue
		}
		if len(bag) == 0 { // each in turn
			bag = strings.Split(*soakDeeds, ",")
			random.Shuffle(len(bag), func(i, j int) { bag[i], bag[j] = bag[j], bag[i] })
		}
		deed := bag[0]
		bag = bag[1:]
		deeds[deed]()
		s.disturbed[deed]++
		next = time.Now().Add(pause + time.Duration(random.Int64N(int64(pause))))
	}
}

// deeds are what is done.
func (s *soak) deeds(random *rand.Rand) map[string]func() {
	return map[string]func(){
		"reload": func() { s.signal(syscall.SIGHUP) },
		"pause": func() {
			s.signal(syscall.SIGSTOP)
			time.Sleep(time.Duration(50+random.IntN(450)) * time.Millisecond)
			s.signal(syscall.SIGCONT)
		},
		"restart": func() {
			s.trouble.begin()
			s.end(syscall.SIGTERM, 0)
			s.startDaemon()
			s.trouble.end()
		},
		"kill": func() {
			s.trouble.begin()
			s.end(syscall.SIGKILL, -1)
			time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
			s.startDaemon()
			s.trouble.end()
		},
		"rules": func() { // somebody's `nft flush ruleset` of our table
			s.trouble.begin()
			s.firewall.Run("nft", "delete", "table", "inet", "cthelperd")
			for deadline := time.Now().Add(2 * patience); ; time.Sleep(20 * time.Millisecond) {
				if strings.Contains(s.firewall.Run("nft", "list", "ruleset"), "num 2021") ||
					strings.Contains(s.firewall.Run("nft", "list", "ruleset"), "NFQUEUE") {
					break
				}
				if time.Now().After(deadline) {
					s.t.Error("the daemon does not put its rules back")
					break
				}
			}
			s.trouble.end()
		},
		"flush": func() {
			s.trouble.begin()
			s.firewall.Run("conntrack", "-F")
			s.trouble.flush()
			time.Sleep(500 * time.Millisecond)
			s.trouble.end()
		},
	}
}

func newSoak(t *testing.T) *soak {
	s := &soak{site: newSite(t, bothWays), t: t, stop: make(chan struct{}), disturbed: map[string]int{}}
	s.firewall.Sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "2")
	s.firewall.Sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "2")
	root := filepath.Join(s.folder, "soak")
	for _, d := range []string{root, filepath.Join(root, "up")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "up"), 0o777); err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{1})
	for i := range s.files {
		s.files[i] = make([]byte, 1+int(random.Uint64()%(96<<10)))
		random.Read(s.files[i])
		s.sums[i] = sha256.Sum256(s.files[i])
		s.write(filepath.Join(root, fmt.Sprint("down", i)), string(s.files[i]))
	}
	s.serve(serverKind{"vsftpd", func(site *site, port uint16, lax bool) *process {
		// One process a session.
		return vsftpdWith(site, port, lax, "one_process_model=YES\nidle_session_timeout=7200\ndata_connection_timeout=60\n"+
			"accept_timeout=20\nconnect_timeout=20\nmax_clients=0\nmax_per_ip=0\nanon_root="+root+"\n")
	}}, 21, false)
	s.conf = filepath.Join(s.folder, "cthelperd.yaml")
	s.write(s.conf, s.config(true))
	t.Cleanup(func() {
		if s.daemon != nil {
			s.daemon.cmd.Process.Kill()
			<-s.daemon.done
		}
	})
	return s
}

// config is the daemon's: two queues; the server announces for all sessions, so the limits of one address are high.
func (s *soak) config(state bool) string {
	text := `policy: {limits: {per-peer: 4000, total: 4000, rate: 100000}}
queue: {count: 2, length: 16384}
`
	if state {
		text += "state: " + filepath.Join(s.folder, "state") + "\n"
	}
	return text
}

func (s *soak) summary(begin time.Time) {
	s.t.Logf("%.0f s, %d sessions: %d transfers with the right bytes (%d MiB); %d daemons; done to them: %v",
		time.Since(begin).Seconds(), *soakSessions, s.done.Load(), s.bytes.Load()>>20, s.lives, s.disturbed)
	s.t.Logf("%d transfers failed that were announced in trouble, %d of them worked when tried again; %d control connections "+
		"were lost to an emptied connection table and made again", s.failed.Load(), s.restored.Load(), s.lost.Load())
	s.byMode.Range(func(k, v any) bool {
		s.t.Logf("%v: %d", k, v.(*atomic.Int64).Load())
		return true
	})
	most := sample{}
	for _, p := range s.samples {
		most.resident, most.expectations, most.shadows = max(most.resident, p.resident), max(most.expectations, p.expectations), max(most.shadows, p.shadows)
	}
	s.t.Logf("at most: resident %d KiB, %d expectations, %d shadows", most.resident, most.expectations, most.shadows)
	for _, n := range []struct {
		what string
		n    int64
	}{{"transfers", s.done.Load()}, {"reloads", int64(s.disturbed["reload"])}} {
		if n.n == 0 {
			s.t.Errorf("no %s", n.what)
		}
	}
	for _, f := range families {
		for _, m := range modes {
			if speaks(f, m) {
				if _, ok := s.byMode.Load(fmt.Sprint(f, " ", m)); !ok {
					s.t.Errorf("no transfer by %s, %s", f, m)
				}
			}
		}
	}
}

// wrong is a failure that nothing excuses.
func (s *soak) wrong(format string, args ...any) {
	if s.errors.Add(1) <= 20 {
		s.t.Errorf(format, args...)
	}
}
