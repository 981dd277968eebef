package daemon_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/cthelperd/cthelperd/daemon"
	"github.com/cthelperd/cthelperd/helpers/ftp"
)

// asDaemon makes the test's binary the daemon's, in a process and a network namespace of its own. The value unread says
// that nobody reads its log: the goroutine that writes it may then stay.
const asDaemon = "CTHELPERD_TEST_MAIN"

// exitLeaked is the exit code of a daemon that leaves something behind in its process.
const exitLeaked = 99

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) == "" {
		if err := flag.Set("test.parallel", "6"); err != nil { // they wait more than they work
			panic(err)
		}
		os.Exit(m.Run())
	}
	before := openFiles()
	code := daemon.Main(ftp.Protocol(), phoneProtocol())
	if os.Getenv(asDaemon) == "unread" {
		os.Exit(code)
	}
	if err := goleak.Find(goleak.IgnoreTopFunction("os/signal.signal_recv"), goleak.IgnoreTopFunction("os/signal.loop")); err != nil {
		fmt.Fprintln(os.Stderr, "leaked goroutines:", err)
		os.Exit(exitLeaked)
	}
	for fd, what := range openFiles() {
		// The runtime's own poller and its wake-up stay open once used.
		if before[fd] == "" && !strings.HasPrefix(what, "anon_inode:[event") {
			fmt.Fprintf(os.Stderr, "leaked file descriptor %s: %s\n", fd, what)
			code = exitLeaked
		}
	}
	os.Exit(code)
}

// openFiles are the process's file descriptors and what they are.
func openFiles() map[string]string {
	open := map[string]string{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		if what, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			open[e.Name()] = what
		}
	}
	return open
}
