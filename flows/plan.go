package flows

import (
	"fmt"
	"strings"
)

// Plan is how a filter is carried out.
type Plan struct {
	Requests int   // walks through the table for a list: a tuple is of one family, so both need two
	Kernel   Parts // the kernel tests these
	Here     Parts // these are tested here
	Delete   bool  // from now on DeleteAll has the kernel delete many at once
	Unasked  bool  // it would have without Plan
}

// Plan says how f is carried out by this kernel. What is not sure is tried in a network namespace of its own, which needs
// CAP_SYS_ADMIN.
func (t *Table) Plan(f *Filter) Plan {
	if f == nil {
		f = &Filter{}
	}
	kernel := t.listed(f)
	if kernel != 0 && !t.works(f, kernel, false) { // it passes over some of them
		for part := Parts(1); part <= kernel; part <<= 1 {
			if kernel&part != 0 && !t.works(f, part, false) {
				kernel &^= part
			}
		}
	}
	unasked := t.shown(f) // before there is a trial of more
	return Plan{
		Requests: len(f.requests(kernel)), Kernel: kernel, Here: f.parts() &^ kernel, Delete: t.deleted(f), Unasked: unasked,
	}
}

// String has the conditions' names, with commas between.
func (p Parts) String() string {
	all := []string{
		"family", "transport", "orig.src", "orig.dst", "orig.sport", "orig.dport", "orig.icmp",
		"reply.src", "reply.dst", "reply.sport", "reply.dport", "reply.icmp",
		"mark", "status", "zone", "zone.dir", "labels", "state", "helper", "where",
	}
	var has []string
	for i, name := range all {
		if p&(1<<i) != 0 {
			has = append(has, name)
		}
	}
	if rest := p >> len(all); rest != 0 {
		has = append(has, fmt.Sprintf("%#x", uint32(rest)<<len(all)))
	}
	return strings.Join(has, ", ")
}
