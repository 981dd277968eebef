// Command cthelper replays captures through the protocol helpers. See package cli.
package main

import (
	"os"

	"github.com/cthelperd/cthelperd/cli"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/helpers/h323"
)

func main() { os.Exit(cli.Main(ftp.Protocol(), h323.Protocol())) }
