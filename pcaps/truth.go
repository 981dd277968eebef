// Package pcaps holds captures and what cthelper prints for them. It is imported by tests only: Golden replays the
// captures of a folder against their golden files, Truths those of a folder against what somebody who read them wrote
// down as true.
package pcaps

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cthelperd/cthelperd/internal/replay"
)

// Truth says what is in a capture: NAME.truth.json beside it.
type Truth struct {
	Protocol  string
	Ports     map[string][]uint16 // for --port
	Announced []Announced
	Used      []Used
	Other     [][]any // announcements that other protocols make: kind, frame, transport, end point
}

// Marks are why an entry does not count. What is announced with one is not invented either.
type Marks struct {
	Foreign, Low, Early, Again, Optional bool
	Doubt                                string
}

func (m Marks) counts() bool { return m == Marks{} }

// Announced is an end point that the capture announces.
type Announced struct {
	Frame         uint64 // that makes the announcement whole: it must not be expected later
	Flow, Dir     string
	Transport, To string
	Kind          string
	Marks
}

// Used is a later connection to one.
type Used struct {
	Frame          uint64 // its first packet
	Transport      string
	From, To       string
	AnnouncedFrame uint64 `json:"announced_frame"`
	Marks
}

// LoadTruth reads a truth file.
func LoadTruth(path string) (*Truth, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	t := new(Truth)
	if err := json.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if t.Protocol == "" {
		return nil, fmt.Errorf("%s: no protocol", path)
	}
	return t, nil
}

// Count is the result of comparing a replay with the truth.
type Count struct {
	Announced, Found int
	Used, Foreseen   int
	Wrong            []string // in words: what is missing, unforeseen or invented
}

// expected is an expect event with what became of it.
type expected struct {
	*replay.Record
	cancelled uint64 // frame; 0: never
	used      uint64 // frame of the connection that used it up; 0: none
}

// aliveAt says whether e waits for its connection when a frame arrives.
func (e *expected) aliveAt(frame uint64) bool {
	return e.Frame <= frame && (e.cancelled == 0 || e.cancelled > frame) && (e.used == 0 || e.used > frame)
}

func (e *expected) leadsTo(transport, to string) bool { return e.Transport == transport && e.To == to }

// Compare counts what a replay found. An end point is found if it is expected, at the latest in the frame that
// announces it, and still waited for then. A used one is foreseen if such an expectation allows its sender, was not
// cancelled before, and was not used up by another connection: one that is not permanent serves one. The replay must
// have reported that connection as RELATED. An expectation for what nobody announced is invented.
func (t *Truth) Compare(records []*replay.Record) Count {
	all := t.expectations(records)
	var c Count
	wrong := func(format string, a ...any) { c.Wrong = append(c.Wrong, fmt.Sprintf(format, a...)) }

	used := slices.Clone(t.Used)
	slices.SortStableFunc(used, func(a, b Used) int { return int(a.Frame) - int(b.Frame) })
	for _, u := range used {
		e := foreseeing(all, u)
		if e != nil && !e.Permanent {
			e.used = u.Frame
		}
		if !u.counts() {
			continue
		}
		c.Used++
		switch {
		case e == nil:
			wrong("frame %d: %s %s>%s was not foreseen", u.Frame, u.Transport, u.From, u.To)
		case !reported(records, u):
			wrong("frame %d: %s %s>%s is not reported as related", u.Frame, u.Transport, u.From, u.To)
		default:
			c.Foreseen++
		}
	}
	for _, a := range t.Announced {
		if !a.counts() {
			continue
		}
		c.Announced++
		if slices.ContainsFunc(all, func(e *expected) bool { return e.leadsTo(a.Transport, a.To) && e.aliveAt(a.Frame) }) {
			c.Found++
		} else {
			wrong("frame %d: %s %s (%s) was not found", a.Frame, a.Transport, a.To, a.Kind)
		}
	}
	for _, e := range all {
		if !t.announces(e.Transport, e.To) {
			wrong("frame %d: %s %s was invented", e.Frame, e.Transport, e.To)
		}
	}
	return c
}

// expectations are the expect events, and when each was cancelled.
func (t *Truth) expectations(records []*replay.Record) []*expected {
	var all []*expected
	for _, r := range records {
		switch r.Event {
		case "expect":
			all = append(all, &expected{Record: r})
		case "cancel":
			for _, e := range slices.Backward(all) {
				if e.cancelled == 0 && e.leadsTo(r.Transport, r.To) && e.From == r.From && e.Group == r.Group {
					e.cancelled = r.Frame
					break
				}
			}
		}
	}
	return all
}

// foreseeing is the newest expectation that u meets.
func foreseeing(all []*expected, u Used) *expected {
	for _, e := range slices.Backward(all) {
		if e.leadsTo(u.Transport, u.To) && e.Frame < u.Frame && e.aliveAt(u.Frame) && allows(e.From, u.From) {
			return e
		}
	}
	return nil
}

func reported(records []*replay.Record, u Used) bool {
	return slices.ContainsFunc(records, func(r *replay.Record) bool {
		return r.Event == "related" && r.Frame == u.Frame && r.Transport == u.Transport && r.To == u.To
	})
}

// announces says whether anything in the truth, counted or not, names an end point.
func (t *Truth) announces(transport, to string) bool {
	return slices.ContainsFunc(t.Announced, func(a Announced) bool { return a.Transport == transport && a.To == to }) ||
		slices.ContainsFunc(t.Other, func(o []any) bool { return len(o) == 4 && o[2] == transport && o[3] == to })
}

// allows says whether a sender meets a `from`, whose address or port may be "*".
func allows(from, sender string) bool {
	host, port := cutPort(from)
	senderHost, senderPort := cutPort(sender)
	return (host == "*" || host == senderHost) && (port == "*" || port == senderPort)
}

func cutPort(s string) (host, port string) {
	i := strings.LastIndexByte(s, ':')
	return s[:max(i, 0)], s[i+1:]
}
