package engine

// maxSpare is how many of a kind are kept: a flood must not leave its memory behind.
const maxSpare = 256

// spare are things that were used and are not any more. An announcement is to leave no garbage: beside a few packets a
// collection costs much.
type spare[T any] struct{ free []*T }

// take gives one as it was given back, or a zero one.
func (s *spare[T]) take() *T {
	n := len(s.free)
	if n == 0 {
		return new(T)
	}
	x := s.free[n-1]
	s.free = s.free[:n-1]
	return x
}

// give takes one back, which nobody looks at any more.
func (s *spare[T]) give(x *T) {
	if len(s.free) < maxSpare {
		s.free = append(s.free, x)
	}
}

// reclaim makes spares of forgotten entries. Plans may look at theirs as long as a job is under way.
func (e *Engine) reclaim() {
	for i, x := range e.spent {
		*x = entry{}
		e.spares.give(x)
		e.spent[i] = nil
	}
	e.spent = e.spent[:0]
}
