// Package freelist keeps what sessions of helpers need during a call only: an announcement must not cost an allocation,
// an idle session no memory.
package freelist

import "sync"

// List has things that nobody uses. It is for many goroutines: sessions of several engines share it.
type List[T any] struct {
	Most int // that wait to be used again: a flood must not leave its memory behind

	mu   sync.Mutex
	free []*T
}

// Take gives one as it was given back, or a zero one.
func (l *List[T]) Take() *T {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.free)
	if n == 0 {
		return new(T)
	}
	x := l.free[n-1]
	l.free = l.free[:n-1]
	return x
}

// Give gives one back. It must not be used any more.
func (l *List[T]) Give(x *T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.free) < l.Most {
		l.free = append(l.free, x)
	}
}

// Len is how many wait.
func (l *List[T]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.free)
}
