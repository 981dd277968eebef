package expect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/netns"
	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// errOtherProcesses says that not all network namespaces can be found.
var errOtherProcesses = errors.New("not all processes of the machine can be seen from here")

// initialPIDs is the inode number of the first PID namespace (PROC_PID_INIT_INO).
const initialPIDs = 0xEFFFFFFC

// labelsInUse are the labels that connections carry, in any network namespace of the machine: those of processes, of
// their descriptors, and those that are mounted somewhere here. It needs root, and to see all processes.
func labelsInUse() (map[string]bool, error) {
	var pids unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &pids); err != nil {
		return nil, err
	}
	if pids.Ino != initialPIDs {
		return nil, errOtherProcesses
	}
	all, err := namespaces()
	defer func() {
		for _, ns := range all {
			ns.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, ns := range all {
		err := netns.Inside(ns, func() (err error) {
			conn, err := nfnl.Dial()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, conn.Close()) }()
			return conn.Connections(unix.AF_UNSPEC, func(c *nfnl.Connection) {
				if isLabel(c.Helper) {
					used[c.Helper] = true
				}
			})
		})
		if err != nil {
			return nil, fmt.Errorf("network namespace %s: %w", ns.Name(), err)
		}
	}
	return used, nil
}

// namespaces opens each network namespace once: what is open stays, whatever becomes of the process or descriptor that it
// was found at. The caller closes them, after an error too.
func namespaces() (map[uint64]*os.File, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	open, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil, err
	}
	for _, path := range open {
		if to, err := os.Readlink(path); err == nil && strings.HasPrefix(to, "net:[") {
			paths = append(paths, path)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) { // proc_pid_mountinfo(5): the fourth field is the root in the file system
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[3], "net:[") {
			paths = append(paths, f[4])
		}
	}
	all := map[uint64]*os.File{}
	for _, path := range paths {
		var s unix.Stat_t
		if unix.Stat(path, &s) != nil || all[s.Ino] != nil {
			continue
		}
		ns, ino, err := openNamespace(path)
		if err != nil {
			return all, err
		}
		if ns != nil && all[ino] == nil {
			all[ino] = ns
		} else if ns != nil {
			ns.Close()
		}
	}
	return all, nil
}

// openNamespace opens what is a namespace still. nil: the process has ended, or its descriptor is something else by now.
func openNamespace(path string) (ns *os.File, ino uint64, err error) {
	const nsfs = 0x6e736673                                     // NSFS_MAGIC of linux/magic.h
	ns, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may be a FIFO
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ESRCH) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	var system unix.Statfs_t
	var s unix.Stat_t
	fd := int(ns.Fd())
	if err = errors.Join(unix.Fstatfs(fd, &system), unix.Fstat(fd, &s)); err != nil || system.Type != nsfs {
		return nil, 0, errors.Join(err, ns.Close())
	}
	return ns, s.Ino, nil
}
