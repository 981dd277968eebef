// Command cthelperd lets protocols that announce further connections through a firewall. See package daemon.
package main

import (
	"os"

	"github.com/cthelperd/cthelperd/daemon"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/helpers/h323"
	"github.com/cthelperd/cthelperd/helpers/sip"
)

func main() { os.Exit(daemon.Main(ftp.Protocol(), sip.Protocol(), h323.Protocol())) }
