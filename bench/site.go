package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// site is a client and a server, each a process in a network namespace of its own; the firewall between them is this
// process's namespace.
type site struct{ client, server *end }

type end struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func newSite() (*site, error) {
	s := &site{}
	for _, e := range []struct {
		end        **end
		name       string
		here, host string
	}{{&s.client, "client", "10.1.0.1", "10.1.0.2"}, {&s.server, "server", "10.2.0.1", "10.2.0.2"}} {
		one, err := startEnd(e.name)
		if err != nil {
			s.close()
			return nil, err
		}
		*e.end = one
		if err := ip(fmt.Sprintf(`link add %[1]s type veth peer name eth0 netns %[2]d
addr add %[3]s/24 dev %[1]s
link set %[1]s up
`, e.name, one.cmd.Process.Pid, e.here)); err != nil {
			s.close()
			return nil, err
		}
		if _, err := one.ask(fmt.Sprintf("up %s %s", e.host, e.here)); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

func startEnd(name string) (*end, error) {
	runtime.LockOSThread() // for ever: Pdeathsig is about the thread
	cmd := exec.Command("/proc/self/exe", "peer", name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &end{cmd, in, bufio.NewReader(out)}, cmd.Start()
}

// ask sends a line to the process and reads its answer.
func (e *end) ask(line string) (string, error) {
	if _, err := fmt.Fprintln(e.in, line); err != nil {
		return "", err
	}
	answer, err := e.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", e.cmd.Args[len(e.cmd.Args)-1], line, err)
	}
	answer = strings.TrimSpace(answer)
	if text, failed := strings.CutPrefix(answer, "error: "); failed {
		return "", fmt.Errorf("%s", text)
	}
	return answer, nil
}

func (s *site) close() {
	for _, e := range []*end{s.client, s.server} {
		if e != nil {
			e.in.Close()
			e.cmd.Process.Kill()
			e.cmd.Wait()
		}
	}
}

// takeRoundTrip is how long a command takes until its reply.
func takeRoundTrip(o *options, variant string) (map[string]float64, error) {
	return withSite(o, variant, "roundtrip", "ns")
}

// takeBulk is how fast a data connection is that only its announcement lets through; without a helper a rule does.
func takeBulk(o *options, variant string) (map[string]float64, error) {
	return withSite(o, variant, "bulk", "bytes per second")
}

func withSite(o *options, variant, question, unit string) (map[string]float64, error) {
	s, err := newSite()
	if err != nil {
		return nil, err
	}
	defer s.close()
	w, err := startWorker(o, variant, false)
	if err != nil {
		return nil, err
	}
	defer w.stop()
	if variant == none {
		if err := nft("add rule inet bench forward tcp dport 1024-65535 accept"); err != nil {
			return nil, err
		}
	}
	before, counted := w.count()
	answer, err := s.client.ask(fmt.Sprintf("%s %d", question, o.length))
	if err != nil {
		return nil, err
	}
	if after, _ := w.count(); counted && after.queued == before.queued {
		return nil, fmt.Errorf("no packet came to the queue")
	}
	value, count, _ := strings.Cut(answer, " ")
	v, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseFloat(count, 64)
	return map[string]float64{unit: v, "done": n}, err
}

// peer is the process of a client or a server: it answers lines with lines.
func peer(name string) error {
	runtime.LockOSThread()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		words := strings.Fields(lines.Text())
		answer, err := peerDo(name, words)
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Println(answer)
	}
	return nil
}

func peerDo(name string, words []string) (string, error) {
	switch {
	case len(words) == 3 && words[0] == "up":
		if err := ip(fmt.Sprintf(`link set lo up
addr add %s/24 dev eth0
link set eth0 up
route add default via %s
`, words[1], words[2])); err != nil {
			return "", err
		}
		if name == "server" {
			l, err := listen(21)
			if err != nil {
				return "", err
			}
			go serve(l)
		}
		return "ok", nil
	case len(words) == 2:
		length, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			return "", err
		}
		c, err := connect(21)
		if err != nil {
			return "", err
		}
		defer unix.Close(c)
		if greeting, err := readLine(c); err != nil || !bytes.HasPrefix(greeting, []byte("220 ")) {
			return "", fmt.Errorf("greeting %q: %w", greeting, err)
		}
		if words[0] == "bulk" {
			return bulk(c, time.Duration(length))
		}
		return roundTrip(c, time.Duration(length))
	}
	return "", fmt.Errorf("what is %q?", words)
}

