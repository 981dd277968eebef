package top

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gdamore/tcell/v2"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/format"
	"github.com/cthelperd/cthelperd/flows"
)

// Options are what the view needs of the world.
type Options struct {
	Screen  tcell.Screen
	List    func(*flows.Filter) iter.Seq2[*flows.Flow, error] // called by one goroutine
	Count   func() (entries, limit uint32, err error)         // by the same
	Delete  func(*flows.Flow) error                           // by another one
	Compile func(expression string) (*flows.Filter, error)
	Why     func(*flows.Flow) (string, error) // why it is related, in lines; called by a goroutine of its own
	Filter  string                            // expression to begin with
	Base    *flows.Filter                     // what Filter compiles to
	Every   time.Duration
	Sort    string
	Tree    bool
	Hint    string // what is not counted, for the status line
	Ageless string // why ages are not known, shown when it is sorted by them
	Now     func() time.Time
	Until   context.Context // when it ends, the view is left
	Stop    func()          // stops the process until it may go on; the terminal is as it was before meanwhile
}

// SortKeys are the names that Sort takes.
func SortKeys() []string {
	var all []string
	for _, k := range keys() {
		all = append(all, k.name)
	}
	return all
}

// sampled is an event of the screen's loop: there is a sample.
type sampled struct {
	tcell.EventTime
	*Sample
}

// explained is an event of the screen's loop: there is an answer to why.
type explained struct {
	tcell.EventTime
	text string
	err  error
}

// Run shows the table until somebody leaves.
func Run(o Options) error {
	if err := o.Screen.Init(); err != nil {
		return fmt.Errorf("it needs a terminal: %w", err)
	}
	defer o.Screen.Fini()
	v := &view{o: &o, question: question{filter: o.Base, tree: o.Tree}, filter: o.Filter, hint: o.Hint}
	for i, k := range keys() {
		if k.name == o.Sort {
			v.question.sort = i
		}
	}
	ask := make(chan question, 1)
	ended := make(chan struct{})
	defer close(ended)
	go o.sample(ask, ended)
	v.ask = func() { // the newest question counts
		select {
		case <-ask:
		default:
		}
		ask <- v.question
	}
	v.ask()
	v.draw()
	defer context.AfterFunc(o.Until, func() { _ = o.Screen.PostEvent(&tcell.EventInterrupt{}) })()
	for !v.left && o.Until.Err() == nil {
		switch ev := o.Screen.PollEvent().(type) {
		case nil:
			return nil // the screen is gone
		case *sampled:
			v.take(ev.Sample)
		case *explained:
			v.explain(ev)
		case *tcell.EventResize:
			o.Screen.Sync()
		case *tcell.EventKey:
			v.key(ev)
		}
		v.draw()
	}
	return nil
}

// sample takes a sample for each question, and again from time to time.
func (o *Options) sample(ask <-chan question, ended <-chan struct{}) {
	s := &sampler{list: o.List, count: o.Count, now: o.Now, stop: func() bool { return len(ask) > 0 }}
	post := func(sample *Sample) { _ = o.Screen.PostEvent(&sampled{Sample: sample}) }
	var q question
	again := time.NewTicker(o.Every)
	defer again.Stop()
	for {
		select {
		case <-ended:
			return
		case q = <-ask:
		case <-again.C:
		}
		if sample := s.take(&q, post); sample != nil {
			post(sample)
		}
	}
}

// mode is what keys are for.
type mode uint8

const (
	browsing mode = iota
	filtering
	killing
	reading
)

// view is what is on the screen.
type view struct {
	o        *Options
	question question
	ask      func()
	sample   *Sample
	filter   string // the expression in force
	selected uint32 // id of the selected row
	at       int    // its place
	scroll   int
	mode     mode
	typed    []rune // while filtering
	message  string // at the bottom, until the next key
	wrong    int    // where what is typed is wrong, in characters; -1: nowhere
	hint     string
	paused   bool
	left     bool
	victim   flows.Flow // while killing
	page     []string   // while reading
	line     int        // of the page, that is at the top
	asked    bool       // why
}

// take shows a new sample; the selected row stays selected.
func (v *view) take(s *Sample) {
	if v.paused && v.sample != nil && v.sample.whole {
		return
	}
	v.sample = s
	if s.err != nil {
		v.message = s.err.Error()
	}
	for i := range s.rows {
		if s.rows[i].ID == v.selected {
			v.at = i
			return
		}
	}
	v.move(0)
}

// move goes n rows down.
func (v *view) move(n int) {
	if v.sample == nil || len(v.sample.rows) == 0 {
		v.at, v.selected = 0, 0
		return
	}
	v.at = min(max(0, v.at+n), len(v.sample.rows)-1)
	v.selected = v.sample.rows[v.at].ID
}

func (v *view) key(ev *tcell.EventKey) {
	switch ev.Key() {
	case tcell.KeyCtrlC:
		v.left = true
		return
	case tcell.KeyCtrlZ:
		v.suspend()
		return
	}
	v.message, v.wrong = "", -1
	switch v.mode {
	case filtering:
		v.keyFilter(ev)
	case killing:
		v.keyKill(ev)
	case reading:
		v.keyRead(ev)
	default:
		v.keyBrowse(ev)
	}
}

// suspend gives the terminal back while the process is stopped.
func (v *view) suspend() {
	if err := v.o.Screen.Suspend(); err != nil {
		v.message = err.Error()
		return
	}
	v.o.Stop()
	if err := v.o.Screen.Resume(); err != nil {
		v.left = true // there is no terminal any more
		return
	}
	v.o.Screen.Sync()
}

