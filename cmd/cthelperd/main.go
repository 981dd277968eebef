// Command cthelperd lets protocols that announce further connections through a firewall. See package daemon.
package main

import (
	"os"

	"github.com/cthelperd/cthelperd/daemon"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/helpers/h323"
)

func main() { os.Exit(daemon.Main(ftp.Protocol(), h323.Protocol())) }
