package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// sample is a line of output. Values are by unit.
type sample struct {
	Kernel  string
	Measure string
	Variant string
	Round   int
	Values  map[string]float64 `json:",omitempty"`
	Missing string             `json:",omitempty"` // why it could not be measured
}

// measure is one question and who answers it.
type measure struct {
	name     string
	variants []string
	take     func(o *options, variant string) (map[string]float64, error)
}

func measures() []measure {
	return []measure{
		{"accept", []string{own, reference, conntrackd, cSingle, cBatch}, takeAccept},
		{"steady", []string{own, reference, conntrackd, cSingle, cBatch}, takeSteady},
		{"announce", []string{own, reference, conntrackd, inKernel}, takeAnnounce},
		{"masquerade", []string{own, conntrackd}, takeHidden},
		{"roundtrip", []string{none, own, reference, conntrackd, inKernel}, takeRoundTrip},
		{"place", []string{own, cExpect}, takePlace},
		{"bulk", []string{none, own}, takeBulk},
		{"flows", []string{own + " 1000", own + " 200000", cBatch + " 1000", cBatch + " 200000"}, takeFlows},
		{"tables", []string{"all"}, takeTables},
	}
}

// measureAll takes the samples, each in a process and a network namespace of its own.
func measureAll(o *options) (err error) {
	stop := interrupted()
	restore, err := raiseLimits()
	defer restore()
	if err != nil {
		return err
	}
	defer unloadPeer()
	folder, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	runtime.LockOSThread() // a sample dies with the thread that started it
	out := json.NewEncoder(os.Stdout)
	missing, failed := map[string]bool{}, 0
	for _, m := range measures() {
		if !among(o.only, m.name) {
			continue
		}
		first := 0
		if o.warm && m.name != "flows" { // which takes long, and is warm from the others
			first = -1
		}
		for round := first; round < o.rounds; round++ {
			order := slices.Clone(m.variants)
			if round&1 == 1 { // whoever is first is not always first
				slices.Reverse(order)
			}
			for _, v := range order {
				select {
				case sig := <-stop:
					return fmt.Errorf("%v", sig)
				default:
				}
				if name, _, _ := strings.Cut(v, " "); !among(o.variant, name) || missing[m.name+v] {
					continue
				}
				s := sample{Kernel: release(), Measure: m.name, Variant: v, Round: round}
				if s.Values, err = runSample(o, folder, m.name, v); err != nil {
					s.Missing = err.Error()
					if missing[m.name+v] = strings.HasPrefix(s.Missing, unavailable); !missing[m.name+v] {
						failed++
					}
				}
				if round < 0 && s.Missing == "" {
					continue
				}
				for _, one := range split(s) {
					if err := out.Encode(one); err != nil {
						return err
					}
				}
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d samples failed", failed)
	}
	return nil
}

// unavailable begins the text of what this kernel or machine does not have: it is not tried again.
const unavailable = "not here: "

func release() string {
	var u unix.Utsname
	unix.Uname(&u)
	return unix.ByteSliceToString(u.Release[:])
}

// runSample has a process group of its own: a terminal's signal is for measureAll, which ends after the sample.
func runSample(o *options, folder, measure, variant string) (map[string]float64, error) {
	cmd := exec.Command("/proc/self/exe", "-bin", o.bin, "-length", o.length.String(), "-entries", strconv.Itoa(o.entries),
		"sample", measure, variant)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM, Setpgid: true}
	cmd.Env = append(os.Environ(), "TMPDIR="+folder)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s", strings.TrimPrefix(strings.TrimSpace(stderr.String()), "bench: "))
	}
	var values map[string]float64
	return values, json.Unmarshal(out, &values)
}

// takeSample is the process of a sample.
func takeSample(o *options, name, variant string) error {
	for _, m := range measures() {
		if m.name == name {
			values, err := m.take(o, variant)
			if err != nil {
				return err
			}
			return json.NewEncoder(os.Stdout).Encode(values)
		}
	}
	return fmt.Errorf("no measure %q", name)
}

// raiseLimits makes room for the flows and expectations of the measures: these numbers are the machine's.
func raiseLimits() (restore func(), err error) {
	var undo []func()
	restore = func() {
		for _, f := range undo {
			f()
		}
	}
	for _, l := range []struct {
		path  string
		least int
	}{
		{"/proc/sys/net/netfilter/nf_conntrack_max", 1 << 20},
		{"/proc/sys/net/netfilter/nf_conntrack_buckets", 262144},
		{"/proc/sys/net/netfilter/nf_conntrack_expect_max", 16384},
		{"/proc/sys/net/core/rmem_default", 8 << 20}, // conntrackd's queue has the default buffer
	} {
		old, err := os.ReadFile(l.path)
		if err != nil {
			if exec.Command("modprobe", "nf_conntrack").Run(); err != nil {
				old, err = os.ReadFile(l.path)
			}
			if err != nil {
				return restore, err
			}
		}
		if n, _ := strconv.Atoi(strings.TrimSpace(string(old))); n >= l.least {
			continue
		}
		if err := os.WriteFile(l.path, []byte(strconv.Itoa(l.least)), 0); err != nil {
			return restore, err
		}
		undo = append(undo, func() { os.WriteFile(l.path, old, 0) })
	}
	return restore, nil
}
