package tftp_test

import (
	"os"
	"testing"

	"example.net/tftp/tftp"
	"github.com/cthelperd/cthelperd/pcaps"
)

// TestCaptures replays the project's TFTP captures, and those of a folder that the environment names.
func TestCaptures(t *testing.T) {
	pcaps.Truths(t, "../../../pcaps/made", tftp.Protocol())
	if dir := os.Getenv(pcaps.Variable); dir != "" {
		pcaps.Truths(t, dir, tftp.Protocol())
	}
}
