package wire

// walker reads an encoding by the tables and puts into a Message what rows ask for.
type walker struct {
	reader
	m       *Message
	types   *types
	place   Field   // the outermost place around: what an address here is
	carrier Carrier // of the H.245 messages here
	control int     // index of the H.245 message that is read; -1: none
	session uint8   // the last sessionID of it
	reverse bool    // in reverse logical channel parameters
	quoted  bool    // in what an IRR tells of calls
	returns bool    // in a message of H.245 that another one returns
	ip      int     // byte of the last IP address, and its length
	ipSize  int
	feature feature // of the generic data that is read
	size    int     // of the message: what follows it in b was put together from fragments
	pieces  []piece // of that
}

// newWalker reads b from a byte on.
func newWalker(m *Message, b []byte, from int) walker {
	steps := stepsPerByte*(len(b)-from) + stepsPerMessage
	return walker{
		reader:  reader{b: b, pos: 8 * from, end: 8 * len(b), steps: steps},
		m:       m,
		types:   schema(),
		control: -1,
		size:    len(b),
	}
}

// fault is what was wrong, as an *Error.
func (w *walker) fault() error {
	if w.err == nil {
		return nil
	}
	off, _ := w.source(w.errAt, 0)
	return &Error{Off: off, Err: w.err}
}

// walk reads a value of t; as is what it is to the row that has it.
func (w *walker) walk(t *Type, as Field) {
	if !w.step() {
		return
	}
	switch t.Form {
	case Sequence:
		w.sequence(t)
	case Choice, Nulls:
		w.choice(t, as)
	case List:
		w.list(t, as)
	case Number:
		if t.Extensible && w.bit() {
			w.skipOpen()
			return
		}
		v := uint32(t.Lo) + w.within(uint32(t.Hi-t.Lo))
		if as > lastPlace {
			w.number(as, v)
		}
	case Boolean:
		v := w.bits(1)
		if as > lastPlace {
			w.number(as, v)
		}
	case Enumerated:
		if t.Extensible && w.bit() {
			w.small()
			return
		}
		w.within(uint32(t.Hi))
	case String:
		if t.Of == nil && as != asContents {
			w.units(t, as)
		} else if at, n := w.contents(); w.err == nil {
			outer := w.enter(at, n)
			if as == asContents {
				w.parameter()
			} else {
				w.messages(t.Of)
			}
			w.leave(outer)
		}
	case Open, Integer:
		w.skipOpen()
	}
}

// row reads what r describes.
func (w *walker) row(r *Row) {
	if r.as == 0 || r.as > lastPlace && r.as < asFastStart {
		w.walk(r.Type, r.as)
		return
	}
	place, carrier, reverse, quoted, identifies := w.place, w.carrier, w.reverse, w.quoted, w.feature.identifies
	switch r.as {
	case asFastStart:
		w.carrier = FastStart
	case asH245Control:
		w.carrier = H245Control
	case asParallelH245Control:
		w.carrier = ParallelH245Control
	case asReverse:
		w.reverse = true
	case asQuoted:
		w.quoted = true
	case asFeature:
		w.feature = feature{identifies: asFeature}
	case asParameter:
		w.feature.identifies, w.feature.parameter = asParameter, 0
	default:
		if place == 0 {
			w.place = r.as
		}
	}
	w.walk(r.Type, r.as)
	w.place, w.carrier, w.reverse, w.quoted, w.feature.identifies = place, carrier, reverse, quoted, identifies
}

// deeper says whether a type within a type may be read. If so, the caller takes depth back.
func (w *walker) deeper() bool {
	if w.depth == maxDepth {
		w.fail(errDepth)
		return false
	}
	w.depth++
	return true
}

// sequence reads a SEQUENCE or SET: the extension bit, a bit for each OPTIONAL of the root, the root, the additions
// (X.691, clause 19).
func (w *walker) sequence(t *Type) {
	if !w.deeper() {
		return
	}
	extended := t.Extensible && w.bit()
	present := w.bits(t.optional) << (32 - t.optional)
	for i := range t.Rows[:t.Root] {
		r := &t.Rows[i]
		if r.Optional {
			here := present>>31 != 0
			present <<= 1
			if !here {
				continue
			}
		}
		w.row(r)
	}
	if extended {
		w.additions(t.Rows[t.Root:])
	}
	w.depth--
}

