package format

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/flows"
)

// cause is a program that has caused an event: its netlink port, and its name if it was found. The last one is kept, as
// events of one program follow each other.
type cause struct {
	port uint32
	name string
}

// caused says which program caused an event, as conntrack(8).
func (p *Printer) caused(b []byte, e *flows.Event) []byte {
	if e.Port == 0 || len(b) == 0 {
		return b
	}
	if p.cause.port != e.Port {
		p.cause = cause{e.Port, program(e.Port)}
	}
	b = fmt.Appendf(b, " [USERSPACE] portid=%d", e.Port)
	if p.cause.name != "" {
		b = append(append(b, " progname="...), caret.Plain(p.cause.name)...)
	}
	return b
}

// program is the name of the process that has the socket with this netlink port, "" if it is gone. Often, but not always,
// the port is the process's id.
func program(port uint32) string {
	inode := inodeOf(port)
	if inode == "" {
		return ""
	}
	if self := fmt.Sprintf("/proc/%d", port); hasSocket(self, inode) {
		return comm(self)
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		if hasSocket(process, inode) {
			return comm(process)
		}
	}
	return ""
}

// inodeOf finds the socket of netfilter's with this port.
func inodeOf(port uint32) string {
	sockets, err := os.ReadFile("/proc/net/netlink")
	if err != nil {
		return ""
	}
	const family, portid, inode = 1, 2, 9 // columns; NETLINK_NETFILTER is 12
	want := fmt.Sprint(port)
	for line := range strings.Lines(string(sockets)) {
		if f := strings.Fields(line); len(f) > inode && f[family] == "12" && f[portid] == want {
			return f[inode]
		}
	}
	return ""
}

func hasSocket(process, inode string) bool {
	files, _ := os.ReadDir(process + "/fd")
	for _, f := range files {
		if to, err := os.Readlink(process + "/fd/" + f.Name()); err == nil && to == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}

func comm(process string) string {
	name, _ := os.ReadFile(process + "/comm")
	return string(bytes.TrimSuffix(name, []byte("\n")))
}
