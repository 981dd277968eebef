package main

import "io"

func report(w io.Writer, files []string) error { return nil }
