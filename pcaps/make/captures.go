package main

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/gopacket/gopacket/layers"
)

// Addresses of RFC 5737 and RFC 3849.
const (
	alice  = "192.0.2.2"
	bob    = "192.0.2.3"
	ftp    = "198.51.100.9"
	alice6 = "2001:db8:1::2"
	ftp6   = "2001:db8:2::9"
)

// passive is a transfer that PASV sets up.
func passive(w *wire) {
	c := w.login(alice+":50000", ftp+":21")
	c.says(client, "PASV\r\n")
	c.says(server, "227 Entering Passive Mode ("+numbers(ftp+":40001")+")\r\n")
	c.says(client, "RETR pub/file\r\n")
	w.transfer(alice+":50001", ftp+":40001")
	c.says(server, "226 done\r\n")
	c.close()
}

// active is one that PORT sets up.
func active(w *wire) {
	c := w.login(alice+":50000", ftp+":21")
	c.says(client, "PORT "+numbers(alice+":50001")+"\r\n")
	c.says(server, "200 fine\r\n")
	c.says(client, "STOR upload\r\n")
	w.transfer(ftp+":20", alice+":50001")
	c.says(server, "226 done\r\n")
	c.close()
}

// extended is both ways of IPv6.
func extended(w *wire) {
	c := w.login("["+alice6+"]:50000", "["+ftp6+"]:21")
	c.says(client, "EPSV\r\n")
	c.says(server, "229 Entering Extended Passive Mode (|||40001|)\r\n")
	w.transfer("["+alice6+"]:50001", "["+ftp6+"]:40001")
	c.says(client, "EPRT |2|"+alice6+"|50002|\r\n")
	c.says(server, "200 fine\r\n")
	w.transfer("["+ftp6+"]:20", "["+alice6+"]:50002")
	c.close()
}

