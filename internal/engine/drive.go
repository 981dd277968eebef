package engine

// Table carries out a Request and answers when it is done: the kernel, or memory.
type Table interface{ Do(Request) error }

// Drive is the loop that daemon, replay and simulation share: requests, answers, and only then the verdicts.
// A nil verdict function drops them (a replay has nobody to give them to).
func Drive(e *Engine, s *Step, table Table, verdict func(Verdict)) {
	var answers []error
	for {
		answers = answers[:0]
		for _, r := range s.Requests {
			answers = append(answers, table.Do(r))
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
