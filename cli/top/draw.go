package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gdamore/tcell/v2"

	"github.com/cthelperd/cthelperd/cli/caret"
	"github.com/cthelperd/cthelperd/cli/format"
	"github.com/cthelperd/cthelperd/cli/names"
	"github.com/cthelperd/cthelperd/cli/where"
	"github.com/cthelperd/cthelperd/helpers"
)

// headLines are the lines above the rows: two of totals and the columns' heads.
const headLines = 3

// column is one of the view's.
type column struct {
	head  string
	key   string // of keys, if the view can be sorted by it
	right bool
	rank  int // the highest go first when there is no room
	text  func(*row, time.Time) string
}

func columns() []column {
	return []column{
		{"PROTO", "proto", false, 0, func(r *row, _ time.Time) string {
			return strings.Repeat("  ", r.depth) + names.Protocol(uint8(r.Transport))
		}},
		{"STATE", "state", false, 4, func(r *row, _ time.Time) string { return where.State(&r.Flow) }},
		{"SOURCE", "source", false, 0, func(r *row, _ time.Time) string { return format.End(&r.Flow, r.Orig.Src) }},
		{"DESTINATION", "destination", false, 0, func(r *row, _ time.Time) string {
			return format.Destination(&r.Flow)
		}},
		{"NAT", "", false, 6, func(r *row, _ time.Time) string { return format.NAT(&r.Flow) }},
		{"RATE", "rate", true, 1, func(r *row, _ time.Time) string { return rate(r.bytes) }},
		{"BYTES", "bytes", true, 2, func(r *row, _ time.Time) string {
			return size(float64(r.Counters[0].Bytes + r.Counters[1].Bytes))
		}},
		{"PACKETS", "packets", true, 7, func(r *row, _ time.Time) string {
			return size(float64(r.Counters[0].Packets + r.Counters[1].Packets))
		}},
		{"TIMEOUT", "timeout", true, 3, func(r *row, _ time.Time) string {
			return span(time.Duration(r.Timeout) * time.Second)
		}},
		{"AGE", "age", true, 5, func(r *row, now time.Time) string {
			if r.Start.IsZero() {
				return ""
			}
			return span(where.Age(&r.Flow, now))
		}},
		{"HELPER", "", false, 8, func(r *row, _ time.Time) string { return caret.Plain(r.Helper) }},
		{"FLAGS", "", false, 5, func(r *row, _ time.Time) string { return format.Flags(&r.Flow) }},
	}
}

// rate is bytes a second; nothing if that is not known.
func rate(n float64) string {
	if n < 0 {
		return ""
	}
	return size(n) + "/s"
}

