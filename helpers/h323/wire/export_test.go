package wire

// Steps reads b as Read… of the kind does, and says how many steps that took.
func Steps(typ string, b []byte, m *Message) (steps int, err error) {
	m.reset()
	w := newWalker(m, b, 0)
	before := w.steps
	if typ == "MultimediaSystemControlMessage" {
		w.messages(w.types.control)
	} else {
		w.walk(Lookup(typ), asRAS)
	}
	return before - w.steps, w.fault()
}

// ErrShort refuses a message that ends early.
var ErrShort = errShort

// ErrWork refuses a message that takes more steps than its length allows.
var ErrWork = errWork

// StepsPerByte and StepsPerMessage bound the steps.
const (
	StepsPerByte    = stepsPerByte
	StepsPerMessage = stepsPerMessage
)
