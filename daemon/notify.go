package daemon

import (
	"fmt"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// notify tells the service manager what the daemon does, if there is one (NOTIFY_SOCKET; sd_notify(3)). An error is of
// no consequence but that the manager does not know.
func notify(state string) error {
	_, err := systemd.SdNotify(false, state)
	return err
}

// reloading is the state with the time that Type=notify-reload wants.
func reloading() string {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return systemd.SdNotifyReloading
	}
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", systemd.SdNotifyReloading, now.Nano()/1000)
}
