package expect

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/cthelperd/cthelperd/flows"
)

// AppendText appends e as conntrack -L expect shows it, without a newline. The error is nil (encoding.TextAppender).
func (e *Expectation) AppendText(dst []byte) ([]byte, error) { return e.AppendFormat(dst, 0), nil }

// String is the line of conntrack -L expect.
func (e *Expectation) String() string { return string(e.AppendFormat(nil, 0)) }

// AppendFormat appends e as conntrack(8) shows it, byte for byte, without a newline (libnetfilter_conntrack 1.0.9). kind
// is New, Update or Destroy (conntrack -E expect), or 0.
func (e *Expectation) AppendFormat(dst []byte, kind flows.Kind) []byte {
	switch kind {
	case flows.New, flows.Update, flows.Destroy:
		dst = fmt.Appendf(dst, "%9s ", "["+kind.String()+"]")
	}
	dst = append(strconv.AppendUint(dst, uint64(e.Timeout), 10), " proto="...)
	dst = append(strconv.AppendUint(dst, uint64(e.Transport), 10), ' ')
	dst = flows.AppendTuple(dst, e.Transport, &e.Tuple)
	mask := flows.AppendTuple(nil, e.Transport, &e.Mask)
	dst = append(dst, prefixed(mask, "mask-")...)
	master := flows.AppendTuple(nil, e.MasterTransport, &e.Master)
	dst = append(dst, prefixed(master, "master-")...)
	if e.Zone != 0 {
		dst = append(strconv.AppendUint(append(dst, "zone="...), uint64(e.Zone), 10), ' ')
	}
	comma := ""
	for i, name := range []string{"PERMANENT", "INACTIVE", "USERSPACE"} {
		if e.Flags&(1<<i) != 0 {
			dst = append(append(dst, comma...), name...)
			comma = ","
		}
	}
	if e.Flags != 0 {
		dst = append(dst, ' ')
	}
	dst = append(strconv.AppendUint(append(dst, "class="...), uint64(e.Class), 10), ' ')
	if e.Helper != "" {
		dst = append(append(dst, "helper="...), e.Helper...)
	}
	return bytes.TrimSuffix(dst, []byte(" "))
}

// prefixed puts a word before the names of the addresses.
func prefixed(tuple []byte, word string) []byte {
	tuple = bytes.Replace(tuple, []byte("src="), []byte(word+"src="), 1)
	return bytes.Replace(tuple, []byte(" dst="), []byte(" "+word+"dst="), 1)
}
