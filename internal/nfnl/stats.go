package nfnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Attributes of the statistics (enum ctattr_stats_cpu, ctattr_stats_global, ctattr_expect_stats).
const (
	ctaStatsEntries    = 1
	ctaStatsMaxEntries = 2

	// CPUCounters is one more than the last of enum ctattr_stats_cpu that is known here.
	CPUCounters = 16
)

// Count is how many entries the connection table has, and how many it may have; 0: the kernel does not say.
func (c *Conn) Count() (entries, most uint32, err error) {
	var n [2]uint32
	b := c.Begin()
	b.open("count connections", CTStats, 0, unix.AF_UNSPEC)
	b.ops[0].counts = &n
	err = b.Do()
	return n[0], n[1], err
}

func parseCounts(n *[2]uint32, b []byte) error {
	a := attributes{rest: b}
	for a.next() {
		switch a.typ {
		case ctaStatsEntries, ctaStatsMaxEntries:
			n[a.typ-ctaStatsEntries] = a.uint32()
		}
	}
	return a.err
}

// CPUStats are the counters of one processor, by their attributes' numbers; Has says which the kernel has.
type CPUStats struct {
	CPU    int
	Counts [CPUCounters]uint32
	Has    uint32 // bit n: Counts[n]
}

// Stats gives the counters of each processor: of connections (CTStatsCPU) or of expectations (ExpStatsCPU).
func (c *Conn) Stats(message uint16) (all []CPUStats, err error) {
	err = c.dump("read the statistics", message, unix.AF_UNSPEC, nil, func(b []byte) bool {
		if s := (CPUStats{}); s.parse(b) == nil {
			all = append(all, s)
		}
		return true
	})
	return all, err
}

// parse reads one processor's, with struct nfgenmsg before the attributes.
func (s *CPUStats) parse(b []byte) error {
	*s = CPUStats{CPU: int(binary.BigEndian.Uint16(b[2:]))} // nfgenmsg.res_id
	a := attributes{rest: b[headerLen:]}
	for a.next() {
		if a.typ < CPUCounters {
			s.Counts[a.typ], s.Has = a.uint32(), s.Has|1<<a.typ
		}
	}
	return a.err
}