// The connections are blocking descriptors, so that no scheduler stands between a packet and its reader.

func address(host byte, port int) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: port, Addr: [4]byte{10, 2, 0, host}}
}

func listen(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, address(2, port))
	}
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	return fd, err
}

func connect(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	timeout := unix.Timeval{Sec: 10}
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &timeout)
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err := unix.Connect(fd, address(2, port)); err != nil {
		return -1, fmt.Errorf("connect to port %d: %w", port, err)
	}
	return fd, nil
}

// readLine reads one line; whoever is asked sends no more than that.
func readLine(fd int) ([]byte, error) {
	b := make([]byte, 0, 256)
	for {
		n, err := unix.Read(fd, b[len(b):cap(b)])
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil {
			return nil, err
		}
		if b = b[:len(b)+n]; bytes.HasSuffix(b, []byte("\n")) {
			return b, nil
		}
	}
}

func serve(l int) {
	runtime.LockOSThread()
	for {
		c, _, err := unix.Accept(l)
		if err != nil {
			return
		}
		go serveControl(c)
	}
}

func serveControl(c int) {
	runtime.LockOSThread()
	defer unix.Close(c)
	unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	write := func(s string) { unix.Write(c, []byte(s)) }
	write("220 ready\r\n")
	for {
		line, err := readLine(c)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(line, []byte("PASV")) {
			write("200 NOOP ok.\r\n")
			continue
		}
		const port = 30000
		l, err := listen(port)
		if err != nil {
			write("425 " + err.Error() + "\r\n")
			continue
		}
		go serveData(l)
		write(fmt.Sprintf("227 Entering Passive Mode (10,2,0,2,%d,%d).\r\n", port>>8, port&255))
	}
}

// serveData writes until nobody reads any more.
func serveData(l int) {
	runtime.LockOSThread()
	defer unix.Close(l)
	c, _, err := unix.Accept(l)
	if err != nil {
		return
	}
	defer unix.Close(c)
	if pin(generatorCPU()) != nil {
		return
	}
	for block := make([]byte, 1<<18); err == nil || err == unix.EINTR; {
		_, err = unix.SendmsgN(c, block, nil, nil, unix.MSG_NOSIGNAL)
	}
}

func roundTrip(c int, length time.Duration) (string, error) {
	var all []time.Duration
	command := []byte("NOOP\r\n")
	for end := time.Now().Add(length); time.Now().Before(end); {
		begin := time.Now()
		if _, err := unix.Write(c, command); err != nil {
			return "", err
		}
		if line, err := readLine(c); err != nil || !bytes.HasPrefix(line, []byte("200 ")) {
			return "", fmt.Errorf("reply %q: %w", line, err)
		}
		all = append(all, time.Since(begin))
	}
	slices.Sort(all)
	return fmt.Sprintf("%d %d", all[len(all)/2], len(all)), nil
}

// bulk gives the median rate of a sample's slices. Both ends are on one processor, and with them all that is done for a
// packet: with two, what each has left to do, and where the scheduler puts the ends, decide more than what is compared.
func bulk(c int, length time.Duration) (string, error) {
	if err := pin(generatorCPU()); err != nil {
		return "", err
	}
	if _, err := unix.Write(c, []byte("PASV\r\n")); err != nil {
		return "", err
	}
	if line, err := readLine(c); err != nil || !bytes.HasPrefix(line, []byte("227 ")) {
		return "", fmt.Errorf("reply %q: %w", line, err)
	}
	d, err := connect(30000)
	if err != nil {
		return "", err
	}
	defer unix.Close(d)
	block := make([]byte, 1<<20)
	const least = 200 << 20
	const slice = 20 * time.Millisecond // what disturbs the machine for a moment disturbs few of them
	var rates []float64
	got, last := 0, 0
	begin := time.Now()
	for at := begin; time.Since(begin) < length || got < least; {
		n, err := unix.Read(d, block)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return "", fmt.Errorf("data after %d bytes: %w", got, err)
		}
		got += n
		if now := time.Now(); now.Sub(at) >= slice {
			rates = append(rates, float64(got-last)/now.Sub(at).Seconds())
			at, last = now, got
		}
	}
	if len(rates) == 0 {
		return "", fmt.Errorf("%d bytes in less than %v", got, slice)
	}
	slices.Sort(rates)
	return fmt.Sprintf("%.0f %d", math.Round(rates[len(rates)/2]), got), nil
}
