// Package hook runs a program for each event, a few at a time.
package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/format"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/flows"
)

// Runner runs the program. Start is for one goroutine.
type Runner struct {
	o       Options
	words   []string
	slots   chan struct{}
	running sync.WaitGroup
	ended   context.Context // ends the programs
	kill    context.CancelFunc
	mu      sync.Mutex // of what follows, and of the outputs
	failed  uint64
	first   error
}

// Options say how the program is run.
type Options struct {
	Shell          bool          // it gets the text whole; else words are separated by spaces
	Jobs           int           // at once, at most
	Limit          time.Duration // who takes longer is killed, with all that he has started
	Labels         *names.Labels
	Stdout, Stderr io.Writer
}

// New prepares the program.
func New(text string, o Options) (*Runner, error) {
	words := strings.Fields(text)
	if o.Shell {
		words = []string{"/bin/sh", "-c", text}
	}
	if len(words) == 0 {
		return nil, &caret.Error{Text: text, Message: "want a program"}
	}
	path, err := exec.LookPath(words[0])
	if err != nil {
		return nil, &caret.Error{Text: text, Message: err.Error()}
	}
	words[0] = path
	r := &Runner{o: o, words: words, slots: make(chan struct{}, o.Jobs)}
	r.ended, r.kill = context.WithCancel(context.Background())
	return r, nil
}

// Start runs the program for e. It waits while as many run as may, but not longer than until.
func (r *Runner) Start(until context.Context, e *flows.Event) {
	input := format.JSONEvent(nil, e, r.o.Labels, time.Now())
	environment := append(os.Environ(), Environment(e, r.o.Labels, time.Now())...)
	select {
	case r.slots <- struct{}{}:
	case <-until.Done():
		return
	}
	r.running.Go(func() {
		defer func() { <-r.slots }()
		r.run(append(input, '\n'), environment)
	})
}

func (r *Runner) run(input []byte, environment []string) {
	until, cancel := context.WithTimeout(r.ended, r.o.Limit)
	defer cancel()
	var stdout, stderr beginning
	cmd := exec.CommandContext(until, r.words[0], r.words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = bytes.NewReader(input), &stdout, &stderr, environment
	// A group of its own: a key that ends cthelper lets it come to its end, and who is killed is killed with his children.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // of a child that keeps the output open
	err := cmd.Run()
	switch {
	case err == nil:
	case r.ended.Err() != nil:
		err = errors.New("killed, as somebody did not want to wait")
	case until.Err() != nil:
		err = fmt.Errorf("took longer than %v", r.o.Limit)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = r.o.Stdout.Write(stdout.text)
	_, _ = r.o.Stderr.Write(stderr.text)
	if err != nil {
		if r.failed++; r.first == nil {
			r.first = err
		}
	}
}

// mostOutput is how much of a program's output is passed on, so that one that writes without end fills no memory.
const mostOutput = 1 << 20

// beginning keeps what is written first.
type beginning struct{ text []byte }

func (b *beginning) Write(p []byte) (int, error) {
	b.text = append(b.text, p[:min(len(p), mostOutput-len(b.text))]...)
	return len(p), nil
}

// Kill ends the programs that run, and starts none any more.
func (r *Runner) Kill() {
	if r != nil {
		r.kill()
	}
}

// Wait waits for the programs that run. The error says how many failed, and why the first one did.
func (r *Runner) Wait() error {
	if r == nil {
		return nil
	}
	r.running.Wait()
	r.kill() // the context's timers
	if r.failed == 0 {
		return nil
	}
	return fmt.Errorf("%s failed %d times, at first: %w", r.words[0], r.failed, r.first)
}

// Environment has the fields of an event as variables.
func Environment(e *flows.Event, labels *names.Labels, now time.Time) []string {
	var all []string
	for name, value := range format.Values(e, labels, now) {
		all = append(all, "CT_"+strings.ToUpper(strings.ReplaceAll(name, ".", "_"))+"="+value)
	}
	return all
}
