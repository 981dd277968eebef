package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockFolder has one file a network namespace. It is shared by all that share a /run, so that daemons of other
// namespaces can be seen: the kernel's list of helper objects is one for the whole machine.
const lockFolder = "/run/cthelperd"

// lock is the right to be the only daemon of a network namespace. The kernel gives it back when the process dies.
type lock struct {
	path string
	file *os.File
}

// RunningError says that another daemon has this network namespace.
type RunningError struct {
	PID  int // 0: it has not written it
	File string
}

func (e *RunningError) Error() string {
	who := "another cthelperd"
	if e.PID != 0 {
		who += fmt.Sprintf(" (process %d)", e.PID)
	}
	return fmt.Sprintf("%s runs in this network namespace (lock %s): one is enough for all protocols; stop it first, or reload it by SIGHUP",
		who, e.File)
}

// namespace is the inode number of the calling thread's network namespace.
func namespace() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("find the network namespace: %w", err)
	}
	return st.Ino, nil
}

// takeLock takes the lock of this network namespace.
func takeLock(folder string) (*lock, error) {
	inode, err := namespace()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of locks: %w", err)
	}
	path := filepath.Join(folder, strconv.FormatUint(inode, 10)+".lock")
	for unnamed := 0; ; {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open the lock: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			pid := holder(f)
			f.Close()
			if !errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("lock %s: %w", path, err)
			}
			// Without a name it is no daemon's, but one that otherLocks of another namespace tries and lets go.
			if unnamed++; pid != 0 || unnamed == 3 {
				return nil, &RunningError{pid, path}
			}
			continue
		}
		// Its last owner may have removed the file between our open and our lock.
		mine, err1 := f.Stat()
		there, err2 := os.Lstat(path)
		if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
			f.Close()
			continue
		}
		if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
			f.Close()
			return nil, fmt.Errorf("write the lock: %w", err)
		}
		return &lock{path, f}, nil
	}
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// holder is the process that a lock names. It writes its number just after it has the lock.
func holder(f *os.File) int {
	for range 20 {
		b := make([]byte, 32)
		n, _ := f.ReadAt(b, 0)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n]))); err == nil {
			return pid
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0
}

// release gives the lock back and removes its file.
func (l *lock) release() error {
	return errors.Join(os.Remove(l.path), l.file.Close())
}

// otherLocks removes the lock files that nobody holds, and counts those of other daemons of this machine.
func otherLocks(folder string, own *lock) (stale, held int, err error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.lock"))
	if err != nil {
		return 0, 0, err
	}
	for _, path := range files {
		if path == own.path {
			continue
		}
		f, e := lockFile(path)
		switch {
		case errors.Is(e, unix.EWOULDBLOCK):
			held++
			continue
		case errors.Is(e, os.ErrNotExist):
			continue
		case e == nil:
			e = errors.Join(os.Remove(path), f.Close())
			stale++
		}
		err = errors.Join(err, e)
	}
	return stale, held, err
}

// lockFile opens a lock that is there and takes it, or fails with EWOULDBLOCK.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
