package engine

// Table carries out requests in their order: the kernel, or memory. It returns when all are done; answers has the length
// of requests.
type Table interface {
	Do(requests []Request, answers []error)
}

// Drive is the loop that daemon, replay and simulation share: requests, answers, and only then the verdicts.
// A nil verdict function drops them (a replay has nobody to give them to).
func Drive(e *Engine, s *Step, table Table, verdict func(Verdict)) {
	var answers []error
	for {
		if n := len(s.Requests); n > 0 {
			if cap(answers) < n {
				answers = make([]error, n)
			}
			answers = answers[:n]
			table.Do(s.Requests, answers)
		} else {
			answers = answers[:0]
		}
		if verdict != nil {
			for _, v := range s.Verdicts {
				verdict(v)
			}
		}
		if s.Ticket == 0 {
			return
		}
		s = e.Resume(s.Ticket, answers)
	}
}
