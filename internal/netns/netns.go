// Package netns runs a function in another network namespace: a new one, to try what the kernel offers and leave nothing
// behind, or another process's.
package netns

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Scratch runs f on a thread in a network namespace of its own, which is gone when it returns. It needs root.
func Scratch(f func() error) error {
	return elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, f)
}

// Inside runs f on a thread in the network namespace that ns is open at.
func Inside(ns *os.File, f func() error) error {
	return elsewhere(func() error { return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET) }, f)
}

func elsewhere(enter, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer home.Close()
		if err = enter(); err == nil {
			err = f()
		}
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil { // else the thread ends with this goroutine
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}
