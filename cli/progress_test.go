package cli

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	p := &progress{w: &out}
	read := func(size int64) {
		r := p.watch("a\x1bb", strings.NewReader(strings.Repeat("x", 100)), size)
		buf := make([]byte, 50)
		r.Read(buf) // within the first second: nothing
		p.next = time.Now().Add(-time.Second)
		r.Read(buf)
	}
	read(200)
	if got, want := out.String(), `"a\x1bb": 50 %`; got != want {
		t.Errorf("with a size: %q, want %q", got, want)
	}
	p.clear()
	if !strings.HasSuffix(out.String(), "\r\x1b[K") {
		t.Errorf("not cleared: %q", out.String())
	}
	out.Reset()
	p.clear()
	if out.Len() > 0 {
		t.Errorf("cleared twice: %q", out.String())
	}
	read(0)
	if got, want := out.String(), `"a\x1bb": 0 MiB`; got != want {
		t.Errorf("without a size: %q, want %q", got, want)
	}
}

// Nothing is shown where no terminal is.
func TestNoProgress(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/err")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for name, p := range map[string]*progress{"file": newProgress(file), "buffer": newProgress(new(bytes.Buffer))} {
		if r := strings.NewReader("x"); p.watch("a", r, 1) != r {
			t.Errorf("%s: watched", name)
		}
		p.clear()
	}
}
