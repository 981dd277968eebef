package nfnl

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// BenchmarkExpectation places an expectation and takes it out again, with the kernel's answers. "and one more" adds a
// message without an answer, which stands for a verdict: in the same system call, or in one of its own.
func BenchmarkExpectation(b *testing.B) {
	for _, how := range []string{"alone", "changed at once", "changed after the answer", "one more at once", "one more after the answer"} {
		b.Run(how, func(b *testing.B) {
			netnstest.New(b).Do(func() {
				c, err := Dial()
				if err != nil {
					b.Error(err)
					return
				}
				defer c.Close()
				s := sides()[0]
				master := s.carrierOrNone(c, 50000)
				if master.Helper == "" {
					b.Error("the kernel has no conntrack helper")
					return
				}
				e := s.expectation(master.Orig, 40001)
				e.Timeout = 100
				more := func(batch *Batch) { // as a verdict: it is carried out, and there is no answer
					batch.open("prolong", CTNew, 0, s.family)
					batch.name(&master.Orig, 0)
					batch.out = putUint32(batch.out, ctaTimeout, 600)
					batch.ops[len(batch.ops)-1].answered = true
				}
				b.ReportAllocs()
				for b.Loop() {
					batch := c.Begin()
					batch.CreateExpectation(&e)
					switch how {
					case "changed at once":
						batch.ChangeExpectation(&e)
					case "one more at once":
						more(batch)
					}
					err := batch.Do()
					switch how {
					case "changed after the answer":
						err = c.ChangeExpectation(&e)
					case "one more after the answer":
						batch := c.Begin()
						more(batch)
						unanswered(batch)
					}
					if err == nil {
						err = c.DeleteExpectation(e.Tuple, 0)
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// unanswered sends messages that have no answer.
func unanswered(b *Batch) {
	binary.NativeEndian.PutUint32(b.out, uint32(len(b.out)))
	_, _ = unix.Write(b.c.s.fd, b.out)
}
