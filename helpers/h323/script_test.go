package h323_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cthelperd/cthelperd/helpers/h323/h323test"
)

// The files in testdata are scripts of helpertest with entries of a further form: a kind of message and its values, by
// the names of the ASN.1, as JSON. Addresses are strings; what a message must have and the text lacks is made up.
//
//	C ras: {"registrationRequest": {"requestSeqNum": 1, "callSignalAddress": ["192.0.2.2:1720"]}}
//	S q931 7*: {"connect": {"h245Address": "198.51.100.9:5000"}}    call reference 7, * from the called side
//	C h245: {"request": {"openLogicalChannel": {…}}}
//	~ h245: {"request": {"openLogicalChannel": {…}}}                the entry above behind the NAT
//
// Elements of fastStart, h245Control and parallelH245Control are written the same way. A list in the place of a message of
// H.245 is several, one behind the other.

// types are the message types of Q.931, table 4-2, that carry a body of H.225.0.
var types = map[string]byte{
	"alerting": 0x01, "callProceeding": 0x02, "progress": 0x03, "setup": 0x05, "connect": 0x07, "setupAcknowledge": 0x0d,
	"releaseComplete": 0x5a, "facility": 0x62, "empty": 0x62, "notify": 0x6e, "statusInquiry": 0x75, "information": 0x7b,
	"status": 0x7d,
}

// script makes a script of helpertest.
func script(text string) (string, error) {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		head, value, ok := strings.Cut(line, ": ")
		words := strings.Fields(head)
		if !ok || len(words) < 2 || words[0] != "C" && words[0] != "S" && words[0] != "~" {
			continue
		}
		var b []byte
		var v any
		d := json.NewDecoder(strings.NewReader(value))
		d.UseNumber()
		kind := words[1]
		if kind != "ras" && kind != "q931" && kind != "h245" {
			continue
		}
		if err := d.Decode(&v); err != nil {
			return "", fmt.Errorf("line %d: %w", i+1, err)
		}
		words = append(words[:1], words[2:]...)
		switch v := plain(v); kind {
		case "ras":
			b = h323test.RAS(v.(h323test.V))
		case "h245":
			b = h323test.TPKT(control(v))
		case "q931":
			n, err := strconv.ParseUint(strings.TrimSuffix(words[1], "*"), 10, 15)
			if err != nil {
				return "", fmt.Errorf("line %d: %w", i+1, err)
			}
			b = h323test.TPKT(signalling(uint16(n), strings.HasSuffix(words[1], "*"), v.(h323test.V)))
			words = append(words[:1], words[2:]...)
		}
		if lines[i] = strings.Join(words, " ") + ": " + escape(b); words[0] == "~" {
			lines[i] = "~ " + escape(b)
		}
	}
	return strings.Join(lines, "\n"), nil
}

// signalling is a message whose body and pdu stand in one map.
func signalling(reference uint16, called bool, v h323test.V) []byte {
	pdu, kind := h323test.V{}, byte(0)
	for name, value := range v {
		t, body := types[name]
		switch {
		case !body:
			pdu[name] = carried(name, value)
			continue
		case value == nil:
		default:
			for k, x := range value.(h323test.V) {
				value.(h323test.V)[k] = carried(k, x)
			}
		}
		kind = t
		pdu["h323-message-body"] = h323test.V{name: value}
	}
	return h323test.Signalling(kind, reference, called, h323test.V{"h323-uu-pdu": pdu})
}

// carried encodes the messages that a component carries.
func carried(name string, value any) any {
	encode := control
	switch name {
	case "fastStart":
		encode = func(v any) []byte { return h323test.OLC(v.(h323test.V)) }
	case "h245Control", "parallelH245Control":
	default:
		return value
	}
	var all []any
	for _, v := range value.([]any) {
		all = append(all, encode(v))
	}
	return all
}

// control is a message of H.245, or those of a list behind each other.
func control(v any) []byte {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	var b []byte
	for _, v := range list {
		b = append(b, h323test.Control(v.(h323test.V))...)
	}
	return b
}

// plain makes values for package h323test of JSON's.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		n, _ := v.Int64()
		return int(n)
	case string:
		if a, err := netip.ParseAddrPort(v); err == nil {
			return a
		}
		if text, ok := strings.CutPrefix(v, "hex:"); ok {
			b, _ := hex.DecodeString(text)
			return b
		}
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
	}
	return v
}

// escape writes bytes as a script has them.
func escape(b []byte) string {
	var w strings.Builder
	for _, c := range b {
		fmt.Fprintf(&w, `\x%02x`, c)
	}
	return w.String()
}

// read is a file of testdata as a script of helpertest.
func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := script(string(b))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return s
}
