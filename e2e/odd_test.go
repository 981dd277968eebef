package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// refuses checks that without the daemon a transfer fails, and that it is the rules that refuse it.
func (s *site) refuses(t *testing.T, f family, m mode) {
	t.Helper()
	before := s.counter("rejected")
	if err := s.transfer(clientFor(m), f, m, 21); err == nil || s.counter("rejected") == before {
		t.Errorf("without the daemon: %v, %d packets refused, want a failure that is the rules'", err, s.counter("rejected")-before)
	}
}

// ended stops the daemon and checks that it could read all packets.
func (d *process) ended() {
	d.t.Helper()
	d.stop()
	if out := d.out.String(); !strings.Contains(out, " undecodable=0 ") {
		d.t.Errorf("packets came that could not be read: %s", out[strings.LastIndex(out, "msg=counters"):])
	}
}

// TestSegmentationOffload: many commands and replies in one write, so that they come to the firewall as packets that are
// longer than the wire allows. An announcement among them changes its length, in either direction.
func TestSegmentationOffload(t *testing.T) {
	t.Parallel()
	s := newSite(t, bothWays)
	s.firewall.Run("nft", `table inet segments {
	counter commands { }
	counter replies { }
	chain prerouting {
		type filter hook prerouting priority mangle;
		tcp dport 21 meta length > 1500 counter name commands
		tcp sport 21 meta length > 1500 counter name replies
	}
}`)
	const (
		lines = 300 // before and behind the announcement
		port  = 40001
	)
	filler := strings.Repeat("NOOP "+strings.Repeat("x", 70)+"\r\n", lines)
	long := func(code string) string {
		return code + "-\r\n" + strings.Repeat(" "+strings.Repeat("y", 70)+"\r\n", lines) + code + " end\r\n"
	}
	before, behind := long("211"), long("200") // to STAT, and to NOOP
	announce := portCommand(netip.AddrPortFrom(ipv4.client(), port))
	commands := filler + announce + filler

	pasv := func(a netip.AddrPort) string { return fmt.Sprintf("227 Entering Passive Mode (%s)\r\n", hostPort(a)) }

	var control net.Listener
	var err error
	s.server.Do(func() { control, err = net.Listen("tcp", netip.AddrPortFrom(ipv4.server(), 21).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	open := func() (*dialogue, net.Conn) {
		t.Helper()
		c := s.dial(t, netip.AddrPortFrom(ipv4.client(), 0), netip.AddrPortFrom(ipv4.inside(), 21))
		far, err := control.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { far.Close() })
		far.SetDeadline(time.Now().Add(4 * patience))
		io.WriteString(far, "220 ready\r\n")
		c.expect(220)
		return c, far
	}
	// exchange gives what the server got of the commands, and the client of the replies with an announcement of data.
	exchange := func(data netip.AddrPort) (atServer, atClient string) {
		t.Helper()
		c, far := open()
		got := make(chan string)
		go func() { got <- receive(far, 2*lines+1) }()
		c.write(commands)
		atServer = <-got
		c, far = open()
		c.write("STAT\r\nPASV\r\nNOOP\r\n")
		receive(far, 3)
		go io.WriteString(far, before+pasv(data)+behind)
		return atServer, receive(c.conn, strings.Count(before+pasv(data)+behind, "\n"))
	}

	var data net.Listener
	s.server.Do(func() { data, err = net.Listen("tcp", netip.AddrPortFrom(ipv4.server(), 0).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	passive := endPoint(data)
	at := netip.AddrPortFrom(ipv4.outside(), port)
	seen := netip.AddrPortFrom(ipv4.inside(), passive.Port())

	atServer, atClient := exchange(passive)
	if atServer != commands || atClient != before+pasv(passive)+behind {
		t.Error("without the daemon something else came than was sent")
	}
	l := (&dialogue{t: t, ns: s.client, self: ipv4.client()}).listen(port)
	if reaches(s.server, at) || reaches(s.client, seen) {
		t.Fatal("without the daemon the announced ports are open")
	}

	d := s.daemon()
	atServer, atClient = exchange(passive)
	if want := filler + portCommand(at) + filler; atServer != want {
		t.Errorf("the server got %d bytes of commands, want %d, or other ones; %.80q", len(atServer), len(want), after(atServer, "PORT"))
	}
	if want := before + pasv(seen) + behind; atClient != want {
		t.Errorf("the client got %d bytes of replies, want %d, or other ones; %.80q", len(atClient), len(want), after(atClient, "227"))
	}
	if !reaches(s.server, at) || !reaches(s.client, seen) {
		t.Error("the announced ports are not open")
	}
	l.Close()
	for _, name := range []string{"commands", "replies"} {
		if s.counterIn("segments", name) == 0 {
			t.Errorf("no packet of %s was longer than 1500 bytes: nothing was tested", name)
		}
	}
	d.ended()
}

// receive reads so many lines.
func receive(c net.Conn, lines int) string {
	var all bytes.Buffer
	buf := make([]byte, 1<<16)
	for bytes.Count(all.Bytes(), []byte("\n")) < lines {
		n, err := c.Read(buf)
		all.Write(buf[:n])
		if err != nil {
			break
		}
	}
	return all.String()
}

// after is the end of s from text on.
func after(s, text string) string {
	if at := strings.Index(s, text); at >= 0 {
		return s[at:]
	}
	return ""
}

// hostPort is an end point as PORT and PASV write it.
func hostPort(a netip.AddrPort) string {
	return fmt.Sprintf("%s,%d,%d", strings.ReplaceAll(a.Addr().String(), ".", ","), a.Port()>>8, a.Port()&255)
}

// Headers of IPv4 (RFC 791) and IPv6 (RFC 8200).
const (
	ipv4Header, ipv6Header                = 20, 40
	hopByHop, routing, fragment, destOpts = 0, 43, 44, 60
	tcp                                   = 6
)

// controlPacket says whether a packet without options is of an FTP control connection, and has a payload.
func controlPacket(p []byte) bool {
	head := ipv4Header
	if p[0]>>4 == 6 {
		head = ipv6Header
		if p[6] != tcp {
			return false
		}
	} else if p[0]&15 != 5 || p[9] != tcp {
		return false
	}
	l4 := p[head:]
	if binary.BigEndian.Uint16(l4) != 21 && binary.BigEndian.Uint16(l4[2:]) != 21 {
		return false
	}
	return len(l4) > int(l4[12]>>4)*4
}

// ipv4Checksum writes the header's checksum.
func ipv4Checksum(p []byte) {
	header := p[:int(p[0]&15)*4]
	binary.BigEndian.PutUint16(header[10:], 0)
	sum := 0
	for i := 0; i < len(header); i += 2 {
		sum += int(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
}

// cut makes fragments of a packet, each with so many bytes of it (a multiple of 8).
func cut(p []byte, size int, id uint32) [][]byte {
	var all [][]byte
	head := ipv4Header
	if p[0]>>4 == 6 {
		head = ipv6Header
	}
	for at := head; at < len(p); at += size {
		part := p[at:min(at+size, len(p))]
		more := at+size < len(p)
		offset := uint16(at - head)
		f := slices.Clone(p[:head])
		if head == ipv6Header {
			if more {
				offset |= 1
			}
			f = append(f, p[6], 0)
			f = binary.BigEndian.AppendUint16(f, offset)
			f = binary.BigEndian.AppendUint32(f, id)
			f[6] = fragment
			f = append(f, part...)
			binary.BigEndian.PutUint16(f[4:], uint16(len(f)-ipv6Header))
		} else {
			f = append(f, part...)
			offset /= 8
			if more {
				offset |= 0x2000
			}
			binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
			binary.BigEndian.PutUint16(f[4:], uint16(id))
			binary.BigEndian.PutUint16(f[6:], offset)
			ipv4Checksum(f)
		}
		all = append(all, f)
	}
	return all
}

// TestFragments: control packets come in fragments, in order or not, from either side. The engine sees them whole.
func TestFragments(t *testing.T) {
	t.Parallel()
	const whole = 1 << 15
	for _, row := range []struct {
		name    string
		size    int
		reverse bool
	}{
		{"in order", 40, false},
		{"in reverse order", 24, true},                        // a first fragment without the whole TCP header is dropped (RFC 7112)
		{"a fragment that is the whole packet", whole, false}, // of IPv6 only (RFC 6946); of IPv4 it is no fragment
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var id atomic.Uint32
			var done [2]atomic.Int32
			fragmenter := func(side int) func([]byte) [][]byte {
				return func(p []byte) [][]byte {
					if !controlPacket(p) {
						return [][]byte{p}
					}
					all := cut(p, row.size, id.Add(1))
					if len(all) > 1 || row.size == whole {
						done[side].Add(1)
					}
					if row.reverse {
						slices.Reverse(all)
					}
					return all
				}
			}
			inside, outside := &wire{}, &wire{}
			inside.change[0], outside.change[1] = fragmenter(0), fragmenter(1)
			s := newSiteOver(t, bothWays, "tcp dport 21", inside, outside)
			s.serve(serverKinds[0], 21, true)
			s.refuses(t, ipv4, modePASV)
			s.refuses(t, ipv6, modeEPRT)
			d := s.daemon()
			for _, f := range families {
				for _, m := range modes {
					if speaks(f, m) {
						t.Run(fmt.Sprintf("%s/%s", f, m), func(t *testing.T) { s.works(t, d, clientKinds[0], f, m, 21) })
					}
				}
			}
			for side := range done {
				if done[side].Load() == 0 {
					t.Errorf("side %d: no packet was cut", side)
				}
			}
			d.ended()
		})
	}
}

// insert puts extension headers (IPv6) or options (IPv4) into a packet without any. The first byte of headers is what the
// IPv6 header says comes next.
func insert(p []byte, headers []byte) []byte {
	if p[0]>>4 == 4 {
		n := slices.Concat(p[:ipv4Header], headers, p[ipv4Header:])
		n[0] += byte(len(headers) / 4)
		binary.BigEndian.PutUint16(n[2:], uint16(len(n)))
		ipv4Checksum(n)
		return n
	}
	n := slices.Concat(p[:ipv6Header], headers[1:], p[ipv6Header:])
	n[6] = headers[0]
	binary.BigEndian.PutUint16(n[4:], uint16(len(n)-ipv6Header))
	return n
}

// TestExtensionHeaders: control packets carry IPv4 options or IPv6 extension headers. Announcements in them are found, and
// rewritten under NAT; the headers stay as they are.
func TestExtensionHeaders(t *testing.T) {
	t.Parallel()
	pad := []byte{1, 4, 0, 0, 0, 0} // PadN, fills a header of 8 bytes
	header := func(next byte, body []byte) []byte { return append([]byte{next, 0}, body...) }
	for _, row := range []struct {
		name    string
		family  family
		headers []byte
		server  bool // the server's packets have it, too
	}{
		{"IPv4 options", ipv4, []byte{1, 1, 136, 4, 0x12, 0x34, 1, 0}, true}, // NOP, stream identifier, end
		{"hop by hop", ipv6, append([]byte{hopByHop}, header(tcp, pad)...), true},
		{"destination options", ipv6, append([]byte{destOpts}, header(tcp, pad)...), true},
		// Type 0 with no segment left is to be passed over (RFC 5095 section 3).
		{"routing", ipv6, append([]byte{routing}, header(tcp, make([]byte, 6))...), true},
		{"several", ipv6, slices.Concat([]byte{hopByHop}, header(destOpts, pad), header(routing, pad), header(destOpts, make([]byte, 6)),
			header(tcp, pad)), true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			want := row.headers
			at := ipv4Header
			if row.family == ipv6 {
				want, at = row.headers[1:], ipv6Header
			}
			var done, kept, lost [2]atomic.Int32
			adder := func(side int) func([]byte) [][]byte {
				return func(p []byte) [][]byte {
					if !controlPacket(p) || (p[0]>>4 == 6) != (row.family == ipv6) {
						return [][]byte{p}
					}
					done[side].Add(1)
					return [][]byte{insert(p, row.headers)}
				}
			}
			// What leaves the firewall has the same headers; the client's leaves to the server, and the other way round.
			watcher := func(side int) func([]byte) [][]byte {
				return func(p []byte) [][]byte {
					if n := at + len(want); len(p) > n && bytes.Equal(p[at:n], want) {
						kept[side].Add(1)
					} else if controlPacket(p) && (p[0]>>4 == 6) == (row.family == ipv6) {
						lost[side].Add(1)
					}
					return [][]byte{p}
				}
			}
			inside, outside := &wire{}, &wire{}
			inside.change = [2]func([]byte) [][]byte{adder(0), watcher(1)}
			outside.change = [2]func([]byte) [][]byte{watcher(0), adder(1)}
			s := newSiteOver(t, bothWays, "tcp dport 21", inside, outside)
			s.serve(serverKinds[0], 21, true)
			s.refuses(t, row.family, modeEPSV)
			d := s.daemon()
			for _, m := range modes {
				if speaks(row.family, m) {
					t.Run(string(m), func(t *testing.T) { s.works(t, d, clientKinds[0], row.family, m, 21) })
				}
			}
			d.says("msg=edit", 1)
			for side := range done {
				if done[side].Load() == 0 || kept[side].Load() < done[side].Load() || lost[side].Load() != 0 {
					t.Errorf("side %d: %d packets got headers, %d left with them, %d without",
						side, done[side].Load(), kept[side].Load(), lost[side].Load())
				}
			}
			d.ended()
		})
	}
}
