// Package sim is a deterministic simulation of the engine between two TCP end points: a NAT that adjusts sequence
// numbers as the kernel does, wires that lose, duplicate, delay and reorder, slow and failing placements, restarts. All
// is drawn from one seed, which a failure prints. It consists of tests.
package sim
