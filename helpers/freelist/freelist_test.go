package freelist_test

import (
	"testing"

	"github.com/cthelperd/cthelperd/helpers/freelist"
)

func TestList(t *testing.T) {
	l := freelist.List[int]{Most: 2}
	a, b, c := l.Take(), l.Take(), l.Take()
	if a == b || b == c || a == c || *a != 0 {
		t.Fatal("not three new ones")
	}
	*a, *b, *c = 1, 2, 3
	l.Give(a)
	l.Give(b)
	l.Give(c)
	if n := l.Len(); n != 2 {
		t.Errorf("%d wait, want 2", n)
	}
	if first, second, third := *l.Take(), *l.Take(), *l.Take(); first != 2 || second != 1 || third != 0 {
		t.Errorf("taken: %d %d %d, want the two that were kept and a new one", first, second, third)
	}
}
