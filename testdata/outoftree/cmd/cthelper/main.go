// Command cthelper replays captures with one protocol more.
package main

import (
	"os"

	"example.net/tftp/tftp"
	"github.com/cthelperd/cthelperd/cli"
	"github.com/cthelperd/cthelperd/helpers/ftp"
)

func main() { os.Exit(cli.Main(ftp.Protocol(), tftp.Protocol())) }
