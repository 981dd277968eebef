// Command make writes the captures of pcaps/made: small dialogues with what recorded traffic lacks, such as odd link
// layers, fragments, attacks, and limits that are exceeded.
//
//	go run ./pcaps/make pcaps/made
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: make DIRECTORY")
		os.Exit(2)
	}
	for name, write := range captures() {
		if err := os.WriteFile(filepath.Join(os.Args[1], name+".pcap"), build(write), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