// captures are the files of pcaps/made. What each shows stands in the README there.
func captures() map[string]func(*wire) {
	all := map[string]func(*wire){
		"active":  active,
		"passive": passive,
		"vlan-passive": func(w *wire) {
			w.frames = func(ip []byte) [][]byte { return [][]byte{ethernet(ip, 0x88a8, 7, 0x8100, 9)} }
			passive(w)
		},
		"sll-active": func(w *wire) {
			w.link = layers.LinkTypeLinuxSLL
			w.frames = func(ip []byte) [][]byte {
				kind := etherType(ip)
				return [][]byte{append([]byte{0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, byte(kind >> 8), byte(kind)}, ip...)}
			}
			active(w)
		},
		"fragments": func(w *wire) {
			w.link = layers.LinkTypeRaw
			w.frames = func(ip []byte) [][]byte { return fragments4(ip, 40) }
			passive(w)
		},
		"ipv6-extension": func(w *wire) {
			w.link = layers.LinkTypeRaw
			w.frames = func(ip []byte) [][]byte { return extended6(ip, 40) }
			extended(w)
		},
		"late": func(w *wire) {
			c := w.connection(alice+":50000", ftp+":21")
			c.says(client, "PORT "+numbers(alice+":50001")+"\r\n")
			c.says(server, "200 fine\r\n")
			w.transfer(ftp+":20", alice+":50001")
			d := w.connection(bob+":50000", ftp+":21")
			d.says(server, "227 Entering Passive Mode ("+numbers(ftp+":40001")+")\r\n")
			w.transfer(bob+":50001", ftp+":40001")
		},
		"only-client": func(w *wire) {
			c := w.connection(alice+":50000", ftp+":21")
			c.mute[server] = true
			c.segment(client, "S", "")
			c.segment(server, "SA", "")
			c.segment(client, "A", "")
			c.says(server, "220 ready\r\n")
			c.says(client, "USER anonymous\r\n")
			c.says(server, "230 logged in\r\n")
			c.says(client, "PORT "+numbers(alice+":50001")+"\r\n")
			c.says(server, "200 fine\r\n")
			c.says(client, "STOR upload\r\n")
		},
		"only-server": func(w *wire) {
			c := w.connection(alice+":50000", ftp+":21")
			c.mute[client] = true
			c.segment(client, "S", "")
			c.segment(server, "SA", "")
			c.segment(client, "A", "")
			c.says(server, "220 ready\r\n")
			c.says(client, "USER anonymous\r\n")
			c.says(server, "230 logged in\r\n")
			c.says(client, "PASV\r\n")
			c.says(server, "227 Entering Passive Mode ("+numbers(ftp+":40001")+")\r\n")
			c.says(client, "RETR pub/file\r\n")
			c.says(server, "150 here it comes\r\n")
		},
		"disorder": func(w *wire) { // retransmitted, overlapping, overtaken, cut anywhere
			c := w.login(alice+":50000", ftp+":21")
			line := "PORT " + numbers(alice+":50001") + "\r\n"
			start := c.next[client]
			c.repeat(client, start+10, "A", line[10:])
			c.repeat(client, start, "A", line[:6])
			c.repeat(client, start, "A", line[:6])
			c.repeat(client, start+4, "A", line[4:12])
			c.next[client] += uint32(len(line))
			c.repeat(client, start, "A", line)
			c.says(server, "200 fine\r\n")
			w.transfer(ftp+":20", alice+":50001")
			c.close()
		},
		"reused-tuple": func(w *wire) { // two connections with the same ports, the first without an end
			for i := range 2 {
				c := w.login(alice+":50000", ftp+":21")
				c.says(client, "PORT "+numbers(fmt.Sprintf("%s:%d", alice, 50001+i))+"\r\n")
				c.says(server, "200 fine\r\n")
				w.transfer(ftp+":20", fmt.Sprintf("%s:%d", alice, 50001+i))
			}
		},
		"cancelled": func(w *wire) { // refused by the server, replaced by another announcement, and without an answer at the end
			c := w.login(alice+":50000", ftp+":21")
			c.says(client, "PORT "+numbers(alice+":50001")+"\r\n")
			c.says(server, "500 no\r\n")
			c.says(client, "PORT "+numbers(alice+":50002")+"\r\n")
			c.says(server, "200 fine\r\n")
			c.says(client, "PASV\r\n")
			c.says(server, "227 Entering Passive Mode ("+numbers(ftp+":40001")+")\r\n")
			c.close()
		},
		"expired": func(w *wire) { // the data connection comes after the 300 s of the announcement
			c := w.login(alice+":50000", ftp+":21")
			c.says(client, "PORT "+numbers(alice+":50001")+"\r\n")
			c.says(server, "200 fine\r\n")
			w.wait(301 * time.Second)
			w.transfer(ftp+":20", alice+":50001")
			c.close()
		},
		"slipstream": func(w *wire) { // a web page has the browser send a command to port 21
			c := w.open(alice+":50000", ftp+":21")
			c.says(server, "220 ready\r\n")
			body := "x=1\r\nPORT " + numbers(alice+":50001") + "\r\n"
			c.says(client, fmt.Sprintf("POST / HTTP/1.1\r\nHost: %s:21\r\nContent-Length: %d\r\n\r\n%s", ftp, len(body), body))
			c.says(server, "500 what\r\n")
			c.says(client, "PORT "+numbers(alice+":50001")+"\r\n")
			c.says(server, "200 fine\r\n")
			w.open(ftp+":20", alice+":50001")
			d := w.login(bob+":50000", ftp+":21")
			d.says(client, "PORT "+numbers(bob+":50001")+"\r\nGET / HTTP/1.1\r\n")
		},
		"foreign-address": func(w *wire) { // FTP bounce, and a server that names its inside address
			c := w.login(alice+":50000", ftp+":21")
			c.says(client, "PORT "+numbers(bob+":50001")+"\r\n")
			c.says(server, "200 fine\r\n")
			c.says(client, "PASV\r\n")
			c.says(server, "227 Entering Passive Mode ("+numbers("10.0.0.9:40001")+")\r\n")
			c.close()
		},
		"low-port": func(w *wire) {
			c := w.login(alice+":50000", ftp+":21")
			c.says(client, "PORT "+numbers(alice+":22")+"\r\n")
			c.says(server, "200 fine\r\n")
			c.says(client, "PASV\r\n")
			c.says(server, "227 Entering Passive Mode ("+numbers(ftp+":1023")+")\r\n")
			c.close()
		},
		"limit-flow": func(w *wire) { // twelve announcements before any answer
			c := w.login(alice+":50000", ftp+":21")
			var all strings.Builder
			for i := range 12 {
				all.WriteString("PORT " + numbers(fmt.Sprintf("%s:%d", alice, 50001+i)) + "\r\n")
			}
			c.says(client, all.String())
		},
		"limits": func(w *wire) { // many connections, an announcement each; see the .args beside
			for i := range 6 {
				c := w.login(fmt.Sprintf("%s:%d", alice, 50000+i), ftp+":21")
				c.says(client, "PORT "+numbers(fmt.Sprintf("%s:%d", alice, 60000+i))+"\r\n")
				c.says(server, "200 fine\r\n")
			}
		},
		"clash": func(w *wire) { // two clients announce the same ports at the same time
			var controls []*tcp
			for _, host := range []string{alice, bob} {
				controls = append(controls, w.login(host+":50000", ftp+":21"))
			}
			for i := range 3 {
				for _, c := range controls {
					c.says(client, "PORT "+numbers(fmt.Sprintf("%v:%d", c.ends[client].Addr(), 50001+i))+"\r\n")
				}
				for _, c := range controls {
					c.says(server, "200 fine\r\n")
					c.says(client, "LIST\r\n")
					w.transfer(ftp+":20", fmt.Sprintf("%v:%d", c.ends[client].Addr(), 50001+i))
					c.says(server, "226 done\r\n")
				}
			}
			for _, c := range controls {
				c.close()
			}
		},
		"tftp": func(w *wire) { // read, and written with an option; the server answers from ports of its own choice
			w.udp(alice+":50000", ftp+":69", "\x00\x01boot/pxelinux.0\x00octet\x00")
			w.udp(ftp+":40001", alice+":50000", "\x00\x03\x00\x01data")
			w.udp(alice+":50000", ftp+":40001", "\x00\x04\x00\x01")
			w.udp(alice+":50001", ftp+":69", "\x00\x02upload\x00octet\x00blksize\x001428\x00")
			w.udp(alice+":50001", ftp+":69", "\x00\x02upload\x00octet\x00blksize\x001428\x00")
			w.udp(ftp+":40002", alice+":50001", "\x00\x06blksize\x001428\x00")
			w.udp(alice+":50001", ftp+":40002", "\x00\x03\x00\x01data")
			w.udp(ftp+":40002", alice+":50001", "\x00\x04\x00\x01")
		},
		"port-taken": func(w *wire) { // more clients than ports that are tried; all behind one address under NAT
			for i := range 66 {
				host := fmt.Sprintf("192.0.2.%d", 10+i)
				c := w.login(host+":50000", ftp+":21")
				c.says(client, "PORT "+numbers(host+":50001")+"\r\n")
				w.wait(time.Second)
			}
		},
		"cut": func(w *wire) { // a snap length of 100 bytes
			w.snap = 100
			c := w.login(alice+":50000", ftp+":21")
			c.says(server, "230-"+strings.Repeat("a long text of welcome ", 10)+"\r\n230 end\r\n")
			c.says(client, "PORT "+numbers(alice+":50001")+"\r\n")
			c.says(server, "200 fine\r\n")
			w.transfer(ftp+":20", alice+":50001")
			c.close()
		},
	}
	maps.Copy(all, h323Captures())
	maps.Copy(all, sipCaptures())
	return all
}
