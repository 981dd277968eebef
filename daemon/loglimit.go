package daemon

import (
	"hash/maphash"
	"time"

	"github.com/cthelperd/cthelperd/internal/engine"
)

// Lines of the log that a client's connections may cause by what costs him nothing.
const (
	lineBurst    = 64
	linePerSec   = 8
	lineCounters = 64 // clients share them; which do is a secret
)

// logLimit keeps clients from filling the log: each message may be refused, wrong or worth a note, and has a line then.
// What was opened and used is not limited here: announcements have a rate of their own.
type logLimit struct {
	seed  maphash.Seed
	wrong [lineCounters]share // of what was refused or could not be read
	usual [lineCounters]share // of notes and edits, which must not cost the others their lines
	out   uint64              // lines that were left out
	said  uint64              // of them
}

// share is how many lines clients have left.
type share struct {
	lines  float64
	filled time.Time
}

func newLogLimit() *logLimit { return &logLimit{seed: maphash.MakeSeed()} }

// allows says whether ev is to have a line, and counts it.
func (l *logLimit) allows(ev *engine.Event) bool {
	shares := &l.usual
	switch ev.Kind {
	case engine.EventExpect, engine.EventRelated, engine.EventCancel:
		return true
	case engine.EventRefuse, engine.EventError:
		shares = &l.wrong
	}
	c := &shares[maphash.Comparable(l.seed, ev.Flow.Src.Addr())%lineCounters]
	if ev.Time.After(c.filled) {
		c.lines = min(c.lines+linePerSec*ev.Time.Sub(c.filled).Seconds(), lineBurst)
		c.filled = ev.Time
	}
	if c.lines < 1 {
		l.out++
		return false
	}
	c.lines--
	return true
}

// unsaid is how many lines were left out since it was asked last.
func (l *logLimit) unsaid() uint64 {
	n := l.out - l.said
	l.said = l.out
	return n
}
