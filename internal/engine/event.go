package engine

import (
	"github.com/cthelperd/cthelperd/helpers"
)

// tell records an event of the present cause.
func (e *Engine) tell(ev Event) {
	if e.record == nil {
		return
	}
	ev.Packet, ev.Time = e.cause.packet, e.cause.time
	e.event = ev
	e.record(&e.event)
}

// tellEntry records an event about an expectation.
func (e *Engine) tellEntry(kind EventKind, x *entry, reason Reason) {
	if e.record == nil || e.wanted != nil && !e.wanted(kind) {
		return
	}
	e.event = x.event()
	e.event.Kind, e.event.Reason = kind, reason
	e.event.Packet, e.event.Time = e.cause.packet, e.cause.time
	e.record(&e.event)
}

func (x *entry) event() Event {
	return Event{
		Helper: x.session.helper.Name, Flow: x.master.Orig, FlowProto: x.master.Transport, ID: x.id(), Dir: x.said.Owner,
		Class: x.session.class(x.said.Class), Transport: x.said.Transport, From: x.from, To: x.to, At: x.at,
		Permanent: x.said.Permanent, Timeout: x.timeout, Group: x.said.Group, Note: x.said.Note,
	}
}

func (s *session) class(i uint8) string {
	if int(i) < len(s.helper.Classes) {
		return s.helper.Classes[i].Name
	}
	return ""
}

// note records a note and keeps it for the connection that is still to come.
func (e *Engine) note(s *session, f *flow, n helpers.Note) {
	if n.Group.ID != 0 {
		for o := range s.family() {
			for x := range e.grouped(o, n.Group) {
				x.note = n.Text
			}
		}
	}
	e.tell(Event{
		Kind: EventNote, Helper: s.helper.Name, Flow: f.orig(), FlowProto: f.transport(), Group: n.Group, Note: n.Text,
	})
}

func (e *Engine) tellError(f *flow, dir helpers.Dir, reason Reason, offset int, text string) {
	s := f.session
	e.stats.Errors[s.helper.Name]++
	e.tell(Event{
		Kind: EventError, Helper: s.helper.Name, Flow: f.orig(), FlowProto: f.transport(), Dir: dir,
		Reason: reason, Offset: offset, Text: text,
	})
}
