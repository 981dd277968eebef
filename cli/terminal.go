package cli

import (
	"os"

	"golang.org/x/sys/unix"
)

// width is that of the terminal which output goes to; 0 if it goes elsewhere.
func (c *context) width() int {
	f, ok := c.stdout.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// interactive says whether somebody looks at the output.
func (c *context) interactive() bool { return isTerminal(c.stdout) && isTerminal(c.stderr) }

// asking says whether somebody can be asked.
func (c *context) asking() bool { return isTerminal(c.stdin) }

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
