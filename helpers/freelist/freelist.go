// Package freelist keeps what was used to be used again: an announcement must not cost an allocation, an idle session no
// memory.
package freelist

import "sync"

// Own has things that nobody uses. It is for one goroutine.
type Own[T any] struct{ free []*T }

// Take gives one as it was given back, or a zero one.
func (o *Own[T]) Take() *T {
	n := len(o.free)
	if n == 0 {
		return new(T)
	}
	x := o.free[n-1]
	o.free = o.free[:n-1]
	return x
}

// Give gives one back, if fewer than most wait: a flood must not leave its memory behind. It must not be used any more.
func (o *Own[T]) Give(x *T, most int) {
	if len(o.free) < most {
		o.free = append(o.free, x)
	}
}

// List is an Own for many goroutines: sessions of several engines share it.
type List[T any] struct {
	Most int // that wait to be used again

	mu  sync.Mutex
	own Own[T]
}

// Take gives one as it was given back, or a zero one.
func (l *List[T]) Take() *T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.own.Take()
}

// Give gives one back. It must not be used any more.
func (l *List[T]) Give(x *T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own.Give(x, l.Most)
}

// Len is how many wait.
func (l *List[T]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.own.free)
}
