package cli_test

import (
	"flag"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write contrib/cthelper.1 anew")

// TestManual: contrib/cthelper.1 is what the command line's model gives.
func TestManual(t *testing.T) {
	code, got, stderr := run(t, nil, "completion", "man")
	if code != 0 {
		t.Fatal(stderr)
	}
	const path = "../contrib/cthelper.1"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != got {
		t.Errorf("%s is not what the command line says (%v): go test ./cli -run TestManual -update", path, err)
	}
}

// completion is a command line whose last word is completed, and what comes out.
type completion struct {
	line string
	want string // all of these, with spaces between
	only bool   // and no others
}

var completions = []completion{
	{"cthelper li", "list", true},
	{"cthelper ", "list count delete update create watch top why replay", false},
	{"cthelper list -p t", "tcp", true},
	{"cthelper list -p tcp --state EST", "ESTABLISHED", true},
	{"cthelper list -p tcp --orig-port-", "--orig-port-src --orig-port-dst", true},
	{"cthelper watch -e DEST", "DESTROY", true},
	{"cthelper ls --orig-port-", "--orig-port-src --orig-port-dst", true},
	{"cthelper expect list --m", "--master-proto", true},
	{"cthelper expect watch -o csv --bu", "--buffer-size", true},
	{"cthelper completion ", "bash zsh fish man", false},
}

// complete has a shell complete each line; script prints the words, one a line.
func complete(t *testing.T, shell string, command func(script, line string) *exec.Cmd, more ...completion) {
	if _, err := exec.LookPath(shell); err != nil {
		t.Skipf("%s is not installed: scripts/install", shell)
	}
	_, script, _ := run(t, nil, "completion", shell)
	file := t.TempDir() + "/completion"
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range append(more, some(completions)...) {
		out, err := command(file, x.line).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", x.line, err, out)
		}
		var got []string
		for _, line := range lines(string(out)) {
			word, _, _ := strings.Cut(line, "\t")
			got = append(got, word)
		}
		want := strings.Fields(x.want)
		for _, w := range want {
			if !slices.Contains(got, w) {
				t.Errorf("%q: no %s in %q", x.line, w, got)
			}
		}
		if x.only && len(got) != len(want) {
			t.Errorf("%q: %q, want %q only", x.line, got, want)
		}
	}
}

func TestBash(t *testing.T) {
	complete(t, "bash", func(script, line string) *exec.Cmd {
		return exec.Command("bash", "-c", `source "$1"; IFS=' ' read -ra COMP_WORDS <<<"$2"; [[ $2 == *' ' ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _cthelper; printf '%s\n' "${COMPREPLY[@]}"`, "bash", script, line)
	}, completion{"cthelper list --state = EST", "ESTABLISHED", true}, completion{"cthelper watch --event-mask =", "DESTROY", false})
}

func TestFish(t *testing.T) {
	complete(t, "fish", func(script, line string) *exec.Cmd {
		cmd := exec.Command("fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", script, line)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		return cmd
	})
}

// TestZsh: zsh completes for people at a terminal only, so what its completion system has is put in its place.
func TestZsh(t *testing.T) {
	complete(t, "zsh", func(script, line string) *exec.Cmd {
		return exec.Command("zsh", "-f", "-c", `compdef() { :; }
source $1
words=(${(z)2}); [[ $2 == *' ' ]] && words+=('')
CURRENT=$#words
compadd() { print -rl -- ${@[(i)--]+${@:$((${@[(i)--]}+1))}} }
_arguments() {
	local spec word
	for spec in $@; do
		[[ $words[CURRENT-1] == ${${spec#\*}%%[=+\[]*} && $spec == *:\(* ]] && { print -rl -- ${(s: :)${${spec##*:\(}%\)}} | grep "^$words[CURRENT]"; return }
	done
	for spec in $@; do
		word=${${spec#\*}%%[=+\[]*}
		if [[ $spec == *:\ :\(* ]]; then print -rl -- ${(s: :)${${spec##*:\(}%\)}}; continue; fi
		[[ $word == "$words[CURRENT]"* && $word == -* ]] && print -r -- $word
	done
}
_cthelper | { [[ -n $words[CURRENT] ]] && grep -- "^$words[CURRENT]" || cat }`, "zsh", script, line)
	})
}
