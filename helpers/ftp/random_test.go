package ftp_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/helpertest"
)

// What a random dialogue is made of.
var (
	commands = []string{
		`USER x\r\n`, `PORT 192,0,2,2,200,1\r\n`, `PORT 192,0,2,2,200,2\r\n`, `PORT 10,0,0,1,200,2\r\n`, `PORT 1,2\r\n`,
		`EPRT |1|192.0.2.2|51203|\r\n`, `EPRT |2|2001:db8::1|51203|\r\n`, `LPRT 4,4,192,0,2,2,2,200,4\r\n`,
		`PASV\r\n`, `pasv\r\n`, `EPSV\r\n`, `EPSV ALL\r\n`, `LPSV\r\n`, `P\xff\xf1ASV\r\n`, `PO`, `RT 192,0,`,
		`RETR pub/file\r\n`, `LIST\r\n`, `STOR \xff\xffa\r\n`, `ABOR\r\n`, `\xff\xf4\xff\xf2ABOR\r\n`,
		`REIN\r\n`, `AUTH TLS\r\n`, `AUTH GSSAPI\r\n`, `\r\n`, `\n`, `\x16\x03\x01\x00\x03abc`,
		`\x17\x03\x03\x00\x20abc`, `\x00\x01\r\n`, `Host: x\r\n`, `GET / HTTP/1.1\r\n`,
	}
	replies = []string{
		`220 ready\r\n`, `220-ready\r\n227 (1,2,3,4,5,6)\r\n220 ready\r\n`, `120 soon\r\n`, `200 ok\r\n`, `200 ok\r\n`,
		`500 no\r\n`, `150 go\r\n`, `226 done\r\n`, `150 go\r\n226 done\r\n`, `227 (198,51,100,9,82,9)\r\n`,
		`227 =198,51,100,9,82,10\r\n`, `227 (10,1,1,1,82,10)\r\n`, `227 no\r\n`, `228 (4,4,198,51,100,9,2,82,11)\r\n`,
		`229 (|||21004|)\r\n`, `229 ok !!!21005!\r\n`, `227-wait\r\n`, `227 (`, `198,51,100,9,`, `82,9)\r\n`,
		`234 go\r\n`, `334 go\r\n`, `421 bye\r\n`, `426 aborted\r\n`, `250 ok\r\n`, `\x16\x03\x01\x00\x03abc`,
		`\x17\x03\x03\x00\x20abc`, `\x00`, `HTTP/1.1 400 no\r\n`, `\xff\xfe\x06200 ok\r\n`, `99 what\r\n`,
	}
)

// dialogue makes a script of a seed.
func dialogue(seed uint64) string {
	rnd := rand.New(rand.NewPCG(seed, 0))
	var w strings.Builder
	if rnd.IntN(8) == 0 {
		w.WriteString("late\n")
	}
	if rnd.IntN(8) > 0 {
		w.WriteString(`S: 220 ready\r\n` + "\n")
	}
	for range 1 + rnd.IntN(24) {
		side, says := "C", commands
		if rnd.IntN(2) == 0 {
			side, says = "S", replies
		}
		if rnd.IntN(30) == 0 {
			side += " gap"
		}
		w.WriteString(side + ": ")
		for range 1 + rnd.IntN(3) {
			w.WriteString(says[rnd.IntN(len(says))])
		}
		w.WriteByte('\n')
	}
	return w.String()
}

// Random dialogues keep the contract. FTP_DIALOGUES is how many; a failing one prints its seed.
func TestDialogues(t *testing.T) {
	n := uint64(1000)
	if v, err := strconv.ParseUint(os.Getenv("FTP_DIALOGUES"), 10, 32); err == nil {
		n = v
	}
	h := helper(t)
	for seed := range n {
		s, err := helpertest.Parse(dialogue(seed))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := helpertest.Verify(h, s, seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
