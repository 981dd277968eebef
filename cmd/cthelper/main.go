// Command cthelper replays captures through the protocol helpers. See package cli.
package main

import (
	"os"

	"github.com/cthelperd/cthelperd/cli"
	"github.com/cthelperd/cthelperd/helpers/ftp"
	"github.com/cthelperd/cthelperd/helpers/h323"
	"github.com/cthelperd/cthelperd/helpers/sip"
)

func main() { os.Exit(cli.Main(ftp.Protocol(), sip.Protocol(), h323.Protocol())) }