// additions reads those of a SEQUENCE: a bit for each, then each that is there (X.691, 19.7 to 19.9).
func (w *walker) additions(rows []Row) {
	n := w.smallLength()
	at := w.pos
	if !w.take(n) {
		return
	}
	for i := 0; i < n && w.step(); i++ {
		if w.b[(at+i)>>3]<<((at+i)&7)&0x80 == 0 {
			continue
		}
		if i < len(rows) {
			w.addition(&rows[i])
		} else {
			w.skipOpen()
		}
	}
}

// choice reads the index of an alternative, and the alternative (X.691, clause 23).
func (w *walker) choice(t *Type, as Field) {
	last := uint32(t.Hi)
	added := t.Extensible && w.bit()
	var i uint32
	if added {
		i = last + 1 + uint32(w.small())
	} else if i = w.within(last); i > last {
		w.fail(errBounds)
	}
	if w.err != nil || !w.deeper() {
		return
	}
	if as > lastPlace {
		w.number(as, i)
	}
	switch {
	case !added && t.Form == Choice:
		w.row(&t.Rows[i])
	case added && int64(i) < int64(len(t.Rows)):
		w.addition(&t.Rows[i])
	case added:
		w.skipOpen()
	}
	w.depth--
}

// list reads the elements of a SEQUENCE OF or SET OF (X.691, clauses 20 and 22).
func (w *walker) list(t *Type, as Field) {
	if !w.deeper() {
		return
	}
	n, more := w.count(t)
	for w.err == nil {
		for ; n > 0 && w.err == nil; n-- {
			w.walk(t.Of, as)
		}
		if !more {
			break
		}
		n, more = w.length()
	}
	w.depth--
}

// addition reads what r describes out of an open type (X.691, 11.2). What is behind it in there is passed over; if it
// cannot be read, all of it is.
func (w *walker) addition(r *Row) {
	if r.Type == nil {
		w.skipOpen()
		return
	}
	if at, n := w.contents(); w.err == nil {
		outer := w.enter(at, n)
		w.row(r)
		w.leave(outer)
	}
}

// messages reads H.245 messages of type t, each from a whole byte on, to the end. What cannot be read behind a first
// one (padding, say) is passed over. One that another one returns has no place of its own in the Message.
func (w *walker) messages(t *Type) {
	if w.control >= 0 {
		outer := w.returns
		w.returns = true
		w.walk(t, 0)
		w.returns = outer
		return
	}
	for first := true; w.pos < w.end && w.step(); first = false {
		outer := w.enter(w.pos/8, (w.end-w.pos)/8)
		c := Control{In: w.carrier}
		if t == w.types.openChannel {
			c.Kind = OpenLogicalChannel
		}
		w.control, w.session = len(w.m.Controls), 0
		w.m.Controls = append(w.m.Controls, c)
		w.walk(t, 0)
		w.align()
		if w.err != nil && !first {
			outer.pos = outer.end
			w.leave(outer)
		}
	}
}

// outer is where to go on behind an encoding within an encoding.
type outer struct{ pos, end, depth, control, addresses, controls int }

// enter begins an encoding of n bytes.
func (w *walker) enter(at, n int) outer {
	o := outer{w.pos, w.end, w.depth, w.control, len(w.m.Addresses), len(w.m.Controls)}
	w.pos, w.end = 8*at, 8*(at+n)
	return o
}

// leave goes on behind it. If it could not be read, its addresses do not count.
func (w *walker) leave(o outer) {
	w.pos, w.end, w.depth, w.control = o.pos, o.end, o.depth, o.control
	switch w.err {
	case nil:
	case errWork:
		w.pos = w.end
	default:
		w.err = nil
		w.m.Addresses, w.m.Controls = w.m.Addresses[:o.addresses], w.m.Controls[:o.controls]
		w.m.Skipped++
	}
}

// units passes over a string, or keeps it.
func (w *walker) units(t *Type, as Field) {
	if at, n, more := w.skipUnits(t); as > lastPlace && !more && w.err == nil {
		w.bytes(as, at, n*t.Unit/8)
	}
}
