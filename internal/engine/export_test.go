package engine

// Memory is how many stream bytes are kept.
func (e *Engine) Memory() int { return e.memory }

// Held is how many packets wait.
func (e *Engine) Held() int { return e.held }

// Mappings is how many end points are known, pending or not.
func (e *Engine) Mappings() int { return e.mappings }
