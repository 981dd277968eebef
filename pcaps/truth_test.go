package pcaps_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cthelperd/cthelperd/internal/engine"
	"github.com/cthelperd/cthelperd/internal/replay"
	"github.com/cthelperd/cthelperd/pcaps"
)

const (
	server = "198.51.100.9:40001"
	other  = "198.51.100.9:40002"
	from   = "192.0.2.2:50001"
)

func record(event engine.EventKind, frame uint64, change ...func(*replay.Record)) *replay.Record {
	r := &replay.Record{Event: event, Frame: frame, Transport: "tcp", From: "192.0.2.2:*", To: server}
	for _, c := range change {
		c(r)
	}
	return r
}

func to(s string) func(*replay.Record)   { return func(r *replay.Record) { r.To = s } }
func by(s string) func(*replay.Record)   { return func(r *replay.Record) { r.From = s } }
func over(s string) func(*replay.Record) { return func(r *replay.Record) { r.Transport = s } }
func permanent(r *replay.Record)         { r.Permanent = true }

// announced and used are one entry each, in frames 10 and 20.
func announced(m pcaps.Marks) []pcaps.Announced {
	return []pcaps.Announced{{Frame: 10, Transport: "tcp", To: server, Kind: "227", Marks: m}}
}

func used(m pcaps.Marks) []pcaps.Used {
	return []pcaps.Used{{Frame: 20, Transport: "tcp", From: from, To: server, Marks: m}}
}

