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
	"strings"
	"time"

	"github.com/mdlayher/netlink"
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
	if err := conn.Expectations(unix.AF_INET, func(e *nfnl.Expectation) { there = append(there, *e) }); err != nil || len(there) != 1 {
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
		n, values["ns"], err = placeC(o, &there[0], policy)
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

func placeOwn(o *options, k *expect.Kernel, q expect.Request, at func(int) netip.AddrPort) (n int, ns float64, err error) {
	var spent time.Duration
	for end := time.Now().Add(o.length); time.Now().Before(end); n++ {
		q.ID++
		q.At = at(20000 + n%40000)
		q.To = q.At
		begin := time.Now()
		err := k.Place(q)
		spent += time.Since(begin)
		if err == nil {
			err = k.Remove(q.ID)
		}
		if err != nil {
			return n, 0, err
		}
	}
	return n, float64(spent.Nanoseconds()) / float64(n), nil
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
	return (time.Duration(got)*time.Second + 10*time.Second).Truncate(10 * time.Second), err
}

// placeC lets bench/c/expect.c send the bytes that cthelperd sends for e.
func placeC(o *options, e *nfnl.Expectation, timeout time.Duration) (n int, ns float64, err error) {
	e.Timeout = uint32(timeout / time.Second)
	const mark = 0xbeef // as port: to find its place
	e.Tuple.DstPort = mark
	create, err := createMessage(e)
	if err != nil {
		return 0, 0, err
	}
	remove, err := deleteMessage(e)
	if err != nil {
		return 0, 0, err
	}
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

const ctaExpectMaster, ctaExpectTuple, ctaExpectMask, ctaExpectTimeout, ctaExpectFlags, ctaExpectClass = 1, 2, 3, 4, 8, 9

// createMessage is what package nfnl sends.
func createMessage(e *nfnl.Expectation) ([]byte, error) {
	return message(0, netlink.Create|netlink.Excl, func(ae *netlink.AttributeEncoder) {
		e.Master.Put(ae, ctaExpectMaster)
		e.Tuple.Put(ae, ctaExpectTuple)
		e.Mask.Put(ae, ctaExpectMask)
		ae.Uint32(ctaExpectTimeout, e.Timeout)
		ae.Uint32(ctaExpectClass, e.Class)
		ae.Uint32(ctaExpectFlags, e.Flags)
	})
}

func deleteMessage(e *nfnl.Expectation) ([]byte, error) {
	return message(2, 0, func(ae *netlink.AttributeEncoder) { e.Tuple.Put(ae, ctaExpectTuple) })
}

func message(kind uint16, flags netlink.HeaderFlags, put func(*netlink.AttributeEncoder)) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	put(ae)
	attributes, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	data := append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, attributes...)
	m := netlink.Message{
		Header: netlink.Header{
			Length: uint32(16 + len(data)),
			Type:   netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK_EXP<<8 | kind),
			Flags:  netlink.Request | netlink.Acknowledge | flags,
		},
		Data: data,
	}
	return m.MarshalBinary()
}
