package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// progress shows on a terminal how far a long replay is.
type progress struct {
	w     io.Writer // nil: no terminal
	next  time.Time
	shown bool
}

// Short work shows nothing.
const (
	progressFirst = time.Second
	progressEvery = 200 * time.Millisecond
)

func newProgress(w io.Writer) *progress {
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return &progress{w: w}
		}
	}
	return &progress{}
}

// watch passes reads through and counts; size is that of the file, 0 if nobody knows.
func (p *progress) watch(name string, r io.Reader, size int64) io.Reader {
	if p.w == nil {
		return r
	}
	p.next = time.Now().Add(progressFirst)
	return &watched{Reader: r, p: p, name: strconv.QuoteToGraphic(name), size: size}
}

type watched struct {
	io.Reader
	p          *progress
	name       string
	size, done int64
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	w.done += int64(n)
	if now := time.Now(); now.After(w.p.next) {
		w.p.next = now.Add(progressEvery)
		w.p.clear()
		if w.size > 0 {
			fmt.Fprintf(w.p.w, "%s: %d %%", w.name, min(100, w.done*100/w.size))
		} else {
			fmt.Fprintf(w.p.w, "%s: %d MiB", w.name, w.done>>20)
		}
		w.p.shown = true
	}
	return n, err
}

// clear takes the line off the terminal, before something else is written there.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}
