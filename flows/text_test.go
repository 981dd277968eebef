package flows_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cthelperd/cthelperd/flows"
	"github.com/cthelperd/cthelperd/helpers"
	"github.com/cthelperd/cthelperd/internal/netnstest"
)

// shown is kinds, and what else is to be seen: states, flags, labels, a helper, odd addresses.
func shown() []flows.Flow {
	all := kinds()
	port := uint16(2000)
	next := func(tr helpers.Transport, change func(*flows.Flow)) {
		f := plain(tr, fmt.Sprintf("192.0.2.1:%d", port), "198.51.100.9:9")
		port++
		change(&f)
		all = append(all, f)
	}
	for state := range uint8(10) {
		next(helpers.TCP, func(f *flows.Flow) { f.State = state })
		next(unix.IPPROTO_SCTP, func(f *flows.Flow) { f.State, f.SCTPTags = min(state, 7), [2]uint32{1, 0xffffffff} })
	}
	for _, s := range []flows.Status{0, flows.StatusSeenReply, flows.StatusSeenReply | flows.StatusAssured, flows.StatusFixedTimeout} {
		next(helpers.UDP, func(f *flows.Flow) { f.Status = s })
	}
	for _, m := range []uint32{1, 0x80000000, 0xffffffff} {
		next(helpers.UDP, func(f *flows.Flow) { f.Mark, f.Timeout = m, 432000 })
	}
	for dir := range flows.ZoneReply + 1 {
		next(helpers.UDP, func(f *flows.Flow) { f.Zone, f.ZoneDir = 65535, dir })
	}
	for _, tr := range []helpers.Transport{0, 2, 41, 47, 51, 89, 132, 136, 255} {
		next(tr, func(f *flows.Flow) { f.State = 0 })
	}
	for _, labels := range [][]int{{0}, {1, 5}, {5, 64, 127}, {64}} {
		next(helpers.TCP, func(f *flows.Flow) {
			for _, bit := range labels {
				f.Labels.Set(bit)
			}
		})
	}
	for _, a := range []string{"::1", "::1:0", "::203.0.113.1", "::ffff:192.0.2.1", "fe80::1", "2001:db8:0:1:0:1:0:1", "1::", "::2:0:0:0"} {
		f := plain(helpers.UDP, "[2001:db8::1]:1", "[2001:db8::1]:2")
		f.Orig.Dst = netip.AddrPortFrom(netip.MustParseAddr(a), 2)
		all = append(all, f)
	}
	for _, helper := range []string{"ftp", "sane", "Q.931"} {
		next(helpers.TCP, func(f *flows.Flow) { f.Helper = helper })
	}
	return all
}

// TestText compares each line, with all that can be shown beside, with that of conntrack(8).
func TestText(t *testing.T) {
	ns := netnstest.New(t)
	ns.Sysctl("net.netfilter.nf_conntrack_acct", "1")
	ns.Sysctl("net.netfilter.nf_conntrack_timestamp", "1")
	useLabels(ns)
	names := map[int]string{0: "zero", 5: "five", 127: "last"}
	etc := etcWith(t, names)
	ns.Do(func() {
		table, err := flows.Open()
		if err != nil {
			t.Error(err)
			return
		}
		defer table.Close()
		made := 0
		for _, f := range shown() {
			if err := table.Create(&f); err != nil {
				t.Logf("left out: %v", err) // helpers that this kernel lacks, states that it does not take
				continue
			}
			made++
		}
		if made < 60 {
			t.Errorf("%d entries, want at least 60", made)
		}
		for _, tt := range []struct {
			name  string
			flags []string
			o     flows.TextOptions
		}{
			{"plain", nil, flows.TextOptions{}},
			{"extended", []string{"-o", "extended"}, flows.TextOptions{Layer3: true}},
			{"id, times", []string{"-o", "id,ktimestamp"}, flows.TextOptions{ID: true, Timestamps: true}},
			{"labels", []string{"-o", "labels"}, flows.TextOptions{Labels: func(bit int) string { return names[bit] }}},
		} {
			theirs, err := listed(etc, tt.flags)
			if err != nil {
				t.Error(err)
				return
			}
			ours, err := texts(table, &tt.o)
			if err != nil {
				t.Error(err)
				return
			}
			if len(theirs) != made {
				t.Errorf("%s: conntrack lists %d of %d", tt.name, len(theirs), made)
			}
			for i := range min(len(theirs), len(ours)) {
				if theirs[i] != ours[i] {
					t.Errorf("%s:\n%q, not\n%q", tt.name, ours[i], theirs[i])
				}
			}
		}
	})
}

// listed is what conntrack -L prints of both families, sorted, if etc is /etc.
func listed(etc string, flags []string) (all []string, err error) {
	for _, family := range []string{"ipv4", "ipv6"} {
		run := []string{"-m", "sh", "-c", `mount --bind "$0" /etc && exec conntrack "$@"`, etc, "-L", "-f", family}
		out, err := exec.Command("unshare", append(run, flags...)...).Output()
		if err != nil {
			return nil, err
		}
		if len(out) > 0 {
			all = append(all, strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")...)
		}
	}
	return timeless(all), nil
}

// timeless are lines without what may change between two listings: how long an entry lives, and has lived.
func timeless(lines []string) []string {
	passing := regexp.MustCompile(`^((?:ipv[46] +\d+ )?\S+ +\d+ )\d+ |(delta-time=)\d+ `)
	for i := range lines {
		lines[i] = passing.ReplaceAllString(lines[i], "$1$2# ")
	}
	slices.Sort(lines)
	return lines
}

func texts(table *flows.Table, o *flows.TextOptions) (all []string, err error) {
	for f, err := range table.List(nil) {
		if err != nil {
			return nil, err
		}
		all = append(all, string(f.AppendFormat(nil, o)))
	}
	return timeless(all), nil
}

// etcWith is a folder for /etc in which labels have these names, and in which it is as late as it is here.
func etcWith(t *testing.T, names map[int]string) string {
	etc := t.TempDir()
	err := os.Mkdir(etc+"/xtables", 0o755)
	if err == nil {
		text := ""
		for bit, name := range names {
			text += fmt.Sprintln(bit, name)
		}
		err = os.WriteFile(etc+"/xtables/connlabel.conf", []byte(text), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if local, err := os.ReadFile("/etc/localtime"); err == nil {
		if err := os.WriteFile(etc+"/localtime", local, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return etc
}

// useLabels has a rule use labels: without one entries have no room for them (nf_ct_labels_ext_add).
func useLabels(ns *netnstest.NS) {
	ns.Run("nft", "add table ip labels; add chain ip labels none; add rule ip labels none ct label set 1")
}
