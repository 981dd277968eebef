package expect

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpenNamespace takes namespaces only: between the search and the opening a descriptor may have become something else.
func TestOpenNamespace(t *testing.T) {
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	var want unix.Stat_t
	if err := unix.Fstat(int(own.Fd()), &want); err != nil {
		t.Fatal(err)
	}
	ns, ino, err := openNamespace("/proc/self/fd/" + strconv.Itoa(int(own.Fd())))
	if err != nil || ns == nil || ino != want.Ino {
		t.Fatalf("a namespace: %v, inode %d, error %v; want inode %d", ns, ino, err, want.Ino)
	}
	ns.Close()

	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, path := range map[string]string{
		"a socket": "/proc/self/fd/" + strconv.Itoa(socket), "a FIFO": fifo, "nothing": fifo + "-not", "a file": "/proc/self/stat",
	} {
		if ns, _, err := openNamespace(path); ns != nil || err != nil {
			t.Errorf("%s: %v, error %v", what, ns, err)
		}
	}
}
