package engine

// Table carries out requests in their order: the kernel, or memory. It returns when all are done; answers has the length
// of requests.
type Table interface {
	Do(requests []Request, answers []error)
}

// Drive carries out one step: requests, answers, and only then the verdicts. A nil verdict function drops them (a replay
// has nobody to give them to).
func Drive(e *Engine, s *Step, table Table, verdict func(Verdict)) {
	b := Batch{Engine: e, Table: table, Verdict: verdict}
	b.Add(s)
	b.Do()
}

// Batch is the loop that daemon and replay share. It gathers the requests that the packets of a batch make,
// so that a table has them all at once; what waits for them is its own session only. A batch may be used again.
type Batch struct {
	Engine  *Engine
	Table   Table
	Verdict func(Verdict) // nil: nobody wants to know

	requests []Request
	answers  []error // to the first requests: those that were carried out
	tickets  []ticket
}

// ticket is what waits for the answers to some of the requests.
type ticket struct {
	Ticket
	first, last int
}

// Add takes a step. A verdict is given behind the requests that were made before it. What has to wait waits for Do.
func (b *Batch) Add(s *Step) {
	first, given := len(b.requests), 0
	for i := range s.Requests {
		r := &s.Requests[i]
		if r.After > given {
			if len(b.requests) > first {
				b.carryOut(len(b.requests))
			}
			b.give(s.Verdicts[given:r.After])
			given = r.After
		}
		b.requests = append(b.requests, *r)
	}
	if s.Ticket != 0 {
		b.tickets = append(b.tickets, ticket{s.Ticket, first, len(b.requests)})
	}
	if len(b.requests) > first && (s.Ticket == 0 || given < len(s.Verdicts)) {
		b.carryOut(len(b.requests))
	}
	b.give(s.Verdicts[given:])
}

func (b *Batch) give(verdicts []Verdict) {
	if b.Verdict == nil {
		return
	}
	for _, v := range verdicts {
		b.Verdict(v)
	}
}

// Do carries out what was added, and what follows from the answers.
func (b *Batch) Do() {
	for i := 0; i < len(b.tickets); i++ {
		t := b.tickets[i]
		b.carryOut(t.last)
		b.Add(b.Engine.Resume(t.Ticket, b.answers[t.first:t.last]))
	}
	clear(b.requests)
	clear(b.answers)
	b.requests, b.answers, b.tickets = b.requests[:0], b.answers[:0], b.tickets[:0]
}

// carryOut has the table do at least the first n requests, and more if they are there; but behind an adjustment comes its
// packet's verdict before anything else.
func (b *Batch) carryOut(n int) {
	for done := len(b.answers); done < n; done = len(b.answers) {
		to := len(b.requests)
		for i := done; i < to; i++ {
			if b.requests[i].Adjust != nil {
				to = max(i+1, min(n, to))
				break
			}
		}
		for len(b.answers) < to {
			b.answers = append(b.answers, nil)
		}
		b.Table.Do(b.requests[done:to], b.answers[done:to])
	}
}
