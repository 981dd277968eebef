package daemon

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/expect"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/nfnl"
	"github.com/cthelperd/cthelperd/internal/rules"
)

// expectations is what a kernel offers to hang expectations on.
type expectations struct {
	objects bool // helper objects of our own
	// confined: there are helper objects, but not for processes of this user namespace.
	confined bool
	label    func(helper string) string // what rules match on announced connections
	reading  func(helper string) string // the same, on those that are read
	way      string
	err      error // why there is none
}

// probeKernel tries what queues and rules can do, and what expectations would hang on.
func probeKernel(all []helpers.Helper) (rules.Features, expectations, error) {
	features, err := rules.Probe()
	if err != nil {
		return features, expectations{}, err
	}
	e, err := probeExpectations(all)
	return features, e, err
}

// ideal is a kernel that has everything.
func ideal() expectations {
	return expectations{objects: true, label: expect.Label, reading: expect.Reading}
}

// probeExpectations tries what expectations would hang on, in a network namespace of its own. A helper object is
// registered for that, under a name that nobody uses, and deleted.
func probeExpectations(all []helpers.Helper) (e expectations, err error) {
	if err = expect.ProbeObjects(); err == nil {
		return ideal(), nil
	}
	if e.confined = errors.Is(err, unix.EPERM); !e.confined && !errors.Is(err, nfnl.ErrNoHelperObjects) {
		return e, err
	}
	kernel, err := expect.OpenKernel(all)
	if errors.Is(err, expect.ErrNoCarrier) {
		return expectations{label: expect.Label, reading: expect.Reading, err: err, confined: e.confined}, nil
	}
	if err != nil {
		return e, err
	}
	return expectations{
		label: kernel.Label, reading: kernel.Reading, way: kernel.Way(), confined: e.confined,
	}, kernel.Close()
}

func (e *expectations) findings() []finding {
	own := finding{
		What: "expectations hang on helper objects of our own (nfnetlink_cthelper)", OK: e.objects,
		Needs: "CONFIG_NF_CT_NETLINK_HELPER", Then: choose(e.objects, "they are used: 1 to 4 classes a helper, limits of their own",
			choose(e.err == nil, "an in-kernel helper carries them instead", "nothing can be expected")),
	}
	if e.objects {
		return []finding{own}
	}
	if e.confined {
		own.Needs = "CAP_NET_ADMIN in the initial user namespace: helper objects are the whole machine's"
	}
	return []finding{own, {
		What: "an in-kernel helper can carry expectations", OK: e.err == nil,
		Needs: "CONFIG_NF_CONNTRACK_H323, or _IRC, _SANE, _FTP", Then: choose(e.err == nil, e.way, "nothing can be expected"),
	}}
}