func TestCompare(t *testing.T) {
	none := pcaps.Marks{}
	expect, related := record("expect", 10), record("related", 20)
	const (
		notFound    = "frame 10: tcp " + server + " (227) was not found"
		notForeseen = "frame 20: tcp " + from + ">" + server + " was not foreseen"
		notReported = "frame 20: tcp " + from + ">" + server + " is not reported as related"
		invented    = "frame 10: tcp " + other + " was invented"
	)
	both := pcaps.Truth{Announced: announced(none), Used: used(none)}
	twice := pcaps.Truth{
		Announced: append(announced(none), pcaps.Announced{Frame: 30, Transport: "tcp", To: server, Kind: "227"}),
		Used:      append(used(none), pcaps.Used{Frame: 40, Transport: "tcp", From: from, To: server}),
	}
	tests := []struct {
		name    string
		truth   pcaps.Truth
		records []*replay.Record
		want    pcaps.Count
	}{
		{"nothing", pcaps.Truth{}, nil, pcaps.Count{}},
		{"all right", both, []*replay.Record{expect, related}, pcaps.Count{1, 1, 1, 1, nil}},
		{"expected before the frame that made it whole", both, []*replay.Record{record("expect", 8), related}, pcaps.Count{1, 1, 1, 1, nil}},
		{"no expect", both, nil, pcaps.Count{1, 0, 1, 0, []string{notForeseen, notFound}}},
		{"a refusal is no expect", both, []*replay.Record{record("refuse", 10), related}, pcaps.Count{1, 0, 1, 0, []string{notForeseen, notFound}}},
		{"too late for the announcement", both, []*replay.Record{record("expect", 11), related}, pcaps.Count{1, 0, 1, 1, []string{notFound}}},
		{"too late for both", both, []*replay.Record{record("expect", 20), related}, pcaps.Count{1, 0, 1, 0, []string{notForeseen, notFound}}},
		{"other transport", both, []*replay.Record{record("expect", 10, over("udp"))}, pcaps.Count{1, 0, 1, 0, []string{
			notForeseen, notFound, "frame 10: udp " + server + " was invented",
		}}},
		{"other end point", both, []*replay.Record{record("expect", 10, to(other))}, pcaps.Count{1, 0, 1, 0, []string{notForeseen, notFound, invented}}},
		{"one too many", both, []*replay.Record{expect, record("expect", 10, to(other)), related}, pcaps.Count{1, 1, 1, 1, []string{invented}}},
		{"cancelled before use", both, []*replay.Record{expect, record("cancel", 15)}, pcaps.Count{1, 1, 1, 0, []string{notForeseen}}},
		{"expired at the frame of use", both, []*replay.Record{expect, record("cancel", 20)}, pcaps.Count{1, 1, 1, 0, []string{notForeseen}}},
		{"cancelled after use", both, []*replay.Record{expect, related, record("cancel", 21)}, pcaps.Count{1, 1, 1, 1, nil}},
		{"cancelled and expected anew", both, []*replay.Record{expect, record("cancel", 12), record("expect", 13), related}, pcaps.Count{1, 1, 1, 1, nil}},
		{"another one cancelled", both, []*replay.Record{expect, record("cancel", 12, by("192.0.2.2:5")), related}, pcaps.Count{1, 1, 1, 1, nil}},
		{"from: this address and port", both, []*replay.Record{record("expect", 10, by(from)), related}, pcaps.Count{1, 1, 1, 1, nil}},
		{"from: any address, this port", both, []*replay.Record{record("expect", 10, by("*:50001")), related}, pcaps.Count{1, 1, 1, 1, nil}},
		{"from: anybody", both, []*replay.Record{record("expect", 10, by("*:*")), related}, pcaps.Count{1, 1, 1, 1, nil}},
		{"from: another port", both, []*replay.Record{record("expect", 10, by("192.0.2.2:50002")), related}, pcaps.Count{1, 1, 1, 0, []string{notForeseen}}},
		{"from: another address", both, []*replay.Record{record("expect", 10, by("192.0.2.3:*")), related}, pcaps.Count{1, 1, 1, 0, []string{notForeseen}}},
		{"not reported as related", both, []*replay.Record{expect}, pcaps.Count{1, 1, 1, 0, []string{notReported}}},
		{"related, but in another frame", both, []*replay.Record{expect, record("related", 21)}, pcaps.Count{1, 1, 1, 0, []string{notReported}}},
		{"announced and used twice", twice, []*replay.Record{expect, related, record("expect", 30), record("related", 40)}, pcaps.Count{2, 2, 2, 2, nil}},
		{"the second one rests on what is used up", twice, []*replay.Record{expect, related, record("related", 40)}, pcaps.Count{2, 1, 2, 1, []string{
			"frame 40: tcp " + from + ">" + server + " was not foreseen", "frame 30: tcp " + server + " (227) was not found",
		}}},
		{"a permanent one serves both", twice, []*replay.Record{record("expect", 10, permanent), related, record("related", 40)}, pcaps.Count{2, 2, 2, 2, nil}},
		{
			"what another protocol announces is not invented",
			pcaps.Truth{Other: [][]any{{"sip contact", 3.0, "tcp", other}}},
			[]*replay.Record{record("expect", 10, to(other))}, pcaps.Count{},
		},
	}
	for name, m := range map[string]pcaps.Marks{
		"foreign": {Foreign: true}, "low": {Low: true}, "early": {Early: true}, "again": {Again: true},
		"optional": {Optional: true}, "doubt": {Doubt: "who knows"},
	} {
		tests = append(tests, []struct {
			name    string
			truth   pcaps.Truth
			records []*replay.Record
			want    pcaps.Count
		}{
			{name + " does not count, nor is it missed", pcaps.Truth{Announced: announced(m), Used: used(m)}, nil, pcaps.Count{}},
			{name + " is not invented", pcaps.Truth{Announced: announced(m)}, []*replay.Record{expect}, pcaps.Count{}},
		}...)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, tt.truth.Compare(tt.records)); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

// The marks are read from the files as they are written there; those that count are no marks.
func TestLoadTruth(t *testing.T) {
	truth, err := pcaps.LoadTruth("testdata/marks.truth.json")
	if err != nil {
		t.Fatal(err)
	}
	count := truth.Compare(nil)
	if want := 2; count.Announced != want {
		t.Errorf("%d announcements count, want %d: the late one and that for a third", count.Announced, want)
	}
	if want := 1; count.Used != want {
		t.Errorf("%d uses count, want %d", count.Used, want)
	}
	if d := cmp.Diff(map[string][]uint16{"ftp": {2121, 8021}}, truth.Ports); d != "" {
		t.Errorf("ports: -want +got\n%s", d)
	}
	for _, name := range []string{"testdata/none.json", "testdata/broken.truth.json", "testdata/no-protocol.truth.json"} {
		if _, err := pcaps.LoadTruth(name); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
