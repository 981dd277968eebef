package flows

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/nfnl"
)

// Reasons of the kernel's. An Error wraps one of them, if it is one of them.
var (
	ErrNotFound    = errors.New("no such connection")
	ErrExists      = errors.New("there is one with this tuple")
	ErrBusy        = errors.New("it cannot be changed so: a flow table has it, or bits of its status would be taken away")
	ErrFixed       = errors.New("its timeout is fixed (FIXED_TIMEOUT), and changes no more")
	ErrFull        = errors.New("the table is full (net.netfilter.nf_conntrack_max), or the kernel has no memory")
	ErrPermission  = errors.New("not permitted: it needs CAP_NET_ADMIN where the network namespace belongs")
	ErrNoTable     = errors.New("the kernel has no ctnetlink: modprobe nf_conntrack_netlink, or a kernel with CONFIG_NF_CT_NETLINK")
	ErrUnsupported = errors.New("the kernel cannot do it")
	ErrNoLabels    = errors.New("the entry has no room for labels: no rule used labels when it began")
	ErrOff         = errors.New("it is switched off in the kernel")
)

// Error is what the kernel refused.
type Error struct {
	Op     string     // what was asked
	Entry  string     // transport and tuple, where one was named
	Reason error      // one of Err…, or a *Missing or *Off; nil: none of them
	Errno  unix.Errno // 0: the reason says it all
	Text   string     // the kernel's own words; most refusals have none
}

// Error is all of it in a line.
func (e *Error) Error() string {
	s := e.Op
	if e.Entry != "" {
		s = e.Entry + ": " + s
	}
	switch {
	case e.Reason != nil && e.Errno != 0:
		s = fmt.Sprintf("%s: %v (errno %d)", s, e.Reason, int(e.Errno))
	case e.Reason != nil:
		s = fmt.Sprintf("%s: %v", s, e.Reason)
	default:
		s = fmt.Sprintf("%s: %v (errno %d)", s, e.Errno, int(e.Errno))
	}
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

// Unwrap gives the reason and the error number.
func (e *Error) Unwrap() (all []error) {
	if e.Reason != nil {
		all = append(all, e.Reason)
	}
	if e.Errno != 0 {
		all = append(all, e.Errno)
	}
	return all
}

// Missing is something that this kernel lacks. It is an ErrUnsupported.
type Missing struct {
	What  string
	Needs string // a version, or an option of the kernel's configuration
}

func (m *Missing) Error() string {
	return fmt.Sprintf("the kernel cannot %s: it needs %s", m.What, m.Needs)
}

// Is says that it is an ErrUnsupported.
func (m *Missing) Is(target error) bool { return target == ErrUnsupported }

// Off is something that a setting has switched off. It is an ErrOff.
type Off struct {
	What   string
	Sysctl string // what to set: name=value
}

func (o *Off) Error() string { return fmt.Sprintf("%s: sysctl -w %s", o.What, o.Sysctl) }

// Is says that it is an ErrOff.
func (o *Off) Is(target error) bool { return target == ErrOff }

// explain makes an *Error of nfnl's.
func explain(err error, entry string, reasons map[unix.Errno]error) error {
	var k *nfnl.Error
	if e := (*Error)(nil); errors.As(err, &e) || !errors.As(err, &k) {
		if e == nil && err != nil && entry != "" {
			err = fmt.Errorf("%s: %w", entry, err)
		}
		return err
	}
	e := &Error{Op: k.Op, Entry: entry, Errno: k.Errno, Text: k.Text, Reason: reasons[k.Errno]}
	if e.Reason == nil {
		e.Reason = common[k.Errno]
	}
	return e
}

// common is what an error number means whatever was asked.
var common = map[unix.Errno]error{
	unix.ENOENT:     ErrNotFound,
	unix.EEXIST:     ErrExists,
	unix.ENOMEM:     ErrFull,
	unix.EPERM:      ErrPermission,
	unix.EOPNOTSUPP: ErrUnsupported,
}
