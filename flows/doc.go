// Package flows is the connection table of the kernel's conntrack: list, get, create, change, delete, watch. Its sister for
// expectations is package expect.
//
// [Open] gives the [Table] of the calling thread's network namespace; it needs CAP_NET_ADMIN there. A [Flow] is an entry,
// which prints as the line of conntrack -L. A [Filter] says which are meant: what the kernel can test of it the kernel
// tests, the rest is tested here, and [Table.Plan] says which is which.
//
//	table, err := flows.Open()
//	…
//	ssh := flows.Filter{Transport: helpers.TCP, Orig: flows.Ends{DstPort: flows.Port(22)}}
//	for f, err := range table.List(&ssh) {          // streamed: a table of any size costs the same memory
//		…
//		err = table.Update(f, &flows.Change{Mark: 7, MarkMask: ^uint32(0)})
//	}
//	done, err := table.DeleteAll(&ssh)              // in batches, or by the kernel alone: see Plan
//
// [Watch] tells of what happens from then on. What is lost because nobody took it in time is counted, and followed by a
// listing: Watcher.All shows both.
//
// An error that the kernel has caused is an [*Error]: it says what was refused and why, and wraps one of ErrNotFound,
// ErrExists, ErrPermission and the like, so that errors.Is tells them apart. What a kernel lacks is tried in a network
// namespace of its own, never guessed from a version.
//
// A Table, and a Watcher, is for one goroutine. Transport and Tuple are those of package helpers.
package flows