// size is a number of at most four digits and a unit of powers of 1000.
func size(n float64) string {
	for _, unit := range []string{"", "k", "M", "G", "T"} {
		switch {
		case n < 10 && unit != "":
			return fmt.Sprintf("%.1f%s", n, unit)
		case n < 1000:
			return fmt.Sprintf("%.0f%s", n, unit)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.0fP", n)
}

// span is a time in its two largest units.
func span(d time.Duration) string {
	s := int(d / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
}

// grouped is a number with commas.
func grouped(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// canvas writes lines on a screen.
type canvas struct {
	screen        tcell.Screen
	width, height int
}

func (c canvas) line(y int, text string, style tcell.Style) {
	if y < 0 || y >= c.height {
		return
	}
	x := 0
	for _, r := range text {
		if x < c.width {
			c.screen.SetContent(x, y, r, nil, style)
		}
		x++
	}
	for ; x < c.width; x++ {
		c.screen.SetContent(x, y, ' ', nil, style)
	}
}

func (v *view) draw() {
	width, height := v.o.Screen.Size()
	c := canvas{v.o.Screen, width, height}
	plain := tcell.StyleDefault
	c.screen.HideCursor()
	if v.mode == reading {
		for y := range height {
			text := ""
			if at := v.line + y; at < len(v.page) {
				text = v.page[at]
			}
			c.line(y, text, plain)
		}
		c.screen.Show()
		return
	}
	c.line(0, v.totals(), plain.Bold(true))
	c.line(1, v.about(), plain)
	v.rows(c)
	v.bottom(c)
	c.screen.Show()
}

// helpText explains keys and columns.
var helpText = []string{
	"cthelper top", "",
	"  up, down, PgUp, PgDn, Home, End   choose a connection",
	"  s or >, S or <                    sort by the next, by the previous column",
	"  r                                 sort the other way round",
	"  f or /                            only connections for which an expression is true (cthelper fields)",
	"  t                                 tree: announced connections below those that announced them",
	"  w                                 why the chosen connection is related (cthelper why)",
	"  k or Delete                       kill the chosen connection, after a question",
	"  p or space                        hold the picture",
	"  q or Escape                       leave; Ctrl-Z stops",
	"",
	"  FLAGS: R related, U unreplied, A assured, F fixed timeout, O offloaded, D dying",
	"", "  any key goes back",
}

func (v *view) totals() string {
	s := v.sample
	if s == nil {
		return "cthelper top: reading the table"
	}
	text := fmt.Sprintf("%s  %s connections", s.at.Format("15:04:05"), grouped(s.total))
	switch {
	case !s.whole:
		text += " so far"
	case s.limit > 0:
		full := 100 * float64(s.entries) / float64(s.limit)
		text += fmt.Sprintf(" of %s in the table (%.0f %% of %s)", grouped(int(s.entries)), full, grouped(int(s.limit)))
	case int(s.entries) != s.total:
		text += fmt.Sprintf(" of %s in the table", grouped(int(s.entries)))
	}
	if s.bytes >= 0 && s.whole && v.hint == "" {
		text += fmt.Sprintf("  %s  %s packets/s", rate(s.bytes), size(s.packets))
	}
	return text
}

func (v *view) about() string {
	var parts []string
	if s := v.sample; s != nil {
		var all []helpers.Transport
		for p := range s.protocols {
			all = append(all, p)
		}
		slices.SortFunc(all, func(a, b helpers.Transport) int {
			return cmp.Or(cmp.Compare(s.protocols[b], s.protocols[a]), cmp.Compare(a, b))
		})
		for _, p := range all {
			parts = append(parts, names.Protocol(uint8(p))+" "+grouped(s.protocols[p]))
		}
		parts = append(parts, "related "+grouped(s.related))
		if !v.question.tree && s.total > most || s.related > most {
			parts = append(parts, fmt.Sprintf("the first %d are shown", most))
		}
	}
	direction := "sorted by "
	if v.question.upward {
		direction = "sorted upward by "
	}
	parts = append(parts, direction+keys()[v.question.sort].name)
	if v.question.tree {
		parts = append(parts, "tree")
	}
	if v.filter != "" {
		parts = append(parts, "filter: "+caret.Plain(v.filter))
	}
	if v.paused {
		parts = append(parts, "HELD")
	}
	return strings.Join(parts, "  ")
}

// rows draws the columns' heads and the rows from the one that is scrolled to.
func (v *view) rows(c canvas) {
	room := max(0, c.height-headLines-1)
	v.scroll = min(v.scroll, v.at)
	v.scroll = max(v.scroll, v.at-room+1, 0)
	var shown []row
	now := time.Time{}
	if v.sample != nil {
		v.scroll = min(v.scroll, max(0, len(v.sample.rows)-room)) // no empty lines while there are rows above
		now = v.sample.at
		shown = v.sample.rows[min(v.scroll, len(v.sample.rows)):min(v.scroll+room, len(v.sample.rows))]
	}
	all := columns()
	cells := make([][]string, len(shown))
	widths := make([]int, len(all))
	for k, col := range all {
		widths[k] = len(col.head)
	}
	for i := range shown {
		cells[i] = make([]string, len(all))
		for k, col := range all {
			cells[i][k] = col.text(&shown[i], now)
			widths[k] = max(widths[k], utf8.RuneCountInString(cells[i][k]))
		}
	}
	fit(all, widths, cells, c.width)
	heads := make([]string, len(all))
	for k, col := range all {
		heads[k] = col.head
	}
	c.line(headLines-1, compose(all, widths, heads), tcell.StyleDefault.Reverse(true))
	for y := range room {
		style := tcell.StyleDefault
		text := ""
		if y < len(shown) {
			text = compose(all, widths, cells[y])
			if v.scroll+y == v.at {
				style = style.Bold(true).Background(tcell.ColorNavy).Foreground(tcell.ColorWhite)
			}
		}
		c.line(headLines+y, text, style)
	}
}

// fit takes columns away that are empty, or that there is no room for: their width becomes 0.
func fit(all []column, widths []int, cells [][]string, room int) {
	total := -1
	for k := range all {
		empty := all[k].rank > 0
		for i := range cells {
			empty = empty && cells[i][k] == ""
		}
		if empty && len(cells) > 0 {
			widths[k] = 0
			continue
		}
		total += widths[k] + 1
	}
	for total > room {
		drop := -1
		for k := range all {
			if widths[k] > 0 && all[k].rank > 0 && (drop < 0 || all[k].rank >= all[drop].rank) {
				drop = k
			}
		}
		if drop < 0 {
			return
		}
		total -= widths[drop] + 1
		widths[drop] = 0
	}
}

func compose(all []column, widths []int, cells []string) string {
	var b strings.Builder
	for k, cell := range cells {
		if widths[k] == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		fill := strings.Repeat(" ", max(0, widths[k]-utf8.RuneCountInString(cell)))
		if all[k].right {
			b.WriteString(fill + cell)
		} else {
			b.WriteString(cell + fill)
		}
	}
	return b.String()
}

// bottom draws the last line: a question, a message, or the keys.
func (v *view) bottom(c canvas) {
	y := c.height - 1
	style := tcell.StyleDefault.Reverse(true)
	switch {
	case v.mode == filtering:
		const prompt = "filter: "
		text := prompt + caret.Plain(string(v.typed))
		cursor := utf8.RuneCountInString(text)
		if v.message != "" {
			message := caret.Plain(v.message)
			if utf8.RuneCountInString(text+message)+3 <= c.width {
				text += "   " + message
			} else {
				c.line(y-1, message, style)
			}
			if v.wrong >= 0 {
				cursor = len(prompt) + v.wrong
			}
		}
		hidden := max(0, cursor-c.width+1) // what is typed scrolls
		c.screen.ShowCursor(cursor-hidden, y)
		c.line(y, string([]rune(text)[hidden:]), style)
	case v.mode == killing:
		c.line(y, "Kill "+format.Name(&v.victim)+"? [y/N]", style)
	case v.message != "":
		c.line(y, caret.Plain(v.message), style)
	case v.o.Ageless != "" && keys()[v.question.sort].name == "age":
		c.line(y, v.o.Ageless, style)
	case v.hint != "":
		c.line(y, v.hint, style)
	default:
		c.line(y, "q leave  s sort  r reverse  f filter  t tree  w why  k kill  p hold  h help", style)
	}
}