// keyRead scrolls the page, if it is longer than the screen.
func (v *view) keyRead(ev *tcell.EventKey) {
	_, height := v.o.Screen.Size()
	switch ev.Key() {
	case tcell.KeyUp:
		v.line--
	case tcell.KeyDown:
		v.line++
	case tcell.KeyPgUp:
		v.line -= height
	case tcell.KeyPgDn:
		v.line += height
	default:
		v.mode = browsing
	}
	v.line = max(0, min(v.line, len(v.page)-height))
}

func (v *view) keyBrowse(ev *tcell.EventKey) {
	_, height := v.o.Screen.Size()
	page := max(1, height-headLines-2)
	switch ev.Key() {
	case tcell.KeyUp:
		v.move(-1)
	case tcell.KeyDown:
		v.move(1)
	case tcell.KeyPgUp:
		v.move(-page)
	case tcell.KeyPgDn:
		v.move(page)
	case tcell.KeyHome:
		v.move(-most)
	case tcell.KeyEnd:
		v.move(most)
	case tcell.KeyEscape:
		v.left = true
	case tcell.KeyDelete:
		v.kill()
	case tcell.KeyRune:
		v.letter(ev.Rune())
	}
}

func (v *view) letter(r rune) {
	switch r {
	case 'q':
		v.left = true
	case 'k':
		v.kill()
	case 's', '>':
		v.sortBy((v.question.sort + 1) % len(keys()))
	case 'S', '<':
		v.sortBy((v.question.sort + len(keys()) - 1) % len(keys()))
	case 'r':
		v.question.upward = !v.question.upward
		v.resort()
	case 't':
		v.question.tree = !v.question.tree
		v.ask()
	case 'f', '/':
		v.mode, v.typed = filtering, []rune(v.filter)
	case 'p', ' ':
		v.paused = !v.paused
	case 'h', '?':
		v.mode, v.page, v.line = reading, helpText, 0
	case 'w':
		v.why()
	}
}

func (v *view) sortBy(i int) {
	v.question.sort, v.question.upward = i, false
	v.resort()
}

// resort sorts what is on the screen at once; the next sample brings the first rows of all.
func (v *view) resort() {
	if v.sample != nil && !v.question.tree {
		compare := v.question.order()
		slices.SortFunc(v.sample.rows, func(a, b row) int { return compare(&a, &b) })
		v.at, v.scroll = 0, 0
		v.move(0)
	}
	v.ask()
}

func (v *view) keyFilter(ev *tcell.EventKey) {
	switch ev.Key() {
	case tcell.KeyEscape:
		v.mode = browsing
	case tcell.KeyBackspace, tcell.KeyBackspace2:
		if len(v.typed) > 0 {
			v.typed = v.typed[:len(v.typed)-1]
		}
	case tcell.KeyCtrlU:
		v.typed = nil
	case tcell.KeyRune:
		v.typed = append(v.typed, ev.Rune())
	case tcell.KeyEnter:
		filter, err := v.o.Compile(string(v.typed))
		if err != nil {
			v.refuse(err)
			return
		}
		v.mode, v.filter, v.question.filter = browsing, string(v.typed), filter
		v.narrow(filter)
		v.ask()
	}
}

// narrow leaves what matches of what is on the screen; the next sample brings the rest.
func (v *view) narrow(filter *flows.Filter) {
	if v.sample != nil {
		v.sample.rows = slices.DeleteFunc(v.sample.rows, func(r row) bool { return !filter.Match(&r.Flow) })
		v.move(0)
	}
}

// refuse shows what is wrong with what is typed, and where.
func (v *view) refuse(err error) {
	v.message = err.Error()
	var at *caret.Error
	if errors.As(err, &at) && at.Text == string(v.typed) {
		v.message, v.wrong = at.Message, utf8.RuneCountInString(caret.Plain(at.Text[:at.At]))
	}
}

// why asks why the selected row is related. It is a search through the table, which is not waited for.
func (v *view) why() {
	if v.asked || v.sample == nil || v.at >= len(v.sample.rows) {
		return
	}
	f := v.sample.rows[v.at].Flow
	v.asked, v.message = true, "searching the table"
	go func() {
		text, err := v.o.Why(&f)
		_ = v.o.Screen.PostEvent(&explained{text: text, err: err})
	}()
}

// explain shows the answer, unless somebody has gone on to something else.
func (v *view) explain(ev *explained) {
	v.asked = false
	switch {
	case v.mode != browsing:
	case ev.err != nil:
		v.message = ev.err.Error()
	default:
		v.mode, v.line, v.message = reading, 0, ""
		v.page = append(strings.Split(ev.text, "\n"), "  any key goes back")
	}
}

// kill asks whether to kill the selected row.
func (v *view) kill() {
	if v.sample != nil && v.at < len(v.sample.rows) {
		v.mode, v.victim = killing, v.sample.rows[v.at].Flow
	}
}

func (v *view) keyKill(ev *tcell.EventKey) {
	v.mode = browsing
	if ev.Key() != tcell.KeyRune || ev.Rune() != 'y' {
		v.message = "nothing was killed"
		return
	}
	if err := v.o.Delete(&v.victim); err != nil {
		v.message = err.Error()
		return
	}
	v.message = "killed " + format.Name(&v.victim)
	v.ask()
}
