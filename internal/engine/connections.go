package engine

import "iter"

// Connections are those that conntrack has as far as the engine knows, from the one that was silent longest; Adjust is
// left out. The engine must not be called meanwhile. Whoever lost events compares them with the table, and calls Ended
// for what is not there.
func (e *Engine) Connections() iter.Seq[Conn] {
	return func(yield func(Conn) bool) {
		for _, f := range e.flows.byAge() {
			c := Conn{
				Transport: f.transport(), Orig: f.orig(), Reply: f.reply(), Zone: f.zone, Mark: f.mark, Adjustable: f.adjustable,
			}
			if !yield(c) {
				return
			}
		}
	}
}

// Pending is how many expectations wait for their connection. While there are none, no Related can matter.
func (e *Engine) Pending() int { return e.pending }
