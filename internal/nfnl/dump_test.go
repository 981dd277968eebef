package nfnl

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// answering is a Conn that gets datagrams, in the place of the kernel's, when it asks.
func answering(t *testing.T, datagrams [][]byte) *Conn {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err == nil {
		err = unix.SetNonblock(pair[0], true)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := &Conn{s: &socket{fd: pair[0], buffers: make([]byte, slots*slotLen)}}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, err := unix.Read(pair[1], make([]byte, 64))
		for _, b := range datagrams {
			if err == nil { // else nobody takes them any more
				err = unix.Send(pair[1], b, unix.MSG_NOSIGNAL)
			}
		}
	}()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		<-answered
		unix.Close(pair[1])
	})
	return c
}

// numbered is a message of a listing, the first that c asks for, with a number.
func numbered(typ uint16, n uint32) []byte {
	b := binary.NativeEndian.AppendUint32(appendHeader(nil, typ, 0, 0), n)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint32(b[8:], 1)
	return b
}

// TestListing: all entries in their order, whatever came ahead; the end, errors and a loop that is left end the goroutine.
func TestListing(t *testing.T) {
	const each = 3
	for _, full := range []int{0, 1, ahead - 1, ahead, ahead + 1, 5 * ahead} {
		var datagrams [][]byte
		for i := range uint32(full) {
			b := slices.Concat(numbered(CTNew, each*i), numbered(CTNew, each*i+1), numbered(CTNew, each*i+2))
			datagrams = append(datagrams, b)
		}
		refused := numbered(unix.NLMSG_ERROR, 0)
		binary.NativeEndian.PutUint32(refused[unix.SizeofNlMsghdr:], ^uint32(0)) // -EPERM
		for what, end := range map[string]struct {
			datagram []byte
			want     error
		}{
			"done":     {numbered(unix.NLMSG_DONE, 0), nil},
			"refused":  {refused, unix.EPERM},
			"too long": {make([]byte, datagramLen+4), errTruncated},
			"foreign":  {slices.Concat(foreign(), numbered(unix.NLMSG_DONE, 0)), nil},
		} {
			for leave := -1; leave < each*full; leave += max(1, full*each/5) {
				c := answering(t, append(slices.Clone(datagrams), end.datagram))
				got := uint32(0)
				err := c.dump("list", CTGet, 0, nil, func(b []byte) bool {
					if n := binary.NativeEndian.Uint32(b[headerLen:]); n != got {
						t.Errorf("%d datagrams, %s: entry %d, want %d", full, what, n, got)
					}
					got++
					return int(got) != leave+1
				})
				switch {
				case c.listing != nil:
					t.Errorf("%d datagrams, %s, left after %d: it goes on", full, what, leave)
				case leave >= 0 && (err != nil || int(got) != leave+1):
					t.Errorf("%d datagrams, %s, left after %d: %d entries, %v", full, what, leave, got, err)
				case leave < 0 && (!errors.Is(err, end.want) || int(got) != each*full):
					t.Errorf("%d datagrams, %s: %d entries, %v", full, what, got, err)
				}
			}
		}
	}
}

// foreign is an end that belongs to another question.
func foreign() []byte {
	b := numbered(unix.NLMSG_DONE, 0)
	binary.NativeEndian.PutUint32(b[8:], 7)
	return b
}
