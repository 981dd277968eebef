package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// flood makes packets of many control connections and lets the kernel forward them. What it writes to a TUN device goes
// through the whole way of a forwarded packet, conntrack and queue included, and ends in an ifb device, which counts and
// frees. So both ends of all connections are in this process, and cost little.
type flood struct {
	tun       int
	net       *os.File // /proc/net/dev
	base      uint64   // that the sink had counted when it was made
	sent      uint64
	passed    uint64 // when last asked
	buf       []byte
	flows     []flow
	order     []int // of the flows
	at        int
	announced uint32
	hidden    bool // the clients are behind a masquerade
}

// flow is a control connection. Its numbers are those of the next byte.
type flow struct {
	client     uint32 // address
	seen       uint32 // where the server answers to: another one under masquerade
	clientPort uint16
	seq        [2]uint32 // client's, server's
	stage      uint8     // of the exchange
}

const (
	inner = "gen"  // where packets come in, both ways
	sink  = "sink" // where they go

	serverAddress = 10<<24 | 2<<16 | 2 // 10.2.0.2
	routerAddress = 10<<24 | 2<<16 | 1 // 10.2.0.1
	firstClient   = 10<<24 | 64<<16    // 10.64.0.0 and on
	window        = 3500               // packets on their way, at most: less than any queue holds
)

const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
)

func newFlood() (*flood, error) {
	// Nothing but what is made here may be counted.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s/dev/net/tun: %w", unavailable, err)
	}
	req, err := unix.NewIfreq(inner)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, fmt.Errorf("make a TUN device: %w", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return nil, err
	}
	if err := ip(`link set lo up
link add ` + sink + ` txqueuelen 0 type ifb
link set ` + sink + ` up
link set ` + inner + ` up
addr add 10.2.0.1/24 dev ` + sink + `
route add 10.64.0.0/10 dev ` + sink + `
`); err != nil {
		return nil, err
	}
	for _, d := range []string{"all", "default", inner, sink} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+d+"/rp_filter", []byte("0"), 0); err != nil {
			return nil, err
		}
	}
	g := &flood{tun: fd, buf: make([]byte, 0, 256)}
	if g.net, err = os.Open("/proc/thread-self/net/dev"); err != nil {
		return nil, err
	}
	g.base, err = g.counted()
	return g, err
}

// counted is how many packets have come to the sink.
func (g *flood) counted() (uint64, error) {
	var b [4096]byte
	n, _ := g.net.ReadAt(b[:], 0)
	_, line, found := strings.Cut(string(b[:n]), sink+":")
	fields := strings.Fields(line)
	if !found || len(fields) < 2 {
		return 0, fmt.Errorf("/proc/net/dev does not count %s", sink)
	}
	return strconv.ParseUint(fields[1], 10, 64) // ifb: what it is given counts as received
}

// hide puts the clients of connections that are opened later behind a masquerade.
func (g *flood) hide() error {
	g.hidden = true
	return nft(`table ip hide {
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname "` + sink + `" ip daddr 10.2.0.2 masquerade
	}
}`)
}

// wait returns when at most n packets are on their way.
func (g *flood) wait(n uint64) error {
	progress := time.Now()
	for g.sent-g.passed > n {
		before := g.passed
		now, err := g.counted()
		if err != nil {
			return err
		}
		g.passed = now - g.base
		switch {
		case g.passed > g.sent:
			return fmt.Errorf("%d packets went out, %d in", g.passed, g.sent)
		case g.passed != before:
			progress = time.Now()
		case time.Since(progress) > 10*time.Second:
			return fmt.Errorf("%d of %d packets did not come out", g.sent-g.passed, g.sent)
		}
		if g.sent-g.passed > n {
			time.Sleep(20 * time.Microsecond)
		}
	}
	return nil
}

