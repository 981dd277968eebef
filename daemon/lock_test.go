package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLock(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "run")
	l, err := takeLock(folder)
	if err != nil {
		t.Fatal(err)
	}
	_, err = takeLock(folder)
	var running *RunningError
	if !errors.As(err, &running) || running.PID != os.Getpid() || running.File != l.path {
		t.Fatalf("second lock: %v, want a RunningError of process %d", err, os.Getpid())
	}
	if want := fmt.Sprintf("(process %d)", os.Getpid()); !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not name the process", err)
	}
	if err := l.release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of the lock is still there: %v", err)
	}
	if l, err = takeLock(folder); err != nil {
		t.Fatalf("lock again: %v", err)
	}
	defer l.release()
}

// A process that was killed leaves its file, with its number, but not the lock.
func TestLockLeftOver(t *testing.T) {
	folder := t.TempDir()
	inode, err := namespace()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, fmt.Sprintf("%d.lock", inode))
	if err := os.WriteFile(path, []byte("123456789\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := takeLock(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	if pid := holder(l.file); pid != os.Getpid() {
		t.Errorf("the lock names process %d, want %d", pid, os.Getpid())
	}
}

// A cleanup in another namespace tries each lock, and holds it for a moment.
func TestLockTried(t *testing.T) {
	folder := t.TempDir()
	inode, err := namespace()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, fmt.Sprintf("%d.lock", inode))
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := lockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { f.Close() })
	l, err := takeLock(folder)
	if err != nil {
		t.Fatal(err)
	}
	l.release()
}

func TestLockRefusesSymlink(t *testing.T) {
	folder := t.TempDir()
	inode, err := namespace()
	if err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(folder, "victim")
	if err := os.WriteFile(victim, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(folder, fmt.Sprintf("%d.lock", inode))); err != nil {
		t.Fatal(err)
	}
	if _, err := takeLock(folder); err == nil {
		t.Error("a symbolic link was taken for a lock")
	}
	if b, _ := os.ReadFile(victim); string(b) != "content" {
		t.Errorf("the file behind the link holds %q", b)
	}
}

func TestOtherLocks(t *testing.T) {
	folder := t.TempDir()
	own, err := takeLock(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer own.release()
	stale := filepath.Join(folder, "1.lock")
	if err := os.WriteFile(stale, []byte("99\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	held := filepath.Join(folder, "2.lock")
	if err := os.WriteFile(held, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := lockFile(held)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, h, err := otherLocks(folder, own)
	if err != nil || s != 1 || h != 1 {
		t.Errorf("%d stale, %d held, %v; want one each", s, h, err)
	}
	for path, want := range map[string]bool{stale: false, held: true, own.path: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}
