// Command cthelperd is the daemon with one protocol more.
package main

import (
	"os"

	"example.net/tftp/tftp"
	"github.com/cthelperd/cthelperd/daemon"
	"github.com/cthelperd/cthelperd/helpers/ftp"
)

func main() { os.Exit(daemon.Main(ftp.Protocol(), tftp.Protocol())) }
