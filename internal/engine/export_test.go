package engine

// Memory is how many stream bytes are kept.
func (e *Engine) Memory() int { return e.memory }