// send makes a packet of f: dir 0 is the client's. A full window is waited for, until half of it is free.
func (g *flood) send(f *flow, dir int, flags byte, payload string) error {
	b := append(g.buf[:40], payload...)
	clear(b[:40])
	b[0], b[8], b[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[6:], 0x4000)
	from, to := 12, 16
	fromPort, toPort := 20, 22
	if dir == 1 {
		from, to, fromPort, toPort = to, from, toPort, fromPort
	}
	client := f.client
	if dir == 1 {
		client = f.seen
	}
	binary.BigEndian.PutUint32(b[from:], client)
	binary.BigEndian.PutUint32(b[to:], serverAddress)
	binary.BigEndian.PutUint16(b[fromPort:], f.clientPort)
	binary.BigEndian.PutUint16(b[toPort:], 21)
	binary.BigEndian.PutUint16(b[10:], fold(sum(b[:20], 0)))
	binary.BigEndian.PutUint32(b[24:], f.seq[dir])
	if flags&ack != 0 {
		binary.BigEndian.PutUint32(b[28:], f.seq[1-dir])
	}
	b[32], b[33] = 5<<4, flags
	binary.BigEndian.PutUint16(b[34:], 0xfff0)
	binary.BigEndian.PutUint16(b[36:], fold(sum(b[12:], uint32(6+len(b)-20))))
	f.seq[dir] += uint32(len(payload))
	if flags&syn != 0 {
		f.seq[dir]++
	}
	if _, err := unix.Write(g.tun, b); err != nil {
		return fmt.Errorf("write to %s: %w", inner, err)
	}
	if g.sent++; g.sent-g.passed > window {
		return g.wait(window / 2)
	}
	return nil
}

func sum(b []byte, s uint32) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// open makes n control connections, up to the server's greeting. Nobody answers what he has not received: a connection
// whose first packet waits in a queue is in no table yet.
func (g *flood) open(n int) error {
	g.flows, g.order = make([]flow, n), rand.Perm(n)
	for i := range g.flows {
		g.flows[i] = flow{client: firstClient + 1 + uint32(i>>2), clientPort: uint16(40000 + i&3)}
		g.flows[i].seen = g.flows[i].client
		if g.hidden { // a port for each, so that none is changed
			g.flows[i].seen, g.flows[i].clientPort = routerAddress, uint16(10000+i)
		}
		g.flows[i].seq = [2]uint32{rand.Uint32(), rand.Uint32()}
	}
	for some := range slices.Chunk(g.flows, window) {
		for _, p := range []struct {
			dir     int
			flags   byte
			payload string
		}{{0, syn, ""}, {1, syn | ack, ""}, {0, ack, ""}, {1, psh | ack, "220 ready\r\n"}, {0, ack, ""}} {
			for i := range some {
				if err := g.send(&some[i], p.dir, p.flags, p.payload); err != nil {
					return fmt.Errorf("open connections: %w", err)
				}
			}
			if err := g.wait(0); err != nil {
				return fmt.Errorf("open connections: %w", err)
			}
		}
	}
	return nil
}

// next is a connection, in an order without pattern. With as many connections as fit the window none has two packets on
// its way: conntrackd's helper is told of the connection's state when a packet is queued.
func (g *flood) next() *flow {
	if g.at == len(g.order) {
		g.at = 0
	}
	g.at++
	return &g.flows[g.order[g.at-1]]
}

// command sends the next packet of an exchange without announcement: NOOP, its reply, the acknowledgement.
func (g *flood) command(f *flow) error {
	f.stage++
	switch f.stage {
	case 1:
		return g.send(f, 0, psh|ack, "NOOP\r\n")
	case 2:
		return g.send(f, 1, psh|ack, "200 NOOP ok.\r\n")
	}
	f.stage = 0
	return g.send(f, 0, ack, "")
}

// announce sends PASV on all connections, then the replies, with another port each time.
func (g *flood) announce() error {
	for i := range g.flows {
		if err := g.send(&g.flows[i], 0, psh|ack, "PASV\r\n"); err != nil {
			return err
		}
	}
	if err := g.wait(0); err != nil {
		return err
	}
	for i := range g.flows {
		port := 20000 + g.announced%40000
		g.announced++
		reply := fmt.Sprintf("227 Entering Passive Mode (10,2,0,2,%d,%d).\r\n", port>>8, port&255)
		if err := g.send(&g.flows[i], 1, psh|ack, reply); err != nil {
			return err
		}
	}
	return g.wait(0)
}
