package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// takePlace is how long it takes to place an expectation on a shadow that is there and to have the kernel's answer.
// Each one is removed again, outside of the measured time, because a shadow keeps few of them.
func takePlace(o *options, variant string) (map[string]float64, error) {
	protocol, err := ftp.Protocol().Helpers(nil)
	if err != nil {
		return nil, err
	}
	k, err := expect.OpenKernel(protocol)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	client, server := netip.MustParseAddrPort("10.1.0.2:40000"), netip.MustParseAddrPort("10.2.0.2:21")
	orig := helpers.Tuple{Src: client, Dst: server}
	q := expect.Request{
		ID: 1,
		Master: expect.Master{
			Session: 1, Helper: protocol[0].Name, Transport: helpers.TCP, Orig: orig, Reply: orig.Turned(),
		},
		Transport: helpers.TCP, Toward: helpers.Original, From: netip.AddrPortFrom(client.Addr(), 0),
	}
	at := func(port int) netip.AddrPort { return netip.AddrPortFrom(server.Addr(), uint16(port)) }
	q.At, q.To = at(20000), at(20000)
	// With the timeout of the carrier's own policy it is one message; see "with timeout".
	q.Timeout = protocol[0].Classes[0].Timeout
	if err := k.Place(q); err != nil { // makes the shadow
		return nil, err
	}
	conn, err := nfnl.Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var there []nfnl.Expectation
	err = conn.Expectations(unix.AF_INET, func(e *nfnl.Expectation) { there = append(there, *e) })
	if err != nil || len(there) != 1 {
		return nil, fmt.Errorf("%d expectations instead of one (%v)", len(there), err)
	}
	if err := k.Remove(q.ID); err != nil {
		return nil, err
	}
	policy, err := policyTimeout(conn, &there[0])
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	if err := pin(workerCPU()); err != nil {
		return nil, err
	}
	before, err := expectations()
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	var n int
	if variant == cExpect {
		n, values["ns"], err = placeC(o, conn, &there[0], policy)
	} else {
		q.Timeout = policy
		n, values["ns"], err = placeOwn(o, k, q, at)
	}
	if err != nil {
		return nil, err
	}
	after, err := expectations()
	if err != nil || after-before != uint64(n) {
		return nil, fmt.Errorf("%d placed, the kernel counted %d (%v)", n, after-before, err)
	}
	values["done"] = float64(n)
	if variant == own {
		q.Timeout = policy + time.Second // a second message sets it
		if _, values["ns with timeout"], err = placeOwn(o, k, q, at); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func placeOwn(
	o *options, k *expect.Kernel, q expect.Request, at func(int) netip.AddrPort,
) (n int, ns float64, err error) {
	var spent []time.Duration
	var begin time.Time
	k.Now = func() time.Time { return begin } // as the daemon, who has it from the packets
	for end := time.Now().Add(o.length); time.Now().Before(end); n++ {
		q.ID++
		q.At = at(20000 + n%40000)
		q.To = q.At
		begin = time.Now()
		err := k.Place(q)
		spent = append(spent, time.Since(begin))
		if err == nil {
			err = k.Remove(q.ID)
		}
		if err != nil {
			return n, 0, err
		}
	}
	slices.Sort(spent)
	return n, float64(spent[n/2].Nanoseconds()), nil
}

// policyTimeout is what the kernel gives an expectation that is like e.
func policyTimeout(conn *nfnl.Conn, e *nfnl.Expectation) (time.Duration, error) {
	if err := conn.CreateExpectation(e); err != nil {
		return 0, err
	}
	var got uint32
	err := conn.Expectations(unix.AF_INET, func(e *nfnl.Expectation) { got = e.Timeout })
	if err == nil {
		err = conn.DeleteExpectation(e.Tuple, e.Zone)
	}
	return (time.Duration(got) * time.Second).Round(10 * time.Second), err // part of a second has gone
}

// placeC lets bench/c/expect.c send the bytes that cthelperd sends for e.
func placeC(o *options, conn *nfnl.Conn, e *nfnl.Expectation, timeout time.Duration) (n int, ns float64, err error) {
	e.Timeout = uint32(timeout / time.Second)
	const mark = 0xbeef // as port: to find its place
	e.Tuple.DstPort = mark
	b := conn.Begin()
	b.CreateExpectation(e)
	create := message(b)
	b = conn.Begin()
	b.DeleteExpectation(&e.Tuple, e.Zone)
	remove := message(b)
	place := func(b []byte) string { return fmt.Sprint(bytes.Index(b, []byte{mark >> 8, mark & 0xff})) }
	cmd := exec.Command(filepath.Join(o.bin, "expect"), place(create), place(remove), fmt.Sprint(o.length.Seconds()))
	cmd.Stdin = strings.NewReader(hex.EncodeToString(create) + "\n" + hex.EncodeToString(remove) + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("expect: %w: %s", err, out)
	}
	_, err = fmt.Sscan(string(out), &n, &ns)
	return n, ns, err
}

// message is a batch of one, with its length.
func message(b *nfnl.Batch) []byte {
	m := bytes.Clone(b.Bytes())
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	return m
}
